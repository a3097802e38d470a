"""Redis Cluster: which server has which slot, and commands that find theirs, also while slots move and servers fail.

redis-py's own client of clusters sends no scripts in pipelines; its pools, one per server, are used here, and the map of slots is ours.
"""

from __future__ import annotations

import socket
import threading
import time
from binascii import crc_hqx
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from redis import Redis
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TooLate

from serving.online_store.redis_calls import Transactions, command
from serving.online_store.redis_link import Answers, Calls, Replicas, life_of, opened, received, send
from serving.online_store.redis_reading import AskedRows, borrowed
from serving.online_store.store_columns import Part
from transforms.errors import StoreError

__all__ = ["SLOTS", "Cluster", "slot_of", "tag_of"]

SLOTS = 16_384
_STRIDE = 128
"""Every so manieth slot is a witness."""
_ASKING = command("ASKING")
_LONGEST_MOVE = 30.0
"""Seconds that a slot may be on its way before a command for it is given up."""
_PAUSE = 0.02
_MOST_PASSES = 5
_UNSETTLED = "wait until it is done, or end it: redis-cli --cluster fix"

Address = tuple[str, int]


def slot_of(key: bytes) -> int:
    """The slot of a key: by what stands between its first braces, if anything does."""
    start = key.find(b"{")
    if start >= 0 and (end := key.find(b"}", start + 1)) > start + 1:
        key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


@cache
def _tags() -> list[str]:
    """For each slot a number whose slot it is."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SLOTS:
        text = str(number)
        found.setdefault(crc_hqx(text.encode(), 0) % SLOTS, text)
        number += 1
    return [found[slot] for slot in range(SLOTS)]


def tag_of(slot: int) -> str:
    """What lies in a slot if a key ends with it, and has no braces before."""
    return "{" + _tags()[slot] + "}"


@dataclass(frozen=True)
class _Map:
    """Who has which slot: the places in ``masters``, -1 for a slot that nobody has."""

    masters: list[Address]
    owner: npt.NDArray[np.int16]


class Cluster:
    """The servers of a cluster. A place is a slot."""

    copies: Sequence[int] = range(SLOTS)

    def __init__(self, seeds: Sequence[Address], settings: Mapping[str, Any], replicas: Replicas) -> None:
        """``seeds``: servers of it, one of which must answer; ``settings``: of redis-py's connections.

        Raises what redis-py does, and StoreError.
        """
        self._seeds, self._settings, self._replicas = list(seeds), dict(settings), replicas
        self._lock = threading.Lock()
        self._clients: dict[Address, Any] = {}
        self._map = self._look([])

    # the map

    def _client(self, at: Address) -> Any:
        with self._lock:
            found = self._clients.get(at)
            if found is None:
                found = self._clients[at] = Redis(host=at[0], port=at[1], **self._settings)
                found.connection_pool.connection_kwargs.setdefault("socket_read_size", 16_384)
            return found

    def _refresh(self, seen: _Map, gone: Address | None = None) -> _Map:
        """Look again at who has which slot, unless somebody has done so since ``seen``; ``gone`` is asked last."""
        if self._map is seen:
            self._map = self._look([at for at in seen.masters if at != gone])
        return self._map

    def _look(self, known: Sequence[Address]) -> _Map:
        error: Exception | None = None
        for at in dict.fromkeys([*known, *self._seeds]):
            ((_, _, found),) = self._exchange({at: [0]}, [command("CLUSTER", "SLOTS")])
            answer = found if isinstance(found, Exception) else found[0]
            if isinstance(answer, Exception):
                error = answer
                continue
            owner = np.full(SLOTS, -1, np.int16)
            masters: dict[Address, int] = {}
            for first, last, (host, port, *_), *_ in answer:
                address = ((host or b"").decode() or at[0], int(port))
                owner[first : last + 1] = masters.setdefault(address, len(masters))
            if masters:
                return _Map(list(masters), owner)
            error = StoreError(f"online store redis cluster: {at[0]}:{at[1]} knows of no slots; make a cluster: redis-cli --cluster create")
        assert error is not None
        raise error

    # Link

    def places(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        return np.fromiter(map(slot_of, keys), np.int64, len(keys))

    def tag(self, place: int) -> str:
        return tag_of(place)

    def witnesses(self) -> Sequence[int]:
        """Some slots at even distances, which move with what else is in them, and one of each server that has none of those."""
        now = self._map
        some = list(range(0, SLOTS, _STRIDE))
        lacking = set(range(len(now.masters))) - set(now.owner[some].tolist())
        return [*some, *(int(np.argmax(now.owner == i)) for i in sorted(lacking))]

    def lives(self) -> frozenset[str]:
        now = self._map
        found: list[str] = []
        for at in now.masters:
            try:
                found += life_of(self._client(at))
            except (Disconnected, TooLate, OSError):
                with suppress(RedisError, OSError):
                    self._refresh(now, at)
                raise
        return frozenset(found)

    def commit(self, rows: Transactions, script: str) -> None:
        """Not here: a transaction is of one slot, which few rows share."""

    def ask(self, asked: AskedRows) -> list[list[bytes | None]]:
        keys, lines = asked.by_key
        return self.run(lines, self.places(keys).tolist())

    def split(self, asked: AskedRows) -> list[Part] | None:
        """What each server is asked; None where a slot has no server."""
        keys, lines = asked.by_key
        now = self._map
        parts: dict[int, list[int]] = {}
        for i, owner in enumerate(now.owner[self.places(keys)].tolist()):
            parts.setdefault(owner, []).append(i)
        if -1 in parts:
            return None
        servers = [f"{host}:{port}" for host, port in now.masters]
        return [Part(servers[owner], b"".join([lines[i] for i in some]), some) for owner, some in parts.items()]

    def open_socket(self, at: str) -> socket.socket | None:
        host, _, port = at.rpartition(":")
        return opened(self._client((host, int(port)) if host else self._map.masters[0]))

    def run(self, calls: Calls, places: Sequence[int], script: str = "", writes: bool = False) -> Answers:
        """In one round trip to each server; to others as they say that a slot has moved, and again while it is on its way.

        When a server is gone, who has its slots is looked up anew; if that is still it, this raises what redis-py does.
        """
        answers: Answers = [None] * len(calls)
        todo, asking = list(range(len(calls))), dict[int, Address]()
        began, failures, rounds = time.monotonic(), 0, 0
        while todo:
            now, rounds = self._map, rounds + 1
            todo, troubles = self._round(now, todo, asking, calls, places, script, writes, answers)
            gone = next((at for kind, at in troubles if isinstance(kind, Exception)), None)
            if gone is not None:
                failures += 1
                error = next(kind for kind, _ in troubles if isinstance(kind, Exception))
                with suppress(RedisError, OSError):
                    self._refresh(now, gone)
                if (gone in self._map.masters and (failures > 1 or isinstance(error, TooLate))) or failures > 3:
                    raise error
            elif ("MOVED", gone) in troubles:
                self._refresh(now)
            if todo and time.monotonic() - began > _LONGEST_MOVE:
                raise StoreError(
                    f"online store redis cluster: slot {places[todo[0]]} is on its way since {_LONGEST_MOVE:g} s; {_UNSETTLED}"
                )
            if todo and rounds > 2:
                time.sleep(_PAUSE)
        return answers

    def _round(
        self,
        now: _Map,
        todo: Sequence[int],
        asking: dict[int, Address],
        calls: Calls,
        places: Sequence[int],
        script: str,
        writes: bool,
        answers: Answers,
    ) -> tuple[list[int], set[tuple[str | Exception, Address | None]]]:
        """Put the calls ``todo`` to the servers; which of them are left, and why: errors of servers that are gone with their addresses,
        "MOVED", "ASK" (kept in ``asking``), "TRYAGAIN", "NOSCRIPT". Raises what else goes wrong."""
        by_server: dict[Address, list[int]] = {}
        for i in todo:
            at = asking.get(i)
            if at is None:
                owner = int(now.owner[places[i]])
                if owner < 0:
                    raise StoreError(f"online store redis cluster: nobody has slot {places[i]}; {_UNSETTLED}")
                at = now.masters[owner]
            by_server.setdefault(at, []).append(i)
        left: list[int] = []
        troubles: set[tuple[str | Exception, Address | None]] = set()
        for at, mine, found in self._exchange(by_server, calls, asking, self._replicas if writes else None):
            if isinstance(found, Exception):
                troubles.add((found, at))
                left += mine
                continue
            for i, answer in zip(mine, found):
                asking.pop(i, None)
                if not isinstance(answer, Exception):
                    answers[i] = answer
                    continue
                kind, to = _redirection(answer, at)
                if kind == "ASK":
                    asking[i] = to
                elif kind == "NOSCRIPT" and ("NOSCRIPT", at) not in troubles:
                    self._client(at).script_load(script)
                elif not kind:
                    raise answer
                troubles.add((kind, at if kind == "NOSCRIPT" else None))
                left.append(i)
        return sorted(left), troubles

    def _exchange(
        self,
        by_server: Mapping[Address, Sequence[int]],
        calls: Calls,
        asking: Mapping[int, Address] = MappingProxyType({}),
        replicas: Replicas | None = None,
    ) -> list[tuple[Address, Sequence[int], Answers | Exception]]:
        """Per server what it answers to its calls, errors as they are; or why it does not. All work at the same time."""
        wait = replicas.command if replicas is not None else b""
        opened_now: list[tuple[Address, Sequence[int], Any]] = []
        out: list[tuple[Address, Sequence[int], Answers | Exception]] = []
        with ExitStack() as stack:
            try:
                for at, mine in by_server.items():
                    try:
                        connection = stack.enter_context(borrowed(self._client(at)))
                        opened_now.append((at, mine, connection))
                        send(connection, (part for i in mine for part in ((_ASKING, calls[i]) if i in asking else (calls[i],))))
                        if wait:
                            connection.send_packed_command([wait])
                    except (Disconnected, TooLate, OSError) as error:
                        if opened_now and opened_now[-1][0] == at:
                            opened_now.pop()[2].disconnect()
                        out.append((at, mine, error))
                while opened_now:
                    at, mine, connection = opened_now[0]
                    try:
                        found = received(connection, len(mine) + sum(i in asking for i in mine) + bool(wait))
                    except (Disconnected, TooLate, OSError) as error:
                        connection.disconnect()
                        out.append((at, mine, error))
                    else:
                        waited = found.pop() if wait else None
                        given = iter(found)
                        own = [next(given) if i not in asking or next(given) is not None else None for i in mine]
                        if replicas is not None and wait and not any(isinstance(a, Exception) for a in own):
                            replicas.check(waited)
                        out.append((at, mine, own))
                    opened_now.pop(0)
            except BaseException:
                for _, _, connection in opened_now:
                    connection.disconnect()  # answers that were not read must not be taken for those of the next command
                raise
        return out

    def servers(self) -> Sequence[Any]:
        return [self._client(at) for at in self._refresh(self._map).masters]

    def scan(self, pattern: bytes) -> Iterator[bytes]:
        """While slots move, keys may be met twice; all over again until none has moved since, so that none is missed."""
        for _ in range(_MOST_PASSES):
            before = self._layout()
            for at in self._map.masters:
                yield from self._client(at).scan_iter(pattern, count=1000)
            if self._layout() == before and "[" not in before:
                return
            self._refresh(self._map)
        raise StoreError(f"online store redis cluster: slots are being moved, so that not all keys can be gone through; {_UNSETTLED}")

    def _layout(self) -> str:
        """Who has which slot by each server's own word; with a bracket where one is on its way."""
        said = []
        for at in self._map.masters:
            ((_, _, found),) = self._exchange({at: [0]}, [command("CLUSTER", "NODES")])
            if isinstance(found, Exception):
                raise found
            mine = next(line.split() for line in found[0].decode().splitlines() if "myself" in line.split()[2])
            said.append(" ".join([mine[0], *mine[8:]]))
        return "\n".join(sorted(said))


def _redirection(error: Exception, at: Address) -> tuple[str, Address]:
    """What an error of a server at ``at`` says that is no mistake (MOVED, ASK, TRYAGAIN, NOSCRIPT; else ""), and where it sends to. By its
    text: some versions of redis-py have no classes for these outside their own clusters, others cut the first word off."""
    if isinstance(error, NoScriptError):
        return "NOSCRIPT", at
    kinds = {MovedError: "MOVED", AskError: "ASK", TryAgainError: "TRYAGAIN"}
    words = str(error).split()
    kind = kinds.get(type(error)) or (words.pop(0) if words and words[0] in kinds.values() else "")
    if kind not in ("MOVED", "ASK"):
        return kind, at
    host, _, port = words[-1].rpartition(":")
    return kind, (host or at[0], int(port))
