"""What the parts of a streaming job report, typed: the poll of a partition, the sink of a shard, the partitions of a topic.

:class:`~pipelines.streaming.state.job_state.JobState` keeps and forwards reports as JSON; here is what stands in them, and nowhere else. A
report lives as long as its job: a key that is missing has its default, and one that is not known is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from pipelines.streaming.stages.position import Position
from transforms.lateness import NEVER

__all__ = ["MOST_REASONS", "PartReports", "PartitionsReport", "PollReport", "SinkReport", "away", "poll_part", "shape_of", "sink_part"]

_POLL, _SINK, _PARTITIONS = "poll-", "sink-", "partitions-"
"""What the poll of a partition reports while its broker does not answer."""


MOST_REASONS = 5
"""Said of one wait."""


def shape_of(line: str) -> str:
    """A line without its numbers: what it says again and again is one thing."""
    return re.sub(r"\d+", "#", line)


def away(why: str) -> dict[str, Any]:
    """The report of a partition whose broker does not answer, or no longer lets in."""
    return {"away": True, "why": why}


def poll_part(key: str) -> str:
    """The part's name, of a ``source/partition``."""
    return _POLL + key.replace("/", "-")


def sink_part(shard: int) -> str:
    """The part's name."""
    return f"{_SINK}{shard}"


def _known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in fields(cls) if f.name in values}


def _plain(report: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are now. ``asdict`` copies all that is in them, for as much as it costs to write them."""
    return {k: v.copy() if isinstance(v, dict | list) else v for k, v in vars(report).items()}


@dataclass(frozen=True, kw_only=True)
class PollReport:
    """How far the poll of a partition is, and where its log ended when last looked at."""

    source: str
    partition: int
    position: Position
    end: int
    at_end: bool = False
    stopped: bool = False
    """It polls no more."""
    late_share: float = 0.0
    """Of its last records."""
    many_late: bool = False
    """That share is above ``stream.max_late_share``."""
    came_late: str = ""
    """What is to be said at the end of too many late events."""
    valid: int = 0
    """Valid events that this process has seen of the partition; ``null_fields`` are the fields that were null in all of them."""
    null_fields: list[str] = field(default_factory=list)

    @property
    def paused(self) -> str:
        """Why it is paused; empty where it is not."""
        return self.position.paused

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the position's fields stand beside the others."""
        out = _plain(self)
        return {**_plain(out.pop("position")), **out, "away": False}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From JSON."""
        position = Position(**{"start": 0, "newest": NEVER} | _known(Position, values))
        return cls(**{"end": position.next} | _known(cls, values) | {"position": position})


@dataclass(kw_only=True)
class SinkReport:
    """Numbers of what one shard delivered since its worker began; the sink counts in it."""

    outputs: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    """group -> rows."""
    written: int = 0
    stale: int = 0
    refused: int = 0
    restored: int = 0
    """Rows that a store which had lost them was given again."""
    late: dict[str, int] = field(default_factory=dict)
    """source -> late events logged."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """group/feature -> values that are NaN or infinite."""
    seconds_graph: float = 0.0
    seconds_store: float = 0.0
    seconds_log: float = 0.0
    seconds_waiting: float = 0.0
    outages: int = 0
    waiting_for: str = ""
    """The store or disk that does not answer, or refuses; empty while none is waited for."""
    waiting_why: str = ""
    """What it says."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in _plain(self).items()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From JSON."""
        return cls(**_known(cls, values))


@dataclass(frozen=True, kw_only=True)
class PartitionsReport:
    """The partitions of a source's topic, and the records of each that are after where the job starts."""

    source: str
    unread: dict[int, int]

    @property
    def part(self) -> str:
        """The part's name."""
        return f"{_PARTITIONS}{self.source}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"source": self.source, "unread": {str(p): n for p, n in self.unread.items()}}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From JSON."""
        return cls(source=values["source"], unread={int(p): int(n) for p, n in values["unread"].items()})


@dataclass(frozen=True)
class PartReports:
    """The reports of a job's parts that are known here, by what they are of."""

    polls: dict[str, PollReport] = field(default_factory=dict)
    """By ``source-partition``; while the broker does not answer it is in ``away`` instead."""
    away: tuple[str, ...] = ()
    away_why: tuple[str, ...] = ()
    """What their broker says, each once."""
    sinks: dict[str, SinkReport] = field(default_factory=dict)
    """By shard, as text."""
    partitions: dict[str, PartitionsReport] = field(default_factory=dict)
    """By source."""
    newest: float = 0.0
    """When the last report of any part was made, in seconds since 1970; 0.0 where there is none."""

    @classmethod
    def of(cls, reports: Mapping[str, Mapping[str, Any]], since: float = 0.0) -> Self:
        """From ``JobState.reports()``: those made at ``since`` (seconds since 1970) or later."""
        mine = {part: values for part, values in reports.items() if values.get("at", 0) >= since}
        polls, sinks, partitions = (_of_kind(mine, kind) for kind in (_POLL, _SINK, _PARTITIONS))
        return cls(
            {name: PollReport.of(values) for name, values in polls.items() if "next" in values},
            tuple(name for name, values in polls.items() if values.get("away")),
            tuple({shape_of(why): why for values in polls.values() if (why := str(values.get("why", "")))}.values()),
            {name: SinkReport.of(values) for name, values in sinks.items()},
            {name: PartitionsReport.of(values) for name, values in partitions.items()},
            max((float(values.get("at", 0)) for values in mine.values()), default=0.0),
        )

    @property
    def unread(self) -> dict[tuple[str, int], int]:
        """(source, partition) -> records after where the job starts, of all partitions that are known."""
        return {(name, p): n for name, report in self.partitions.items() for p, n in report.unread.items()}


def _of_kind(reports: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, Mapping[str, Any]]:
    return {part.removeprefix(kind): values for part, values in reports.items() if part.startswith(kind)}
