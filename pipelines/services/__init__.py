"""Local services without containers: a Kafka broker, optionally redis-server, as child processes."""
