# The chart, with what was made above; var.values goes over it.
locals {
  url = "s3://${var.bucket.name}/${var.bucket.prefix}"

  values = {
    images = var.images
    data   = { url = local.url, accessModes = ["ReadWriteOnce"] }
    env = {
      TANDEM_KAFKA__BOOTSTRAP_SERVERS = var.kafka.bootstrap_servers
      TANDEM_KAFKA__DEAD_LETTERS      = var.dead_letters.name
      REDIS                           = "${local.redis},ssl=true" # feature_store.yaml: connection_string: ${REDIS}
    }
    serviceAccount = {
      name        = local.release
      annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.pods.arn }
    }
  }
}

resource "helm_release" "tandem" {
  name             = var.name
  namespace        = var.release.namespace
  create_namespace = var.release.create_namespace
  chart            = coalesce(var.release.chart, "${path.module}/../helm/tandem")
  version          = var.release.version
  timeout          = var.release.timeout
  atomic           = var.release.wait
  wait             = var.release.wait
  values           = [yamlencode(local.values), yamlencode(var.values)]

  depends_on = [
    aws_iam_role_policy.data,
    aws_s3_bucket_lifecycle_configuration.data,
    aws_s3_bucket_ownership_controls.data,
    aws_s3_bucket_policy.data,
    aws_s3_bucket_server_side_encryption_configuration.data,
    aws_vpc_security_group_ingress_rule.redis,
    kafka_topic.dead_letters,
    kafka_topic.source,
  ]
}
