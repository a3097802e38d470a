"""Bodies on their way: the places and bytes that they hold, and which of them gives way to others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.request_errors import OverloadedError

__all__ = ["Arrival", "Arrivals", "Shares"]

_FULL = "the server is at its limit of requests; try again"
_SLOW = "the request body arrived too slowly; send it again"
_SLOW_SECONDS = 1.0
"""A body that needs so long for its next ``_SLOW_BYTES`` is slow: a packet that was lost has come again by then, over a bad line, too."""
_SLOW_BYTES = 1024
"""More than a byte, so that a body is slow that never quite stops; counted anew each time, so that what came fast before is no excuse."""


class Shares:
    """A number of places (or bytes) of which one client has half at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._by: Counter[str] = Counter()

    def missing(self, client: str, n: int) -> tuple[int, int]:
        """How much would have to be given back for ``n`` more of this client: by itself, and by all, it among them. Below 1: nothing."""
        return self._by.get(client, 0) + n - self._most // 2, self._taken + n - self._most

    def greatest(self) -> str:
        """Who has most; nobody: empty."""
        return max(self._by, key=self._by.__getitem__, default="")

    def take(self, client: str, n: int) -> bool:
        """Whether there was room."""
        own = self._by[client] + n
        if self._taken + n > self._most or own > self._most // 2:
            return False
        self._taken += n
        self._by[client] = own
        return True

    def give_back(self, client: str, n: int) -> None:
        """What was taken."""
        self._taken -= n
        self._by[client] -= n
        if not self._by[client]:
            del self._by[client]


@dataclass(eq=False, slots=True)
class Arrival:
    """A request's body: what it holds of the places and of the memory (bytes), and how it came (seconds of its clock, bytes)."""

    client: str
    end: Callable[[], None]
    """Called when it has to give way: whoever reads it stops."""
    mark: float
    """When it began, or last had brought ``_SLOW_BYTES`` more."""
    size: int = 0
    marked: int = 0
    """Its size at that time."""
    place: int = 0
    held: int = 0
    gave_way: str = ""
    """Why, for the client; empty: it did not."""

    def slow(self, now: float) -> bool:
        """Whether it may give way though others are younger."""
        return now - self.mark >= _SLOW_SECONDS

    def grow(self, n: int, now: float) -> None:
        """``n`` more bytes came."""
        self.size += n
        if self.size - self.marked >= _SLOW_BYTES:
            self.mark, self.marked = now, self.size


@dataclass
class Arrivals:
    """A body first gets a place, then bytes. Where there is no room, slow bodies give way, the one that is slow for longest first, and no
    more than are needed: those of the newcomer's client where that would have more than half; else, of the places, those of whoever has
    most, and, of the bytes, those of all: whoever has most may hold them in whole bodies, which give way to nobody. Where none of whoever
    has to give back places is slow, the youngest of those that brought least: it or the newcomer is refused in any case, and a newcomer's
    body is mostly there. So neither those who send slowly, or never to the end, keep others out, nor do those who come in great numbers
    keep each other from being done. Nobody loses anything where it would not be enough. For one thread.
    """

    places: Shares
    memory: Shares
    clock: Callable[[], float] = time.monotonic
    _under_way: dict[str, dict[Arrival, None]] = field(default_factory=dict)

    def enter(self, client: str, end: Callable[[], None]) -> Arrival:
        """A body that is to come; it must :meth:`leave`. Raises OverloadedError where there is no place."""
        now = self.clock()
        arrival = Arrival(client, end, now)
        if not self.places.take(client, 1):
            owner = client if self.places.missing(client, 1)[0] > 0 else self.places.greatest()
            some = self._under_way.get(owner, {})
            slow = [a for a in some if a.slow(now)]
            if some:
                self._end(*((min(slow, key=lambda a: a.mark), _SLOW) if slow else (min(reversed(some), key=lambda a: a.size), _FULL)))
            if not self.places.take(client, 1):
                raise OverloadedError(_FULL)
        arrival.place = 1
        self._under_way.setdefault(client, {})[arrival] = None
        return arrival

    def received(self, arrival: Arrival, n: int) -> None:
        """``n`` more bytes of it are here. Raises OverloadedError where there is no room; then it holds none any more: else whoever notices
        late refuses the next."""
        if not n:
            return
        now = self.clock()
        arrival.grow(n, now)
        if not self.memory.take(arrival.client, n):
            others = (a for some in self._under_way.values() for a in some if a is not arrival and a.held and a.slow(now))
            if (giving := _enough(sorted(others, key=lambda a: a.mark), arrival.client, *self.memory.missing(arrival.client, n))) is None:
                self.leave(arrival)
                raise OverloadedError(_FULL)
            for other in giving:
                self._end(other, _SLOW)
            self.memory.take(arrival.client, n)
        arrival.held += n

    def whole(self, arrival: Arrival) -> None:
        """It is here: its place is free, its bytes are not, and it gives way to nobody."""
        own = self._under_way.get(arrival.client, {})
        own.pop(arrival, None)
        if not own:
            self._under_way.pop(arrival.client, None)
        if arrival.place:
            arrival.place = 0
            self.places.give_back(arrival.client, 1)

    def leave(self, arrival: Arrival) -> None:
        """It is answered or refused: it holds nothing. Harmless a second time."""
        self.whole(arrival)
        if arrival.held:
            self.memory.give_back(arrival.client, arrival.held)
            arrival.held = 0

    def _end(self, arrival: Arrival, why: str) -> None:
        arrival.gave_way = why
        self.leave(arrival)
        arrival.end()


def _enough(some: list[Arrival], client: str, own: int, all_: int) -> list[Arrival] | None:
    """The first of them that hold, together, so many bytes of this client's own and so many of all; None: they do not."""
    giving: dict[Arrival, None] = {}
    for missing, others in ((own, [a for a in some if a.client == client]), (all_, some)):
        left = missing - sum(a.held for a in giving)
        for other in others:
            if left > 0 and other not in giving:
                giving[other] = None
                left -= other.held
        if left > 0:
            return None
    return list(giving)
