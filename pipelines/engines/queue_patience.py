"""How long a job waits in a cluster's queue: a line for people when it begins to, and an end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["QueuePatience"]

_FORGOTTEN_SECONDS = 60.0
"""After so long without a word of its waiting, a job is at work: Spark says it every 15 s, and of executors that begin only at INFO."""


class QueuePatience:
    """Of a job on the engine ``name``, which may wait for ``seconds`` at a time; ``say`` takes one line, when it first does. ``clock``: in
    seconds, from anywhere on."""

    def __init__(self, name: str, seconds: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.seconds, self.say, self.clock = name, seconds, say, clock
        self._since: float | None = None
        self._last = 0.0
        self._told = False

    def look(self, waits: bool, worked: bool) -> str:
        """Asked every few seconds: whether nothing works for the job now, and whether something did since the last time, which ends a wait
        (another may have begun since). Why its time is over, one line; empty until then."""
        now = self.clock()
        if worked or (not waits and now - self._last > _FORGOTTEN_SECONDS):
            self._since = None
        if not waits:
            return ""
        self._since, self._last = now if self._since is None else self._since, now
        if now - self._since >= self.seconds:
            return f"no executor worked for it for {self._minutes()}: {_WHY}; free some, or let it wait longer (--wait-minutes)"
        if not self._told:
            self._told = True
            most = "waits" if math.isinf(self.seconds) else f"waits for {self._minutes()} at most (--wait-minutes)"
            self.say(f"{self.name} has no executor for the batch job, which {most}: {_WHY}")
        return ""

    def _minutes(self) -> str:
        return f"{self.seconds / 60:g} minute{'' if self.seconds == 60 else 's'}"


_WHY = "the cluster's cores or memory are taken, or are less than one executor needs"
