"""Online stores of our own, as subclasses of Feast's: ordered, correctable, atomic writes, and a TTL that holds on read.

Name one in ``feature_store.yaml`` as ``type: tandem.serving.online_store.`` and ``sqlite.OrderedSqliteOnlineStore`` (a file, embedded),
``redis.OrderedRedisOnlineStore``, ``postgres.OrderedPostgresOnlineStore`` or ``dynamodb.OrderedDynamoDBOnlineStore``. What they store,
stock Feast can read.
"""
