"""What Redis keeps in files beside what it holds: an append-only file, snapshots. What was deleted stands in them until they are written
anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError

from serving.online_store.redis_calls import command
from serving.online_store.redis_link import exchanged, info_field
from transforms.errors import StoreError

__all__ = ["SECONDS", "rewrite_files"]

SECONDS = 600.0
"""How long a server may take to rewrite its file."""
_LOOK_SECONDS = 0.02
_AT_WORK = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
"""One process at a time writes a file."""


def rewrite_files(
    client: Any,
    name: str,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Have the server of a client write anew what files it keeps, of what it holds now, and wait until that is done; lines on what it does
    not let us, or keeps elsewhere. ``name`` is the server's, for these. Raises StoreError where it fails, and what redis-py raises.

    A server without files does nothing.
    """
    try:
        said = _info(client)
    except ResponseError as error:
        return [f"{name} does not say whether it keeps files ({error}): {_BY_HAND}"]
    out: list[str] = []
    until = clock() + seconds
    if said("aof_enabled") == "1":
        out += _anew(client, name, "BGREWRITEAOF", ("aof_rewrite_in_progress", "aof_last_bgrewrite_status"), until, clock, pause)
    (save,) = exchanged(client, [command("CONFIG", "GET", "save")])
    if isinstance(save, Exception):
        out.append(f"{name} does not say whether it saves snapshots ({save}): where it does, BGSAVE there takes the place of the last one")
    elif save and save[1]:
        out += _anew(client, name, "BGSAVE", ("rdb_bgsave_in_progress", "rdb_last_bgsave_status"), until, clock, pause)
    if (replicas := said("connected_slaves")) not in (None, "0"):
        out.append(f"{name} has {replicas} replicas, whose files are their own: {_BY_HAND}")
    return out


_BY_HAND = "what was deleted stands in an append-only file or a snapshot until BGREWRITEAOF or BGSAVE there"


def _info(client: Any) -> Callable[[str], str | None]:
    answers = exchanged(client, [command("INFO", "persistence"), command("INFO", "replication")])
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    text: bytes = b"\r\n".join(answers)
    return lambda name: info_field(text, name.encode())


def _anew(
    client: Any,
    name: str,
    word: str,
    fields: tuple[str, str],
    until: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> list[str]:
    """One that began before counts for nothing: it writes what was there then. Nor does one that is only put down for later, as INFO
    does not tell of every such one: the server is asked when it writes neither file, and again until it says that it began."""
    begun = False
    while True:
        said = _info(client)
        if begun and said(fields[0]) != "1":
            if said(fields[1]) != "ok":
                raise StoreError(f"{name} could not rewrite its file ({word}): see its log, and free its disk")
            return []
        if not begun and not any(said(at_work) == "1" for at_work in _AT_WORK):
            (answer,) = exchanged(client, [command(word)])
            begun = not isinstance(answer, Exception) and "scheduled" not in str(answer)
            later = begun or "scheduled" in str(answer) or "in progress" in str(answer) or "active" in str(answer)
            if not later:  # NOPERM, or a service without it
                return [f"{name} refuses {word} ({answer}): {_BY_HAND}"]
        if clock() >= until:
            return [f"{name} still rewrites its file ({word}): what was deleted stands in the old one until it is done"]
        pause(_LOOK_SECONDS)
