"""Dead letters: rejected records, written to a Kafka topic as they came, with what is wrong in headers behind their own.

At least once: after a crash the same record may be written again, so a letter's identity is where its record came from
(topic, its id, partition, offset), not where the letter lies.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka import errors as kafka_errors
from kafka.serializer import Serializer

from pipelines.sources.kafka.connection import BrokerAway, Link, UnknownTopic, refused
from pipelines.sources.kafka.partition_reader import Polled
from pipelines.sources.kafka.record_batches import Ints, Original
from transforms.errors import DataError, StoreError

__all__ = ["DeadLetters", "Letter", "Value", "ensure_topic", "failed", "producer_options", "sendable"]

DELIVERY_SECONDS = 30.0
MAX_BYTES = 32 << 20
"""The largest dead letter: well above the largest record that brokers take by default (1 MB), as it carries headers more."""
_DETAIL_CHARS = 1000
_TOPIC = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": str(MAX_BYTES)}


@dataclass(frozen=True)
class Letter:
    """One dead letter as it lies in the topic."""

    source: str
    reason: str
    detail: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    timestamp_us: int
    """The record's own Kafka timestamp."""
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    written_us: int
    """When the letter was written."""

    @property
    def where(self) -> str:
        """Where the record lies, or lay: topic/partition/offset."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def identity(self) -> str:
        """The record that this letter is about; letters written again have the same. A topic made anew holds other records."""
        return f"{self.where}@{self.topic_id}" if self.topic_id else self.where

    def own_headers(self) -> list[tuple[str, bytes | None]]:
        """The headers that make a record a letter; they stand behind the record's own."""
        nulls = [i for i, (_, value) in enumerate(self.headers) if value is None]
        texts = {
            "source": self.source,
            "reason": self.reason,
            "detail": self.detail[:_DETAIL_CHARS],
            "topic": self.topic,
            "topic_id": self.topic_id,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "timestamp_ms": str(self.timestamp_us // 1000),
            "null_headers": json.dumps(nulls),
            "headers": str(len(self.headers)),
        }
        return [(f"tandem.{name}", text.encode()) for name, text in texts.items()]

    @classmethod
    def read(cls, record: Original, written_us: int) -> Letter:
        """The letter in a record of the dead-letter topic. Raises DataError when it is none."""
        key, value, headers = record
        try:
            own = int((headers[-1][1] or b"").decode())
            texts = {name.removeprefix("tandem."): (text or b"").decode() for name, text in headers[own:]}
            nulls = set(json.loads(texts["null_headers"]))
            return cls(
                source=texts["source"],
                reason=texts["reason"],
                detail=texts["detail"],
                topic=texts["topic"],
                topic_id=texts["topic_id"],
                partition=int(texts["partition"]),
                offset=int(texts["offset"]),
                timestamp_us=int(texts["timestamp_ms"]) * 1000,
                key=key,
                value=value,
                headers=[(name, None if i in nulls else text) for i, (name, text) in enumerate(headers[:own])],
                written_us=written_us,
            )
        except (IndexError, KeyError, ValueError, TypeError):
            raise DataError("a record of the dead-letter topic is no dead letter: its headers tandem.* are missing") from None


class DeadLetters:
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
        polled: Polled,
        rows: Ints,
        reasons: Sequence[str],
        details: Sequence[str | None],
    ) -> None:
        """Write these rows of a poll, and return when every replica in sync has them (acks=all).

        ``rows`` int64 [N], with a reason and a detail each. Raises BrokerAway when nobody answers, StoreError when a letter cannot
        be written; some may have been written then, so that writing all of them again repeats them.
        """
        letters = [
            Letter(source_name, reason, detail or "", topic, polled.identity, partition, int(offset), int(stamp), *original, 0)
            for original, offset, stamp, reason, detail in zip(
                polled.original(rows), polled.offsets[rows], polled.timestamps_us[rows], reasons, details, strict=True
            )
        ]
        if not letters:
            return
        with self._lock:
            try:
                producer = self._connected()
                sent = [producer.send(self.topic, Value(a.value), a.key, sendable(a.headers + a.own_headers())) for a in letters]
                producer.flush(self._seconds)
                for future in sent:
                    future.get(0)
            except kafka_errors.KafkaError as error:
                self._drop()  # its sequence numbers may have a hole now
                raise failed(error, f"dead letters cannot be written to topic {self.topic!r}", self._options) from None

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
    link = Link(dict(options))
    try:
        link.topic(topic)
        return
    except UnknownTopic:
        pass
    finally:
        link.close()
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
    if isinstance(error, (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)):
        return StoreError(f"{what}: a record is larger than the topic takes; raise its max.message.bytes")
    if isinstance(error, kafka_errors.RetriableError):
        return BrokerAway(f"{what}: no answer from Kafka at {','.join(options['bootstrap_servers'])} ({type(error).__name__})")
    return StoreError(f"{what}: {error!r}; see the broker's log")
