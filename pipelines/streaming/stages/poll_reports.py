"""What the polls of a worker report to the driver and to people: numbers now and then, and outages once."""

from __future__ import annotations

import time
from dataclasses import replace

from pipelines.sources.null_fields import NullFields
from pipelines.streaming.stages.part_reports import MOST_REASONS, PollReport, away, poll_part, shape_of
from pipelines.streaming.stages.position import Position
from pipelines.streaming.state.job_state import JobState

__all__ = ["PollReports"]

REPORT_SECONDS = 0.5
MOST_REPORTS = 50
"""In a second over all partitions: each is a file."""


class PollReports:
    """For all partitions of a worker, each called by its ``source/partition``."""

    def __init__(self, job_state: JobState, max_late_share: float = 1.0) -> None:
        self.job_state, self.max_late_share = job_state, max_late_share
        self.reported: dict[str, float] = {}
        self.silent: dict[str, float] = {}
        self.reasons: dict[str, set[str]] = {}
        self.ends: dict[str, int] = {}

    def due(self, key: str) -> bool:
        """Whether the next report would be made."""
        every = max(REPORT_SECONDS, len(self.reported) / MOST_REPORTS)
        return time.monotonic() - self.reported.get(key, -every) >= every

    def report(
        self,
        key: str,
        at: Position,
        end: int | None,
        at_end: bool,
        stopped: bool,
        late_share: float = 0.0,
        came_late: str = "",
        force: bool = False,
        nulls: NullFields | None = None,
    ) -> None:
        """How far the poll is, and where the log was found to ``end`` (None: as before); unless that was just reported, or ``force``.

        ``late_share``: of its last records; ``came_late``: what is to be said at the end of too many in this run; ``nulls``: of its events.
        """
        if end is not None:
            self.ends[key] = end
        if not force and not self.due(key):
            return
        self.reported[key] = time.monotonic()
        source, _, partition = key.rpartition("/")
        report = PollReport(
            source=source,
            partition=int(partition),
            position=replace(at, paused="" if at.paused == "resumed" else at.paused),
            end=max(self.ends.get(key, at.next), at.next),
            at_end=at_end,
            stopped=stopped,
            late_share=round(late_share, 4),
            many_late=late_share > self.max_late_share,
            came_late=came_late,
            valid=0 if nulls is None else nulls.events,
            null_fields=[] if nulls is None else nulls.names,
        )
        self.job_state.report(poll_part(key), report.to_dict())

    def news(self, key: str) -> None:
        """Something changed: the next report is made at once."""
        self.reported.pop(key, None)

    def away(self, key: str, line: str) -> None:
        """The broker does not answer, and why. Another reason than before is said, too: a broker that was restarted with an expired
        certificate first refuses connections. Who waits goes on reporting it, else the stream would be taken for silent."""
        if key not in self.silent:
            self.silent[key] = time.monotonic()
            self.news(key)
        if self.due(key):
            self.reported[key] = time.monotonic()
            self.job_state.report(poll_part(key), away(line))
        said, shape = self.reasons.setdefault(key, set()), shape_of(line)
        if shape not in said and len(said) < MOST_REASONS:
            said.add(shape)
            self.job_state.say(f"{key}: {line}; waiting")

    def back(self, key: str) -> None:
        """It answered."""
        self.reasons.pop(key, None)
        if key in self.silent:
            self.job_state.say(f"{key}: the broker responds again after {time.monotonic() - self.silent.pop(key):.0f} s")
