"""The shared online store: Feast's Redis layout, with the order of each row as one more field of its hash."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.resources import files
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow.compute as pc
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field
from redis.exceptions import RedisError

from serving.online_store.base import (
    Covered,
    OrderedOnlineStore,
    OrderedOnlineStoreConfig,
    Rows,
    StoredRow,
    refused_fingerprint,
    unreachable,
)
from serving.online_store.keys import key_head, key_parts
from serving.online_store.order import refused_owner
from serving.online_store.packed_rows import PackedRows
from serving.online_store.redis_address import limited, named, of_cluster, parsed, wait_seconds, wrong
from serving.online_store.redis_calls import ROWS_PER_CALL, Header, Transactions, WriteCalls, chunks, command
from serving.online_store.redis_cluster import Cluster
from serving.online_store.redis_files import rewrite_files
from serving.online_store.redis_link import Link, Lives, OneServer, Replicas
from serving.online_store.redis_owner import NOBODY, change_owner, look_at_owner
from serving.online_store.redis_reading import Commands, PackedCommands
from serving.online_store.store_columns import ColumnRead, PackedColumns, Question, SplitQuestion, StoredColumns
from transforms.errors import StoreError

__all__ = ["OrderedRedisOnlineStore", "OrderedRedisOnlineStoreConfig", "limited"]

_RULE, _WRITE, _LOSING = (
    files("serving.online_store").joinpath(f"{name}.lua").read_text() for name in ("row_order", "write_rows", "losing_rows")
)
_SCRIPT, _ASK = _RULE + _WRITE, _RULE + _LOSING
_MARK = """
local found = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '-inf')
if ARGV[3] ~= '' and found < tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1"""
_COVER = """
if ARGV[3] ~= '' then
  local owner = redis.call('HGET', KEYS[1], '')
  if owner and string.match(owner, '^%S*') ~= ARGV[3] then return {owner} end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])"""
_DROP = files("serving.online_store").joinpath("drop_superseded.lua").read_text()
_APPLY = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HDEL', KEYS[2], ARGV[1])
end"""
_KEYS_AT_ONCE = 1000
_FEW = 64
"""So many rows are written by one call of a script: a transaction takes a round trip more."""
_READ_BYTES = 16_384
"""Of one look at the socket. hiredis moves all that it still has each time it has read a kilobyte of it: more would make it slower."""
_MAX_FEATURES = 3000
"""Lua unpacks fewer than 8,000 values on its stack."""


T = TypeVar("T")
Type = Literal["serving.online_store.redis.OrderedRedisOnlineStore", "tandem.serving.online_store.redis.OrderedRedisOnlineStore"]


_NOT_THERE = "start Redis there, or fix connection_string in feature_store.yaml"
_LOGIN = "correct its user and password in feature_store.yaml"
_RIGHTS = "let its user run the commands and touch the keys: ~* +@all -@dangerous +info +keys +cluster"
_A_CLUSTER = "it is a cluster: say redis_type: redis_cluster in feature_store.yaml"
_FIXES = {
    "ead only replica": "it is a replica: promote it, or name its primary in connection_string in feature_store.yaml",
    "used memory > 'maxmemory'": "it is full: raise its maxmemory, or delete what nobody needs",
    "MISCONF": "it cannot save what it holds: free its disk",
    "cluster support disabled": "it is no cluster: take redis_type: redis in feature_store.yaml",
    "MOVED": _A_CLUSTER,
    "MovedError": _A_CLUSTER,
    "hash to the same slot": _A_CLUSTER,
    "CLUSTERDOWN": "a server is gone and no replica has taken its place: start it again",
    "uthentication": _LOGIN,
    "WRONGPASS": _LOGIN,
    "invalid username-password pair": _LOGIN,
    "NOPERM": _RIGHTS,
    "no permissions": _RIGHTS,
    "No permissions": _RIGHTS,
}
"""What helps where Redis answers, and refuses, by a word of its answer."""


class OrderedRedisOnlineStoreConfig(OrderedOnlineStoreConfig, RedisOnlineStoreConfig):
    """Configuration; ``connection_string`` as Feast's: ``host:port,db=0,password=...``, of a cluster (``redis_type: redis_cluster``) or of
    Sentinels (``redis_sentinel``, with ``sentinel_master``) ``host:port,host:port,...``."""

    type: Type = "tandem.serving.online_store.redis.OrderedRedisOnlineStore"  # type: ignore[assignment]
    wait_replicas: int = Field(default=0, ge=0)
    """How many replicas must have what was written before it counts as written; else a StoreError. 0: the server alone."""

    def limit_waits(self, seconds: float) -> None:
        """The time limits of the socket, where the connection string sets none."""
        self.connection_string = limited(self.connection_string, seconds)


class OrderedRedisOnlineStore(OrderedOnlineStore, RedisOnlineStore):
    """A hash per entity key, as Feast's; of every view also ``_tandem:<view>``: the order of its row (event time in us,
    revision, fingerprint, stamp).

    A chunk of rows is compared and written in one step: of one server by a transaction that holds only if none of their keys changed since
    they were compared, else, and where one did, by a Lua script. ``_ts:<view>`` keeps the
    microseconds in its nanos, and before them the packed row, which goes when another writer writes the row. Only writers of this class
    may write the views: stock Feast's writer knows nothing of the order.
    """

    reads_views_at_once = True
    keeps_packed = True

    def __init__(self) -> None:
        super().__init__()
        self._made: Link | None = None
        self._lives = Lives()

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[Any], dict[str, Any]]:
        return parsed(connection_string)

    def _get_client(self, online_store_config: Any) -> Any:
        client = super()._get_client(online_store_config)
        client.connection_pool.connection_kwargs.setdefault("socket_read_size", _READ_BYTES)
        return client

    def key_suffix(self, config: RepoConfig) -> bytes:
        return str(config.project).encode()

    def _try(self, config: RepoConfig, what: Callable[[Link], T]) -> T:
        with self._talking(config) as link:
            return what(link)

    @contextmanager
    def _talking(self, config: RepoConfig) -> Iterator[Link]:
        """The servers; what they fail with is a StoreError."""
        store = config.online_store
        name = {RedisType.redis_cluster: "redis cluster", RedisType.redis_sentinel: "redis sentinel"}.get(store.redis_type, "redis")
        try:
            yield self._link(config)
        except (RedisError, OSError) as e:
            fix = next((fix for word, fix in _FIXES.items() if word in str(e)), _NOT_THERE)
            raise unreachable(f"{name} {named(store.connection_string)}", e, fix, fix in (_LOGIN, _RIGHTS)) from e

    def _link(self, config: RepoConfig) -> Link:
        """The servers. Raises ConfigError for a connection string that names none."""
        made = self._made
        if made is None:
            store = config.online_store
            wait = Replicas(store.wait_replicas, wait_seconds(store.connection_string))
            if store.redis_type == RedisType.redis_cluster:
                made = Cluster(*of_cluster(*parsed(store.connection_string)), wait)
            else:
                try:
                    made = OneServer(self._get_client(store), wait)
                except (TypeError, ValueError, KeyError, IndexError) as e:
                    raise wrong(e) from None
            self._made = made
        return made

    def reach(self, config: RepoConfig) -> None:
        self._try(
            config, lambda link: link.run([command("EXISTS", self._state(config, link, p)[0]) for p in link.witnesses()], link.witnesses())
        )

    def _state(self, config: RepoConfig, link: Link, place: int) -> list[str]:
        """The hashes of applied fingerprints and of what is covered, where the rows of a place are."""
        tag = link.tag(place)
        return [f"tandem:applied:{config.project}{tag}", f"tandem:covered:{config.project}{tag}"]

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        if len(table.features) > _MAX_FEATURES:
            raise StoreError(
                f"view {table.name!r} has {len(table.features)} features; Redis takes at most {_MAX_FEATURES} per view, split it"
            )
        prints = rows.fingerprint.unique().to_pylist()
        if len(prints) > 1:  # the script sees rows of one fingerprint, the rule is about the batch
            rows.check_applied(table.name, self.applied_fingerprint(config, table.name))
        written = 0
        for print_ in prints:
            some = (
                rows if len(prints) == 1 else rows.take(np.flatnonzero(pc.equal(rows.fingerprint, print_).to_numpy(zero_copy_only=False)))
            )
            names = [_mmh3(f"{table.name}:{f.name}") for f in table.features]
            head = Header(table.name, print_, rows.stamp, rows.upto_us, config.online_store.key_ttl_seconds or 0, names, self._writer)
            written += self._try(config, partial(self._write, config, head=head, rows=some))
        return written

    def _write(self, config: RepoConfig, link: Link, head: Header, rows: Rows) -> int:
        """The number written."""
        self._lives.begin(link.lives)
        done = None
        if len(rows) > _FEW:
            done = link.commit(Transactions(_sha(_ASK), self._state(config, link, 0), head, rows), _ASK)
        if done is None:
            return self._by_calls(config, link, head, rows)
        if done.refused:
            raise _refused(config, head.view, done.refused)
        if not done.undecided:
            return done.written
        # What others changed between question and answer is compared and written in one call: it would not come to an end otherwise.
        rest = rows.take(np.array(done.undecided, np.int64))
        return done.written + self._by_calls(config, link, head, rest)

    def _by_calls(self, config: RepoConfig, link: Link, head: Header, rows: Rows) -> int:
        places = np.zeros(len(rows), np.int64)
        if len(link.copies) > 1:
            places = link.places(rows.keys.to_pylist())
            order = np.argsort(places, kind="stable")
            rows, places = rows.take(order), places[order]
        parts = chunks(places)
        calls = WriteCalls(_sha(_SCRIPT), partial(self._state, config, link), head, rows, parts)
        written = 0
        for answer in link.run(calls, [place for place, _, _ in parts], _SCRIPT, writes=True):
            if isinstance(answer, list):
                raise _refused(config, head.view, answer)
            written += answer
        return written

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        if not keys:
            return []
        asked = Commands([ColumnRead(table, keys, tuple(names))])
        out: list[StoredRow | None] = []
        for *values, stamp in self._try(config, lambda link: link.ask(asked)):
            if stamp is None:
                out.append(None)
            else:
                at = Timestamp.FromString(stamp)
                out.append((at.seconds * 1_000_000 + at.nanos // 1000, values))
        return out

    def read_columns(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> list[StoredColumns]:
        """One round trip; views with the same keys share one command per key. A second one for views of which some row was written by
        another writer than this class as it is now: those are read from Feast's fields."""
        packed = PackedCommands(reads) if config.online_store.packed else None
        rows: Sequence[PackedRows | None] = [None] * len(reads)
        if packed is not None:
            rows = packed.rows(self._try(config, lambda link: link.ask(packed)))
        rest = [read for read, some in zip(reads, rows) if some is None]
        fields: Iterator[StoredColumns] = iter(())
        if rest:
            commands = Commands(rest)
            fields = iter(commands.columns(self._try(config, lambda link: link.ask(commands))))
        return [next(fields) if some is None else PackedColumns(some, read.names) for read, some in zip(reads, rows)]

    def question(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> Question | SplitQuestion | None:
        """What :meth:`read_columns` asks first; None where packed rows are not to be read, or no server is known yet."""
        if not config.online_store.packed:
            return None
        asked = PackedCommands(reads)
        if config.online_store.redis_type != RedisType.redis_cluster:
            return asked
        parts = self._made.split(asked) if isinstance(self._made, Cluster) else None
        return None if parts is None else SplitQuestion(asked, parts)

    def open_socket(self, config: RepoConfig, at: str = "") -> socket.socket | None:
        """A connection that is let in, for :class:`~serving.online_store.redis_loop.RedisLoop`; None where sockets are not plain ones (TLS)
        or packed rows are not read. Blocks; raises StoreError."""
        return self._try(config, lambda link: link.open_socket(at)) if config.online_store.packed else None

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        self._change(config, lambda state: ["EVALSHA", _sha(_APPLY), 2, *state, view, fingerprint], _APPLY)

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        found = self._known(config, lambda state: ["HGET", state[0], view])
        return None if found is None else found.decode()

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        given = [view, f"{covered.stamp} {covered.upto_us}", self._writer]
        self._change(config, lambda state: ["EVALSHA", _sha(_COVER), 2, *state, *given], _COVER)

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        found = self._known(config, lambda state: ["HGET", state[1], view])
        return None if found is None else Covered(*map(int, found.split()))

    def _change(self, config: RepoConfig, of: Callable[[list[str]], list[Any]], script: str = "") -> None:
        """A command for every copy of the state; for the one that is read first at the end, so that it says what holds for all."""

        def change(link: Link) -> None:
            first, *others = link.copies
            for places in (others, [first]):
                for answer in link.run([command(*of(self._state(config, link, place))) for place in places], places, script, writes=True):
                    if isinstance(answer, list):
                        raise _refused(config, "", answer)

        self._try(config, change)

    def _known(self, config: RepoConfig, of: Callable[[list[str]], list[Any]]) -> bytes | None:
        """What the copies of the state say, of every server one at least; None unless they agree: an apply is under way, or one forgot."""

        def asked(link: Link) -> set[bytes | None]:
            places = link.witnesses()
            return set(link.run([command(*of(self._state(config, link, place))) for place in places], places))

        found = self._try(config, asked)
        return found.pop() if len(found) == 1 else None

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        decides = [start_us, covered.upto_us, covered.stamp, covered.since, int(count_only)]
        head = [table.name, f"_tandem:{table.name}", *decides, self._writer, *_fields(table)]

        def drop(link: Link) -> int:
            count = 0
            for keys in _in_chunks(_keys_of(link, config, table), _KEYS_AT_ONCE):
                by_place: dict[int, list[bytes]] = {}
                for key, place in zip(keys, link.places(keys).tolist()):
                    by_place.setdefault(place, []).append(key)
                cut = [(p, some[i : i + ROWS_PER_CALL]) for p, some in by_place.items() for i in range(0, len(some), ROWS_PER_CALL)]
                calls = [command("EVALSHA", _sha(_DROP), 1 + len(some), self._state(config, link, p)[0], *some, *head) for p, some in cut]
                for answer in link.run(calls, [p for p, _ in cut], _DROP, writes=not count_only):
                    if isinstance(answer, list):
                        raise _refused(config, table.name, answer)
                    count += answer
            return count

        return self._try(config, drop)

    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        """Where there are several servers, each keeps one. False also if one was restarted, or another took its place, since the last time
        that the name was marked by this object: rows that were written in between may be gone though the marker is not."""

        def mark(link: Link) -> bool:
            places = link.witnesses()
            keys = [f"tandem:marks:{config.project}{link.tag(place)}" for place in places]
            kept = True
            if at_least is not None and len(keys) > 1:  # none is kept unless all will be
                kept = all(v is not None and int(v) >= at_least for v in link.run([command("HGET", key, name) for key in keys], places))
            if kept:
                limit = "" if at_least is None else at_least
                calls = [command("EVALSHA", _sha(_MARK), 1, key, name, value, limit) for key in keys]
                kept = all(link.run(calls, places, _MARK, writes=True))
            # Looked at after it was kept: a server that is lost later takes the marker with the rows.
            return not (at_least is not None and self._lives.lost(link.lives(), name)) and kept

        return self._try(config, mark)

    def claim(self, config: RepoConfig, owner: str, take: bool = False) -> str:
        """In a cluster the mark is whole in all copies when this returns, whatever was begun or lost before."""
        return self._try(config, lambda link: change_owner(link, self._owner_at(config, link), owner, None if take else NOBODY))

    def disclaim(self, config: RepoConfig, owner: str) -> None:
        self._try(config, lambda link: change_owner(link, self._owner_at(config, link), NOBODY, owner))

    def owner(self, config: RepoConfig) -> str | None:
        return self._try(config, lambda link: look_at_owner(link, self._owner_at(config, link))[1]) or None

    def _owner_at(self, config: RepoConfig, link: Link) -> Callable[[int], str]:
        return lambda place: self._state(config, link, place)[0]

    @property
    def _writer(self) -> str:
        return "" if self.writer is None else _word(self.writer)

    def stored_keys(self, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
        """Those of all entities that have a row of any view with the same join keys."""
        with self._talking(config) as link:
            yield from _keys_of(link, config, table, holding)

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        self._try(config, lambda link: self._delete(link, table, keys))

    def _delete(self, link: Link, table: FeatureView, keys: Sequence[bytes]) -> None:
        fields = _fields(table)  # the last field of a hash takes the key with it
        link.run([command("HDEL", key, *fields) for key in keys], link.places(keys).tolist(), writes=True)

    def compact(self, config: RepoConfig, tables: Sequence[FeatureView]) -> Sequence[str]:
        """Every server's append-only file and snapshot anew, whatever the views: a command that was deleted stands in them."""
        name = str(named(config.online_store.connection_string))

        def anew(link: Link) -> list[str]:
            servers = list(link.servers())
            names = [f"redis {name}" + (f" ({i} of {len(servers)})" if len(servers) > 1 else "") for i in range(1, len(servers) + 1)]
            return [line for at, client in zip(names, servers) for line in rewrite_files(client, at)]

        return self._try(config, anew)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Feast's ``apply``: a view is gone. (Feast's own looks for keys of serialization version 1 and finds none of version 3.)"""

        def delete(link: Link) -> None:
            for keys in _in_chunks(_keys_of(link, config, table), _KEYS_AT_ONCE):
                self._delete(link, table, keys)

        self._try(config, delete)
        self._change(config, lambda state: ["HDEL", state[0], table.name])
        self._change(config, lambda state: ["HDEL", state[1], table.name])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Feast's ``teardown``: all rows of the views."""
        for table in tables:
            self.delete_table(config, table)


@cache
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _word(owner: str) -> str:
    return owner.split(" ", 1)[0]


def _refused(config: RepoConfig, view: str, answer: Sequence[bytes]) -> StoreError:
    """The error of a script's refusal."""
    found, *applied = (each.decode() for each in answer)
    return refused_fingerprint(view, found, applied[0]) if applied else refused_owner(config.project, found)


def _keys_of(link: Link, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
    """The keys in Redis of all entities that the view's rows may belong to; of those whose bytes have ``holding`` in them."""
    pattern = _literal(key_head(table.join_keys)) + b"*" + (_literal(holding) + b"*" if holding else b"")
    for key in link.scan(pattern):
        if key_parts(key, table.join_keys)[1] == config.project.encode():
            yield key


def _literal(data: bytes) -> bytes:
    """What matches these bytes in a pattern of Redis'."""
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", data)


def _in_chunks(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while some := list(islice(keys, size)):
        yield some


def _fields(table: FeatureView) -> list[Any]:
    """All that a row of the view has in the hash of its entity."""
    return [f"_ts:{table.name}", f"_tandem:{table.name}", *(_mmh3(f"{table.name}:{f.name}") for f in table.features)]
