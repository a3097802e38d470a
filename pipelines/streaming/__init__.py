"""The streaming job: Kafka to the online store, by the same functions as batch."""
