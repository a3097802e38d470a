"""Which alerts fire, and the messages that are sent of them (an outbox). One SQLite file, ``data/alerts/alerts.db``.

Guarantees, over restarts and with several processes at once:

* A message is queued in the transaction that changes the alert's state: once when it begins to fire, when it becomes another
  (other features, other severity), and when it is resolved. Nothing is repeated.
* Messages of one alert are delivered in order. One that waits and is overtaken by a newer state of a firing alert becomes that one;
  the end of an alert never replaces its beginning.
* Delivery is at least once: a process that is killed between the receiver's answer and its own note of it sends that message again,
  with the same ``id``. A receiver that drops ids it has seen gets each state exactly once.

Messages are kept: there are as many as changes of state.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipelines.alerting.alert import Alert
from transforms.errors import DataError

__all__ = ["AlertStore", "Message"]

_VERSION = 2
_SCHEMA = (
    "DROP TABLE IF EXISTS alerts",  # of version 1, which had no number: what fires is found, and sent, anew
    "DROP TABLE IF EXISTS messages",
    "DROP TABLE IF EXISTS facts",
    """CREATE TABLE alerts (
      key TEXT PRIMARY KEY, scope TEXT NOT NULL, fingerprint TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL,
      since REAL NOT NULL)""",
    """CREATE TABLE messages (
      number INTEGER PRIMARY KEY, key TEXT NOT NULL, body TEXT NOT NULL, created REAL NOT NULL, due REAL NOT NULL,
      attempts INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, error TEXT, outcome TEXT)""",
    "CREATE INDEX waiting ON messages (outcome, number)",
    f"PRAGMA user_version = {_VERSION}",
)


@dataclass(frozen=True)
class Message:
    """One message to deliver: ``body`` is what :meth:`AlertReceiver.send` takes. ``held``: its last attempt failed by the receiver."""

    number: int
    key: str
    body: dict[str, Any]
    created: datetime
    due: datetime
    attempts: int
    held: bool


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class AlertStore:
    """The store in ``folder`` (made at the first write). ``project`` stands in each message. Cheap to make; holds no file open."""

    def __init__(self, folder: Path, project: str = "") -> None:
        self.folder, self.project = folder, project
        self.path = folder / "alerts.db"

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.folder.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            db.execute("BEGIN IMMEDIATE")
            with db:
                version = int(db.execute("PRAGMA user_version").fetchone()[0])
                if version > _VERSION:
                    raise DataError(
                        f"{self.path} has format {version}, this Tandem knows {_VERSION}; update Tandem, or move the file elsewhere"
                    )
                for statement in _SCHEMA if version < _VERSION else ():
                    db.execute(statement)
                yield db
        finally:
            db.close()

    def _read(self, query: str) -> list[sqlite3.Row]:
        if not self.path.exists():
            return []
        with self._open() as db:
            return db.execute(query).fetchall()

    def sync(self, scope: str, alerts: Sequence[Alert], now: datetime) -> list[Message]:
        """What fires in ``scope`` now is exactly ``alerts``: queue what is new or another, and what is over. Returns what was queued."""
        at, out = now.timestamp(), []
        with self._open() as db:
            known = {row["key"]: row for row in db.execute("SELECT * FROM alerts WHERE scope = ?", (scope,))}
            for alert in alerts:
                row = known.get(alert.key)
                if row is not None and row["fingerprint"] == alert.fingerprint:
                    continue
                since = row["since"] if row is not None else at
                out.append(self._queue(db, alert, "firing", "new" if row is None else "changed", since, at))
                values = (alert.key, scope, alert.fingerprint, alert.severity, alert.title, since)
                db.execute("INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?, ?)", values)
            for key in known.keys() - {a.key for a in alerts}:
                over = Alert(key, known[key]["severity"], f"over: {known[key]['title']}")
                out.append(self._queue(db, over, "resolved", "over", known[key]["since"], at))
                db.execute("DELETE FROM alerts WHERE key = ?", (key,))
        return out

    def add(self, alert: Alert, now: datetime) -> Message | None:
        """Queue a message about something that happened once; None if there was one of ``alert.key`` before."""
        at = now.timestamp()
        with self._open() as db:
            if db.execute("SELECT 1 FROM messages WHERE key = ?", (alert.key,)).fetchone():
                return None
            return self._queue(db, alert, "event", "new", at, at)

    def _queue(self, db: sqlite3.Connection, alert: Alert, state: str, change: str, since: float, at: float) -> Message:
        body = {
            "id": uuid4().hex[:20],
            "source": "tandem",
            "project": self.project,
            "state": state,
            "change": change,
            "key": alert.key,
            "severity": alert.severity,
            "title": alert.title,
            "text": alert.text,
            "since": _time(since).isoformat(),
            "at": _time(at).isoformat(),
            "labels": dict(alert.labels),
            "values": dict(alert.values),
        }
        last = db.execute("SELECT * FROM messages WHERE key = ? AND outcome IS NULL ORDER BY number DESC", (alert.key,)).fetchone()
        if state == "firing" and last is not None and json.loads(last["body"])["state"] == "firing":
            number, due = last["number"], last["due"] if last["held"] else at
            db.execute("UPDATE messages SET body = ?, created = ?, due = ? WHERE number = ?", (json.dumps(body), at, due, number))
        else:
            values = (alert.key, json.dumps(body), at, at)
            number = db.execute("INSERT INTO messages (key, body, created, due) VALUES (?, ?, ?, ?)", values).lastrowid
        return _message(db.execute("SELECT * FROM messages WHERE number = ?", (number,)).fetchone())

    def waiting(self) -> list[Message]:
        """The messages that are not delivered yet, in their order."""
        return [_message(row) for row in self._read("SELECT * FROM messages WHERE outcome IS NULL ORDER BY number")]

    def done(self, message: Message, outcome: str = "delivered") -> None:
        """Note that a message was ``delivered``, only ``shown`` (there is no receiver), or given up (``lost``).

        One that became another state meanwhile waits on.
        """
        with self._open() as db:
            row = db.execute("SELECT body FROM messages WHERE number = ?", (message.number,)).fetchone()
            if row is not None and json.loads(row["body"])["id"] == message.body["id"]:
                db.execute("UPDATE messages SET outcome = ? WHERE number = ?", (outcome, message.number))

    def failed(self, message: Message, error: str, due: datetime, held: bool) -> None:
        """Note a failed attempt, when the next one is due, and whether it was the receiver that failed, so that all wait with it."""
        with self._open() as db:
            values = (error, due.timestamp(), held, message.number)
            db.execute("UPDATE messages SET attempts = attempts + 1, error = ?, due = ?, held = ? WHERE number = ?", values)

    def counts(self) -> dict[str, int]:
        """Messages ``delivered``, ``shown`` and ``lost``, and ``failures`` (attempts) since the store began."""
        found = self._read("SELECT outcome, COUNT(*) AS n, SUM(attempts) AS failures FROM messages GROUP BY outcome")
        return {**{r["outcome"]: r["n"] for r in found if r["outcome"]}, "failures": sum(r["failures"] for r in found)}

    def firing(self) -> list[dict[str, Any]]:
        """What fires now: key, scope, severity, title, since."""
        found = self._read("SELECT key, scope, severity, title, since FROM alerts ORDER BY since, key")
        return [{**dict(row), "since": _time(row["since"]).isoformat()} for row in found]


def _message(row: sqlite3.Row) -> Message:
    times = _time(row["created"]), _time(row["due"])
    return Message(row["number"], row["key"], json.loads(row["body"]), *times, row["attempts"], bool(row["held"]))
