"""The PostgreSQL online store: Feast's layout, with the order of each row in a table beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from feast import Entity, FeatureView, RepoConfig

from serving.online_store.base import Covered, OrderedOnlineStore, OrderedOnlineStoreConfig, Rows, StoredRow, log, unreachable
from serving.online_store.order import check_owner, without_order
from serving.online_store.packed import PACKED
from serving.online_store.packed_rows import PackedRows
from serving.online_store.store_columns import ColumnRead, PackedColumns, StoredColumns, by_columns
from serving.online_store.table_names import check_tables, sharing
from transforms.errors import ConfigError, RightsError, StoreError
from transforms.instants import instant

try:
    import psycopg
    from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore, PostgreSQLOnlineStoreConfig, _table_id

    from serving.online_store import postgres_tables as tables
    from serving.online_store.postgres_link import SETTING_UP, connect, fix_of, opened, refuses
    from serving.online_store.postgres_tables import order_table
except ImportError as missing:
    raise ConfigError(
        f"the PostgreSQL online store needs the extra 'postgres' ({missing}): pip install 'tandem-features[postgres]'"
    ) from None

__all__ = ["OrderedPostgresOnlineStore", "OrderedPostgresOnlineStoreConfig"]

Type = Literal[
    "serving.online_store.postgres.OrderedPostgresOnlineStore", "tandem.serving.online_store.postgres.OrderedPostgresOnlineStore"
]
_ROWS_PER_STATEMENT = 5000
_KEYS_PER_PAGE = 10_000
_LOCK_TIMEOUT = "100ms"
"""How long a claim waits for a table whose trigger it would replace."""
_GRANT = "run 'tandem apply' as who may CREATE, and grant this user SELECT, INSERT and UPDATE on table tandem_owner"


class OrderedPostgresOnlineStoreConfig(OrderedOnlineStoreConfig, PostgreSQLOnlineStoreConfig):
    """Configuration, as Feast's: host, port, database, db_schema, user, password, sslmode and the paths of certificates.

    ``conn_type`` and the sizes of a pool are not used: each thread has a connection of its own.
    """

    type: Type = "tandem.serving.online_store.postgres.OrderedPostgresOnlineStore"  # type: ignore[assignment]
    connect_timeout_seconds: float = 5.0
    statement_timeout_seconds: float = 30.0
    """How long a statement may take, waiting for other writers included."""

    def limit_waits(self, seconds: float) -> None:
        """The two limits, where the file sets none."""
        for name in ("connect_timeout_seconds", "statement_timeout_seconds"):
            if name not in self.model_fields_set:
                setattr(self, name, seconds)


class OrderedPostgresOnlineStore(OrderedOnlineStore, PostgreSQLOnlineStore):
    """Feast's tables (one line per key and feature, one more for the packed row), and per view a table ``<its table>_tandem`` with the
    order of each key's row.

    A write is one transaction: one statement decides per key, by an upsert, and writes the features of the winners.
    Writers of a view share a lock that what applies a graph or keeps what is covered takes alone: so both are what the whole batch saw.
    """

    keeps_packed = True

    @contextlib.contextmanager
    def _transaction(self, config: RepoConfig, view: str = "", alone: bool = False, owned: bool = False) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction of this thread's connection; with a ``view``, as one of its writers, or ``alone`` among them. While one that is
        ``owned`` is open, nobody can take the rows over."""
        with self._connected(config) as conn, conn.pipeline(), conn.transaction(), conn.cursor(binary=True) as cursor:
            if owned:
                cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_lock_of(config, _TAKING),))
            if view:
                cursor.execute(f"SELECT pg_advisory_xact_lock{'' if alone else '_shared'}(%s)", (_lock_of(config, view),))
            yield cursor

    def _owned(self, config: RepoConfig) -> bool:
        """Whether writes are to look at whose the rows are, and may: the table is younger than rights that were given long ago."""
        if self.writer is None:
            return False
        if not self.__dict__.get("_sees_mark"):  # who was granted it meanwhile need not begin anew
            with self._connected(config) as conn:
                self.__dict__["_sees_mark"] = bool(_first(conn.execute(tables.SEES_MARK)))
        return bool(self.__dict__["_sees_mark"])

    @contextlib.contextmanager
    def _writing(self, config: RepoConfig, view: str) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction alone among a view's writers, as :attr:`writer`."""
        with self._transaction(config, view, alone=True, owned=(owned := self._owned(config))) as cursor:
            if owned:
                check_owner(config.project, self._owner(cursor, config), self.writer)
            yield cursor

    def reach(self, config: RepoConfig) -> None:
        try:
            with opened(config) as conn:
                conn.execute("SELECT 1")
        except psycopg.Error as e:
            raise unreachable(self._where(config), e, fix_of(e), refuses(e)) from e

    @staticmethod
    def _where(config: RepoConfig) -> str:
        return f"postgres {config.online_store.host}:{config.online_store.port}/{config.online_store.database}"

    @contextlib.contextmanager
    def _connected(self, config: RepoConfig) -> Iterator[psycopg.Connection[Any]]:
        """This thread's connection in this process: it must not cross a fork. What fails is a StoreError; a broken one is opened anew by
        who comes next."""
        local = self.__dict__.setdefault("_local", threading.local())
        try:
            held = getattr(local, "held", None)
            if held is None or held[0] != os.getpid() or held[1].closed:
                local.held = held = (os.getpid(), connect(config))
            yield held[1]
        except psycopg.Error as e:
            held = getattr(local, "held", None)
            if held is not None and isinstance(e, (psycopg.OperationalError, psycopg.InterfaceError)):
                with contextlib.suppress(psycopg.Error):
                    held[1].close()
            raise unreachable(self._where(config), e, fix_of(e), refuses(e)) from e

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        name, view = _table_id(config.project, table), table.name
        names = [*([] if rows.packed is None else [PACKED]), *(f.name for f in table.features)]
        written = 0
        owned = self._owned(config)
        with self._transaction(config, view, owned=owned) as cursor:
            cursor.execute(tables.state(name, owned), {"project": config.project, "view": view})
            applied, stamp, upto, ready, old_trigger, owner, _ = cursor.fetchall()[0]
            check_owner(config.project, owner, self.writer)
            rows.check_applied(view, applied)
            rows = rows.uncovered(None if stamp is None else Covered(stamp, upto))
            if not ready:
                self._make(cursor, name)
            cursor.execute(tables.adopt(name))
            rows = rows.take(pc.sort_indices(rows.keys).to_numpy())  # all writers lock keys in one order
            for start in range(0, len(rows), _ROWS_PER_STATEMENT):
                some = rows.take(np.arange(start, min(start + _ROWS_PER_STATEMENT, len(rows))))
                given = {"stamp": rows.stamp, "applied": applied, "upto": rows.upto_us, "names": names, "width": len(names)}
                given["packed"] = rows.packed is not None
                written += _first(cursor.execute(tables.write(name), {**given, **_columns(some)}))
        if old_trigger and name not in (tried := self.__dict__.setdefault("_tried_triggers", set())):
            tried.add(name)  # after this, claims do
            self._replaced_trigger(config, name)
        return written

    @staticmethod
    def _make(cursor: psycopg.Cursor[Any], name: str) -> None:
        """The tables of a view: by one transaction at a time, as CREATE ... IF NOT EXISTS fails where two do it at once."""
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (SETTING_UP,))
        for statement in tables.create(name):
            cursor.execute(statement)

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        position = {n: i for i, n in enumerate(names)}
        found: dict[bytes, StoredRow] = {}
        with self._looking(config) as cursor:
            cursor.execute(tables.fields_query(_table_id(config.project, table)), [list(names), list(dict.fromkeys(keys))])
            for key, at, features, values in cursor:
                row = found[key] = (at, [None] * len(names))
                for feature, value in zip(features or (), values or ()):
                    row[1][position[feature]] = value
        self._look_at_order(config, table, len(found) < len(set(keys)))
        return [found.get(k) for k in keys]

    def read_columns(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> list[StoredColumns]:
        """One statement per view."""
        return [self._columns_of(config, read) for read in reads]

    def _columns_of(self, config: RepoConfig, read: ColumnRead) -> StoredColumns:
        if config.online_store.packed and (packed := self._packed_of(config, read)) is not None:
            return PackedColumns(packed, read.names)
        return by_columns(self.read_stored(config, read.table, read.keys, read.names), len(read.names))

    def _packed_of(self, config: RepoConfig, read: ColumnRead) -> PackedRows | None:
        """The packed rows of all keys that have a row; None where one has none."""
        found: dict[bytes, bytes | None] = {}
        with self._looking(config) as cursor:
            cursor.execute(tables.packed_query(_table_id(config.project, read.table)), [list(dict.fromkeys(read.keys))])
            found = dict(cursor.fetchall())
        if None in found.values():
            return None
        self._look_at_order(config, read.table, len(found) < len(set(read.keys)))
        return PackedRows.read(read.layout, [found.get(key) for key in read.keys], read.names)

    def _look_at_order(self, config: RepoConfig, table: FeatureView, missing: bool) -> None:
        """Where keys are missing: rows that another class wrote have no order here, and would be read as none."""
        name, known = _table_id(config.project, table), self.__dict__.setdefault("_ordered_views", set())
        if not missing or name in known:
            return
        there = []
        for query in tables.has_rows(name):
            there.append(False)
            with self._looking(config) as cursor:
                there[-1] = bool(_first(cursor.execute(query)))
        if there == [True, False]:
            raise without_order(table.name)
        if there[1]:
            known.add(name)

    @contextlib.contextmanager
    def _looking(self, config: RepoConfig) -> Iterator[psycopg.Cursor[Any]]:
        """A cursor for one statement that reads. Of a view that was never written or applied there is nothing."""
        with self._connected(config) as conn, conn.cursor(binary=True) as cursor, contextlib.suppress(psycopg.errors.UndefinedTable):
            yield cursor

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        with self._transaction(config, view, alone=True) as cursor:
            if self._applied(cursor, config, view) != fingerprint:
                check_tables(config.project, view, cursor.execute("SELECT project, view FROM tandem_applied").fetchall())
                cursor.execute(
                    "INSERT INTO tandem_applied VALUES (%s, %s, %s)"
                    " ON CONFLICT (project, view) DO UPDATE SET fingerprint = excluded.fingerprint",
                    (config.project, view, fingerprint),
                )
                cursor.execute("DELETE FROM tandem_covered WHERE project = %s AND view = %s", (config.project, view))

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        with self._looking(config) as cursor:
            return self._applied(cursor, config, view)
        return None

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        with self._writing(config, view) as cursor:
            cursor.execute(
                "INSERT INTO tandem_covered VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (project, view) DO UPDATE SET stamp = excluded.stamp, upto_us = excluded.upto_us",
                (config.project, view, covered.stamp, covered.upto_us),
            )

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        with self._looking(config) as cursor:
            return self._covered(cursor, config, view)
        return None

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        with self._writing(config, table.name) as cursor:
            applied = self._applied(cursor, config, table.name)
            given = {"start": start_us, "upto": covered.upto_us, "stamp": covered.stamp, "since": covered.since, "applied": applied}
            return _first(cursor.execute(tables.superseded(_table_id(config.project, table), count_only), given))

    def stored_keys(self, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
        query, last = tables.keys_query(_table_id(config.project, table)), b""
        while True:
            page: list[bytes] = []
            with self._looking(config) as cursor:
                page = [key for (key,) in cursor.execute(query, (last, holding, _KEYS_PER_PAGE))]
            yield from page
            if len(page) < _KEYS_PER_PAGE:
                return
            last = page[-1]

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        with self._transaction(config, table.name) as cursor:
            self._make(cursor, name := _table_id(config.project, table))
            for statement in tables.delete(name):
                cursor.execute(statement, [list(keys)])

    def compact(self, config: RepoConfig, tables: Sequence[FeatureView]) -> None:
        """These tables anew. The server's write-ahead log and backups are its own business."""
        for name in (_table_id(config.project, table) for table in tables):
            for found in (name, order_table(name)):
                with self._looking(config) as cursor:
                    cursor.execute(psycopg.sql.SQL("VACUUM FULL {}").format(psycopg.sql.Identifier(found)))

    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        with self._transaction(config, f"mark {name}", alone=True) as cursor:
            cursor.execute("SELECT value FROM tandem_marks WHERE project = %s AND name = %s", (config.project, name))
            found = cursor.fetchone()
            if at_least is not None and (found is None or found[0] < at_least):
                return False
            cursor.execute(
                "INSERT INTO tandem_marks VALUES (%s, %s, %s) ON CONFLICT (project, name) DO UPDATE SET value = excluded.value",
                (config.project, name, value),
            )
        return True

    def claim(self, config: RepoConfig, owner: str, take: bool = False) -> str:
        """Who may neither make nor write the table of marks, as rights were given before there was one, has none kept: one line says so. A
        mark that is to be moved and cannot be is a RightsError.

        Every writer begins with it, so here triggers of before become ours: other writers of the table do not wait for our first row."""
        self._replace_triggers(config)
        found = self.owner(config)
        if found is not None and (not take or found == owner):
            return found
        try:
            with self._transaction(config, _TAKING, alone=True) as cursor:  # what is being written ends first
                return str(cursor.execute(tables.claim(take), (config.project, owner)).fetchall()[0][0])
        except StoreError as error:
            if not isinstance(error.__cause__, (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)):
                raise
            why = str(error.__cause__).splitlines()[0]
            if take or self.owner(config) is not None:
                raise RightsError(
                    f"online store {self._where(config)}: the mark of whose rows those of project {config.project!r} are cannot be moved"
                    f" ({why}): {_GRANT}"
                ) from error
            told: set[str] = self.__dict__.setdefault("_told_of_no_mark", set())
            if config.project not in told:
                told.add(config.project)
                log.warning(
                    "%s: no mark of whose rows these are (%s): another data folder that writes project %r is not refused; %s",
                    self._where(config),
                    why,
                    config.project,
                    _GRANT,
                )
            return owner

    def _replace_triggers(self, config: RepoConfig) -> None:
        """Those of the project's views. Where one cannot be replaced now, as its table is locked say, the next claim tries again."""
        if config.project in (looked := self.__dict__.setdefault("_looked_at_triggers", set())):
            return
        names: list[str] = []
        with contextlib.suppress(StoreError), self._looking(config) as cursor:
            names = [name for (name,) in cursor.execute(tables.triggers_of_before(), (config.project,)).fetchall()]
            looked.add(config.project)
        for name in names:
            if not self._replaced_trigger(config, name):
                looked.discard(config.project)

    def _replaced_trigger(self, config: RepoConfig, name: str) -> bool:
        try:
            with self._transaction(config) as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
                self._make(cursor, name)
        except StoreError:
            return False
        return True

    def disclaim(self, config: RepoConfig, owner: str) -> None:
        with self._transaction(config, _TAKING, alone=True) as cursor:
            cursor.execute("UPDATE tandem_owner SET owner = '' WHERE project = %s AND owner = %s", (config.project, owner))

    def owner(self, config: RepoConfig) -> str | None:
        try:
            with self._looking(config) as cursor:
                return self._owner(cursor, config)
        except StoreError as error:
            if not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):  # of which a claim tells
                raise
        return None

    @staticmethod
    def _owner(cursor: psycopg.Cursor[Any], config: RepoConfig) -> str | None:
        found = cursor.execute("SELECT nullif(owner, '') FROM tandem_owner WHERE project = %s", (config.project,)).fetchone()
        return None if found is None or found[0] is None else str(found[0])

    @staticmethod
    def _applied(cursor: psycopg.Cursor[Any], config: RepoConfig, view: str) -> str | None:
        cursor.execute("SELECT fingerprint FROM tandem_applied WHERE project = %s AND view = %s", (config.project, view))
        found = cursor.fetchone()
        return found[0] if found else None

    @staticmethod
    def _covered(cursor: psycopg.Cursor[Any], config: RepoConfig, view: str) -> Covered | None:
        cursor.execute("SELECT stamp, upto_us FROM tandem_covered WHERE project = %s AND view = %s", (config.project, view))
        found = cursor.fetchone()
        return Covered(*found) if found else None

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Feast's ``apply``: tables for the views that are there, none for those that are gone."""
        with self._transaction(config, "apply of a project", alone=True) as cursor:
            for table in tables_to_keep:
                self._make(cursor, _table_id(config.project, table))
            for table in tables_to_delete:
                others = cursor.execute("SELECT project, view FROM tandem_applied").fetchall()
                if sharing(config.project, table.name, others) is None:  # another's table is not ours to drop
                    for statement in tables.drop(_table_id(config.project, table)):
                        cursor.execute(statement)
                for kept in ("tandem_applied", "tandem_covered"):
                    cursor.execute(f"DELETE FROM {kept} WHERE project = %s AND view = %s", (config.project, table.name))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Take the tables of these views away."""
        self.update(config, tables, [], entities, [], False)


_TAKING = "whose rows these are"
"""What is locked where they are taken over: the name of no view, as those have no spaces."""


def _lock_of(config: RepoConfig, view: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{config.project}\0{view}".encode(), digest_size=8).digest(), "big", signed=True)


def _first(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    if row is None:
        raise StoreError("online store postgres: a statement that counts gave nothing; this is a fault of Tandem's, please report it")
    return int(row[0])


def _columns(rows: Rows) -> dict[str, list[Any]]:
    """The rows as the statement's arrays."""
    at = {us: instant(us) for us in np.unique(rows.event_us).tolist()}
    times = rows.event_us.tolist()
    cells = [c.to_pylist() for c in ([] if rows.packed is None else [rows.packed]) + list(rows.values)]
    return {
        "keys": rows.keys.to_pylist(),
        "us": times,
        "revisions": rows.revision.tolist(),
        "prints": rows.fingerprint.to_pylist(),
        "times": [at[us] for us in times],
        "created": [None] * len(rows) if rows.created is None else [_aware(at) for at in rows.created],
        "vals": list(chain.from_iterable(zip(*cells))),
    }


def _aware(at: datetime | None) -> datetime | None:
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)
