variable "name" {
  description = "Name of the installation: of the release, and the beginning of every other name."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}[a-z0-9]$", var.name))
    error_message = "A name is 2 to 32 lower-case letters, digits and dashes, begins with a letter and ends with none of the dashes."
  }
}

variable "tags" {
  description = "Tags of everything in AWS that takes some."
  type        = map(string)
  default     = {}
}

variable "bucket" {
  description = <<-E
    The bucket that is the data folder. name: of the bucket; prefix: the place in it. noncurrent_days: how long what was replaced or deleted can be
    had back (pointers and leases are replaced all the time, so not for ever; what `tandem erase` removes stays as long). requests_days: how long the
    servers' request logs are kept; 0: for ever. kms_key_arn: the key of KMS that encrypts it (default: S3's own); the role may use that key.
    force_destroy: whether the bucket goes with its content.
  E
  type = object({
    name            = string
    prefix          = optional(string, "tandem")
    noncurrent_days = optional(number, 7)
    requests_days   = optional(number, 0)
    kms_key_arn     = optional(string)
    force_destroy   = optional(bool, false)
  })

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket.name))
    error_message = "bucket.name: 3 to 63 lower-case letters, digits, dots and dashes, as S3 takes them."
  }
  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.bucket.prefix))
    error_message = "bucket.prefix: names parted by /, with no / at either end."
  }
  validation {
    condition     = var.bucket.noncurrent_days >= 1 && var.bucket.requests_days >= 0
    error_message = "bucket.noncurrent_days is at least 1, bucket.requests_days at least 0 (for ever)."
  }
  validation {
    condition     = var.bucket.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.bucket.kms_key_arn))
    error_message = "bucket.kms_key_arn: arn:aws:kms:REGION:ACCOUNT:key/ID"
  }
}

variable "network" {
  description = "Where Redis lies, and who may speak to it: the subnets, and the security groups of the pods (or of their nodes)."
  type = object({
    vpc_id     = string
    subnet_ids = list(string)
    client_ids = list(string)
  })

  validation {
    condition     = length(var.network.subnet_ids) >= 1 && length(var.network.client_ids) >= 1
    error_message = "network.subnet_ids and network.client_ids name at least one each."
  }
}

variable "redis" {
  description = <<-E
    The online store: node type, replicas (with one or more a failover is by itself), Valkey's version, daily snapshots kept. user_group_ids: the
    ElastiCache user group that may come in, made by you, as passwords would lie in the state; feature_store.yaml then has username and password.
  E
  type = object({
    node_type      = optional(string, "cache.t4g.small")
    replicas       = optional(number, 1)
    engine_version = optional(string, "8.0")
    snapshot_days  = optional(number, 3)
    user_group_ids = optional(list(string))
  })
  default = {}

  validation {
    condition     = startswith(var.redis.node_type, "cache.")
    error_message = "redis.node_type is one of ElastiCache's, such as cache.t4g.small."
  }
  validation {
    condition     = var.redis.replicas >= 0 && var.redis.replicas <= 5 && floor(var.redis.replicas) == var.redis.replicas
    error_message = "redis.replicas: 0 to 5."
  }
}

variable "kafka" {
  description = "host:port of the brokers, as the pods reach them. How Terraform reaches them is the provider's configuration."
  type        = object({ bootstrap_servers = string })

  validation {
    condition     = can(regex("^[^:,\\s]+:[0-9]+(,[^:,\\s]+:[0-9]+)*$", var.kafka.bootstrap_servers))
    error_message = "kafka.bootstrap_servers: host:port,host:port"
  }
}

variable "topics" {
  description = <<-E
    The topics of the repository's sources, by name. retention_days: -1 keeps records for ever; archive them (`tandem archive`) before others
    are deleted. A topic's partitions can only become more, and then a key's records lie in two of them.
  E
  type = map(object({
    partitions     = optional(number, 1)
    replication    = optional(number, 3)
    retention_days = optional(number, -1)
    config         = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for t in values(var.topics) : t.partitions >= 1 && t.replication >= 1])
    error_message = "topics: partitions and replication are at least 1."
  }
  validation {
    condition     = alltrue([for t in values(var.topics) : t.retention_days == -1 || t.retention_days > 0])
    error_message = "topics: retention_days is -1 (for ever) or above 0."
  }
  validation {
    condition     = alltrue([for name in keys(var.topics) : can(regex("^[A-Za-z0-9._-]{1,249}$", name))])
    error_message = "topics: a name is up to 249 letters, digits, dots, dashes and underscores."
  }
}

variable "dead_letters" {
  description = "The topic of dead letters: its name (kafka.dead_letters of tandem.yaml), and copies of it."
  type        = object({ name = optional(string, "tandem.dead_letters"), replication = optional(number, 3) })
  default     = {}
}

variable "oidc_provider_arn" {
  description = "The IAM OIDC provider of the EKS cluster, by which the release's service account takes the role that may use the bucket."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:iam::[0-9]{12}:oidc-provider/.+$", var.oidc_provider_arn))
    error_message = "oidc_provider_arn: arn:aws:iam::ACCOUNT:oidc-provider/oidc.eks.REGION.amazonaws.com/id/ID"
  }
}

variable "release" {
  description = <<-E
    The Helm release. chart: a folder or an oci:// address (default: the chart beside this module); version: of a chart at an address.
    wait: whether to wait for the pods, timeout seconds at most, and to go back if they are not ready by then. Not the first time: server and stream
    begin with the first history, which is made after them.
  E
  type = object({
    namespace        = optional(string, "tandem")
    create_namespace = optional(bool, true)
    chart            = optional(string)
    version          = optional(string)
    wait             = optional(bool, false)
    timeout          = optional(number, 900)
  })
  default = {}
}

variable "images" {
  description = "Your images by target (serve, worker, train), each pinned by digest."
  type        = map(object({ repository = string, digest = string }))

  validation {
    condition     = alltrue([for target in ["serve", "worker", "train"] : contains(keys(var.images), target)]) && length(var.images) == 3
    error_message = "images: serve, worker and train, no more and no fewer."
  }
  validation {
    condition     = alltrue([for image in values(var.images) : can(regex("^sha256:[0-9a-f]{64}$", image.digest))])
    error_message = "images: digest is sha256: and 64 hexadecimal digits."
  }
}

variable "values" {
  description = "Further values of the chart; they go over what this module says. No secrets: name them (secrets:), they would lie in the state."
  type        = any
  default     = {}
}
