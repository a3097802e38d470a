"""How far the poll of a partition is: the state of its Beam key."""

from __future__ import annotations

from dataclasses import dataclass, field

from transforms.definitions import EventSource
from transforms.fold import OffsetRange
from transforms.lateness import NEVER, watermark_of

__all__ = ["Position"]


@dataclass
class Position:
    """Where reading began and goes on (offsets), event time so far (microseconds), and what was counted. ``idle``: it holds no other
    partition back. ``flushed``: the shards were asked to save their checkpoints since its last records. ``recent`` and ``recent_bad``:
    the records and rejects that the share of rejects is taken of. ``paused``: why, in one line; "resumed" once a person said go on."""

    start: int
    next: int
    newest: int
    watermark: int = NEVER
    idle: bool = False
    flushed: bool = True
    recent: int = 0
    recent_bad: int = 0
    paused: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, n: int) -> None:
        """Add to a counter."""
        if n:
            self.counts[name] = self.counts.get(name, 0) + n

    def upto(self, source: EventSource, partition: int, partitions: int, offset: int, newest: int) -> OffsetRange:
        """The records from here to ``offset``, after which the newest event time is ``newest``."""
        mark = max(self.watermark, watermark_of(source, newest))
        return OffsetRange(source.name, partition, partitions, self.start, self.next, offset, self.newest, newest, mark, self.idle)

    def here(self, source: EventSource, partition: int, partitions: int) -> OffsetRange:
        """No records: what the shards are to know of event time and idleness."""
        return self.upto(source, partition, partitions, self.next, self.newest)
