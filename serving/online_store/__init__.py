"""Online stores of our own, as subclasses of Feast's: ordered, correctable, atomic writes, and a TTL that holds on read.

Name them in ``feature_store.yaml``: ``tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore`` (a file, embedded) or
``tandem.serving.online_store.redis.OrderedRedisOnlineStore``. What they store, stock Feast can read.
"""
