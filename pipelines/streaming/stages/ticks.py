"""What a tick tells the poll of a partition: how many partitions its topic has, and when it was sent; in one integer, as the coders of
engines are fastest with that.

A worker that is slower than its ticks would find minutes of them waiting, and a new partition's first poll behind them all. So a tick
that waited, and that a poll has begun since, is passed over (:func:`passed_over`).
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import ClassVar

from transforms.own_program import boot_id

__all__ = ["STALE_MS", "TickGate", "now_ms", "packed", "partitions_in", "passed_over"]

STALE_MS = 1000
_PARTITIONS_BITS, _HOST_BITS = 16, 8
_MOST = (1 << _PARTITIONS_BITS) - 1


def _host() -> int:
    """Some bits of which boot of which machine this is: its monotonic clock means nothing elsewhere."""
    return zlib.crc32(boot_id().encode()) & ((1 << _HOST_BITS) - 1)  # 0 where the system does not tell


_HOST = _host()


def now_ms() -> int:
    """The monotonic clock, which all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000


def packed(partitions: int, sent_ms: int) -> int:
    """Both in one: up to 65,535 partitions, and a moment of :func:`now_ms`."""
    return ((sent_ms << _HOST_BITS) | _HOST) << _PARTITIONS_BITS | min(partitions, _MOST)


def partitions_in(tick: int) -> int:
    """How many partitions there are."""
    return tick & _MOST


def passed_over(tick: int, begun_ms: int | None) -> bool:
    """Whether the tick waited for so long that the poll which began at ``begun_ms`` (of this machine) has done what it is for."""
    host, sent = (tick >> _PARTITIONS_BITS) & ((1 << _HOST_BITS) - 1), tick >> (_PARTITIONS_BITS + _HOST_BITS)
    return bool(sent) and host == _HOST and begun_ms is not None and begun_ms > sent and now_ms() - sent > STALE_MS


class TickGate:
    """Between what lets ticks through and the step that they drive, in one process: at most one tick waits.

    Where the two are in different processes, or a tick was lost, a tick is let through after :data:`STALE_MS` in any case; what waited
    while the step began again is passed over there.
    """

    _of: ClassVar[dict[Path, TickGate]] = {}

    def __init__(self) -> None:
        self._sent = self._begun = -STALE_MS

    @classmethod
    def of(cls, folder: Path) -> TickGate:
        """The gate of a job's folder, of this process."""
        return cls._of.setdefault(folder, cls())

    def sent(self, now: int) -> bool:
        """A tick comes: whether it is let through."""
        if self._begun < self._sent and now - self._sent < STALE_MS:
            return False
        self._sent = now
        return True

    def begins(self, sent: int, now: int) -> bool:
        """The step is given a tick that was let through: whether it begins now, or has done since what the tick is for."""
        if sent <= self._begun and now - self._begun < STALE_MS:
            return False
        self._begun = now
        return True
