"""An online store of its own layout: one SQLite table for all views, a row in one JSON text."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig

from tandem.serving.online_store.base import (
    Covered,
    OrderedOnlineStore,
    OrderedOnlineStoreConfig,
    Rows,
    StoredRow,
    check_owner,
    row_wins,
    unreachable,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (project, view, key, event_us, revision, fingerprint, stamp, row, PRIMARY KEY (project, view, key));
CREATE TABLE IF NOT EXISTS notes (project, kind, name, value, PRIMARY KEY (project, kind, name));
"""


class OneTableOnlineStoreConfig(OrderedOnlineStoreConfig):
    type: Literal["tandem_outside.store.OneTableOnlineStore"] = "tandem_outside.store.OneTableOnlineStore"
    path: str


class OneTableOnlineStore(OrderedOnlineStore):
    """A connection per call, a transaction per write."""

    @contextmanager
    def _open(self, config: RepoConfig) -> Iterator[sqlite3.Connection]:
        path = Path(config.repo_path or ".") / config.online_store.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                connection.executescript("PRAGMA synchronous=OFF;" + SCHEMA)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise unreachable(str(path), error, "give a path that can be written") from error

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        written, names = 0, [f.name for f in table.features]
        with self._open(config) as db:
            check_owner(config.project, self._note(db, config, "owner", ""), self.writer)
            applied = self._note(db, config, "applied", table.name)
            rows.check_applied(table.name, applied)
            values = zip(*(v.to_pylist() for v in rows.values)) if rows.values else iter([()] * len(rows))
            orders = zip(rows.event_us.tolist(), rows.revision.tolist(), rows.fingerprint.to_pylist(), repeat(rows.stamp))
            covered = self._covered(db, config, table.name)
            for key, order, row in zip(rows.keys.to_pylist(), orders, values):
                place = (config.project, table.name, key)
                query = "SELECT event_us, revision, fingerprint, stamp FROM rows WHERE (project, view, key) = (?, ?, ?)"
                if row_wins(order, db.execute(query, place).fetchone(), applied, covered, rows.upto_us):
                    text = json.dumps({n: v.hex() for n, v in zip(names, row)})
                    db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*place, *order, text))
                    written += 1
        return written

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        out: list[StoredRow | None] = []
        with self._open(config) as db:
            for key in keys:
                query = "SELECT event_us, row FROM rows WHERE (project, view, key) = (?, ?, ?)"
                found = db.execute(query, (config.project, table.name, key)).fetchone()
                held = json.loads(found[1]) if found else {}
                out.append((found[0], [bytes.fromhex(held[n]) if n in held else None for n in names]) if found else None)
        return out

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        with self._open(config) as db:
            if self._note(db, config, "applied", view) != fingerprint:
                self._keep(db, config, "applied", view, fingerprint)
                db.execute("DELETE FROM notes WHERE (project, kind, name) = (?, 'covered', ?)", (config.project, view))

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        with self._open(config) as db:
            found: str | None = self._note(db, config, "applied", view)
            return found

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        with self._open(config) as db:
            check_owner(config.project, self._note(db, config, "owner", ""), self.writer)
            self._keep(db, config, "covered", view, json.dumps([covered.stamp, covered.upto_us]))

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        with self._open(config) as db:
            return self._covered(db, config, view)

    def _covered(self, db: sqlite3.Connection, config: RepoConfig, view: str) -> Covered | None:
        found = self._note(db, config, "covered", view)
        return Covered(*json.loads(found)) if found else None

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        with self._open(config) as db:
            check_owner(config.project, self._note(db, config, "owner", ""), self.writer)
            applied = self._note(db, config, "applied", table.name)
            where = "(project, view) = (?, ?) AND ((event_us BETWEEN ? AND ? AND stamp >= ? AND stamp < ?)"
            where += " OR (? = 0 AND ? IS NOT NULL AND fingerprint <> ?))"
            values = (config.project, table.name, start_us, covered.upto_us, covered.since, covered.stamp, covered.since, applied, applied)
            count = db.execute(f"SELECT count(*) FROM rows WHERE {where}", values).fetchone()[0]
            if not count_only:
                db.execute(f"DELETE FROM rows WHERE {where}", values)
        return int(count)

    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        with self._open(config) as db:
            before = self._note(db, config, "generation", name)
            if at_least is not None and (before is None or before < at_least):
                return False
            self._keep(db, config, "generation", name, value)
        return True

    def claim(self, config: RepoConfig, owner: str, take: bool = False) -> str:
        with self._open(config) as db:
            found: str | None = self._note(db, config, "owner", "")
            if found is None or take:
                self._keep(db, config, "owner", "", owner)
                return owner
            return found

    def disclaim(self, config: RepoConfig, owner: str) -> None:
        with self._open(config) as db:
            db.execute("DELETE FROM notes WHERE (project, kind, value) = (?, 'owner', ?)", (config.project, owner))

    def owner(self, config: RepoConfig) -> str | None:
        with self._open(config) as db:
            found: str | None = self._note(db, config, "owner", "")
            return found

    def stored_keys(self, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
        with self._open(config) as db:
            keys = db.execute("SELECT key FROM rows WHERE (project, view) = (?, ?)", (config.project, table.name)).fetchall()
        return (key for (key,) in keys if holding in key)

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        with self._open(config) as db:
            places = [(config.project, table.name, key) for key in keys]
            db.executemany("DELETE FROM rows WHERE (project, view, key) = (?, ?, ?)", places)

    def compact(self, config: RepoConfig, tables: Sequence[FeatureView]) -> None:
        with self._open(config) as db:
            db.execute("COMMIT")
            db.execute("VACUUM")
            db.execute("BEGIN")

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        with self._open(config) as db:
            for table in tables_to_delete:
                db.execute("DELETE FROM rows WHERE (project, view) = (?, ?)", (config.project, table.name))
                db.execute("DELETE FROM notes WHERE (project, kind, name) = (?, 'applied', ?)", (config.project, table.name))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        self.update(config, tables, [], entities, [], False)

    @staticmethod
    def _note(db: sqlite3.Connection, config: RepoConfig, kind: str, name: str) -> Any:
        query = "SELECT value FROM notes WHERE (project, kind, name) = (?, ?, ?)"
        found = db.execute(query, (config.project, kind, name)).fetchone()
        return found[0] if found else None

    @staticmethod
    def _keep(db: sqlite3.Connection, config: RepoConfig, kind: str, name: str, value: Any) -> None:
        db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (config.project, kind, name, value))
