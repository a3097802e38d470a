"""Token buckets in memory that several processes share, so that a caller's limits hold for the server and not for each of its workers."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from serving.request_errors import RateLimitedError
from serving.settings import LimitSettings
from transforms.locks import between_processes

__all__ = ["SharedLimits", "shared_table"]

_ROW = struct.Struct("<16sdddd")
"""A caller's hash; requests left and when that was so; the same of rows."""
_ROWS, _PLACES = 16_384, 16
"""Callers that the table has room for, and the neighbouring places that one of them may stand in."""


def shared_table() -> int:
    """A file descriptor of memory that children inherit, for :class:`SharedLimits`."""
    fd = os.memfd_create("tandem-limits", 0)
    os.ftruncate(fd, (_ROWS + _PLACES) * _ROW.size)
    return fd


class SharedLimits:
    """As :class:`serving.limits.PrincipalLimits`, over a table that other processes use as well. Of more callers than it has room for,
    those begin anew who have not asked for longest. Safe for several threads and processes."""

    def __init__(
        self,
        fd: int,
        everybody: LimitSettings,
        own: Mapping[str, LimitSettings] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock``: seconds that only ever grow, the same in all processes."""
        self._fd = fd
        self._table = mmap.mmap(fd, 0)
        self._everybody = everybody
        self._own = dict(own or {})
        self._clock = clock
        self._lock = threading.Lock()

    def admit(self, caller: str, principal: str) -> None:
        """One more request of a caller; ``principal`` names its limits. Raises RateLimitedError if it has asked too often, or still owes
        for rows."""
        limits = self._own.get(principal, self._everybody)
        if limits.requests_per_second is None and limits.rows_per_second is None:
            return
        with self._locked():
            at, requests, rows = self._found(caller, limits)
            for left, rate, what, n in (
                (rows, limits.rows_per_second, "rows", 1e-9),
                (requests, limits.requests_per_second, "requests", 1.0),
            ):
                if rate is not None and left < n:
                    wait = (n - left) / rate
                    raise RateLimitedError(f"more than {rate:g} {what} per second; try again in {wait:.1f} s", wait)
            self._keep(at, caller, requests - 1.0, rows)

    def charge(self, caller: str, principal: str, rows: int) -> None:
        """The rows of an admitted request. They are never refused: a request larger than all that was left is paid for by waiting."""
        limits = self._own.get(principal, self._everybody)
        if limits.rows_per_second is None:
            return
        with self._locked():
            at, requests, left = self._found(caller, limits)
            self._keep(at, caller, requests, left - rows)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock, between_processes(self._fd):  # the first one between threads: a file's lock is one of the process
            yield

    def _found(self, caller: str, limits: LimitSettings) -> tuple[int, float, float]:
        """(the caller's place, what is left of its requests, and of its rows, as of now)."""
        now, name = self._clock(), _name(caller)
        full = [_most(limits.requests_per_second, limits.burst_seconds), _most(limits.rows_per_second, limits.burst_seconds)]
        first = int.from_bytes(name[:4], "little") % _ROWS
        oldest, seen = first, float("inf")
        for place in range(first, first + _PLACES):
            found, requests, at, rows, rows_at = _ROW.unpack_from(self._table, place * _ROW.size)
            if found == name:
                left = [
                    requests + (now - at) * (limits.requests_per_second or 0.0),
                    rows + (now - rows_at) * (limits.rows_per_second or 0.0),
                ]
                return place, min(left[0], full[0]), min(left[1], full[1])
            if at < seen:
                oldest, seen = place, at
        return oldest, full[0], full[1]

    def _keep(self, place: int, caller: str, requests: float, rows: float) -> None:
        now = self._clock()
        _ROW.pack_into(self._table, place * _ROW.size, _name(caller), requests, now, rows, now)


def _name(caller: str) -> bytes:
    return hashlib.blake2b(caller.encode(), digest_size=16).digest()


def _most(rate: float | None, seconds: float) -> float:
    return 0.0 if rate is None else max(1.0, rate * seconds)
