"""Which waiting request is next: fair between clients by what their requests cost, and never with all threads on large ones.

Weighted fair queueing: each client has a clock of its own that a request moves by its cost; the client whose clock is least is next, and
one that comes (back) begins at the clock of whoever was served last, so that nobody saves up. Of a full queue the client with the most
requests in it loses its youngest one to a client that has fewer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["FairQueue", "Waiting"]

T = TypeVar("T")


@dataclass
class _Client(Generic[T]):
    clock: float
    light: deque[Waiting[T]] = field(default_factory=deque)
    heavy: deque[Waiting[T]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.light) + len(self.heavy)


@dataclass(frozen=True, eq=False)
class Waiting(Generic[T]):
    """A request in the queue: whose it is, what it costs, whether it is large."""

    item: T = field(repr=False)
    client: str
    cost: float
    heavy: bool


class FairQueue(Generic[T]):
    """Not safe for several threads: it belongs to the event loop."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client[T]] = {}
        self._clock = 0.0
        self._inside: set[Waiting[T]] = set()

    def __len__(self) -> int:
        return len(self._inside)

    def push(self, waiting: Waiting[T], most: int) -> T | None:
        """Let a request wait; the one that it takes the place of, which may be itself, if ``most`` wait already."""
        out = None
        if len(self._inside) >= most:
            own = len(self._clients[waiting.client]) if waiting.client in self._clients else 0
            greatest = max(self._clients.values(), key=len, default=None)
            if greatest is None or len(greatest) <= own + 1:
                return waiting.item
            youngest = (greatest.heavy or greatest.light)[-1]
            self.remove(youngest)
            out = youngest.item
        client = self._clients.get(waiting.client)
        if client is None:
            client = self._clients[waiting.client] = _Client(self._clock)
        (client.heavy if waiting.heavy else client.light).append(waiting)
        self._inside.add(waiting)
        return out

    def pop(self, heavy: bool) -> Waiting[T] | None:
        """The next request, a large one only if ``heavy``; None if none may go."""
        able = [c for c in self._clients.values() if c.light or (heavy and c.heavy)]
        if not able:
            return None
        client = min(able, key=lambda c: c.clock)
        # Its small requests first: its large ones have threads of their own kind to wait for.
        waiting = (client.light or client.heavy)[0]
        self._clock = client.clock
        client.clock += waiting.cost
        self.remove(waiting)
        return waiting

    def remove(self, waiting: Waiting[T]) -> bool:
        """Take a request out; whether it was still there."""
        if waiting not in self._inside:
            return False
        self._inside.remove(waiting)
        client = self._clients[waiting.client]
        (client.heavy if waiting.heavy else client.light).remove(waiting)
        if not client:
            self._forget()
        return True

    def _forget(self) -> None:
        """Clients without requests keep their clocks only while these are ahead: afterwards they would begin at the same one anew."""
        for name in [n for n, c in self._clients.items() if not c and c.clock <= self._clock]:
            del self._clients[name]
        if len(self._clients) > len(self._inside) + 1_000:
            for name in [n for n, c in self._clients.items() if not c]:
                del self._clients[name]
