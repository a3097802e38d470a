"""The embedded online store: Feast's SQLite layout, with the order of each row kept beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow.compute as pc
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig, _table_id

from serving.online_store.base import Covered, OrderedOnlineStore, OrderedOnlineStoreConfig, Rows, StoredRow, unreachable
from serving.online_store.order import check_owner, without_order
from serving.online_store.packed import PACKED
from serving.online_store.packed_rows import PackedRows
from serving.online_store.sqlite_file import SqliteFile, is_shut
from serving.online_store.sqlite_tables import WRITING, adopt, columns_query, create, lines, packed_query
from serving.online_store.store_columns import ColumnRead, PackedColumns, StoredColumns, by_columns
from serving.online_store.table_names import check_tables, sharing
from transforms.errors import StoreError

__all__ = ["OrderedSqliteOnlineStore", "OrderedSqliteOnlineStoreConfig"]

T = TypeVar("T")
_APPLIED = "tandem_applied"
_MARKS = "tandem_marks"
_COVERED = "tandem_covered"
_OWNER = "tandem_owner"
_FRAME_BYTES = 24
"""What the log beside the file takes for a page, beside the page."""
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
    on_this_machine = True

    def _file(self, config: RepoConfig) -> SqliteFile:
        at = (self._get_db_path(config), config.online_store.busy_timeout_seconds)
        files: dict[tuple[str, float], SqliteFile] = self.__dict__.setdefault("_files", {})
        return files.get(at) or files.setdefault(at, SqliteFile(*at, _make))

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        """A connection that writes, of this thread: as Feast's own methods ask for it."""
        return self._file(config).writer()

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
            if is_shut(e):  # a connection that was opened while the file could only be read stays so
                self._file(config).close()
            raise unreachable(
                self._get_db_path(config), e, "nothing of this batch was written; fix the file or its disk and write again"
            ) from e

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        name = _table_id(config.project, table)
        with self._transaction(config) as conn:
            self._check_owner(conn, config)
            create(conn, name)
            adopt(conn, name)
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
                won = rows.take(wins)
                conn.execute(f"INSERT INTO {WRITING} VALUES (1)")
                if rows.packed is None:
                    conn.executemany(
                        f"DELETE FROM \"{name}\" WHERE entity_key = ? AND feature_name = '{PACKED}'", [(k,) for k in won.keys.to_pylist()]
                    )
                conn.executemany(
                    f"""
                    INSERT INTO "{name}" (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT (entity_key, feature_name) DO UPDATE
                    SET value = excluded.value, vector_value = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts""",
                    lines(table, won),
                )
                conn.execute(f"DELETE FROM {WRITING}")
        return len(wins)

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        name = _table_id(config.project, table)
        position = {n: i for i, n in enumerate(names)}
        unique = list(dict.fromkeys(keys))

        def cells(conn: sqlite3.Connection) -> list[tuple[bytes, int, str | None, bytes | None]]:
            read = []
            for start in range(0, len(unique), _KEYS_PER_QUERY):
                some = unique[start : start + _KEYS_PER_QUERY]
                query = f"""
                    SELECT o.entity_key, o.event_us, f.feature_name, f.value FROM "{name}_tandem" o LEFT JOIN "{name}" f
                    ON f.entity_key = o.entity_key AND f.feature_name IN ({",".join("?" * len(names))})
                    WHERE o.entity_key IN ({",".join("?" * len(some))})"""
                read += conn.execute(query, [*names, *some]).fetchall()
            return read

        found: dict[bytes, StoredRow] = {}
        for key, at, feature, value in self._read(config, cells) or []:
            row = found.setdefault(key, (at, [None] * len(names)))
            if feature is not None:
                row[1][position[feature]] = value
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
        if width > _MOST_COLUMNS:
            return by_columns(self.read_stored(config, read.table, read.keys, read.names), width)
        unique = list(dict.fromkeys(read.keys))

        def lines_of(conn: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return [
                row
                for some in _in_rooms(unique)
                for row in conn.execute(columns_query(name, width, len(some)), [*read.names, *some]).fetchall()
            ]

        found = {row[0]: row for row in self._read(config, lines_of) or []}
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
        unique = list(dict.fromkeys(read.keys))

        def packed(conn: sqlite3.Connection) -> dict[bytes, bytes] | None:
            found: dict[bytes, bytes] = {}
            for some in _in_rooms(unique):
                found.update(conn.execute(packed_query(name, len(some)), some).fetchall())
            for some in _in_rooms([key for key in unique if key not in found]):
                places = ",".join("?" * len(some))
                if conn.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}_tandem" WHERE entity_key IN ({places}))', some).fetchone()[0]:
                    return None
            return found

        found = self._read(config, packed)
        if found is None:
            return None
        if len(found) < len(unique):
            self._look_at_order(config, read.table.name, name)
        return PackedRows.read(read.layout, [found.get(key) for key in read.keys], read.names)

    def _read(self, config: RepoConfig, do: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``do`` reads; None where a table is not there yet. Raises StoreError."""
        file = self._file(config)
        try:
            return file.read(do)
        except sqlite3.Error as e:
            if "no such table" in str(e):
                return None
            raise unreachable(file.path, e, "fix the file") from e

    def _look_at_order(self, config: RepoConfig, view: str, name: str) -> None:
        """Rows that another class wrote have no order here, and would be read as none."""
        if name in self.__dict__.setdefault("_ordered_views", set()):
            return
        rows, orders = (self._read(config, partial(_has_rows, table=n)) for n in (name, f"{name}_tandem"))
        if rows and not orders:
            raise without_order(view)
        if orders:
            self.__dict__["_ordered_views"].add(name)

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        with self._transaction(config) as conn:
            if self._applied(conn, config, view) != fingerprint:
                check_tables(config.project, view, _all_applied(conn))
                conn.execute(
                    f"INSERT OR REPLACE INTO {_APPLIED} (project, view, fingerprint) VALUES (?, ?, ?)", (config.project, view, fingerprint)
                )
                conn.execute(f"DELETE FROM {_COVERED} WHERE project = ? AND view = ?", (config.project, view))

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        return self._read(config, lambda conn: self._applied(conn, config, view))

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        with self._transaction(config) as conn:
            self._check_owner(conn, config)
            conn.execute(
                f"INSERT OR REPLACE INTO {_COVERED} (project, view, stamp, upto_us) VALUES (?, ?, ?, ?)",
                (config.project, view, covered.stamp, covered.upto_us),
            )

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        return self._read(config, lambda conn: self._covered(conn, config, view))

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        name = _table_id(config.project, table)
        with self._transaction(config) as conn:
            self._check_owner(conn, config)
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
            page = [key for (key,) in self._read(config, partial(_lines_of, query=query, values=(last, holding))) or []]
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

    def check_room(self, config: RepoConfig) -> None:
        """``VACUUM`` writes the file's content twice: into SQLite's folder for temporary files, and into the log beside the file."""
        file = self._file(config)
        if not os.path.exists(file.path):
            return
        try:
            pages, unused, size = file.read(_pages)
        except (sqlite3.Error, StoreError):  # damaged, or held by somebody: whoever works with it next is told
            return
        needed = (pages - unused) * (size + _FRAME_BYTES)
        places = [os.path.dirname(os.path.abspath(file.path)), _temporary_folder()]
        for folder, device in [(f, os.stat(f).st_dev) for f in dict.fromkeys(places)]:
            share = needed * sum(os.stat(f).st_dev == device for f in places)
            if (free := shutil.disk_usage(folder).free) < share:
                raise StoreError(
                    f"online store {file.path}: to write it anew takes {share:,} bytes in {' and '.join(dict.fromkeys(places))}, and"
                    f" {folder} has {free:,}; make room, or name another disk by SQLITE_TMPDIR for the half of it that is temporary"
                )

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

    def claim(self, config: RepoConfig, owner: str, take: bool = False) -> str:
        """In a copy of the file the mark does not count: the rows of a copy are nobody's yet."""
        with self._transaction(config) as conn:
            if (found := self._owner(conn, config)) is not None and not take:
                return found
            file = _inode(self._get_db_path(config))
            conn.execute(f"INSERT OR REPLACE INTO {_OWNER} (project, owner, file) VALUES (?, ?, ?)", (config.project, owner, file))
        return owner

    def disclaim(self, config: RepoConfig, owner: str) -> None:
        with self._transaction(config) as conn:
            conn.execute(f"DELETE FROM {_OWNER} WHERE project = ? AND owner = ?", (config.project, owner))

    def owner(self, config: RepoConfig) -> str | None:
        return self._read(config, lambda conn: self._owner(conn, config))

    def _owner(self, conn: sqlite3.Connection, config: RepoConfig) -> str | None:
        found = conn.execute(
            f"SELECT owner FROM {_OWNER} WHERE project = ? AND file = ?", (config.project, _inode(self._get_db_path(config)))
        ).fetchone()
        return None if found is None else str(found[0])

    def _check_owner(self, conn: sqlite3.Connection, config: RepoConfig) -> None:
        if self.writer is not None:
            check_owner(config.project, self._owner(conn, config), self.writer)

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
                if sharing(config.project, table.name, _all_applied(conn)) is None:  # another's table is not ours to drop
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
        self.__dict__.pop("_files", None)


def _inode(path: str) -> str:
    """Which file it is, in text: SQLite's integers hold none of 2^63 or more."""
    return f"inode {os.stat(path).st_ino if os.path.exists(path) else 0}"


def _in_rooms(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Some keys at a time, the last once more until there are a power of two: few different statements, which SQLite keeps compiled."""
    for start in range(0, len(keys), _KEYS_PER_READ):
        some = keys[start : start + _KEYS_PER_READ]
        yield some + some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))


def _make(conn: sqlite3.Connection) -> None:
    """The tables that a file has once, for all views."""
    conn.execute(f"CREATE TABLE IF NOT EXISTS {_APPLIED} (project TEXT, view TEXT, fingerprint TEXT NOT NULL, PRIMARY KEY (project, view))")
    conn.execute(
        f"CREATE TABLE IF NOT EXISTS {_COVERED} (project TEXT, view TEXT, stamp INTEGER NOT NULL, upto_us INTEGER NOT NULL,"
        " PRIMARY KEY (project, view))"
    )
    conn.execute(f"CREATE TABLE IF NOT EXISTS {_OWNER} (project TEXT PRIMARY KEY, owner TEXT NOT NULL, file TEXT NOT NULL)")


def _all_applied(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    """(project, view) of all that have an applied graph in this file."""
    return conn.execute(f"SELECT project, view FROM {_APPLIED}").fetchall()


def _has_rows(conn: sqlite3.Connection, table: str) -> bool:
    return bool(conn.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}")').fetchone()[0])


def _lines_of(conn: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    return conn.execute(query, values).fetchall()


def _pages(conn: sqlite3.Connection) -> tuple[int, int, int]:
    """How many pages the file has, how many of them are not in use, and the bytes of one."""
    pages, unused, size = (int(conn.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size"))
    return pages, unused, size


def _temporary_folder() -> str:
    """Where SQLite puts temporary files, by its own rule."""
    named = [os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp"]
    return next((f for f in named if f and os.path.isdir(f) and os.access(f, os.W_OK | os.X_OK)), ".")
