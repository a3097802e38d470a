"""Kafka: connections, partitions read as columns, dead letters."""
