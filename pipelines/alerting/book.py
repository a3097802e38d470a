"""The book of alerts: which ones fire, and which messages still wait for the webhook. One SQLite file, ``data/alerts/alerts.db``.

Guarantees, over restarts and with several processes at once:

* A message is queued in the transaction that changes the alert's state: once when it begins to fire, when it becomes another
  (other features, other severity), when it has fired unchanged for ``repeat``, and when it is resolved.
* Messages of one alert are delivered in order. One that waits and is overtaken by a newer state of a firing alert is replaced
  by it; the end of an alert never replaces its beginning.
* Delivery is at least once: a process that is killed between the webhook's answer and its own note of it sends that message again,
  with the same ``id``. A receiver that drops ids it has seen gets each state exactly once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.alerting.alert import Alert

__all__ = ["Book", "Message"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
  key TEXT PRIMARY KEY, scope TEXT NOT NULL, fingerprint TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL,
  firing INTEGER NOT NULL, since REAL NOT NULL, queued REAL NOT NULL, count INTEGER NOT NULL, ended REAL);
CREATE TABLE IF NOT EXISTS messages (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, state TEXT NOT NULL,
  created REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, error TEXT, done REAL);
CREATE INDEX IF NOT EXISTS waiting ON messages (state, number);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
_KEPT = timedelta(days=30).total_seconds()


@dataclass(frozen=True)
class Message:
    """One message to deliver; ``body`` is the generic JSON form."""

    number: int
    id: str
    key: str
    body: dict[str, Any]
    created: datetime
    attempts: int
    due: datetime


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _message(row: sqlite3.Row) -> Message:
    body = json.loads(row["body"])
    return Message(row["number"], row["id"], row["key"], body, _time(row["created"]), row["attempts"], _time(row["due"]))


class Book:
    """The book in ``folder`` (made if missing). ``project`` is told in each message. Cheap to make; holds no file open."""

    def __init__(self, folder: Path, project: str = "", repeat: timedelta = timedelta(days=1)) -> None:
        self.folder, self.project, self.repeat = folder, project, repeat
        self.path = folder / "alerts.db"

    @contextlib.contextmanager
    def _open(self, write: bool = True) -> Iterator[sqlite3.Connection]:
        self.folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            with connection:
                yield connection
        finally:
            connection.close()

    def sync(self, scope: str, alerts: Sequence[Alert], now: datetime) -> list[Message]:
        """What fires in ``scope`` now is exactly ``alerts``: queue what is new or another, what is due again, and what is over.

        Returns the messages queued.
        """
        at, out = now.timestamp(), []
        with self._open() as db:
            known = {row["key"]: row for row in db.execute("SELECT * FROM alerts WHERE scope = ?", (scope,))}
            for alert in alerts:
                row = known.get(alert.key)
                firing = row is not None and bool(row["firing"])
                since = row["since"] if row is not None and firing else at
                count = row["count"] if row is not None else 0
                if row is not None and firing and row["fingerprint"] == alert.fingerprint:
                    if at - row["queued"] < self.repeat.total_seconds() or self._waits(db, alert.key):
                        continue
                    change = "goes on"
                else:
                    change = "changed" if firing else "new"
                self._supersede(db, alert.key, at)
                out.append(self._queue(db, alert, "firing", change, since, count, at))
                db.execute(
                    "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, NULL)",
                    (alert.key, scope, alert.fingerprint, alert.severity, alert.title, since, at, count + 1),
                )
            now_firing = {a.key for a in alerts}
            for key, row in known.items():
                if row["firing"] and key not in now_firing:
                    over = Alert(key, row["severity"], f"over: {row['title']}")
                    out.append(self._queue(db, over, "resolved", "over", row["since"], row["count"], at))
                    db.execute("UPDATE alerts SET firing = 0, ended = ?, queued = ?, count = count + 1 WHERE key = ?", (at, at, key))
            db.execute("DELETE FROM messages WHERE state != 'waiting' AND done < ?", (at - _KEPT,))
            db.execute("DELETE FROM alerts WHERE NOT firing AND ended < ?", (at - _KEPT,))
        return out

    def tell(self, alert: Alert, now: datetime) -> Message | None:
        """Queue a message about something that happened once; None if ``alert.key`` was told before (within 30 days)."""
        with self._open() as db:
            if db.execute("SELECT 1 FROM messages WHERE key = ?", (alert.key,)).fetchone():
                return None
            return self._queue(db, alert, "event", "new", 0.0, 0, now.timestamp())

    def _waits(self, db: sqlite3.Connection, key: str) -> bool:
        return db.execute("SELECT 1 FROM messages WHERE key = ? AND state = 'waiting'", (key,)).fetchone() is not None

    def _supersede(self, db: sqlite3.Connection, key: str, at: float) -> None:
        """Drop the waiting message of an older state, unless what waits includes an end that must be told."""
        last = db.execute("SELECT * FROM messages WHERE key = ? AND state = 'waiting' ORDER BY number DESC", (key,)).fetchone()
        if last is not None and json.loads(last["body"])["state"] == "firing":
            db.execute("UPDATE messages SET state = 'replaced', done = ? WHERE number = ?", (at, last["number"]))

    def _queue(self, db: sqlite3.Connection, alert: Alert, state: str, change: str, since: float, count: int, at: float) -> Message:
        identity = hashlib.sha256(json.dumps([self.project, alert.key, since, count, state]).encode()).hexdigest()[:20]
        body = {
            "id": identity,
            "source": "tandem",
            "project": self.project,
            "state": state,
            "change": change,
            "key": alert.key,
            "severity": alert.severity,
            "title": alert.title,
            "text": alert.text,
            "since": _time(since or at).isoformat(),
            "at": _time(at).isoformat(),
            "labels": dict(alert.labels),
            "values": dict(alert.values),
        }
        cursor = db.execute(
            "INSERT INTO messages (id, key, body, state, created, due) VALUES (?, ?, ?, 'waiting', ?, ?)",
            (identity, alert.key, json.dumps(body), at, at),
        )
        return Message(int(cursor.lastrowid or 0), identity, alert.key, body, _time(at), 0, _time(at))

    def waiting(self) -> list[Message]:
        """The messages that are not delivered yet, in the order of their making."""
        with self._open(write=False) as db:
            rows = db.execute("SELECT * FROM messages WHERE state = 'waiting' ORDER BY number").fetchall()
        return [
            Message(r["number"], r["id"], r["key"], json.loads(r["body"]), _time(r["created"]), r["attempts"], _time(r["due"]))
            for r in rows
        ]

    def done(self, message: Message, now: datetime, state: str = "delivered") -> None:
        """Note that a message was ``delivered``, or given up (``lost``)."""
        with self._open() as db:
            db.execute("UPDATE messages SET state = ?, done = ? WHERE number = ?", (state, now.timestamp(), message.number))
            self._add(db, state, 1)

    def failed(self, message: Message, error: str, due: datetime) -> None:
        """Note a failed attempt, and when the next one is due."""
        with self._open() as db:
            db.execute(
                "UPDATE messages SET attempts = attempts + 1, error = ?, due = ? WHERE number = ?", (error, due.timestamp(), message.number)
            )
            self._add(db, "failures", 1)

    def hold(self, until: datetime | None, failures: int) -> None:
        """Note that the webhook as a whole is left alone until then (None: it answered)."""
        with self._open() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('held', ?)", (until.timestamp() if until else 0.0,))
            db.execute("INSERT OR REPLACE INTO facts VALUES ('in a row', ?)", (float(failures),))

    def held(self) -> tuple[datetime, int]:
        """Until when the webhook is left alone, and its failures in a row."""
        facts = self.facts()
        return _time(facts.get("held", 0.0)), int(facts.get("in a row", 0))

    @staticmethod
    def _add(db: sqlite3.Connection, name: str, value: float) -> None:
        db.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + ?", (name, value, value))

    def facts(self) -> dict[str, float]:
        """Totals since the book began: delivered, lost, failures; and what :meth:`hold` noted."""
        if not self.path.exists():
            return {}
        with self._open(write=False) as db:
            return {row["name"]: row["value"] for row in db.execute("SELECT * FROM facts")}

    def firing(self) -> list[dict[str, Any]]:
        """What fires now: key, scope, severity, title, since."""
        if not self.path.exists():
            return []
        with self._open(write=False) as db:
            rows = db.execute("SELECT * FROM alerts WHERE firing ORDER BY since, key").fetchall()
        return [
            {"key": r["key"], "scope": r["scope"], "severity": r["severity"], "title": r["title"], "since": _time(r["since"]).isoformat()}
            for r in rows
        ]
