"""Event logs into topics, in the order and at the pace in which they once came."""
