"""The embedded online store: Feast's SQLite layout, with the order of each row kept beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig, _table_id

from serving.online_store.base import Covered, OrderedOnlineStore, OrderedOnlineStoreConfig, Rows, StoredRow, unreachable
from serving.online_store.columns import ColumnRead, PackedColumns, StoredColumns, by_columns
from serving.online_store.packed_rows import PackedRows
from serving.online_store.sqlite_tables import WRITING, columns_query, create, lines, packed_query
from transforms.errors import StoreError

__all__ = ["OrderedSqliteOnlineStore", "OrderedSqliteOnlineStoreConfig"]

_APPLIED = "tandem_applied"
_MARKS = "tandem_marks"
_COVERED = "tandem_covered"
_KEYS_PER_QUERY = 500
_KEYS_PER_READ = 512
_KEYS_PER_PAGE = 10_000
_MOST_COLUMNS = 400
"""SQLite takes 2,000 columns of a result, and in older versions 999 values; such a view is read the slower way."""


Type = Literal["serving.online_store.sqlite.OrderedSqliteOnlineStore", "tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore"]


class OrderedSqliteOnlineStoreConfig(OrderedOnlineStoreConfig, SqliteOnlineStoreConfig):
    """Configuration; ``path`` is relative to the feature repository."""

    type: Type = "tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore"  # type: ignore[assignment]
    busy_timeout_seconds: float = 30.0
    """How long a writer waits for another one."""

    def limit_waits(self, seconds: float) -> None:
        """The time that one waits for a writer, where the file sets none."""
        if "busy_timeout_seconds" not in self.model_fields_set:
            self.busy_timeout_seconds = seconds


class OrderedSqliteOnlineStore(OrderedOnlineStore, SqliteOnlineStore):
    """Feast's tables (one line per key and feature, one more for the packed row), and per view a table ``<its table>_tandem`` with the
    order of each key's row.

    A write is one transaction: an upsert into the order table decides per key, and the features of the winners follow.
    WAL lets readers read while one writer writes; a read sees whole rows.
    """

    keeps_packed = True

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        """A connection of this thread in this process: SQLite's must not cross a fork, and transactions must not mix.

        A file that was deleted or replaced is opened anew: SQLite itself would go on with the old one, which nobody else sees.
        """
        local = self.__dict__.setdefault("_local", threading.local())
        path = self._get_db_path(config)
        held = getattr(local, "held", None)
        if held is not None and held[:3] == (os.getpid(), path, _identity(path)):
            return held[3]  # type: ignore[no-any-return]
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            conn = sqlite3.connect(
                path,
                timeout=config.online_store.busy_timeout_seconds,
                isolation_level=None,
                check_same_thread=False,
                detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES,
            )
            _to_wal(conn, config.online_store.busy_timeout_seconds)
            conn.execute("PRAGMA synchronous=NORMAL")
            conn.execute(
                f"CREATE TABLE IF NOT EXISTS {_APPLIED} (project TEXT, view TEXT, fingerprint TEXT NOT NULL, PRIMARY KEY (project, view))"
            )
            conn.execute(
                f"CREATE TABLE IF NOT EXISTS {_COVERED} (project TEXT, view TEXT, stamp INTEGER NOT NULL, upto_us INTEGER NOT NULL,"
                " PRIMARY KEY (project, view))"
            )
        except (sqlite3.Error, OSError) as e:
            raise unreachable(path, e, "give a path that can be written in feature_store.yaml") from e
        local.held = (os.getpid(), path, _identity(path), conn)
        return conn

    @contextlib.contextmanager
    def _transaction(self, config: RepoConfig) -> Iterator[sqlite3.Connection]:
        conn = self._get_conn(config)
        try:
            conn.execute("BEGIN IMMEDIATE")
            try:
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:  # of a full disk SQLite has gone back by itself, and the reason is the first error
                    conn.execute("ROLLBACK")
                raise
        except sqlite3.Error as e:
            raise unreachable(
                self._get_db_path(config), e, "nothing of this batch was written; fix the file or its disk and write again"
            ) from e

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        name = _table_id(config.project, table)
        with self._transaction(config) as conn:
            create(conn, name)
            applied = self._applied(conn, config, table.name)
            rows.check_applied(table.name, applied)
            rows = rows.uncovered(self._covered(conn, config, table.name))
            upsert = f"""
                INSERT INTO "{name}_tandem" AS o (entity_key, event_us, revision, fingerprint, stamp) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT (entity_key) DO UPDATE SET event_us = excluded.event_us, revision = excluded.revision,
                    fingerprint = excluded.fingerprint, stamp = excluded.stamp
                WHERE (excluded.event_us, excluded.revision) > (o.event_us, o.revision)
                   OR (excluded.fingerprint <> o.fingerprint AND excluded.fingerprint = ?)
                   OR (excluded.stamp > o.stamp AND o.event_us <= ?)"""
            rows = rows.take(pc.sort_indices(rows.keys).to_numpy())  # neighbours in the tree, one after the other: twice as fast
            times = rows.event_us.tolist()
            upto = times if rows.upto_us is None else repeat(rows.upto_us)
            ordered = zip(
                rows.keys.to_pylist(),
                times,
                rows.revision.tolist(),
                rows.fingerprint.to_pylist(),
                repeat(rows.stamp),
                repeat(applied),
                upto,
            )
            wins = np.array([i for i, row in enumerate(ordered) if conn.execute(upsert, row).rowcount == 1], np.int64)
            if len(wins):
                if rows.packed is not None:
                    conn.execute(f"INSERT INTO {WRITING} VALUES (1)")
                conn.executemany(
                    f"""
                    INSERT INTO "{name}" (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT (entity_key, feature_name) DO UPDATE
                    SET value = excluded.value, vector_value = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts""",
                    lines(table, rows.take(wins)),
                )
                if rows.packed is not None:
                    conn.execute(f"DELETE FROM {WRITING}")
        return len(wins)

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        conn, name = self._get_conn(config), _table_id(config.project, table)
        position = {n: i for i, n in enumerate(names)}
        found: dict[bytes, StoredRow] = {}
        unique = list(dict.fromkeys(keys))
        try:
            for start in range(0, len(unique), _KEYS_PER_QUERY):
                some = unique[start : start + _KEYS_PER_QUERY]
                query = f"""
                    SELECT o.entity_key, o.event_us, f.feature_name, f.value FROM "{name}_tandem" o LEFT JOIN "{name}" f
                    ON f.entity_key = o.entity_key AND f.feature_name IN ({",".join("?" * len(names))})
                    WHERE o.entity_key IN ({",".join("?" * len(some))})"""
                for key, at, feature, value in conn.execute(query, [*names, *some]):
                    row = found.setdefault(key, (at, [None] * len(names)))
                    if feature is not None:
                        row[1][position[feature]] = value
        except sqlite3.OperationalError as e:
            if "no such table" in str(e):
                with contextlib.suppress(sqlite3.Error):
                    if conn.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone()[0]:
                        create(conn, name)
                        self._check_order(conn, table.name, name)
                return [None] * len(keys)  # nothing has been written yet
            raise unreachable(self._get_db_path(config), e, "fix the file") from e
        except sqlite3.Error as e:
            raise unreachable(self._get_db_path(config), e, "fix the file") from e
        if len(found) < len(unique):
            self._look_at_order(config, table.name, name)
        return [found.get(k) for k in keys]

    def read_columns(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> list[StoredColumns]:
        """One statement per view and 512 keys, on a connection of this thread that only reads."""
        return [self._columns_of(config, read) for read in reads]

    def _columns_of(self, config: RepoConfig, read: ColumnRead) -> StoredColumns:
        name, width = _table_id(config.project, read.table), len(read.names)
        if config.online_store.packed and (packed := self._packed_of(config, read, name)) is not None:
            return PackedColumns(packed, read.names)
        found: dict[bytes, tuple[Any, ...]] = {}
        unique = list(dict.fromkeys(read.keys))
        try:
            if width > _MOST_COLUMNS:
                raise sqlite3.OperationalError("more columns than a statement may have")
            conn = self._reader(config)
            for some in _in_rooms(unique):
                for row in conn.execute(columns_query(name, width, len(some)), [*read.names, *some]):
                    found[row[0]] = row
        except (sqlite3.Error, StoreError):  # nothing is written yet, or all that is the matter with a file: said there
            return by_columns(self.read_stored(config, read.table, read.keys, read.names), width)
        if len(found) < len(unique):
            self._look_at_order(config, read.table.name, name)
            missing = (None, None, *[None] * width)
            rows = [found.get(key, missing) for key in read.keys]
        else:
            rows = [found[key] for key in read.keys]
        _, times, *cells = zip(*rows) if rows else ((), (), *[()] * width)
        there = np.array([at is not None for at in times], np.bool_)
        return StoredColumns(np.array([at or 0 for at in times], np.int64), there, cells)

    def _packed_of(self, config: RepoConfig, read: ColumnRead, name: str) -> PackedRows | None:
        """The packed rows of all keys that have a row; None where one has none."""
        found: dict[bytes, bytes] = {}
        unique = list(dict.fromkeys(read.keys))
        try:
            conn = self._reader(config)
            for some in _in_rooms(unique):
                found.update(conn.execute(packed_query(name, len(some)), some).fetchall())
            if len(found) < len(unique):
                for some in _in_rooms([key for key in unique if key not in found]):
                    places = ",".join("?" * len(some))
                    if conn.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}_tandem" WHERE entity_key IN ({places}))', some).fetchone()[0]:
                        return None
                self._look_at_order(config, read.table.name, name)
        except sqlite3.Error:  # nothing is written yet, or all that is the matter with a file: said by who reads the features
            return None
        return PackedRows.read(read.layout, [found.get(key) for key in read.keys], read.names)

    def _reader(self, config: RepoConfig) -> sqlite3.Connection:
        """This thread's connection for reading. Like :meth:`_get_conn`'s, it is opened anew where the file is another one."""
        local = self.__dict__.setdefault("_local", threading.local())
        path = self._get_db_path(config)
        held = getattr(local, "reader", None)
        if held is not None and held[:3] == (os.getpid(), path, _identity(path)):
            return held[3]  # type: ignore[no-any-return]
        self._get_conn(config)  # makes the file, and switches it to WAL
        uri = f"{Path(path).absolute().as_uri()}?mode=ro"
        wait = config.online_store.busy_timeout_seconds
        conn = sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False, cached_statements=256)
        local.reader = (os.getpid(), path, _identity(path), conn)
        return conn

    def _look_at_order(self, config: RepoConfig, view: str, name: str) -> None:
        if name not in self.__dict__.setdefault("_ordered_views", set()):
            self._check_order(self._get_conn(config), view, name)

    def _check_order(self, conn: sqlite3.Connection, view: str, name: str) -> None:
        """Rows that another class wrote have no order here, and would be read as none."""
        rows, orders = (conn.execute(f'SELECT EXISTS (SELECT 1 FROM "{n}")').fetchone()[0] for n in (name, f"{name}_tandem"))
        if rows and not orders:
            raise StoreError(
                f"view {view!r}: its rows were written by another online store class, without the order that this one keeps;"
                " materialize the view again over their range"
            )
        if orders:
            self.__dict__["_ordered_views"].add(name)

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        with self._transaction(config) as conn:
            if self._applied(conn, config, view) != fingerprint:
                conn.execute(
                    f"INSERT OR REPLACE INTO {_APPLIED} (project, view, fingerprint) VALUES (?, ?, ?)", (config.project, view, fingerprint)
                )
                conn.execute(f"DELETE FROM {_COVERED} WHERE project = ? AND view = ?", (config.project, view))

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        return self._applied(self._get_conn(config), config, view)

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        with self._transaction(config) as conn:
            conn.execute(
                f"INSERT OR REPLACE INTO {_COVERED} (project, view, stamp, upto_us) VALUES (?, ?, ?, ?)",
                (config.project, view, covered.stamp, covered.upto_us),
            )

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        return self._covered(self._get_conn(config), config, view)

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        name = _table_id(config.project, table)
        with self._transaction(config) as conn:
            create(conn, name)
            applied = self._applied(conn, config, table.name)
            some = "(event_us BETWEEN ? AND ? AND stamp >= ? AND stamp < ?) OR (? = 0 AND ? IS NOT NULL AND fingerprint <> ?)"
            chosen = (start_us, covered.upto_us, covered.since, covered.stamp, covered.since, applied, applied)
            if not count_only:
                keys = f'SELECT entity_key FROM "{name}_tandem" WHERE {some}'
                conn.execute(f'DELETE FROM "{name}" WHERE entity_key IN ({keys})', chosen)
                return conn.execute(f'DELETE FROM "{name}_tandem" WHERE {some}', chosen).rowcount
            return int(conn.execute(f'SELECT count(*) FROM "{name}_tandem" WHERE {some}', chosen).fetchone()[0])

    def stored_keys(self, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
        query = f"""SELECT entity_key FROM "{_table_id(config.project, table)}_tandem"
            WHERE entity_key > ? AND instr(entity_key, ?) > 0 ORDER BY entity_key LIMIT {_KEYS_PER_PAGE}"""
        last = b""
        while True:  # by pages, so that no statement is open while whoever asks writes
            try:
                page = [key for (key,) in self._get_conn(config).execute(query, (last, holding))]
            except sqlite3.Error as e:
                if "no such table" in str(e):
                    return  # nothing has been written yet
                raise unreachable(self._get_db_path(config), e, "fix the file") from e
            yield from page
            if len(page) < _KEYS_PER_PAGE:
                return
            last = page[-1]

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        name = _table_id(config.project, table)
        with self._transaction(config) as conn:
            create(conn, name)
            for place in (name, f"{name}_tandem"):
                conn.executemany(f'DELETE FROM "{place}" WHERE entity_key = ?', [(key,) for key in keys])

    def compact(self, config: RepoConfig, tables: Sequence[FeatureView]) -> None:
        """The whole file anew: a deleted row stands in pages that were freed, and in the log beside the file."""
        try:
            conn = self._get_conn(config)
            conn.execute("VACUUM")
            busy = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise sqlite3.OperationalError("somebody reads from the log beside the file")
        except sqlite3.Error as e:
            raise unreachable(self._get_db_path(config), e, "the rows are deleted; run the same again for what the file still holds") from e

    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        with self._transaction(config) as conn:
            conn.execute(
                f"CREATE TABLE IF NOT EXISTS {_MARKS} (project TEXT, name TEXT, value INTEGER NOT NULL, PRIMARY KEY (project, name))"
            )
            found = conn.execute(f"SELECT value FROM {_MARKS} WHERE project = ? AND name = ?", (config.project, name)).fetchone()
            if at_least is not None and (found is None or found[0] < at_least):
                return False
            conn.execute(f"INSERT OR REPLACE INTO {_MARKS} (project, name, value) VALUES (?, ?, ?)", (config.project, name, value))
        return True

    def sync(self, config: RepoConfig) -> None:
        """Force the write-ahead log to disk: by itself SQLite does so only when it moves the log into the file."""
        path = self._get_db_path(config)
        try:
            with open(f"{path}-wal", "rb") as log:
                os.fsync(log.fileno())
        except FileNotFoundError:
            pass
        except OSError as e:
            raise unreachable(path, e, "fix the disk") from e

    @staticmethod
    def _applied(conn: sqlite3.Connection, config: RepoConfig, view: str) -> str | None:
        row = conn.execute(f"SELECT fingerprint FROM {_APPLIED} WHERE project = ? AND view = ?", (config.project, view)).fetchone()
        return row[0] if row else None

    @staticmethod
    def _covered(conn: sqlite3.Connection, config: RepoConfig, view: str) -> Covered | None:
        row = conn.execute(f"SELECT stamp, upto_us FROM {_COVERED} WHERE project = ? AND view = ?", (config.project, view)).fetchone()
        return Covered(*row) if row else None

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
        with self._transaction(config) as conn:
            for table in tables_to_keep:
                create(conn, _table_id(config.project, table))
            for table in tables_to_delete:
                name = _table_id(config.project, table)
                conn.execute(f'DROP TABLE IF EXISTS "{name}"')
                conn.execute(f'DROP TABLE IF EXISTS "{name}_tandem"')
                for kept in (_APPLIED, _COVERED):
                    conn.execute(f"DELETE FROM {kept} WHERE project = ? AND view = ?", (config.project, table.name))

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:
        """As Feast's, after making the folder of the file."""
        Path(self._get_db_path(config)).parent.mkdir(parents=True, exist_ok=True)
        return super().plan(config, desired_registry_proto)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the file and its write-ahead log."""
        for end in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._get_db_path(config) + end)
        self.__dict__.pop("_local", None)


def _in_rooms(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Some keys at a time, the last once more until there are a power of two: few different statements, which SQLite keeps compiled."""
    for start in range(0, len(keys), _KEYS_PER_READ):
        some = keys[start : start + _KEYS_PER_READ]
        yield some + some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _to_wal(conn: sqlite3.Connection, seconds: float) -> None:
    """Switch to WAL. The switch itself does not heed the busy timeout, so processes that open the file at once try again."""
    until = time.monotonic() + seconds
    while True:
        try:
            conn.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > until:
                raise
            time.sleep(0.01)
