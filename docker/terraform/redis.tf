# The online store. One shard: rows are ordered by a script, and one server holds them all. Who may speak to it is said by security groups, over TLS; and by users and passwords, where redis.user_group_ids names their groups.
locals {
  family = "valkey${split(".", var.redis.engine_version)[0]}"
  redis  = "${aws_elasticache_replication_group.online.primary_endpoint_address}:6379"
}

resource "aws_security_group" "redis" {
  name_prefix = "${var.name}-redis-"
  description = "Redis of ${var.name}: its clients and nobody else"
  vpc_id      = var.network.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "redis" {
  count = length(var.network.client_ids) # by number: groups that are made in the same run have no name yet

  security_group_id            = aws_security_group.redis.id
  referenced_security_group_id = var.network.client_ids[count.index]
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
  tags                         = var.tags
}

resource "aws_elasticache_subnet_group" "online" {
  name       = "${var.name}-online"
  subnet_ids = var.network.subnet_ids
  tags       = var.tags
}

# A full store refuses writes, which is seen; one that forgets rows is not.
resource "aws_elasticache_parameter_group" "online" {
  name   = "${var.name}-${local.family}"
  family = local.family
  tags   = var.tags

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }
}

resource "aws_elasticache_replication_group" "online" {
  replication_group_id       = "${var.name}-online"
  description                = "Online store of ${var.name}"
  engine                     = "valkey"
  engine_version             = var.redis.engine_version
  node_type                  = var.redis.node_type
  num_cache_clusters         = 1 + var.redis.replicas
  automatic_failover_enabled = var.redis.replicas > 0
  multi_az_enabled           = var.redis.replicas > 0 && length(var.network.subnet_ids) > 1
  port                       = 6379
  parameter_group_name       = aws_elasticache_parameter_group.online.name
  subnet_group_name          = aws_elasticache_subnet_group.online.name
  security_group_ids         = [aws_security_group.redis.id]
  user_group_ids             = var.redis.user_group_ids
  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  snapshot_retention_limit   = var.redis.snapshot_days
  apply_immediately          = false
  tags                       = var.tags
}
