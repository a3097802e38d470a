output "data" {
  description = "The data folder: data: of tandem.yaml, or --data."
  value       = local.url
}

output "redis" {
  description = "connection_string of the online store, as feature_store.yaml takes it (REDIS)."
  value       = "${local.redis},ssl=true"
}

output "role_arn" {
  description = "The role that the pods take."
  value       = aws_iam_role.pods.arn
}

output "topics" {
  description = "The topics that were made, dead letters among them."
  value       = sort(concat([for topic in kafka_topic.source : topic.name], [kafka_topic.dead_letters.name]))
}

output "service" {
  description = "Where the server answers within the cluster."
  value       = "http://${local.release}-serve.${var.release.namespace}.svc"
}
