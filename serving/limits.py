"""How much each caller may ask for: requests and rows per second, with room for bursts."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from serving.request_errors import RateLimitedError
from serving.settings import LimitSettings

__all__ = ["Limits", "PrincipalLimits"]

_MOST_CALLERS = 10_000


class Limits(Protocol):
    """What counts the requests and rows of callers."""

    def admit(self, caller: str, principal: str) -> None:
        """One more request; may raise RateLimitedError."""

    def charge(self, caller: str, principal: str, rows: int) -> None:
        """The rows of an admitted request."""


class PrincipalLimits:
    """Token buckets per caller. A principal has its own limits or those of everybody. Safe for several threads."""

    def __init__(
        self, everybody: LimitSettings, own: Mapping[str, LimitSettings] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock``: seconds that only ever grow."""
        self._everybody = everybody
        self._own = dict(own or {})
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Buckets] = OrderedDict()

    def admit(self, caller: str, principal: str) -> None:
        """One more request of a caller; ``principal`` names its limits. Raises RateLimitedError if it has asked too often, or still owes
        for rows."""
        with self._lock:
            buckets, now = self._of(caller, principal), self._clock()
            buckets.rows.take(0.0, now, "rows")
            buckets.requests.take(1.0, now, "requests")

    def charge(self, caller: str, principal: str, rows: int) -> None:
        """The rows of an admitted request. They are never refused: a request larger than all that was left is paid for by waiting."""
        with self._lock:
            self._of(caller, principal).rows.owe(float(rows), self._clock())

    def _of(self, caller: str, principal: str) -> _Buckets:
        buckets = self._buckets.pop(caller, None) or _Buckets(self._own.get(principal, self._everybody), self._clock())
        self._buckets[caller] = buckets
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)  # whoever has not asked for longest begins anew
        return buckets


class _Buckets:
    def __init__(self, limits: LimitSettings, now: float) -> None:
        self.requests = _Bucket(limits.requests_per_second, limits.burst_seconds, now)
        self.rows = _Bucket(limits.rows_per_second, limits.burst_seconds, now)


class _Bucket:
    def __init__(self, rate: float | None, burst_seconds: float, now: float) -> None:
        self._rate = rate
        self._most = 0.0 if rate is None else max(1.0, rate * burst_seconds)
        self._left = self._most
        self._at = now

    def take(self, n: float, now: float, what: str) -> None:
        if self._rate is None:
            return
        self._fill(now)
        if self._left < max(n, 1e-9):
            wait = (max(n, 1e-9) - self._left) / self._rate
            raise RateLimitedError(f"more than {self._rate:g} {what} per second; try again in {wait:.1f} s", wait)
        self._left -= n

    def owe(self, n: float, now: float) -> None:
        if self._rate is not None:
            self._fill(now)
            self._left -= n

    def _fill(self, now: float) -> None:
        assert self._rate is not None
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
