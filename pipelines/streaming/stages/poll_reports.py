"""What the polls of a worker report to the driver and to people: numbers now and then, and outages once."""

from __future__ import annotations

import time
from dataclasses import asdict

from pipelines.sources.broker import FetchResult
from pipelines.streaming.stages.position import Position
from pipelines.streaming.state.job_state import JobState

__all__ = ["PollReports"]

REPORT_SECONDS = 0.5


def _part(key: str) -> str:
    return "poll-" + key.replace("/", "-")


class PollReports:
    """For all partitions of a worker, each called by its ``source/partition``."""

    def __init__(self, job_state: JobState) -> None:
        self.job_state = job_state
        self.reported: dict[str, float] = {}
        self.silent: dict[str, float] = {}

    def report(self, key: str, at: Position, fetched: FetchResult | None, stopped: bool, force: bool = False) -> None:
        """How far the poll is (``fetched``: what it found last); unless that was just reported, or ``force``."""
        now = time.monotonic()
        if not force and now - self.reported.get(key, -REPORT_SECONDS) < REPORT_SECONDS:
            return
        self.reported[key] = now
        source, _, partition = key.rpartition("/")
        values = asdict(at) | {
            "source": source,
            "partition": int(partition),
            "end": fetched.end_offset if fetched is not None else at.next,
            "at_end": fetched is None or fetched.at_end,
            "stopped": stopped,
            "paused": "" if at.paused == "resumed" else at.paused,
            "away": False,
        }
        self.job_state.report(_part(key), values)

    def news(self, key: str) -> None:
        """Something changed: the next report is made at once."""
        self.reported.pop(key, None)

    def away(self, key: str, line: str) -> None:
        """The broker does not answer, and why."""
        if key not in self.silent:
            self.silent[key] = time.monotonic()
            self.job_state.say(f"{key}: {line}; waiting")
            self.job_state.report(_part(key), {"away": True})

    def back(self, key: str) -> None:
        """It answered."""
        if key in self.silent:
            self.job_state.say(f"{key}: the broker answers again after {time.monotonic() - self.silent.pop(key):.0f} s")
