"""The tables of the SQLite online store, and the statements that fill and read them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
from feast import FeatureView

from serving.online_store.order import Rows
from serving.online_store.packed import PACKED
from transforms.instants import micros_of

__all__ = ["WRITING", "adopt", "columns_query", "create", "lines", "packed_query"]

WRITING = "tandem_writing"
"""A table that has a row only inside a transaction of ours, which writes orders and packed rows with the features."""
_EPOCH = datetime(1970, 1, 1)
_US_AS_WRITTEN = (
    "coalesce(1000 * CAST(round(1000 * CASE typeof(NEW.event_ts)"
    " WHEN 'integer' THEN strftime('%s', NEW.event_ts, 'unixepoch', 'localtime')"
    " ELSE (julianday(NEW.event_ts) - 2440587.5) * 86400 END) AS INTEGER), 0)"
)
"""What :func:`_as_written` says of 1970 to 2037, in SQL, to the millisecond; by the zone of who writes. Never asked of a row of ours:
Feast's class writes one number for two times where a summer time leaves out an hour."""


@lru_cache(maxsize=1024)
def columns_query(name: str, width: int, keys: int) -> str:
    """One line per key that has a row: key, event time, and the ``width`` features by their places."""
    cells = "".join(f', (SELECT value FROM "{name}" WHERE entity_key = o.entity_key AND feature_name = ?{i + 1})' for i in range(width))
    places = ",".join(f"?{width + i + 1}" for i in range(keys))
    return f'SELECT o.entity_key, o.event_us{cells} FROM "{name}_tandem" o WHERE o.entity_key IN ({places})'


@lru_cache(maxsize=1024)
def packed_query(name: str, keys: int) -> str:
    """One line per key that has a packed row: key, row."""
    return f"SELECT entity_key, value FROM \"{name}\" WHERE feature_name = '{PACKED}' AND entity_key IN ({','.join('?' * keys)})"


def create(conn: sqlite3.Connection, name: str) -> None:
    """The tables of a view, where they are not there. Whoever writes a feature without saying so in :data:`WRITING` (stock Feast, an older
    Tandem) takes the key's packed row away, and the order is that of a row of no graph at its time."""
    conn.execute(
        f'CREATE TABLE IF NOT EXISTS "{name}" (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, vector_value BLOB,'
        " event_ts timestamp, created_ts timestamp, PRIMARY KEY (entity_key, feature_name))"
    )
    _add_column(conn, name, "value_text", "TEXT")  # newer versions of Feast's own writer fill it
    conn.execute(
        f'CREATE TABLE IF NOT EXISTS "{name}_tandem"'
        " (entity_key BLOB PRIMARY KEY, event_us INTEGER NOT NULL, revision INTEGER NOT NULL, fingerprint TEXT NOT NULL,"
        " stamp INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID"
    )
    _add_column(conn, f"{name}_tandem", "stamp", "INTEGER NOT NULL DEFAULT 0")
    conn.execute(f"CREATE TABLE IF NOT EXISTS {WRITING} (yes INTEGER NOT NULL)")
    for event in ("INSERT", "UPDATE"):
        conn.execute(
            f'CREATE TRIGGER IF NOT EXISTS "{name}_{event.lower()}_elsewhere" AFTER {event} ON "{name}"'
            f" WHEN NOT EXISTS (SELECT 1 FROM {WRITING})"
            f" BEGIN DELETE FROM \"{name}\" WHERE entity_key = NEW.entity_key AND feature_name = '{PACKED}'; END"
        )
        conn.execute(
            f'CREATE TRIGGER IF NOT EXISTS "{name}_{event.lower()}_stock" AFTER {event} ON "{name}"'
            f" WHEN NOT EXISTS (SELECT 1 FROM {WRITING})"
            f' BEGIN INSERT INTO "{name}_tandem" (entity_key, event_us, revision, fingerprint)'
            f" VALUES (NEW.entity_key, {_US_AS_WRITTEN}, -1, '')"
            " ON CONFLICT (entity_key) DO UPDATE SET event_us = excluded.event_us, revision = -1, fingerprint = '', stamp = 0"
            " WHERE event_us / 1000000 <> excluded.event_us / 1000000; END"
        )


def adopt(conn: sqlite3.Connection, name: str) -> None:
    """Give the rows that another class wrote before the first of ours an order, below all of ours of their time: those of them that are not
    written anew would be read as none."""
    others, ours = (conn.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}")').fetchone()[0] for table in (name, f"{name}_tandem"))
    if others and not ours:
        rows = conn.execute(f'SELECT entity_key, max(event_ts) FROM "{name}" GROUP BY entity_key ORDER BY entity_key').fetchall()
        found = [(key, micros_of(_as_written(at))) for key, at in rows]
        conn.executemany(f"INSERT INTO \"{name}_tandem\" (entity_key, event_us, revision, fingerprint) VALUES (?, ?, -1, '')", found)


def _as_written(at: int | str | None) -> datetime:
    """A time that Feast's class wrote, of UTC: seconds by this machine's zone, or as older versions wrote it."""
    if at is None:
        return _EPOCH
    return datetime.fromtimestamp(at) if isinstance(at, int) else datetime.fromisoformat(at)


def _add_column(conn: sqlite3.Connection, table: str, column: str, kind: str) -> None:
    """A column that a file of before lacks."""
    if not any(found[1] == column for found in conn.execute(f'PRAGMA table_info("{table}")')):
        conn.execute(f'ALTER TABLE "{table}" ADD COLUMN {column} {kind}')


def lines(table: FeatureView, rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Feast's lines: one per row and feature, and one of the packed row where there is one."""
    by_name = sorted(zip((f.name for f in table.features), rows.values), key=lambda pair: pair[0])
    if rows.packed is not None:
        by_name.insert(0, (PACKED, rows.packed))
    names = [name for name, _ in by_name]
    stamps = {us: _adapted(_EPOCH + timedelta(microseconds=us)) for us in np.unique(rows.event_us).tolist()}
    created: Iterable[Any] = repeat(None) if rows.created is None else map(_adapted, map(_naive, rows.created))
    for key, us, made, *values in zip(rows.keys.to_pylist(), rows.event_us.tolist(), created, *(v.to_pylist() for _, v in by_name)):
        at = stamps[us]
        for name, value in zip(names, values):
            yield key, name, value, at, made


def _adapted(at: datetime | None) -> Any:
    """The value that Feast's registered adapter makes of a time: once per row rather than once per feature."""
    return None if at is None else sqlite3.adapt(at, sqlite3.PrepareProtocol)


def _naive(at: datetime | None) -> datetime | None:
    return at if at is None or at.tzinfo is None else at.astimezone(UTC).replace(tzinfo=None)
