"""What both online stores share: which row wins, what is refused, how rows are encoded, and how values age.

A row wins over the stored one of its key iff (event timestamp, revision) is greater, or equal and the stored row stems
from other definitions while this one stems from the applied ones. The comparison and the write are one atomic step of the
store. Whatever order, batches or processes rows come in, each key ends with its greatest row.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import (
    BoolList,
    DoubleList,
    FloatList,
    Int64List,
    StringList,
)
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION
from transforms.errors import DataError, FingerprintError, StoreError

__all__ = ["NOT_FOUND", "NULL", "OUTSIDE_MAX_AGE", "PRESENT", "FeatureRows", "OrderedOnlineStore", "Row", "WriteResult", "micros_of"]

log = logging.getLogger("tandem.online_store")

PRESENT, NULL, NOT_FOUND, OUTSIDE_MAX_AGE = "PRESENT", "NULL", "NOT_FOUND", "OUTSIDE_MAX_AGE"
NULL_VALUE = ValueProto()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_EXACT_US = 2**53 - 1
"""The last microsecond that Redis' Lua numbers hold exactly: in the year 2255."""
_NAT = -(2**63)
"""What Feast's materialize makes of a timestamp that is null."""


def micros_of(at: datetime) -> int:
    """Microseconds of UTC since 1970; a naive ``at`` is UTC."""
    return (at.replace(tzinfo=UTC) - _EPOCH) // _US if at.tzinfo is None else (at - _EPOCH) // _US


@dataclass(frozen=True)
class Row:
    """One row on its way into a store: serialized entity key, order, and one serialized ValueProto per feature of the view."""

    key: bytes
    event_us: int
    revision: int
    fingerprint: str
    created: datetime | None
    values: Sequence[bytes]


@dataclass(frozen=True)
class WriteResult:
    """What became of rows: ``written``; ``stale``, as an equal or greater row was there; ``refused``, as too far in the future."""

    written: int
    stale: int
    refused: int


@dataclass(frozen=True)
class FeatureRows:
    """What a view holds for N keys. ``values`` and ``statuses`` have N entries per feature; a value is null unless PRESENT.

    ``event_us`` is None and ``ages`` (seconds, may be negative) None where no row is stored.
    """

    values: Mapping[str, list[ValueProto]]
    statuses: Mapping[str, list[str]]
    event_us: list[int | None]
    ages: list[float | None] = field(default_factory=list)


class OrderedOnlineStore(OnlineStore):
    """The shared half of the stores. A store is safe to use from many threads and processes.

    ``clock`` gives now in microseconds; it is the store configuration's ``as_of`` where that is set, else the wall clock.
    """

    clock: Callable[[], int] | None = None

    @abstractmethod
    def _write(self, config: RepoConfig, table: FeatureView, rows: list[Row]) -> int:
        """Write the rows (one per key) that win; the number written. Raises FingerprintError, then nothing is written."""

    @abstractmethod
    def _fetch(
        self, config: RepoConfig, table: FeatureView, keys: list[bytes], names: list[str]
    ) -> list[tuple[int, list[bytes | None]] | None]:
        """Per key None, or the event time in microseconds and the serialized values (None: not stored). Each row is read atomically."""

    @abstractmethod
    def _key(self, config: RepoConfig, key: EntityKeyProto) -> bytes:
        """The serialized entity key, as stock Feast stores it."""

    @abstractmethod
    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        """Make ``fingerprint`` the one whose rows the view takes; from now on writers of any other are refused."""

    @abstractmethod
    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        """The fingerprint applied to the view; None while it takes rows of any."""

    # writing

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Feast's entry. Revision and fingerprint are taken from the features of those names (0 and '' without them)."""
        names = [f.name for f in table.features]
        null = NULL_VALUE.SerializeToString()
        rows = []
        for key, values, at, created in data:
            revision, print_ = values.get(REVISION), values.get(FINGERPRINT)
            rows.append(
                Row(
                    self._key(config, key),
                    micros_of(at),
                    revision.int64_val if revision is not None else 0,
                    print_.string_val if print_ is not None else "",
                    created,
                    [_encoded(values[n]) if n in values else null for n in names],
                )
            )
        self._ordered(config, table, rows)
        if progress:
            progress(len(data))

    def write_rows(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch | pa.Table) -> WriteResult:
        """Write feature rows: columns for every join key, ``event_timestamp`` (us, UTC) and the view's features; others are ignored.

        Features that ``rows`` lacks are stored as null. Raises FingerprintError and then writes nothing;
        raises DataError for a missing or null key or timestamp, and StoreError when the store fails.
        """
        names = rows.schema.names
        keys = [c.name for c in table.entity_columns]
        stamp = table.batch_source.timestamp_field if table.batch_source is not None else EVENT_TIMESTAMP
        columns = {n: rows.column(names.index(n)) for n in names if n in {*keys, stamp, *(f.name for f in table.features)}}
        for name in [*keys, stamp]:
            if name not in columns:
                raise DataError(f"view {table.name!r}: the rows have no column {name!r}; they have {', '.join(names)}")
            if columns[name].null_count:
                raise DataError(f"view {table.name!r}: column {name!r} has {columns[name].null_count} nulls; keys and times must be there")
        times = columns[stamp].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
        n = len(times)
        revisions = columns[REVISION].to_pylist() if REVISION in columns else [0] * n
        prints = columns[FINGERPRINT].to_pylist() if FINGERPRINT in columns else [""] * n
        null = NULL_VALUE.SerializeToString()
        encoded = [_encode_column(columns[f.name]) if f.name in columns else [null] * n for f in table.features]
        key_values = list(zip(*(_proto_column(columns[k]) for k in keys)))
        made = [
            Row(self._key(config, EntityKeyProto(join_keys=keys, entity_values=key)), at, revision or 0, print_ or "", None, values)
            for key, at, revision, print_, values in zip(key_values, times, revisions, prints, zip(*encoded) if encoded else [()] * n)
        ]
        return self._ordered(config, table, made)

    def _ordered(self, config: RepoConfig, table: FeatureView, rows: list[Row]) -> WriteResult:
        """Refuse what lies too far ahead, keep the greatest row of each key, and let the store decide about those."""
        latest = min(self._now(config) + round(config.online_store.max_future_seconds * 1_000_000), _EXACT_US)
        best: dict[bytes, Row] = {}
        refused: Row | None = None
        n_refused = 0
        for row in rows:
            if row.event_us > latest:
                n_refused += 1
                refused = refused or row
                continue
            other = best.get(row.key)
            if other is None or (row.event_us, row.revision) > (other.event_us, other.revision):
                best[row.key] = row
        if refused is not None:
            log.error(
                "view %s: refused %d of %d rows more than %s s in the future, e.g. key %r at %s; mend them or raise max_future_seconds",
                table.name,
                n_refused,
                len(rows),
                config.online_store.max_future_seconds,
                refused.key,
                _text(refused.event_us),
            )
        written = self._write(config, table, list(best.values())) if best else 0
        return WriteResult(written, len(rows) - n_refused - written, n_refused)

    # reading

    def read_rows(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKeyProto],
        requested_features: Sequence[str] | None = None,
        now: datetime | None = None,
    ) -> FeatureRows:
        """Values with statuses and ages, as of ``now``. A row is too old once its age is *above* the view's TTL (none or 0: never).

        NOT_FOUND: no row, or a row from before the feature existed. NULL: the row is there, its value is null.
        """
        names = list(requested_features) if requested_features is not None else [f.name for f in table.features]
        found = self._fetch(config, table, [self._key(config, k) for k in entity_keys], names)
        now_us = micros_of(now) if now is not None else self._now(config)
        ttl = table.ttl // _US if table.ttl else None
        values: dict[str, list[ValueProto]] = {n: [] for n in names}
        statuses: dict[str, list[str]] = {n: [] for n in names}
        for row in found:
            expired = row is not None and ttl is not None and now_us - row[0] > ttl
            for i, name in enumerate(names):
                data = row[1][i] if row is not None and not expired else None
                value = ValueProto.FromString(data) if data is not None else NULL_VALUE
                if row is not None and expired:
                    status = OUTSIDE_MAX_AGE
                elif data is None:
                    status = NOT_FOUND
                else:
                    status = NULL if value.WhichOneof("val") in (None, "null_val") else PRESENT
                values[name].append(value)
                statuses[name].append(status)
        times = [row[0] if row is not None else None for row in found]
        return FeatureRows(values, statuses, times, [None if t is None else (now_us - t) / 1e6 for t in times])

    def online_read_stored(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKeyProto],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """What is stored, however old: for readers that judge age themselves. Times are aware, UTC, to the microsecond."""
        names = list(requested_features) if requested_features is not None else [f.name for f in table.features]
        out: list[tuple[datetime | None, dict[str, ValueProto] | None]] = []
        for row in self._fetch(config, table, [self._key(config, k) for k in entity_keys], names):
            if row is None:
                out.append((None, None))
            else:
                out.append((_EPOCH + row[0] * _US, {n: ValueProto.FromString(v) for n, v in zip(names, row[1]) if v is not None}))
        return out

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Feast's reader, with the TTL enforced: a row that is too old gives its time and no values (Feast then says NOT_FOUND)."""
        ttl, now = table.ttl, self._now(config)
        rows = self.online_read_stored(config, table, entity_keys, requested_features)
        if not ttl:
            return rows
        return [(at, None) if at is not None and now - micros_of(at) > ttl // _US else (at, values) for at, values in rows]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """As :meth:`online_read`, in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def _now(self, config: RepoConfig) -> int:
        if self.clock is not None:
            return self.clock()
        as_of: datetime | None = config.online_store.as_of
        return micros_of(as_of) if as_of is not None else time.time_ns() // 1000


def refused_fingerprint(view: str, found: str, applied: str) -> FingerprintError:
    """The error for a writer whose rows stem from other definitions than the applied ones."""
    return FingerprintError(
        f"view {view!r}: a row has fingerprint {found[:16]!r}, but {applied[:16]!r} is applied; "
        "nothing was written: run the writer again with the applied graph"
    )


def unreachable(where: str, error: Exception, mend: str) -> StoreError:
    """One clear line for a store that cannot be used."""
    return StoreError(f"online store {where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}; {mend}")


def _text(us: int) -> str:
    try:
        return (_EPOCH + us * _US).isoformat()
    except OverflowError:
        return f"{us} us"


def _encoded(value: ValueProto) -> bytes:
    if value.WhichOneof("val") == "unix_timestamp_val" and value.unix_timestamp_val == _NAT:
        value = NULL_VALUE
    data: bytes = value.SerializeToString()
    return data


def _encode_column(column: Any) -> list[bytes]:
    """The serialized ValueProto of each value: floats by layout (tag, little-endian value), others once per distinct value."""
    kind = column.type
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        double = pa.types.is_float64(kind)
        out: list[bytes] = [NULL_VALUE.SerializeToString()] * len(column)
        there = column.is_valid().to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.is_valid().to_numpy()
        packed = np.empty(int(there.sum()), dtype=[("tag", "u1"), ("value", "<f8" if double else "<f4")])
        packed["tag"] = 0x29 if double else 0x35  # fields double_val (5, 64 bit) and float_val (6, 32 bit) of feast.types.Value
        packed["value"] = column.drop_null().to_numpy()
        data, size = packed.tobytes(), packed.itemsize
        for n, i in enumerate(np.flatnonzero(there)):
            out[i] = data[n * size : n * size + size]
        return out
    if pa.types.is_int64(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
        slot, known = _scalar_slot(kind), {None: NULL_VALUE.SerializeToString()}
        values = column.to_pylist()
        for v in set(values) - {None}:
            known[v] = ValueProto(**{slot: v}).SerializeToString()
        return [known[v] for v in values]
    return [v.SerializeToString() for v in _proto_column(column)]


def _proto_column(column: Any) -> list[ValueProto]:
    """One ValueProto per value. Timestamps become whole seconds (rounded down): that is all that Feast's type holds."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        slot, make = _list_slot(kind.value_type)
        if pa.types.is_timestamp(kind.value_type):
            return [
                NULL_VALUE if v is None else ValueProto(**{slot: make(val=[micros_of(x) // 1_000_000 for x in v])})
                for v in column.to_pylist()
            ]
        return [NULL_VALUE if v is None else ValueProto(**{slot: make(val=v)}) for v in column.to_pylist()]
    if pa.types.is_timestamp(kind):
        seconds = column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
        return [NULL_VALUE if v is None else ValueProto(unix_timestamp_val=v // 1_000_000) for v in seconds.to_pylist()]
    slot = _scalar_slot(kind)
    return [NULL_VALUE if v is None else ValueProto(**{slot: v}) for v in column.to_pylist()]


def _scalar_slot(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string_val"
    for known, slot in (
        (pa.int64(), "int64_val"),
        (pa.float64(), "double_val"),
        (pa.float32(), "float_val"),
        (pa.bool_(), "bool_val"),
        (pa.int32(), "int32_val"),
    ):
        if kind == known:
            return slot
    raise DataError(f"a column of Arrow type {kind} cannot be stored online; cast it to string, int64, float32, float64, bool or timestamp")


def _list_slot(kind: pa.DataType) -> tuple[str, Any]:
    if pa.types.is_timestamp(kind):
        return "unix_timestamp_list_val", Int64List
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string_list_val", StringList
    for known, slot, make in (
        (pa.int64(), "int64_list_val", Int64List),
        (pa.float64(), "double_list_val", DoubleList),
        (pa.float32(), "float_list_val", FloatList),
        (pa.bool_(), "bool_list_val", BoolList),
    ):
        if kind == known:
            return slot, make
    raise DataError(
        f"a list of Arrow type {kind} cannot be stored online; make it a list of string, int64, float32, float64, bool or timestamp"
    )
