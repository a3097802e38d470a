"""A broker as the stream sees it: topics of partitions, each a log of records that is read by offset.

:class:`PartitionReader` is the interface; :class:`Broker` makes readers and writers and is what a job is given (it can be pickled).
Two brokers ship: Kafka (:mod:`pipelines.sources.kafka.kafka_client`) and one in memory (:mod:`pipelines.sources.memory`).
``tandem.testing.broker`` is the suite that both hold. :func:`open_broker` chooses by the scheme of ``kafka.bootstrap_servers``; a package
brings another by an entry point of the group ``tandem.brokers``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.project.extensions import BROKERS
from transforms.definitions import EventSource
from transforms.errors import ConfigError, DataError, StoreError
from transforms.origin import HEADERS, Origin
from transforms.places import Header, RecordKey, RecordTimestamp

if TYPE_CHECKING:
    from pipelines.project.config import KafkaSettings

__all__ = [
    "Broker",
    "BrokerAway",
    "BrokerRefused",
    "DamagedLog",
    "DeadLetterWriter",
    "FetchResult",
    "LetterRefused",
    "Ints",
    "KeptRecords",
    "OffsetGone",
    "Original",
    "PartitionReader",
    "REPLAYED_TIME",
    "TopicReplaced",
    "UnknownTopic",
    "WAITED_FOR",
    "open_broker",
]

Ints = npt.NDArray[np.int64]
REPLAYED_TIME = "tandem.replayed_timestamp_ms"
"""The header of a replayed dead letter that holds the timestamp that its record had: a replayed event keeps its event time."""
Original = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""Key, value and headers of a record, as they were produced."""


class UnknownTopic(ConfigError):
    """The topic, or this partition of it, does not exist."""


class OffsetGone(DataError):
    """The log holds nothing at this offset any more (retention), or not yet (it was cut, or made anew)."""


class TopicReplaced(OffsetGone):
    """The topic was deleted and made anew: its offsets now refer to other records."""


class BrokerAway(StoreError):
    """No broker answered in time; the same call may be made again."""


class BrokerRefused(ConfigError):
    """A broker is there, and its user may not do that. Who could before waits for the right as for a broker that is away."""


WAITED_FOR = (BrokerAway, BrokerRefused)
"""What a running stream waits for."""


class LetterRefused(StoreError):
    """The dead-letter topic does not take these letters, however short they are made; it may take others."""


class Records(Protocol):
    """Where the keys and headers of some records are found."""

    def slice(self, first: int, last: int) -> Records:
        """Rows ``first`` to ``last`` (exclusive)."""

    def original(self, rows: Sequence[int]) -> list[Original]:
        """Key, value and headers of these rows."""

    def keys(self) -> pa.Array:
        """The keys of all rows: binary [N], null where there is none."""

    def headers(self) -> pa.Array:
        """The headers of all rows: :data:`transforms.origin.HEADERS` [N]."""


@dataclass(frozen=True)
class FetchResult:
    """Some records of one partition, in order."""

    payloads: pa.Array
    """binary [N], null where a record has no value."""
    offsets: Ints
    """int64 [N], rising; gaps are transaction markers, aborted records, and what compaction removed."""
    timestamps_us: Ints
    """int64 [N], the records' own timestamps, microseconds of UTC."""
    next_offset: int
    """The position after these: where to poll next."""
    end_offset: int
    """Where the log ended for readers of committed records, when it was last heard of."""
    at_end: bool
    """A fetch sent during this poll found nothing at ``next_offset``."""
    identity: str = ""
    """Which topic of this name, as of :meth:`PartitionReader.identity`."""
    columns: Records | None = field(default=None, repr=False)
    """Where keys and headers are found; without: there are none."""
    refused: Mapping[int, str] = field(default_factory=dict, repr=False)
    """Records that the reader does not hand out, by offset, and why: too large. Their payload is null, and what it kept of them are their
    :meth:`original`."""
    run: str = ""
    """The run of a stream that read them, which their dead letters name."""

    def before(self, offset: int) -> FetchResult:
        """The records before this offset; the rest is left for another poll."""
        n = int(np.searchsorted(self.offsets, offset))
        if n == len(self.offsets):
            return self
        return replace(
            self,
            payloads=self.payloads.slice(0, n),
            offsets=self.offsets[:n],
            timestamps_us=self.timestamps_us[:n],
            next_offset=int(self.offsets[n]),
            at_end=False,
            columns=None if self.columns is None else self.columns.slice(0, n),
        )

    def without(self, offsets: Collection[int]) -> FetchResult:
        """All but the records at these offsets."""
        keep = ~np.isin(self.offsets, np.array(sorted(offsets), np.int64))
        if keep.all():
            return self
        original = KeptRecords(self.original(np.flatnonzero(keep)))
        payloads, stamps = self.payloads.filter(pa.array(keep)), self.timestamps_us[keep]
        return replace(self, payloads=payloads, offsets=self.offsets[keep], timestamps_us=stamps, columns=original)

    def original(self, rows: Ints) -> list[Original]:
        """Key, value and headers of these rows, as they were produced: for dead letters."""
        if self.columns is None:
            return [(None, value, []) for value in self.payloads.take(pa.array(rows)).to_pylist()]
        return self.columns.original(rows.tolist())

    def tombstones(self) -> npt.NDArray[np.bool_] | None:
        """Which records say that their key is no more: they have a key and no value (bool [N]); None where none does.

        A record with neither says nothing of anything and is none, and neither is one whose value the reader does not hand out.
        """
        if self.columns is None or not self.payloads.null_count:
            return None
        found = pc.and_(self.payloads.is_null(), self.columns.keys().is_valid()).to_numpy(zero_copy_only=False)
        found &= ~np.isin(self.offsets, np.array([*self.refused], np.int64))
        return found if found.any() else None

    def origin(self, source: EventSource) -> Origin | None:
        """What fields of the source read beside the payload, of all rows, and no more than that; None where none does."""
        if not source.needs_origin:
            return None
        kinds = {type(f.path) for f in source.all_fields}
        timed = RecordTimestamp in kinds
        found: Records = KeptRecords([(None, None, [])] * len(self.offsets)) if self.columns is None else self.columns
        return Origin(
            found.keys() if RecordKey in kinds else None,
            found.headers() if Header in kinds else None,
            pa.array(_own_times(self.timestamps_us, found.headers())) if timed else None,
        )


def _own_times(timestamps_us: Ints, headers: pa.Array) -> Ints:
    """The timestamps of records, of replayed dead letters those that they had: earlier ones, as nobody's header makes a record younger."""
    said = Origin(headers=headers).header(REPLAYED_TIME)
    if said.null_count == len(said):
        return timestamps_us
    out = timestamps_us.copy()
    for row in np.flatnonzero(said.is_valid().to_numpy(zero_copy_only=False)).tolist():
        text = said[row].as_py()
        if text.isdigit() and len(text) <= 15:
            out[row] = min(int(out[row]), int(text) * 1000)
    return out


@dataclass(frozen=True)
class KeptRecords:
    """Keys, values and headers of some records, one by one: what :class:`Records` is where there are no columns."""

    records: Sequence[Original]

    def slice(self, first: int, last: int) -> KeptRecords:
        """Rows ``first`` to ``last`` (exclusive)."""
        return KeptRecords(self.records[first:last])

    def original(self, rows: Sequence[int]) -> list[Original]:
        """Key, value and headers of these rows."""
        return [(key, value, list(headers)) for key, value, headers in (self.records[row] for row in rows)]

    def keys(self) -> pa.Array:
        """The keys of all rows."""
        return pa.array([key for key, _, _ in self.records], pa.binary())

    def headers(self) -> pa.Array:
        """The headers of all rows."""
        return pa.array([headers for _, _, headers in self.records], HEADERS)


class DamagedLog(DataError):
    """What lies at these offsets of a partition (``first`` to before ``following``) cannot be read, now or later."""

    def __init__(self, line: str, first: int, following: int) -> None:
        super().__init__(line)
        self.first, self.following = first, following


class PartitionReader(ABC):
    """Reads any number of partitions for one process; safe to share between its threads. Connects at the first call.

    **What holds.** Records come in the order of their offsets, each once per pass over them; records of aborted transactions are never
    seen; nothing is skipped: what cannot be read any more is an error. A broker that is away or frozen is BrokerAway within seconds, and
    the same reader goes on when it is back.
    """

    @abstractmethod
    def partitions(self, topic: str) -> int:
        """How many partitions the topic has now. Raises UnknownTopic, BrokerAway."""

    @abstractmethod
    def identity(self, topic: str) -> str:
        """Another text once the topic has been deleted and made anew; "" where the broker cannot tell.

        The topic that this call found is the one that :meth:`poll` reads from then on (else the one that the first poll found).
        """

    @abstractmethod
    def start(self, topic: str, partition: int) -> int:
        """The first offset that the log holds. Raises UnknownTopic, BrokerAway."""

    @abstractmethod
    def end(self, topic: str, partition: int) -> int:
        """The offset where committed records end: where an open transaction begins, or the log ends. Raises as :meth:`start`."""

    def ends(self, topic: str, partitions: Collection[int]) -> dict[int, int]:
        """:meth:`end` of several partitions, in as few requests as can be. Raises as it does."""
        return {partition: self.end(topic, partition) for partition in partitions}

    @abstractmethod
    def poll(self, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int) -> FetchResult:
        """Up to ``max_records`` records from ``offset`` on; waits up to ``timeout_ms`` for the first.

        Raises OffsetGone (before the log's start, or beyond its end), TopicReplaced, UnknownTopic, BrokerAway (nobody answered for some
        seconds, less while that is known; poll again), DamagedLog on damage.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection: nothing can be read any more (StoreError)."""


class DeadLetterWriter(Protocol):
    """Writes rejected records to a topic as they came, with what is wrong beside them; safe to share between threads."""

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
        """Write these rows of a fetch, and return when they are durable.

        ``rows`` int64 [N], with a reason and a detail each. Raises BrokerAway when nobody answers, LetterRefused when the topic does not
        take them, StoreError when no letter can be written; some may have been written then, so that writing all of them again
        repeats them.
        """

    def close(self) -> None:
        """Disconnect; a later write connects again."""


class Broker(ABC):
    """How a process reaches a broker: what a job's workers are given. Immutable, can be pickled, makes no connection itself."""

    shared: ClassVar[bool] = True
    """Whether another process reaches the same records; engines whose workers are processes of their own need it."""

    @classmethod
    @abstractmethod
    def from_settings(cls, kafka: KafkaSettings, data: Path) -> Broker:
        """The broker of these settings, for a data folder. Raises ConfigError."""

    @abstractmethod
    def open_reader(self) -> PartitionReader:
        """A new reader, to be closed by who opened it."""

    @abstractmethod
    def open_dead_letters(self, topic: str, seconds: float) -> DeadLetterWriter:
        """A new writer of dead letters to this topic, made if it is missing; a write takes at most ``seconds``."""


def open_broker(kafka: KafkaSettings, data: Path) -> Broker:
    """The broker that ``kafka.bootstrap_servers`` names: ``memory://name`` is in memory, ``host:port`` a Kafka, nothing the Kafka of
    ``tandem up`` in the data folder. Raises ConfigError."""
    scheme, separator, _ = kafka.bootstrap_servers.partition("://")
    found: type[Broker] = BROKERS.load(scheme if separator else "kafka")
    return found.from_settings(kafka, data)
