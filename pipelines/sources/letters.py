"""Dead letters: rejected records as they came, with what is wrong in headers behind their own.

At least once: after a crash the same record may be written again, so a letter's identity is where its record came from
(topic, its id, partition, offset), not where the letter lies.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipelines.sources.broker import Broker, FetchResult, Ints, Original, PartitionReader, UnknownTopic
from transforms.contract import field_of
from transforms.errors import DataError

__all__ = ["Choice", "Letter", "Listing", "find", "ledger_of", "letters_of", "list_letters", "replayed", "scan"]

_DETAIL_CHARS = 1000
CUT_BYTES = 16 << 10
"""What is kept of a record whose letter would be too large."""
_POLL_RECORDS = 5000


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
    whole: bool = True
    """Whether it holds all of its record; of one that is too large only a beginning. Such a one is not replayed."""
    run: str = ""
    """The run of the stream that refused it; empty in letters of earlier versions."""

    @property
    def where(self) -> str:
        """Where the record lies, or lay: topic/partition/offset."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def identity(self) -> str:
        """The record that this letter is about; letters written again have the same. A topic made anew holds other records."""
        return f"{self.where}@{self.topic_id}" if self.topic_id else self.where

    @property
    def tombstone(self) -> bool:
        """Whether its record has a key and no value, which is no reject: earlier versions wrote letters about them. Such a one is not
        replayed: as the newest record of its key it would have a compacted topic drop what came after it."""
        return self.whole and self.key is not None and self.value is None

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
            **({} if self.whole else {"cut": "true"}),
            **({"run": self.run} if self.run else {}),
            "headers": str(len(self.headers)),
        }
        return [(f"tandem.{name}", text.encode()) for name, text in texts.items()]

    def shortened(self) -> Letter:
        """The letter with no more of its record than :data:`CUT_BYTES` of key and of value; the detail says what was cut."""
        value = self.value or b""
        if len(value) + len(self.key or b"") + sum(len(n) + len(v or b"") for n, v in self.headers) <= CUT_BYTES:
            return self
        line = f"the record's value of {len(value):,} bytes (SHA-256 {hashlib.sha256(value).hexdigest()}) is cut: the topic takes no more"
        detail = f"{self.detail[: _DETAIL_CHARS - len(line) - 2]}; {line}" if self.whole else self.detail
        key = None if self.key is None else self.key[:CUT_BYTES]
        return replace(self, key=key, value=value[:CUT_BYTES], headers=[], detail=detail, whole=False)

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
                whole="cut" not in texts,
                run=texts.get("run", ""),
            )
        except (IndexError, KeyError, ValueError, TypeError):
            raise DataError("a record of the dead-letter topic is no dead letter: its headers tandem.* are missing") from None


def letters_of(
    topic: str, partition: int, source_name: str, fetched: FetchResult, rows: Ints, reasons: Sequence[str], details: Sequence[str | None]
) -> list[Letter]:
    """The letters about these rows (int64 [N]) of a fetch, with a reason and a detail each."""
    found = zip(fetched.original(rows), fetched.offsets[rows], fetched.timestamps_us[rows], reasons, details, strict=True)
    return [
        Letter(
            source_name,
            reason,
            detail or "",
            topic,
            fetched.identity,
            partition,
            int(offset),
            int(stamp),
            *original,
            0,
            int(offset) not in fetched.refused,
            fetched.run,
        )
        for original, offset, stamp, reason, detail in found
    ]


@dataclass(frozen=True)
class Choice:
    """Which letters: all that agree with what is given."""

    source: str | None = None
    reason: str | None = None
    since_us: int | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether this one is meant."""
        return (
            (self.source is None or letter.source == self.source)
            and (self.reason is None or letter.reason == self.reason)
            and (self.since_us is None or letter.written_us >= self.since_us)
        )


@dataclass
class Listing:
    """What lies in the dead-letter topic: records (not letters) by source and reason, how many of them were replayed, and the latest."""

    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    replayed: Counter[tuple[str, str]] = field(default_factory=Counter)
    fields: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Of how many records it is which field, where a reason is about one."""
    repeats: int = 0
    """Letters about a record that has one already."""
    foreign: int = 0
    """Records of the topic that are no dead letters."""
    latest: list[Letter] = field(default_factory=list)


def ledger_of(topic: str) -> str:
    """The topic that says what was replayed."""
    return f"{topic}.replayed"


def scan(reader: PartitionReader, topic: str) -> Iterator[Letter | None]:
    """Every letter from the first to those that are there now, in order of each partition; None for a record that is none.

    A topic that does not exist holds nothing. Raises BrokerAway, DataError.
    """
    try:
        partitions = reader.partitions(topic)
    except UnknownTopic:
        return
    for partition in range(partitions):
        for original, stamp in _committed(reader, topic, partition):
            try:
                yield Letter.read(original, stamp)
            except DataError:
                yield None


def _committed(reader: PartitionReader, topic: str, partition: int) -> Iterator[tuple[Any, int]]:
    """(key, value, headers) and timestamp (us) of all records up to the end as it is now."""
    at, end = reader.start(topic, partition), reader.end(topic, partition)
    while at < end:
        fetched = reader.poll(topic, partition, at, _POLL_RECORDS, 1000).before(end)
        yield from zip(fetched.original(np.arange(len(fetched.offsets))), fetched.timestamps_us.tolist(), strict=True)
        at = fetched.next_offset


def replayed(reader: PartitionReader, topic: str) -> set[str]:
    """The identities of all records that were replayed from this dead-letter topic."""
    ledger = ledger_of(topic)
    try:
        return {(key or b"").decode() for (key, _, _), _ in _committed(reader, ledger, 0)}
    except UnknownTopic:
        return set()


def list_letters(broker: Broker, topic: str, choice: Choice, latest: int) -> Listing:
    """Count the letters of a choice and keep the latest. Raises BrokerAway, ConfigError."""
    reader = broker.open_reader()
    try:
        done, seen, found = replayed(reader, topic), set[str](), Listing()
        last: deque[Letter] = deque(maxlen=latest)
        for letter in scan(reader, topic):
            if letter is None:
                found.foreign += 1
            elif choice.takes(letter):
                if letter.identity in seen:
                    found.repeats += 1
                    continue
                seen.add(letter.identity)
                found.records[letter.source, letter.reason] += 1
                found.replayed[letter.source, letter.reason] += letter.identity in done
                named = field_of(letter.detail)
                if named is not None:
                    found.fields[letter.source, letter.reason, named] += 1
                last.append(letter)
        found.latest = sorted(last, key=lambda a: a.written_us)
        return found
    finally:
        reader.close()


def find(broker: Broker, topic: str, where: str) -> tuple[Letter, int, bool]:
    """The newest letter about ``topic/partition/offset``, how many there are, and whether it was replayed. Raises DataError."""
    reader = broker.open_reader()
    try:
        found = [a for a in scan(reader, topic) if a is not None and where in (a.where, a.identity)]
        if not found:
            raise DataError(f"there is no dead letter for {where} in topic {topic!r}; see 'tandem dlq list'")
        letter = found[-1]
        return letter, sum(a.identity == letter.identity for a in found), letter.identity in replayed(reader, topic)
    finally:
        reader.close()
