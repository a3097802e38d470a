"""How far the poll of a partition is: the state of its Beam key."""

from __future__ import annotations

from dataclasses import dataclass, field

from transforms.definitions import EventSource
from transforms.fold import OffsetRange
from transforms.lateness import NEVER, LateSplit, watermark_of

__all__ = ["Position"]


@dataclass
class Position:
    """Where reading began and goes on (offsets), event time so far (microseconds) with the ``leaps`` that it has not believed, and what
    was counted. ``done``: records before it were judged by an earlier run. ``idle``: it holds no other partition back. ``flushed``: the
    shards were asked to save their checkpoints since its last records. ``recent``, ``recent_bad`` and ``recent_late``: the records, rejects
    and too-late events that the shares are taken of. ``paused``: why, in one line; "resumed" once a person said go on."""

    start: int
    next: int
    newest: int
    leaps: tuple[int, ...] = ()
    done: int = 0
    watermark: int = NEVER
    idle: bool = False
    flushed: bool = True
    recent: int = 0
    recent_bad: int = 0
    recent_late: int = 0
    paused: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, n: int) -> None:
        """Add to a counter."""
        if n:
            self.counts[name] = self.counts.get(name, 0) + n

    def mark(self, source: EventSource, newest: int, now: int) -> int:
        """The watermark once event time is ``newest``; never one that lets rows out that the clock, ``now``, has not reached."""
        return max(self.watermark, min(watermark_of(source, newest), watermark_of(source, now)))

    def upto(self, source: EventSource, partition: int, partitions: int, offset: int, taken: LateSplit, now: int) -> OffsetRange:
        """The records from here to ``offset``, which were ``taken``, as of the clock's ``now``."""
        return OffsetRange(
            source.name, partition, partitions, self.start, self.next, offset, self.newest, taken.newest,
            self.mark(source, taken.newest, now), self.idle, self.leaps, taken.leaps, taken.greatest, self.judged,
        )  # fmt: skip

    def here(self, source: EventSource, partition: int, partitions: int) -> OffsetRange:
        """No records: what the shards are to know of event time and idleness."""
        return OffsetRange(
            source.name, partition, partitions, self.start, self.next, self.next, self.newest, self.newest, self.watermark, self.idle,
            self.leaps, self.leaps, NEVER, self.judged,
        )  # fmt: skip

    @property
    def judged(self) -> tuple[int, int, int]:
        """What the shares are taken of."""
        return self.recent, self.recent_bad, self.recent_late
