"""The shared online store: Feast's Redis layout, with the order of each row as one more field of its hash."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.resources import files
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.Value_pb2 import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import NoScriptError, RedisError, ResponseError

from serving.online_store.base import (
    Covered,
    OrderedOnlineStore,
    OrderedOnlineStoreConfig,
    Rows,
    StoredRow,
    refused_fingerprint,
    unreachable,
)
from serving.online_store.columns import ColumnRead, PackedColumns, StoredColumns
from serving.online_store.encoding import encode_timestamps, join
from serving.online_store.packed_rows import PackedRows
from serving.online_store.redis_reading import Commands, PackedCommands, bulk, exchange
from transforms.errors import StoreError

__all__ = ["OrderedRedisOnlineStore", "OrderedRedisOnlineStoreConfig", "limited"]

_SCRIPT = files("serving.online_store").joinpath("write_rows.lua").read_text()
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_MARK = """
local found = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '-inf')
if ARGV[3] ~= '' and found < tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1"""
_DROP = files("serving.online_store").joinpath("drop_superseded.lua").read_text()
_APPLY = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HDEL', KEYS[2], ARGV[1])
end"""
_STRING = int(ValueType.STRING)
_ROWS_PER_CALL = 500
"""A script call holds up all other clients: it takes a few milliseconds at this size."""
Ends = npt.NDArray[np.int32]
_NO_ENDS: Ends = np.zeros(1, np.int32)
_CALLS_PER_PACK = 8
"""Calls that are packed at once, while Redis works on those before."""
_SHORT = 1024
_READ_BYTES = 16_384
"""Of one look at the socket. hiredis moves all that it still has each time it has read a kilobyte of it: more would make it slower."""
_MAX_FEATURES = 3000
"""Lua unpacks fewer than 8,000 values on its stack."""


Type = Literal["serving.online_store.redis.OrderedRedisOnlineStore", "tandem.serving.online_store.redis.OrderedRedisOnlineStore"]


_NOT_THERE = "start Redis there, or fix connection_string in feature_store.yaml"
_FIXES = {
    "ead only replica": "it is a replica: promote it, or name its primary in connection_string in feature_store.yaml",
    "used memory > 'maxmemory'": "it is full: raise its maxmemory, or delete what nobody needs",
    "MISCONF": "it cannot save what it holds: free its disk",
}
"""What helps where Redis answers, and refuses, by a word of its answer."""


class OrderedRedisOnlineStoreConfig(OrderedOnlineStoreConfig, RedisOnlineStoreConfig):
    """Configuration; ``connection_string`` as Feast's: ``host:port,db=0,password=...``. A cluster is not supported."""

    type: Type = "tandem.serving.online_store.redis.OrderedRedisOnlineStore"  # type: ignore[assignment]

    def limit_waits(self, seconds: float) -> None:
        """The time limits of the socket, where the connection string sets none."""
        self.connection_string = limited(self.connection_string, seconds)


class OrderedRedisOnlineStore(OrderedOnlineStore, RedisOnlineStore):
    """A hash per entity key, as Feast's; of every view also ``_tandem:<view>``: the order of its row (event time in us,
    revision, fingerprint, stamp).

    A Lua script compares and writes a chunk of rows in one step; a batch is one round trip. ``_ts:<view>`` keeps the
    microseconds in its nanos, and before them the packed row, which goes when another writer writes the row. Only writers of this class
    may write the views: stock Feast's writer knows nothing of the order.
    """

    reads_views_at_once = True
    keeps_packed = True

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[Any], dict[str, Any]]:
        nodes, kwargs = RedisOnlineStore._parse_connection_string(connection_string)
        # redis-py before 5 takes a certificate of any host unless it is told otherwise.
        tls = {"ssl_check_hostname": True} if kwargs.get("ssl") else {}
        return nodes, {"socket_connect_timeout": 5.0, "socket_timeout": 30.0, **tls, **kwargs}

    def _get_client(self, online_store_config: Any) -> Any:
        client = super()._get_client(online_store_config)
        client.connection_pool.connection_kwargs.setdefault("socket_read_size", _READ_BYTES)
        return client

    def key_suffix(self, config: RepoConfig) -> bytes:
        return str(config.project).encode()

    def _try(self, config: RepoConfig, what: Callable[[Any], Any]) -> Any:
        if config.online_store.redis_type == RedisType.redis_cluster:
            raise StoreError("online store: redis_type 'redis_cluster' is not supported; use 'redis' or 'redis_sentinel'")
        where = ",".join(p for p in config.online_store.connection_string.split(",") if "=" not in p)  # no password
        try:
            return what(self._get_client(config.online_store))
        except (RedisError, OSError) as e:
            raise unreachable(f"redis {where}", e, next((fix for word, fix in _FIXES.items() if word in str(e)), _NOT_THERE)) from e

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        if len(table.features) > _MAX_FEATURES:
            raise StoreError(
                f"view {table.name!r} has {len(table.features)} features; Redis takes at most {_MAX_FEATURES} per view, split it"
            )
        prints = rows.fingerprint.unique().to_pylist()
        if len(prints) > 1:  # the script sees rows of one fingerprint, the rule is about the batch
            rows.check_applied(table.name, self.applied_fingerprint(config, table.name))
        head = [table.name, f"_tandem:{table.name}", f"_ts:{table.name}", config.online_store.key_ttl_seconds or 0]
        names = [len(table.features), *(_mmh3(f"{table.name}:{f.name}") for f in table.features)]
        upto = "" if rows.upto_us is None else rows.upto_us
        written = 0
        for print_ in prints:
            some = (
                rows if len(prints) == 1 else rows.take(np.flatnonzero(pc.equal(rows.fingerprint, print_).to_numpy(zero_copy_only=False)))
            )
            calls = _Calls([_applied_key(config), _covered_key(config)], [*head, print_, rows.stamp, upto, *names], some)
            for answer in self._try(config, partial(_run, calls=calls)):
                if isinstance(answer, list):
                    raise refused_fingerprint(table.name, answer[0].decode(), answer[1].decode())
                written += answer
        return written

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        fields = [*(_mmh3(f"{table.name}:{n}") for n in names), f"_ts:{table.name}"]

        def read(client: Any) -> list[list[bytes | None]]:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.hmget(key, fields)
            return pipe.execute()  # type: ignore[no-any-return]

        out: list[StoredRow | None] = []
        for *values, stamp in self._try(config, read) if keys else []:
            if stamp is None:
                out.append(None)
            else:
                at = Timestamp.FromString(stamp)
                out.append((at.seconds * 1_000_000 + at.nanos // 1000, values))
        return out

    def read_columns(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> list[StoredColumns]:
        """One round trip; views with the same keys share one command per key. A second one for views of which some row was written by
        another writer than this class as it is now: those are read from Feast's fields."""
        question = self.question(config, reads)
        rows: Sequence[PackedRows | None] = [None] * len(reads)
        if question is not None:
            rows = question.rows(self._try(config, lambda client: exchange(client, question.data, question.count)))
        rest = [read for read, packed in zip(reads, rows) if packed is None]
        fields: Iterator[StoredColumns] = iter(())
        if rest:
            commands = Commands(rest)
            fields = iter(commands.columns(self._try(config, lambda client: exchange(client, commands.data, commands.count))))
        return [next(fields) if packed is None else PackedColumns(packed, read.names) for read, packed in zip(reads, rows)]

    def question(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> PackedCommands | None:
        """What :meth:`read_columns` asks first; None where packed rows are not to be read."""
        return PackedCommands(reads) if config.online_store.packed else None

    def open_socket(self, config: RepoConfig) -> socket.socket | None:
        """A connection that is let in, for :class:`~serving.online_store.redis_loop.RedisLoop`; None where sockets are not plain ones (TLS)
        or packed rows are not read. Blocks; raises StoreError."""

        def opened(client: Any) -> socket.socket | None:
            pool = client.connection_pool
            connection = pool.connection_class(**pool.connection_kwargs)
            connection.connect()
            made, connection._sock = connection._sock, None  # it closes what it has when it is forgotten
            if type(made) is socket.socket:
                return made
            made.close()
            return None

        return self._try(config, opened) if config.online_store.packed else None

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        self._try(config, lambda client: client.eval(_APPLY, 2, _applied_key(config), _covered_key(config), view, fingerprint))

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        found = self._try(config, lambda client: client.hget(_applied_key(config), view))
        return None if found is None else found.decode()

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        self._try(config, lambda client: client.hset(_covered_key(config), view, f"{covered.stamp} {covered.upto_us}"))

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        found = self._try(config, lambda client: client.hget(_covered_key(config), view))
        return None if found is None else Covered(*map(int, found.split()))

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        fields = _fields(table)
        head = [table.name, f"_tandem:{table.name}", start_us, covered.upto_us, covered.stamp, int(count_only), *fields]

        def drop(client: Any) -> int:
            script, count = client.register_script(_DROP), 0
            for keys in _in_chunks(_keys_of(client, config, table), _ROWS_PER_CALL):
                count += script(keys=[_applied_key(config), *keys], args=head)
            return count

        return int(self._try(config, drop))

    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        arguments = [f"tandem:marks:{config.project}", name, value, "" if at_least is None else at_least]
        return bool(self._try(config, lambda client: client.eval(_MARK, 1, *arguments)))

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        def delete(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.hdel(key, *_fields(table))  # the last field of a hash takes the key with it
            pipe.execute()

        self._try(config, delete)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Feast's ``apply``: a view is gone. (Feast's own looks for keys of serialization version 1 and finds none of version 3.)"""
        fields = _fields(table)

        def delete(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            for keys in _in_chunks(_keys_of(client, config, table), 1000):
                for key in keys:
                    pipe.hdel(key, *fields)  # the last field of a hash takes the key with it
                pipe.execute()
            pipe.hdel(_applied_key(config), table.name)
            pipe.hdel(_covered_key(config), table.name)
            pipe.execute()

        self._try(config, delete)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Feast's ``teardown``: all rows of the views."""
        for table in tables:
            self.delete_table(config, table)


def limited(connection_string: str, seconds: float) -> str:
    """A connection string of Feast's with time limits for the socket, unless it has some."""
    if "socket_timeout" in connection_string:
        return connection_string
    return f"{connection_string},socket_timeout={seconds:g},socket_connect_timeout={seconds:g}"


def _keys_of(client: Any, config: RepoConfig, table: FeatureView) -> Iterator[bytes]:
    """The keys in Redis of all entities that the view's rows may belong to."""
    names = sorted(table.join_keys)
    prefix = struct.pack("<I", len(names)) + b"".join(struct.pack("<II", _STRING, len(n)) + n.encode() for n in names)
    pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix) + b"*"
    for key in client.scan_iter(pattern, count=1000):
        if _project(key, len(prefix), len(names)) == config.project.encode():
            yield key


def _in_chunks(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while some := list(islice(keys, size)):
        yield some


def _fields(table: FeatureView) -> list[Any]:
    """All that a row of the view has in the hash of its entity."""
    return [f"_ts:{table.name}", f"_tandem:{table.name}", *(_mmh3(f"{table.name}:{f.name}") for f in table.features)]


def _project(key: bytes, at: int, values: int) -> bytes:
    """What follows the entity key in a Redis key: the project. Each value is its type, its length and its bytes."""
    for _ in range(values):
        at += 8 + int.from_bytes(key[at + 4 : at + 8], "little")
    return key[at:]


def _applied_key(config: RepoConfig) -> str:
    return f"tandem:applied:{config.project}"


def _covered_key(config: RepoConfig) -> str:
    return f"tandem:covered:{config.project}"


class _Calls:
    """The calls of the script that write some rows, in Redis' protocol: column by column, not value by value."""

    def __init__(self, keys: list[Any], head: list[Any], rows: Rows) -> None:
        self.keys, self.head, self.rows = keys, b"".join(map(bulk, head)), rows
        self.args_per_call, self.args_per_row = len(head), 3 + len(rows.values)
        self._pack_number, self._packed = -1, (memoryview(b""), _NO_ENDS, memoryview(b""), _NO_ENDS)

    def __len__(self) -> int:
        return -(-len(self.rows) // _ROWS_PER_CALL)

    def __getitem__(self, number: int) -> list[Any]:
        """The bytes of call ``number``, in parts."""
        pack, place = divmod(number, _CALLS_PER_PACK)
        if pack != self._pack_number:
            count = _ROWS_PER_CALL * _CALLS_PER_PACK
            self._pack_number, self._packed = pack, self._pack(pack * count, count)
        keys, key_ends, args, arg_ends = self._packed
        first = place * _ROWS_PER_CALL
        last = min(first + _ROWS_PER_CALL, len(key_ends) - 1)
        n_keys = len(self.keys) + last - first
        total = 3 + n_keys + self.args_per_call + (last - first) * self.args_per_row
        begin = b"*%d" % total + b"".join(map(bulk, ["EVALSHA", _SHA, n_keys, *self.keys]))
        return [begin, keys[key_ends[first] : key_ends[last]], self.head, args[arg_ends[first] : arg_ends[last]], b"\r\n"]

    def _pack(self, start: int, count: int) -> tuple[memoryview, Ends, memoryview, Ends]:
        """Bytes and ends of rows' keys, and of their arguments."""
        r, at = self.rows, slice(start, start + count)
        stamps = encode_timestamps(r.event_us[at])
        columns = [
            pc.cast(pa.array(r.event_us[at]), pa.string()).cast(pa.binary()),
            pc.cast(pa.array(r.revision[at]), pa.string()).cast(pa.binary()),
            stamps if r.packed is None else join(r.packed.slice(start, count), stamps),
            *(v.slice(start, count) for v in r.values),
        ]
        parts: list[Any] = []
        for column in columns:
            parts += [_headers(column), column]
        keys = r.keys.slice(start, count)
        return *_bytes(join(_headers(keys), keys)), *_bytes(join(*parts))


@cache
def _short_headers() -> pa.Array:
    return pa.array([b"\r\n$%d\r\n" % n for n in range(_SHORT)], pa.binary())


def _headers(column: pa.Array) -> pa.Array:
    """What stands before each value in Redis' protocol."""
    lengths = pc.binary_length(column)
    if len(column) and pc.max(lengths).as_py() < _SHORT:
        return _short_headers().take(lengths)
    return pa.array([b"\r\n$%d\r\n" % n for n in lengths.to_pylist()], pa.binary())


def _bytes(array: pa.Array) -> tuple[memoryview, Ends]:
    _, ends, data = array.buffers()
    return memoryview(data), np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1]


def _run(client: Any, calls: _Calls) -> list[Any]:
    """All calls in one round trip; after a restart of Redis, those that did not find the script once more.

    Written to the connection as they are packed, so that Redis works while the next ones are; the pool and its retries stay redis-py's.
    """
    answers: list[Any] = [None] * len(calls)
    todo = list(range(len(calls)))
    for attempt in range(2):
        # A client of one connection: the pool's own method takes the command's name in one redis-py and nothing in another.
        with client.client() as single:
            connection = single.connection
            try:
                for i in todo:
                    connection.send_packed_command(calls[i])
                for i in todo:
                    try:
                        answers[i] = connection.read_response()
                    except ResponseError as error:
                        answers[i] = error
            except BaseException:
                connection.disconnect()  # answers that were not read must not be taken for those of the next command
                raise
        todo = [i for i in todo if isinstance(answers[i], NoScriptError)]
        if not todo or attempt:
            break
        client.script_load(_SCRIPT)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
