"""Where the partitions of a topic end: asked for all of them at once, so that a partition that brings nothing costs no request."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.sources.broker import WAITED_FOR, PartitionReader
from transforms.errors import TandemError

__all__ = ["LogEnds"]

AWAY_SECONDS = 0.2
"""How long a broker that did not answer is not asked again: each of many partitions would wait for it."""


class LogEnds:
    """For one worker; an end is at most ``seconds`` old."""

    def __init__(self, reader: PartitionReader, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.reader, self.seconds, self.clock = reader, seconds, clock
        self._ends: dict[str, dict[int, int]] = {}
        self._looked: dict[str, float] = {}
        self._away: tuple[float, TandemError] | None = None

    def renew(self) -> None:
        """Ask anew at the next question, however old the answers are."""
        self._looked = dict.fromkeys(self._looked, float("-inf"))

    def end(self, topic: str, partition: int, partitions: int) -> int:
        """As :meth:`PartitionReader.end`, of a topic of so many ``partitions``. Raises as it does."""
        ends, now = self._ends.setdefault(topic, {}), self.clock()
        if self._away is not None and now - self._away[0] < AWAY_SECONDS:
            raise self._away[1]
        if partition not in ends or now - self._looked[topic] >= self.seconds:
            try:
                ends |= self.reader.ends(topic, range(max(partitions, partition + 1)))
            except WAITED_FOR as error:
                self._away = self.clock(), error
                raise
            self._looked[topic], self._away = now, None
        return ends[partition]
