"""Dead letters (:mod:`pipelines.sources.letters`) in a Kafka topic."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka import errors as kafka_errors
from kafka.serializer import Serializer

from pipelines.sources.broker import BrokerAway, FetchResult, Ints, LetterRefused, UnknownTopic
from pipelines.sources.kafka.connection import KafkaConnection, refused
from pipelines.sources.letters import Letter, letters_of
from transforms.errors import StoreError

__all__ = ["KafkaDeadLetters", "Value", "ensure_topic", "failed", "producer_options", "sendable"]

DELIVERY_SECONDS = 30.0
MAX_BYTES = 32 << 20
"""The largest dead letter: well above the largest record that brokers take by default (1 MB), as it carries headers more."""
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_TOPIC = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": str(MAX_BYTES)}


class KafkaDeadLetters:
    """Writes dead letters; safe to share between threads. Connects, and makes the topic if it is missing, at the first letter.

    ``options`` from ``client_options``; ``delivery_seconds`` bounds how long a write may take.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, delivery_seconds: float = DELIVERY_SECONDS) -> None:
        self.topic = topic
        self._options = dict(options)
        self._seconds = delivery_seconds
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def write(
        self,
        topic: str,
        partition: int,
        source_name: str,
        fetched: FetchResult,
        rows: Ints,
        reasons: Sequence[str],
        details: Sequence[str | None],
    ) -> None:
        """Write these rows of a fetch, and return when every replica in sync has them (acks=all).

        ``rows`` int64 [N], with a reason and a detail each. Raises BrokerAway when nobody answers, StoreError when a letter cannot
        be written (LetterRefused: the topic takes not even shortened ones); some may have been written then, so that writing all of
        them again repeats them. What is too large for the topic is written shortened.
        """
        letters = letters_of(topic, partition, source_name, fetched, rows, reasons, details)
        if not letters:
            return
        with self._lock:
            try:
                try:
                    self._send(letters)
                except _TOO_LARGE:  # for the topic as it is
                    self._drop()
                    self._send([a.shortened() for a in letters])
            except kafka_errors.KafkaError as error:
                self._drop()  # its sequence numbers may have a hole now
                raise failed(error, f"dead letters cannot be written to topic {self.topic!r}", self._options) from None

    def _send(self, letters: list[Letter]) -> None:
        producer = self._connected()
        sent = [producer.send(self.topic, Value(a.value), a.key, sendable(a.headers + a.own_headers())) for a in letters]
        deadline = time.monotonic() + self._seconds
        for future in sent:  # not `flush`: it fails of a batch that is sent again in halves, as it was too large for the topic
            future.get(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Disconnect; a later write connects again."""
        with self._lock:
            self._drop()

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            ensure_topic(self._options, self.topic, _TOPIC)
            self._producer = KafkaProducer(**producer_options(self._options, self._seconds))
        return self._producer

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(kafka_errors.KafkaError):
                producer.close(timeout=1)


class Value(Serializer):  # type: ignore[misc]
    """A value for kafka-python's ``send``, null or not: it refuses a null beside a null key, though Kafka takes it."""

    def __init__(self, value: bytes | None = None) -> None:
        self.value = value

    def serialize(self, topic: str, headers: Any, data: Value) -> bytes | None:
        """What is sent (the class is its own serializer)."""
        return data.value


def sendable(headers: list[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    """The headers as kafka-python sends them: it knows no header without a value, so that one becomes empty."""
    return [(name, b"" if value is None else value) for name, value in headers]


def producer_options(options: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Options of a producer whose sends (of ``Value``) succeed for good, or fail, within these seconds."""
    total = max(1000, round(seconds * 1000))
    linger = 5
    return {
        **options,
        "acks": "all",
        "enable_idempotence": True,
        "value_serializer": Value(),
        "linger_ms": linger,
        "batch_size": 1 << 18,
        "request_timeout_ms": min(options["request_timeout_ms"], total - linger),
        "delivery_timeout_ms": total,
        "max_block_ms": total,
        "max_request_size": MAX_BYTES,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


def ensure_topic(options: Mapping[str, Any], topic: str, config: Mapping[str, str]) -> None:
    """Make a topic of one partition, with the broker's usual number of replicas, if it is missing; one that exists is left as it is.

    Raises BrokerAway, ConfigError (no right to), StoreError.
    """
    connection = KafkaConnection(dict(options))
    try:
        connection.topic(topic)
        return
    except UnknownTopic:
        pass
    finally:
        connection.close()
    try:
        admin = KafkaAdminClient(**options)
        try:
            admin.create_topics({topic: {"num_partitions": 1, "configs": dict(config)}}, wait_for_metadata=True)
        except kafka_errors.TopicAlreadyExistsError:
            admin.wait_for_topics([topic])  # another process was faster
        finally:
            admin.close()
    except kafka_errors.KafkaError as error:
        raise failed(error, f"topic {topic!r} cannot be made", options) from None


def failed(error: Exception, what: str, options: Mapping[str, Any]) -> Exception:
    """Our error for kafka-python's."""
    if isinstance(error, kafka_errors.AuthorizationError):
        return refused(f"write: {what}")
    if isinstance(error, _TOO_LARGE):
        return LetterRefused(f"{what}: a record is larger than the topic takes; raise its max.message.bytes")
    if isinstance(error, kafka_errors.RetriableError):
        return BrokerAway(f"{what}: no response from Kafka at {','.join(options['bootstrap_servers'])} ({type(error).__name__})")
    return StoreError(f"{what}: {error!r}; see the broker's log")
