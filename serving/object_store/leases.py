"""Locks between machines: a lease is an object that names its holder and is renewed; it expires by the store's clock.

One takes a lease by creating its object, or by replacing one that was let go of or has expired: a conditional write, so of several one
gets it. A holder that could not renew in time may have lost it to another; it is told by :meth:`Lease.check` before it publishes, and
what it publishes is a conditional write again, so a holder that sleeps through its lease can undo nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

from serving.object_store.object_store import ObjectStore
from transforms.errors import DataError, TandemError
from transforms.own_program import boot_id

__all__ = ["SECONDS", "Busy", "Lease", "forget", "held_by", "hold", "process_numbers", "take"]

SECONDS = 60.0
"""How long a lease is good for unless it is renewed; a holder renews three times as often."""


class Busy(DataError):
    """Another machine or process holds the lease."""


def _key(name: str) -> str:
    return f"leases/{name}.json"


class Lease:
    """A lease that this process has. ``renew`` it in time, ``release`` it at the end."""

    def __init__(self, store: ObjectStore, name: str, token: str, version: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self._store, self._token, self._version, self._count = store, token, version, 0
        self._good_until = time.monotonic() + seconds
        self._lost = ""
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Have it for another ``seconds``. Raises Busy if somebody else has it by now."""
        with self._lock:
            asked = time.monotonic()  # the store counts from a later moment: we never think that we have it longer
            self._count += 1
            found = self._store.replace(_key(self.name), _content(self._token, self.seconds, self._count), self._version)
            if found is None:
                self._lost = "another one has taken it"
                raise self._gone()
            self._version, self._good_until = found, asked + self.seconds

    def check(self) -> None:
        """Raise Busy unless it is certainly still ours."""
        if self._lost or time.monotonic() > self._good_until:
            raise self._gone()

    def release(self) -> None:
        """Let go of it, so that the next one need not wait until it expires. Nothing happens if it is not ours any more."""
        with self._lock:
            self._store.replace(_key(self.name), b'{"owner": null}\n', self._version)

    def _gone(self) -> Busy:
        why = self._lost or f"it could not be renewed for {self.seconds:.0f} s"
        return Busy(f"{self._store.url}: the lease {self.name!r} was lost: {why}; run the same command again")


def _content(token: str, seconds: float, count: int) -> bytes:
    said: dict[str, Any] = {
        "owner": token, "host": socket.gethostname(), "pid": os.getpid(), "seconds": seconds, "renewed": count,
        "numbers": process_numbers(),
    }  # fmt: skip
    return json.dumps(said).encode() + b"\n"


def _read(store: ObjectStore, name: str) -> tuple[dict[str, Any] | None, str | None]:
    """(what the lease's object says, its version): (None, None) where there is no object."""
    found = store.read(_key(name))
    if found is None:
        return None, None
    try:
        said = json.loads(found.content)
    except ValueError:
        said = {}
    return said if isinstance(said, dict) else {}, found.version


def held_by(store: ObjectStore, name: str) -> str | None:
    """``host (process 12)`` of who has the lease; "" if it was let go of or has expired, None if nobody ever had it."""
    said, version = _read(store, name)
    if said is None or version is None:
        return None
    return f"{said.get('host')} (process {said.get('pid')})" if said.get("owner") and not _expired(store, name, said) else ""


@cache
def process_numbers() -> str:
    """What the numbers of processes here are numbers of: this boot of this machine, and this container of it; empty where nobody tells."""
    try:
        return f"{socket.gethostname()}/{boot_id()}/{os.readlink('/proc/self/ns/pid')}" if boot_id() else ""
    except OSError:
        return ""


def _dead(said: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine and is certainly gone."""
    if not said.get("numbers") or said["numbers"] != process_numbers():
        return False
    try:
        os.kill(max(1, int(said.get("pid") or 1)), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _expired(store: ObjectStore, name: str, said: dict[str, Any]) -> bool:
    if _dead(said):
        return True
    head = store.head(_key(name))
    if head is None:
        return True
    return store.now() - head.modified > timedelta(seconds=float(said.get("seconds") or SECONDS))


def forget(store: ObjectStore, name: str) -> None:
    """Delete the object of a lease that nobody asks for any more."""
    store.delete(_key(name))


def take(store: ObjectStore, name: str, seconds: float = SECONDS) -> Lease:
    """The lease, which nobody else has then. Never waits. Raises Busy, which names the holder."""
    token = uuid.uuid4().hex
    content = _content(token, seconds, 0)
    said, version = _read(store, name)
    if said is None or version is None:
        made = store.create(_key(name), content)
    elif said.get("owner") and not _expired(store, name, said):
        made = None
    else:
        made = store.replace(_key(name), content, version)
    if made is None:
        holder = held_by(store, name) or "somebody else"
        raise Busy(f"{store.url}: {holder} holds the lease {name!r}; wait for it to end (one that was killed is let go of by itself)")
    return Lease(store, name, token, made, seconds)


@contextmanager
def hold(
    store: ObjectStore,
    name: str,
    *,
    wait: float = 0.0,
    busy: Callable[[], None] = lambda: None,
    seconds: float = SECONDS,
    pause: Callable[[float], None] = time.sleep,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[Lease]:
    """Have the lease for the body, renewed in the background. Who must wait for it is told by ``busy`` first; raises Busy after ``wait``
    seconds of that, at once for none. ``beat`` is called before each pause of the wait; what it raises ends it."""
    until: float | None = None
    while True:
        try:
            lease = take(store, name, seconds)
            break
        except Busy:
            if until is None and wait > 0:
                until = time.monotonic() + wait
                busy()
            elif until is None or time.monotonic() >= until:
                raise
            beat()
            pause(min(1.0, max(0.05, until - time.monotonic())))
    done = threading.Event()

    def keep() -> None:
        while not done.wait(seconds / 3):
            try:
                lease.renew()
            except Busy:
                return
            except TandemError:
                continue  # the store is away: the next round may reach it in time, and ``check`` knows

    thread = threading.Thread(target=keep, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        done.set()
        thread.join()
        with suppress(TandemError):  # then it expires
            lease.release()
