"""Reading Kafka: one reader per process, any number of partitions, whole fetches as columns.

Stated behaviours (each tested): records of aborted transactions are never seen, and markers never block; an offset that the log no
longer holds, or does not hold yet, is OffsetGone; a topic that was deleted and made anew is TopicReplaced, whatever offsets it has
(fetches name the topic's id); an unknown topic or partition is UnknownTopic; a broker that is away or frozen is BrokerAway within
seconds, and the same reader goes on when it is back. Nothing is ever skipped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.protocol.consumer import FetchRequest, IsolationLevel, ListOffsetsRequest, OffsetSpec

from pipelines.sources.broker import (
    BrokerAway,
    BrokerRefused,
    DamagedLog,
    FetchResult,
    OffsetGone,
    PartitionReader,
    TopicReplaced,
    UnknownTopic,
)
from pipelines.sources.kafka.connection import ANSWER_SECONDS, KafkaConnection, refused
from pipelines.sources.kafka.record_batches import Columns, decode
from transforms.errors import StoreError

__all__ = ["KafkaPartitionReader"]

FETCH_BYTES = 4 << 20
"""Bytes of one partition in one fetch (a larger batch comes whole, alone). While one fetch is used, the next is on its way."""
_PAUSE_SECONDS = 0.1
_MOVED = (
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.UnknownTopicIdError,
    kafka_errors.InconsistentTopicIdError,
)


@dataclass
class _Partition:
    """What the reader holds of a partition between polls."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    held: Columns | None = None
    position: int = -1
    """Of the next record to hand out; ``held`` begins there."""
    end: int = 0
    epoch: int = -1
    """The leader's epoch at the record before what comes next, -1 if unknown: a log that was cut since shows by it."""
    identity: UUID | None = None
    """The topic that all of this is of."""
    pending: tuple[int, Future] | None = None
    """A fetch on its way, and the offset it asks for."""


class KafkaPartitionReader(PartitionReader):
    """:class:`PartitionReader` of Kafka; ``options`` from ``client_options``. Raises nothing itself: it connects at the first call."""

    def __init__(self, options: dict[str, Any], answer_seconds: float = ANSWER_SECONDS) -> None:
        self._connection = KafkaConnection(options, answer_seconds)
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], _Partition] = {}
        self._identities: dict[str, UUID | None] = {}

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has now. Raises UnknownTopic, BrokerAway."""
        return len(self._connection.topic(topic, fresh=True).leaders)

    def identity(self, topic: str) -> str:
        """Another text once the topic has been deleted and made anew; "" from brokers that have no topic ids (before Kafka 2.8).

        The topic that this call found is the one that ``poll`` reads from then on (else the one that the first poll found).
        """
        found = self._connection.topic(topic, fresh=True).id
        with self._lock:
            self._identities[topic] = found
        return str(found) if found else ""

    def start(self, topic: str, partition: int) -> int:
        """The first offset that the log holds. Raises UnknownTopic, BrokerAway."""
        return self._list_offset(topic, partition, OffsetSpec.EARLIEST)

    def end(self, topic: str, partition: int) -> int:
        """The offset where committed records end: where an open transaction begins, or the log ends. Raises as ``start``."""
        return self._list_offset(topic, partition, OffsetSpec.LATEST)

    def ends(self, topic: str, partitions: Collection[int]) -> dict[int, int]:
        """:meth:`end` of several partitions by one request to each of their leaders."""
        return self._list_offsets(topic, partitions, OffsetSpec.LATEST) if partitions else {}

    def poll(self, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int) -> FetchResult:
        """Up to ``max_records`` records from ``offset`` on; waits up to ``timeout_ms`` for the first.

        Reading on where the last poll ended takes what was fetched meanwhile; any other offset is fetched anew. Raises OffsetGone,
        TopicReplaced, UnknownTopic, BrokerAway (nobody answered for some seconds, less while that is known; poll again), DataError on
        damage.
        """
        with self._lock:
            part = self._held.setdefault((topic, partition), _Partition())
        with part.lock:
            identity = self._identities.get(topic)
            if part.position != offset or part.identity != identity:
                part.held, part.pending, part.position, part.epoch, part.identity = None, None, offset, -1, identity
            fresh = False
            if part.held is None:
                fresh = self._fill(topic, partition, part, timeout_ms)
            held = part.held
            assert held is not None
            taken = held if len(held) <= max_records else held.slice(0, max_records)
            part.held = held.slice(max_records, len(held)) if len(held) > max_records else None
            part.position = taken.next_offset
            after = held.next_offset
            if part.pending is None and after < part.end and (part.held is None or len(part.held) <= max_records):
                part.pending = self._ahead(topic, partition, after, part.epoch)
            at_end = fresh and part.held is None and after >= part.end
            return FetchResult(
                payloads=taken.payloads,
                offsets=taken.offsets,
                timestamps_us=taken.timestamps_us,
                next_offset=taken.next_offset,
                end_offset=max(part.end, after),
                at_end=at_end,
                identity=str(part.identity or ""),
                columns=taken,
                refused={offset: line for offset, (_, line) in taken.cut.items()},
            )

    def close(self) -> None:
        """Close the connection; nothing can be read any more."""
        self._connection.close()

    def _fill(self, topic: str, partition: int, part: _Partition, timeout_ms: int) -> bool:
        """Take the next fetch into ``part.held`` (maybe without records); whether it was sent during this call."""
        offset, fresh = part.position, False
        wait_until = time.monotonic() + timeout_ms / 1000
        until = wait_until + self._connection.patience()
        while True:
            problem = None
            try:
                if part.pending is None or part.pending[0] != offset:
                    wait_ms = int(max(0.0, wait_until - time.monotonic()) * 1000)
                    part.pending, fresh = (offset, self._send(topic, partition, offset, part.epoch, wait_ms, until)), True
                    part.identity = self._identities.get(topic)
                answer = self._connection.wait(part.pending[1], until)
                part.pending = None
                found = answer.responses[0].partitions[0] if answer.responses else None
                problem = kafka_errors.for_code(found.error_code if found is not None else answer.error_code)
                if found is not None and found.diverging_epoch is not None and found.diverging_epoch.end_offset >= 0:
                    problem = kafka_errors.OffsetOutOfRangeError
                elif problem is kafka_errors.NoError and found is not None:
                    part.end = found.last_stable_offset if found.last_stable_offset >= 0 else found.high_watermark
                    aborted = [(a.producer_id, a.first_offset) for a in found.aborted_transactions or []]
                    try:
                        part.held = decode(bytes(found.records or b""), offset, aborted)
                    except DamagedLog as error:
                        where = f"{topic}/{partition}"
                        line = f"{where}: {error}; skip it with: tandem stream skip {where}/{max(error.first, offset)} --reason '...'"
                        raise DamagedLog(line, max(error.first, offset), error.following) from None
                    if part.held.next_offset > offset or fresh:
                        part.epoch = part.held.epoch if part.held.epoch >= 0 else part.epoch
                        return fresh
                    continue  # asked before this call, and empty: ask what is there now
            except kafka_errors.RetriableError:
                part.pending = None
            self._resolve(topic, partition, offset, problem, until)

    def _resolve(self, topic: str, partition: int, offset: int, problem: type[Exception] | None, until: float) -> None:
        """After a fetch that failed: return to have it repeated, or raise what is wrong."""
        if problem is kafka_errors.OffsetOutOfRangeError:
            raise self._gone(topic, partition, offset)
        if problem is kafka_errors.TopicAuthorizationFailedError:
            raise refused(f"read topic {topic!r}")
        if problem is not None and not issubclass(problem, kafka_errors.RetriableError):
            raise StoreError(f"{topic}/{partition} at offset {offset}: the broker answers {problem.__name__}; see its log")
        over = time.monotonic() > until
        try:
            self._leader(topic, partition, fresh=True)
        except (UnknownTopic, BrokerAway):
            if over or problem in _MOVED:
                raise
        except kafka_errors.RetriableError:
            pass  # it has no leader now
        if over:
            raise self._connection.away()
        time.sleep(_PAUSE_SECONDS)

    def _ahead(self, topic: str, partition: int, offset: int, epoch: int) -> tuple[int, Future] | None:
        """Ask for what comes next, without waiting; None when that cannot be done now."""
        try:
            return offset, self._send(topic, partition, offset, epoch, 0, time.monotonic())
        except (kafka_errors.RetriableError, StoreError, OffsetGone, UnknownTopic, BrokerRefused):
            return None  # the next poll meets it

    def _send(self, topic: str, partition: int, offset: int, epoch: int, wait_ms: int, until: float) -> Future:
        leader, identity = self._leader(topic, partition)
        wanted = FetchRequest.FetchTopic.FetchPartition(
            partition=partition, current_leader_epoch=-1, fetch_offset=offset, last_fetched_epoch=epoch, partition_max_bytes=FETCH_BYTES
        )
        by_id = {"topic_id": identity} if identity else {}
        request = FetchRequest(
            max_wait_ms=wait_ms,
            min_bytes=1,
            max_bytes=FETCH_BYTES,
            isolation_level=IsolationLevel.READ_COMMITTED,
            session_id=0,
            session_epoch=-1,
            topics=[FetchRequest.FetchTopic(topic=topic, partitions=[wanted], **by_id)],
            forgotten_topics_data=[],
            rack_id="",
            min_version=4,
            max_version=16 if identity else 12,
        )
        return self._connection.send(leader, request, until)

    def _leader(self, topic: str, partition: int, fresh: bool = False) -> tuple[int, UUID | None]:
        """The node that leads the partition, and the topic's identity. Raises UnknownTopic, TopicReplaced, BrokerAway."""
        info = self._connection.topic(topic, fresh)
        with self._lock:
            expected = self._identities.setdefault(topic, info.id)
        if expected != info.id:
            raise TopicReplaced(
                f"Kafka topic {topic!r} was made anew (its id was {expected}, is {info.id}): its offsets mean others: start over"
            )
        leader = info.leaders.get(partition)
        if leader is None and not fresh:
            return self._leader(topic, partition, fresh=True)
        if leader is None:
            raise UnknownTopic(f"Kafka topic {topic!r} has {len(info.leaders)} partitions and no partition {partition}; start over")
        if leader < 0:
            raise kafka_errors.LeaderNotAvailableError(f"{topic}/{partition}")
        return leader, info.id

    def _list_offset(self, topic: str, partition: int, which: OffsetSpec) -> int:
        return self._list_offsets(topic, [partition], which)[partition]

    def _list_offsets(self, topic: str, partitions: Collection[int], which: OffsetSpec) -> dict[int, int]:
        """One request for each broker that leads some of the partitions."""
        until = time.monotonic() + self._connection.patience()
        kind, found, left = ListOffsetsRequest.ListOffsetsTopic, dict[int, int](), sorted(partitions)
        while True:
            problem, asked = None, left[0]
            try:
                by_leader: dict[int, list[Any]] = {}
                for asked in left:
                    wanted = kind.ListOffsetsPartition(partition_index=asked, current_leader_epoch=-1, timestamp=which)
                    by_leader.setdefault(self._leader(topic, asked)[0], []).append(wanted)
                sent = []
                for leader, each in by_leader.items():
                    request = ListOffsetsRequest(
                        isolation_level=IsolationLevel.READ_COMMITTED, topics=[kind(name=topic, partitions=each)], min_version=2
                    )
                    sent.append(self._connection.send(leader, request, until))
                for future in sent:
                    for answer in self._connection.wait(future, until).topics[0].partitions:
                        error = kafka_errors.for_code(answer.error_code)
                        if error is kafka_errors.NoError:
                            found[int(answer.partition_index)] = int(answer.offset)
                        else:
                            problem, asked = error, int(answer.partition_index)
            except kafka_errors.RetriableError:
                pass
            left = [partition for partition in left if partition not in found]
            if not left:
                return found
            self._resolve(topic, asked if asked in left else left[0], which, problem, until)

    def _gone(self, topic: str, partition: int, offset: int) -> OffsetGone:
        first, end = self.start(topic, partition), self.end(topic, partition)
        if offset < first:
            what = "is gone by retention"
        else:  # within the log, but what was read before it is not in there any more (unclean leader election)
            what = "does not exist (records were lost)" if offset > end else "follows records that were lost since they were read"
        return OffsetGone(f"{topic}/{partition}: offset {offset} {what}, the log holds {first} to {end}; start over from a batch run")
