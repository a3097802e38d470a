"""A partition that brings nothing: after a while it is idle, and the wall clock (or nobody) speaks for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.project.config import StreamSettings
from pipelines.streaming.stages.position import Position
from pipelines.streaming.state.job_state import JobState
from transforms.definitions import EventSource
from transforms.lateness import NEVER, watermark_of

__all__ = ["Idleness"]

LEAP_US = 7 * 86_400_000_000
"""How far the wall clock moves an idle partition's watermark at once: years would empty every window of a replayed history."""
BEAT_SECONDS = 1.0
"""How often the wall clock moves an idle partition's watermark."""
MOST_BEATS = 20
"""Such moves in a second over all partitions: each goes to every shard."""


class Idleness:
    """For all partitions of a worker; ``clock`` gives now in microseconds of UTC."""

    def __init__(self, stream: StreamSettings, job_state: JobState, clock: Callable[[], int]) -> None:
        self.stream, self.job_state, self.clock = stream, job_state, clock
        self.seen: dict[str, float] = {}
        self.beaten: dict[str, float] = {}

    def records_came(self, key: str) -> None:
        """``key`` is ``source/partition``."""
        self.seen[key] = time.monotonic()

    def nothing_came(self, key: str, source: EventSource, at: Position) -> bool:
        """After a poll that found the end: moves event time or marks the partition idle; whether the shards must hear of it."""
        now = time.monotonic()
        lifted = at.mark(source, at.newest, self.clock())
        if lifted > at.watermark:  # the clock has reached what was read
            at.watermark = lifted
            return True
        if now - self.seen.setdefault(key, now) < self.stream.idle_seconds:
            return False
        if self.stream.clock == "replay":
            news, at.idle = not at.idle, True
            return news
        beat = max(BEAT_SECONDS, len(self.seen) / MOST_BEATS)
        if now - self.beaten.get(key, -beat) < beat:
            return False
        self.beaten[key] = now
        mark = watermark_of(source, self.clock() - round(self.stream.idle_seconds * 1e6))
        if at.watermark == NEVER or mark - at.watermark <= LEAP_US:
            at.watermark = max(at.watermark, mark)
        elif not at.idle:
            at.idle = True
            days = (mark - at.watermark) // 86_400_000_000
            self.job_state.say(
                f"{source.topic}/{key.rpartition('/')[2]}: its last event lies {days} days back; event time stands still there until more"
                " come (for replayed history set stream.clock: replay)"
            )
        return True
