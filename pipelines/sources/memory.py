"""A broker in the memory of this process, for tests and notebooks: topics, partitions, retention, and the troubles that a Kafka has.

``kafka.bootstrap_servers: memory://NAME`` names one; a stream over it runs on engines that work in this process (``--runner direct``).

>>> broker = MemoryBroker.named("doc")
>>> broker.create_topic("trips", partitions=2)
>>> broker.append("trips", 0, [b"a", b"b"])
[0, 1]
>>> reader = broker.open_reader()
>>> reader.poll("trips", 0, 0, max_records=10, timeout_ms=0).payloads.to_pylist()
[b'a', b'b']
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.sources.broker import (
    Broker,
    BrokerAway,
    DeadLetterWriter,
    FetchResult,
    Ints,
    KeptRecords,
    OffsetGone,
    Original,
    PartitionReader,
    TopicReplaced,
    UnknownTopic,
)
from pipelines.sources.letters import letters_of
from transforms.errors import ConfigError, StoreError
from transforms.instants import now_us

if TYPE_CHECKING:
    from pipelines.project.config import KafkaSettings

__all__ = ["MemoryBroker", "MemoryPartitionReader"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes as a topic's name."""


@dataclass
class _Log:
    """One partition: its records with their offsets, and the offsets where it begins and ends."""

    offsets: list[int] = field(default_factory=list)
    records: list[Original] = field(default_factory=list)
    stamps_us: list[int] = field(default_factory=list)
    first: int = 0
    next: int = 0


@dataclass
class _Topic:
    partitions: list[_Log]
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))


class MemoryBroker(Broker):
    """Topics in memory, found by their broker's name; safe from many threads. Gone with the process.

    ``answer_seconds``: how long a call waits for a broker that is away (:meth:`pause`). ``clock`` gives records their time.
    """

    shared = False
    _named: ClassVar[dict[str, MemoryBroker]] = {}

    def __init__(self, name: str = "", answer_seconds: float = 0.05, clock: Callable[[], int] = now_us) -> None:
        self.name, self.answer_seconds, self.clock = name or uuid.uuid4().hex, answer_seconds, clock
        self.changed = threading.Condition()
        self.topics: dict[str, _Topic] = {}
        self.away = False
        MemoryBroker._named[self.name] = self

    def __repr__(self) -> str:
        return self.address

    def __reduce__(self) -> tuple[Callable[..., MemoryBroker], tuple[str, int]]:
        """Pickled, it is its name: the same broker in this process, and an error in any other."""
        return _unpickled, (self.name, os.getpid())

    @property
    def address(self) -> str:
        """What names it in ``kafka.bootstrap_servers``."""
        return f"memory://{self.name}"

    @classmethod
    def named(cls, name: str) -> MemoryBroker:
        """The broker of this name, made if it is new."""
        return cls._named.get(name) or cls(name)

    @classmethod
    def from_settings(cls, kafka: KafkaSettings, data: Path) -> MemoryBroker:
        """The broker that ``memory://NAME`` names. Raises ConfigError."""
        name = kafka.bootstrap_servers.removeprefix("memory://")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"kafka.bootstrap_servers: {kafka.bootstrap_servers!r} names no broker; write memory://NAME")
        return cls.named(name)

    def open_reader(self) -> PartitionReader:
        """A reader of all its topics."""
        return MemoryPartitionReader(self)

    def open_dead_letters(self, topic: str, seconds: float) -> DeadLetterWriter:
        """A writer to this topic."""
        return _MemoryDeadLetters(self, topic)

    # ------------------------------------------------------------------------------------------------------------- what fills it

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make an empty topic. Raises StoreError for a name that Kafka would not take, or that is there."""
        with self.changed:
            if not _NAME.fullmatch(name):
                raise StoreError(f"topic {name!r} cannot be made: use at most 249 letters, digits, '.', '_' and '-'")
            if name in self.topics:
                raise StoreError(f"topic {name!r} is there already; delete it first")
            self.topics[name] = _Topic([_Log() for _ in range(partitions)])
            self.changed.notify_all()

    def delete_topic(self, name: str) -> None:
        """Delete a topic; one made by this name later is another one. Raises UnknownTopic."""
        with self.changed:
            self._topic(name)
            del self.topics[name]
            self.changed.notify_all()

    def add_partitions(self, topic: str, total: int) -> None:
        """Let the topic have ``total`` partitions. Raises UnknownTopic."""
        with self.changed:
            found = self._topic(topic).partitions
            found += [_Log() for _ in range(total - len(found))]

    def append(
        self,
        topic: str,
        partition: int,
        values: Iterable[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[list[tuple[str, bytes | None]]] | None = None,
        timestamps_us: Sequence[int] | None = None,
    ) -> list[int]:
        """Append N records (values; keys, headers and times if given); their offsets. Raises UnknownTopic."""
        with self.changed:
            log, now, values = self._log(topic, partition), self.clock(), list(values)
            offsets = list(range(log.next, log.next + len(values)))
            for n, value in enumerate(values):
                log.records.append((keys[n] if keys else None, value, list(headers[n]) if headers else []))
                log.stamps_us.append(timestamps_us[n] if timestamps_us else now)
            log.offsets += offsets
            log.next += len(values)
            self.changed.notify_all()
        return offsets

    def leave_gap(self, topic: str, partition: int, offsets: int) -> None:
        """Take so many offsets without a record, as transaction markers, aborted records and compaction do. Raises UnknownTopic."""
        with self.changed:
            self._log(topic, partition).next += offsets
            self.changed.notify_all()

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Forget the records before this offset, as retention does. Raises UnknownTopic."""
        with self.changed:
            log = self._log(topic, partition)
            n = bisect_left(log.offsets, before)
            del log.offsets[:n], log.records[:n], log.stamps_us[:n]
            log.first = max(log.first, before)

    def cut(self, topic: str, partition: int, end: int) -> None:
        """Lose the records from this offset on, as an unclean election of a leader does. Raises UnknownTopic."""
        with self.changed:
            log = self._log(topic, partition)
            n = bisect_left(log.offsets, end)
            del log.offsets[n:], log.records[n:], log.stamps_us[n:]
            log.next = end

    def pause(self) -> None:
        """Be away: no call of a reader or writer is answered until :meth:`resume`."""
        self.away = True

    def resume(self) -> None:
        """Answer again."""
        with self.changed:
            self.away = False
            self.changed.notify_all()

    # --------------------------------------------------------------------------------------------------------- for its readers

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Hold the broker, once it is not away. Raises BrokerAway."""
        with self.changed:
            if not self.changed.wait_for(lambda: not self.away, self.answer_seconds):
                raise BrokerAway(f"no answer from {self.address} for {self.answer_seconds:g} s: it is paused; resume it")
            yield

    def _topic(self, name: str) -> _Topic:
        found = self.topics.get(name)
        if found is None:
            raise UnknownTopic(f"there is no topic {name!r} at {self.address}; create it, or correct the topic of its source")
        return found

    def _log(self, topic: str, partition: int) -> _Log:
        found = self._topic(topic).partitions
        if not 0 <= partition < len(found):
            raise UnknownTopic(f"topic {topic!r} has {len(found)} partitions and no partition {partition}; start over")
        return found[partition]


def _unpickled(name: str, pid: int) -> MemoryBroker:
    if pid != os.getpid():
        raise ConfigError(f"broker memory://{name} lives in process {pid} alone; use an engine that works there, such as --runner direct")
    return MemoryBroker.named(name)


class MemoryPartitionReader(PartitionReader):
    """:class:`PartitionReader` of a :class:`MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._identities: dict[str, str] = {}
        self._closed = False

    def partitions(self, topic: str) -> int:
        """How many there are."""
        with self._answering():
            return len(self._broker._topic(topic).partitions)

    def identity(self, topic: str) -> str:
        """The topic's id."""
        with self._answering():
            found = self._identities[topic] = self._broker._topic(topic).identity
            return found

    def start(self, topic: str, partition: int) -> int:
        """The first offset that was not truncated."""
        with self._answering():
            return self._log(topic, partition).first

    def end(self, topic: str, partition: int) -> int:
        """The next record's offset."""
        with self._answering():
            return self._log(topic, partition).next

    def poll(self, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int) -> FetchResult:
        """See :class:`PartitionReader`."""
        with self._answering():
            self._log(topic, partition)
            self._broker.changed.wait_for(lambda: offset != self._log(topic, partition).next, timeout_ms / 1000)
            log = self._log(topic, partition)
            if not log.first <= offset <= log.next:
                what = "is gone by retention" if offset < log.first else "does not exist (records were lost)"
                raise OffsetGone(
                    f"{topic}/{partition}: offset {offset} {what}, the log holds {log.first} to {log.next}; start over from a batch run"
                )
            first = bisect_left(log.offsets, offset)
            last = min(first + max_records, len(log.offsets))
            records = log.records[first:last]
            after = log.offsets[last] if last < len(log.offsets) else log.next
            return FetchResult(
                payloads=pa.array([value for _, value, _ in records], pa.binary()),
                offsets=np.array(log.offsets[first:last], np.int64),
                timestamps_us=np.array(log.stamps_us[first:last], np.int64),
                next_offset=after,
                end_offset=log.next,
                at_end=after == log.next,
                identity=self._identities[topic],
                columns=KeptRecords(records),
            )

    def close(self) -> None:
        """Let nothing be read any more."""
        self._closed = True

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if self._closed:
            raise StoreError("this reader is closed; open a new one")
        with self._broker.answering():
            yield

    def _log(self, topic: str, partition: int) -> _Log:
        """The partition of the topic that this reader began with."""
        found = self._broker._topic(topic)
        expected = self._identities.setdefault(topic, found.identity)
        if expected != found.identity:
            raise TopicReplaced(
                f"topic {topic!r} was made anew (its id was {expected}, is {found.identity}): its offsets mean others: start over"
            )
        return self._broker._log(topic, partition)


class _MemoryDeadLetters:
    """Dead letters in a topic of the broker, made with the first one."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self.broker, self.topic = broker, topic

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
        """Append the letters; all are there when this returns. Raises BrokerAway, StoreError."""
        letters = letters_of(topic, partition, source_name, fetched, rows, reasons, details)
        if not letters:
            return
        with self.broker.answering():
            if self.topic not in self.broker.topics:
                self.broker.create_topic(self.topic)
            self.broker.append(
                self.topic, 0, [a.value for a in letters], [a.key for a in letters], [a.headers + a.own_headers() for a in letters]
            )

    def close(self) -> None:
        """Nothing is held."""
