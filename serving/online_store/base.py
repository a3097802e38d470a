"""What an online store is: :class:`OrderedOnlineStore`, eight methods to write and Feast's ``update`` and ``teardown``.

Whether a row replaces the stored one of its key is one rule (:mod:`serving.online_store.order`); the comparison and the write are one
atomic step of the store. Whatever order, batches or processes rows come in, each key ends with the row that the rule prefers.

A store of another package: a module with ``class XOnlineStore(OrderedOnlineStore)`` and ``class XOnlineStoreConfig(
OrderedOnlineStoreConfig)``, named in ``feature_store.yaml`` as ``type: that.module.XOnlineStore``; it is held to
``tandem.testing.online_store.OnlineStoreContract``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel

from serving.online_store.encoding import as_array, encode_columns, encode_keys
from serving.online_store.feature_rows import FeatureRows, judged_rows, lasts, messages_of
from serving.online_store.incoming import WriteResult, columns_of, heads_of, rows_of_messages, times_of
from serving.online_store.order import Covered, Order, Rows, StoredRow, check_owner, ends_of_runs, greatest, refused_fingerprint, row_wins
from serving.online_store.packed import pack_columns
from serving.online_store.store_columns import ColumnRead, PackedColumns, Question, SplitQuestion, StoredColumns, by_columns
from transforms.definitions import REVISION
from transforms.errors import RightsError, StoreError
from transforms.instants import instant, micros_of, now_us

__all__ = [
    "ColumnRead",
    "Covered",
    "FeatureRows",
    "Order",
    "OrderedOnlineStore",
    "OrderedOnlineStoreConfig",
    "Rows",
    "StoredColumns",
    "StoredRow",
    "WriteResult",
    "check_owner",
    "micros_of",
    "refused_fingerprint",
    "row_wins",
    "unreachable",
]

log = logging.getLogger("tandem.online_store")

_US = timedelta(microseconds=1)
_EXACT_US = 2**53 - 1
"""The last microsecond that Redis' Lua numbers hold exactly: in the year 2255."""


class OrderedOnlineStoreConfig(FeastConfigBaseModel):
    """What the configuration of every such store has. A store's own adds ``type: Literal["its.module.XOnlineStore"]`` and its settings."""

    max_future_seconds: float = 60.0
    """A row further ahead of now is refused: so far the clocks of two machines may differ."""
    as_of: datetime | None = None
    """Answer and judge as if it were this instant, over replayed history. By default: now."""

    packed: bool = True
    """Whether a store that can keeps a copy of each row as one value, which is what a server reads; without it, it reads Feast's fields."""

    def limit_waits(self, seconds: float) -> None:
        """Where the user set no limit, let nothing wait for the store longer than ``seconds``: a request cannot. By default: nothing."""


class OrderedOnlineStore(OnlineStore):
    """An online store with ordered, correctable, atomic writes and a TTL that holds on read, as one of Feast's.

    A subclass writes the abstract methods below and Feast's ``update`` (``feast apply``: make room for views, drop those that are
    gone with their applied fingerprint) and ``teardown``; all else is here. A store is safe to use from many threads, and from
    many processes if it says so. Whatever keeps it from its work is a StoreError of one line (:func:`unreachable`); writers
    wait and try again.

    ``clock`` gives now in microseconds; it is the store configuration's ``as_of`` where that is set, else the wall clock.
    """

    shared_between_processes: ClassVar[bool] = True
    """Whether several processes, also ones that were forked from one another, may write and read the same rows at once."""

    on_this_machine: ClassVar[bool] = False
    """Whether workers on other machines cannot reach it, as a file: a stream that has such workers refuses it."""

    reads_views_at_once: ClassVar[bool] = False
    """Whether :meth:`read_columns` takes one round trip for all views; else a server asks for each, and looks at the time in between."""

    keeps_packed: ClassVar[bool] = False
    """Whether :meth:`write_winners` stores ``rows.packed`` in the same step as the row, where no later write of the row can leave it."""

    clock: Callable[[], int] | None = None

    writer: str | None = None
    """As whom this object writes rows, of the owners that :meth:`claim` knows; None: as nobody, who is not asked."""

    @abstractmethod
    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        """Write those of the rows (one per key) that win (:func:`row_wins`, with :meth:`covered`), each in one atomic step with its
        comparison; the number written.

        A row is written whole: what was stored of its key and view is gone, also features that it lacks. Raises FingerprintError
        if any row stems from other definitions than the applied ones (:meth:`Rows.check_applied`), and OwnerError if the rows are another's
        than :attr:`writer`'s (:func:`check_owner`, in the same step), and then no more is written: nothing, where all was one step. A store
        may write many rows in several steps.
        """

    @abstractmethod
    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        """The row of each key (:meth:`entity_key`), however old, with the features ``names``; None where there is none.

        Keys may repeat. Each row is read atomically. A view that was never written or applied has no rows.
        """

    @abstractmethod
    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        """Make ``fingerprint`` the one whose rows the view takes; from now on writers of any other are refused.

        Where it is another than before, nothing is :meth:`covered` any more.
        """

    @abstractmethod
    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        """The fingerprint applied to the view; None while it takes rows of any."""

    @abstractmethod
    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        """Keep what a materialization that is about to be written covers, in the place of what was covered before."""

    @abstractmethod
    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        """What was materialized of a view with its applied graph; None: nothing, or the store forgot."""

    @abstractmethod
    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        """Drop the rows that a materialization should have replaced and did not, as it has none of their keys; their number.

        Those are the rows with ``start_us`` <= event time <= ``covered.upto_us`` and ``covered.since`` <= stamp < ``covered.stamp``, and
        where ``covered.since`` is 0 all of other fingerprints than the applied one. Each is dropped in one atomic step with that
        comparison. ``count_only``: nothing is dropped. Raises OwnerError as :meth:`write_winners`.
        """

    @abstractmethod
    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        """Keep a number under ``name``; False, and nothing kept, if the one there is below ``at_least`` (or there is none).

        A writer that leaves rising generation markers finds out by them that the store lost what it held: restarted empty, or
        from an old copy. So a marker must not outlive the rows that were written before it.
        """

    def claim(self, config: RepoConfig, owner: str, take: bool = False) -> str:
        """Whose rows the project's are, in one atomic step: of who was there first, ``owner`` where nobody was, or with ``take``. The mark
        is as lasting as the rows, and who writes them looks at it (:attr:`writer`): from now on whoever had it before writes none. By
        default: none is kept, and two who write the same project here are not told of one another."""
        return owner

    def disclaim(self, config: RepoConfig, owner: str) -> None:
        """Take the mark away if it is this one, in one atomic step: nobody has claimed the rows. By default: nothing."""

    def owner(self, config: RepoConfig) -> str | None:
        """Who has claimed the project's rows; None where nobody did, or no mark is kept: as by default."""
        return None

    def too_large(self, config: RepoConfig, table: FeatureView, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which of the rows are larger than any that the store takes: they are refused, and the others written. By default: none."""
        return np.zeros(len(rows), np.bool_)

    def read_columns(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> list[StoredColumns]:
        """What :meth:`read_stored` gives for each read, as columns: how a server reads, some thousand keys of all its views at once.

        A store that can answer several views in one round trip, or without an object per row, overrides this; each row of a view is read
        atomically, too. By default: one :meth:`read_stored` per view.
        """
        return [by_columns(self.read_stored(config, read.table, read.keys, read.names), len(read.names)) for read in reads]

    def question(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> Question | SplitQuestion | None:
        """What an event loop asks, over :meth:`open_socket`, instead of calling :meth:`read_columns` on a thread. By default: nothing."""
        return None

    def open_socket(self, config: RepoConfig, at: str = "") -> socket.socket | None:
        """A connection that is let in, for :meth:`question`, or for the part ``at`` of a split one; whoever gets it closes it. Blocks.
        By default: none. Raises StoreError."""
        return None

    def reach(self, config: RepoConfig) -> None:
        """See whether the store is there and lets us in; nothing is written. By default: nothing. Raises StoreError, ConfigError."""

    def sync(self, config: RepoConfig) -> None:
        """Force to disk what was written, where that is this process' business (a server keeps its own data). Raises StoreError."""

    def key_suffix(self, config: RepoConfig) -> bytes:
        """What the store's keys have behind Feast's serialization of the entity key. By default: nothing."""
        return b""

    def entity_key(self, config: RepoConfig, key: EntityKeyProto) -> bytes:
        """The key of an entity's row in this store."""
        made: bytes = serialize_entity_key(key, entity_key_serialization_version=config.entity_key_serialization_version)
        return made + self.key_suffix(config)

    def stored_keys(self, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
        """The keys (as :meth:`entity_key` gives them) of all rows of a view, of those whose bytes have ``holding`` in them: how rows are
        found of which nobody knows the whole key.

        In any order, perhaps twice; others that have no row of the view may be among them. Rows that are written or deleted meanwhile
        may be missing. Raises StoreError; a store that cannot do it says so.
        """
        raise StoreError(
            f"{type(self).__name__} has no stored_keys; its package must add it, or look for rows of view {table.name!r} by hand"
        )

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        """Delete the rows of these keys (as :meth:`entity_key` gives them) of a view, of those that have one. Raises StoreError."""
        raise StoreError(
            f"{type(self).__name__} has no delete_keys; its package must add it, or delete the rows of view {table.name!r} by hand"
        )

    def compact(self, config: RepoConfig, tables: Sequence[FeatureView]) -> Sequence[str] | None:
        """Leave nothing in the store's files of what was deleted or overwritten, where that can be asked of them: just now in these
        views, or before by somebody who was killed. May take long, and hold up others. Lines on what stays and is somebody else's to do
        (None: nothing). By default: nothing. Raises StoreError."""
        return None

    def check_room(self, config: RepoConfig) -> None:
        """Raise StoreError, which says how much is needed and where, if there is no room for :meth:`compact`, as far as this process can
        tell. By default: nothing."""

    # writing

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Feast's entry. Revision and fingerprint are taken from the features of those names (0 and '' without them).

        A row that says when it was created is taken for one of a materialization as of then. What that covers besides, and which keys have
        no row any more, Feast does not say: ``tandem materialize`` does.
        """
        rows, stamps = rows_of_messages(table, [self.entity_key(config, key) for key, *_ in data], data, self._packs(config))
        for stamp in np.unique(stamps).tolist():  # Feast's materialize: rows of one batch run each
            some = rows if (stamps == stamp).all() else rows.take(np.flatnonzero(stamps == stamp))
            places, _ = self._chosen(config, table, some, self.latest_us(config))
            if len(made := self._fitting(config, table, some.take(places))):
                self.write_winners(config, table, replace(made, stamp=stamp))
        if progress:
            progress(len(data))

    def write_rows(
        self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch | pa.Table, covered: Covered | None = None
    ) -> WriteResult:
        """Write feature rows: columns for every join key, ``event_timestamp`` (us, UTC) and the view's features; others are ignored.

        ``covered`` is what the materialization covers that they are part of; None for rows of a stream.

        Features that ``rows`` lacks are stored as null. Raises FingerprintError and OwnerError as :meth:`write_winners`;
        raises DataError for a missing or null key or timestamp, and StoreError when the store fails.
        """
        keys = [c.name for c in table.entity_columns]
        columns = columns_of(table, rows)
        n = rows.num_rows
        if not n:
            return WriteResult(0, 0, 0)
        latest, times = self.latest_us(config), times_of(table, columns)
        if int(times.max()) <= latest:  # of many rows of a key one is written: what the others hold is not encoded, nor is their key
            last = ends_of_runs([as_array(columns[k]) for k in keys], times)
            columns = columns if len(last) == n else _taken(columns, last)
        heads = heads_of(table, self._keys(config, keys, [as_array(columns[k]) for k in keys]), columns)
        places, refused = self._chosen(config, table, heads, latest)
        if not len(places):
            return WriteResult(0, n - refused, refused)
        if len(places) < len(heads):
            heads, columns = heads.take(places), _taken(columns, places)
        null = pa.repeat(pa.scalar(b"", pa.binary()), len(heads))
        named = [f.name for f in table.features if f.name in columns]
        encoded = dict(zip(named, encode_columns([columns[name] for name in named]), strict=True))
        values = [encoded.get(f.name, null) for f in table.features]
        packed = pack_columns(table, heads.event_us, columns, values) if self._packs(config) else None
        made = replace(heads, values=values, packed=packed)
        if covered is not None:
            made = replace(made, stamp=covered.stamp, upto_us=covered.upto_us)
        fitting = self._fitting(config, table, made)
        written, large = self.write_winners(config, table, fitting) if len(fitting) else 0, len(made) - len(fitting)
        return WriteResult(written, n - refused - large - written, refused, large)

    def decisive(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Of rows as :meth:`write_rows` takes them those that it would look at: of rows in the order of keys and times the last one of
        each key. Whoever holds rows back need hold no others. Raises DataError."""
        columns = columns_of(table, rows)
        times = times_of(table, columns)
        if not len(times) or int(times.max()) > self.latest_us(config):  # one that is refused replaces nothing
            return rows
        places = ends_of_runs([as_array(columns[c.name]) for c in table.entity_columns], times)
        return rows if len(places) == len(times) else rows.take(pa.array(places))

    def _fitting(self, config: RepoConfig, table: FeatureView, rows: Rows) -> Rows:
        """Those that are not too large, of which one line tells."""
        large = self.too_large(config, table, rows)
        if not large.any():
            return rows
        log.error(
            "view %s: refused %d of %d rows that are larger than this online store takes, e.g. key %r; what it has of their keys stays;"
            " keep fewer or shorter features in the view",
            table.name,
            int(large.sum()),
            len(rows),
            rows.keys[int(np.argmax(large))].as_py(),
        )
        return rows.take(np.flatnonzero(~large))

    def _packs(self, config: RepoConfig) -> bool:
        return self.keeps_packed and config.online_store.packed

    def stored(self, config: RepoConfig, table: FeatureView, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Of which of the rows' keys a row is stored, whatever it is. ``rows`` has a column for every join key."""
        names = [c.name for c in table.entity_columns]
        made = self._keys(config, names, [as_array(rows.column(n)) for n in names]).to_pylist()
        return np.array([row is not None for row in self.read_stored(config, table, made, [])], np.bool_)

    def _keys(self, config: RepoConfig, names: list[str], columns: list[pa.Array]) -> pa.Array:
        if config.entity_key_serialization_version == 3:
            return encode_keys(names, columns, self.key_suffix(config))
        slots = ["int64_val" if pa.types.is_integer(c.type) else "string_val" for c in columns]  # older layouts: row by row
        protos = ([ValueProto(**{slot: v}) for slot, v in zip(slots, row)] for row in zip(*(c.to_pylist() for c in columns)))
        return pa.array([self.entity_key(config, EntityKeyProto(join_keys=names, entity_values=row)) for row in protos], pa.binary())

    def latest_us(self, config: RepoConfig) -> int:
        """The latest event time (microseconds) that is taken now: rows beyond it lie too far in the future, and are refused."""
        return int(min(self.now(config) + round(config.online_store.max_future_seconds * 1_000_000), _EXACT_US))

    def _chosen(self, config: RepoConfig, table: FeatureView, rows: Rows, latest: int) -> tuple[npt.NDArray[np.int64], int]:
        """(the places of the rows that the store decides about: of each key the greatest that does not lie ahead of ``latest``; how many
        do). The rows' values are not looked at."""
        ahead, total = rows.event_us > latest, len(rows)
        n_refused = int(ahead.sum())
        if not n_refused:
            return greatest(rows), 0
        first = int(np.argmax(ahead))
        log.error(
            "view %s: refused %d of %d rows more than %s s in the future, e.g. key %r at %s; fix them or raise max_future_seconds",
            table.name,
            n_refused,
            total,
            config.online_store.max_future_seconds,
            rows.keys[first].as_py(),
            _text(int(rows.event_us[first])),
        )
        near = np.flatnonzero(~ahead)
        return near[greatest(rows.take(near))], n_refused

    # reading

    def read_rows(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKeyProto],
        requested_features: Sequence[str] | None = None,
        now: datetime | None = None,
    ) -> FeatureRows:
        """Values with statuses and ages, as of ``now``. A row is too old once its age is *above* the view's TTL (none or 0: never), unless
        its windows are all empty (revision 0): that stays true until the next event makes a row.

        NOT_FOUND: no row, or a row from before the feature existed. NULL: the row is there, its value is null.
        """
        names = list(requested_features) if requested_features is not None else [f.name for f in table.features]
        now_us = micros_of(now) if now is not None else self.now(config)
        ttl = table.ttl // _US if table.ttl else None
        judged = ttl is not None and REVISION not in names and any(f.name == REVISION for f in table.features)
        asked = [*names, REVISION] if judged else names
        found = self.read_stored(config, table, [self.entity_key(config, k) for k in entity_keys], asked)
        return judged_rows(found, names, asked, ttl, now_us)

    def online_read_stored(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKeyProto],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """What is stored, however old: for readers that judge age themselves. Times are aware, UTC, to the microsecond."""
        names = list(requested_features) if requested_features is not None else [f.name for f in table.features]
        read = ColumnRead(table, [self.entity_key(config, k) for k in entity_keys], tuple(names))
        (columns,) = self.read_columns(config, [read])
        made = [columns.messages(n) for n in names] if isinstance(columns, PackedColumns) else list(map(messages_of, columns.cells))
        values: Iterable[Sequence[ValueProto | None]] = zip(*made) if names else [()] * len(entity_keys)
        return [
            (instant(at), {n: v for n, v in zip(names, row) if v is not None}) if there else (None, None)
            for at, there, row in zip(columns.event_us.tolist(), columns.found.tolist(), values)
        ]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Feast's reader, with the TTL enforced: a row that is too old gives its time and no values (Feast then says NOT_FOUND)."""
        names = list(requested_features) if requested_features is not None else [f.name for f in table.features]
        ttl, now = table.ttl, self.now(config)
        if not ttl:
            return self.online_read_stored(config, table, entity_keys, names)
        extra = [REVISION] if REVISION not in names and any(f.name == REVISION for f in table.features) else []
        out: list[tuple[datetime | None, dict[str, ValueProto] | None]] = []
        for at, values in self.online_read_stored(config, table, entity_keys, [*names, *extra]):
            expired = at is not None and now - micros_of(at) > ttl // _US
            if values is not None and expired and not lasts(values.get(REVISION)):
                values = None
            out.append((at, values if values is None or not extra else {n: v for n, v in values.items() if n != REVISION}))
        return out

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """As :meth:`online_read`, in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def now(self, config: RepoConfig) -> int:
        """The instant (microseconds) that ages are judged at, and ahead of which no row is materialized."""
        return self.clock() if self.clock is not None else configured_now(config)


def _taken(columns: dict[str, Any], places: npt.NDArray[np.int64]) -> dict[str, Any]:
    at = pa.array(places)
    return {name: as_array(column).take(at) for name, column in columns.items()}


def configured_now(config: RepoConfig) -> int:
    """The instant (microseconds) that the online store's configuration names, else the wall clock."""
    as_of: datetime | None = getattr(config.online_store, "as_of", None)
    return micros_of(as_of) if as_of is not None else now_us()


def unreachable(where: str, error: Exception, fix: str, refused: bool = False) -> StoreError:
    """One clear line for a store that cannot be used; ``refused``: it is there, and its user may not do that."""
    return (RightsError if refused else StoreError)(
        f"online store {where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}; {fix}"
    )


def _text(us: int) -> str:
    try:
        return instant(us).isoformat()
    except OverflowError:
        return f"{us} us"
