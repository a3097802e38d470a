# Topics as `tandem topics create` makes them; who makes them here leaves that command out, which would only find them.
locals {
  day_ms = 24 * 60 * 60 * 1000
}

resource "kafka_topic" "source" {
  for_each = var.topics

  name               = each.key
  partitions         = each.value.partitions
  replication_factor = each.value.replication
  config = merge({
    "cleanup.policy"  = "delete"
    "retention.ms"    = each.value.retention_days == -1 ? "-1" : tostring(floor(each.value.retention_days * local.day_ms))
    "retention.bytes" = "-1"
  }, each.value.config)

  lifecycle {
    prevent_destroy = true
  }
}

resource "kafka_topic" "dead_letters" {
  name               = var.dead_letters.name
  partitions         = 1
  replication_factor = var.dead_letters.replication
  config = {
    "cleanup.policy"    = "delete"
    "retention.ms"      = "-1"
    "retention.bytes"   = "-1"
    "max.message.bytes" = "33554432" # a letter is its record and headers more
  }

  lifecycle {
    prevent_destroy = true
  }
}
