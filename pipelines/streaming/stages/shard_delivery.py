"""What a process knows of a shard that it delivers: its numbers, what waits for a checkpoint, and waiting for an unavailable store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.part_reports import MOST_REASONS, SinkReport, shape_of, sink_part
from pipelines.streaming.state.job_state import JobState
from transforms.errors import FingerprintError, OwnerError, StoreError, TandemError

__all__ = ["REPORT_SECONDS", "ShardDelivery", "StopRequested"]

REPORT_SECONDS = 0.5
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
_LOOK_SECONDS = 0.1
"""How soon a stop request is seen while waiting."""
_T = TypeVar("_T")


class StopRequested(TandemError):
    """The job was asked to stop while a store was away; the output at hand was not delivered and comes again at the next start."""


@dataclass(kw_only=True, eq=False)
class ShardDelivery:
    """Of one shard; used by one thread at a time, the one that holds ``lock``. ``closed`` is set when its sink closes."""

    shard: int
    job_state: JobState
    closed: threading.Event
    generation: int | None = None
    """The generation marker that was last left in the online store."""
    early: int = 0
    """The latest event time of the rows that the store refused as ahead of the clock; 0 where none wait for it."""
    created: int = 0
    """The creation time of the rows that go online together."""
    waiting: FoldOutput | None = None
    """The last output whose checkpoint is not saved durably yet."""
    synced: float = float("-inf")
    reported: float = float("-inf")
    counts: SinkReport = field(default_factory=SinkReport)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, waiting_for: str = "", why: str = "") -> None:
        """Report the shard's numbers now."""
        self.counts.waiting_for, self.counts.waiting_why = waiting_for, why
        self.reported = time.monotonic()
        self.job_state.report(sink_part(self.shard), self.counts.to_dict())

    def report_in_time(self) -> None:
        """Report, unless that was done less than :data:`REPORT_SECONDS` ago."""
        if time.monotonic() - self.reported >= REPORT_SECONDS:
            self.report()

    def patiently(self, what: str, action: Callable[[], _T]) -> _T:
        """``action``, repeated with growing pauses while it raises StoreError; says so, another reason too, and when it is over. Raises
        StopRequested if the job is to end meanwhile."""
        since, pause, said = 0.0, _FIRST_WAIT, set[str]()
        while True:
            try:
                result = action()
            except (FingerprintError, OwnerError):
                raise
            except StoreError as error:
                if not since:
                    since = time.monotonic()
                    self.counts.outages += 1
                    self.report(what, str(error))
                if (reason := shape_of(str(error))) not in said and len(said) < MOST_REASONS:
                    said.add(reason)
                    self.job_state.say(f"shard {self.shard} waits: {error}")
                begun = time.monotonic()
                self._pause(pause, what)
                self.counts.seconds_waiting += time.monotonic() - begun
                pause = min(pause * 2, _LONGEST_WAIT)
                self.report(what, str(error))
                continue
            if since:
                took = time.monotonic() - since
                self.job_state.say(f"shard {self.shard} continues: {what} is back after {took:.1f} s, nothing was dropped")
                self.report()
            else:
                self.report_in_time()  # many calls may follow on each other, as when a store is given all rows again
            return result

    def _pause(self, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            if self.closed.is_set() or self.job_state.requested("stop") or self.job_state.failure() is not None:
                raise StopRequested(f"stopped while the {what} was unavailable: undelivered data is delivered again at the next start")
