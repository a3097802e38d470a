"""Connections to PostgreSQL for its online store, and what helps where it refuses."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import sys
import time
from collections import Counter
from typing import Any

import psycopg
from feast import RepoConfig
from psycopg import pq
from psycopg.conninfo import make_conninfo

from serving.online_store import postgres_tables as tables

__all__ = ["SETTING_UP", "connect", "fix_of", "opened", "refuses"]

_FIX = "start PostgreSQL there, or fix host and port in feature_store.yaml"
_REFUSALS = {
    "authentication failed|no password supplied": "correct its user and password in feature_store.yaml",
    "is not permitted to log in": "grant its user LOGIN, or name another user in feature_store.yaml",
    "permission denied for database": "grant its user CONNECT on that database",
    r"pg_hba\.conf": "let its user in from this machine in the server's pg_hba.conf",
    '(database|role) ".*" does not exist': "create it, or correct database and user in feature_store.yaml",
    "does not support SSL": "take another sslmode in feature_store.yaml",
}
"""What helps where the server is there and lets nobody in, by its words, where it speaks English."""
_REFUSAL_CODES = {
    "28P01": "correct its user and password in feature_store.yaml",
    "28000": "let its user log in from this machine: LOGIN, and the server's pg_hba.conf",
    "3D000": "create it, or correct database and user in feature_store.yaml",
    "42501": "grant its user CONNECT on that database",
}
"""The same by SQLSTATE, in whatever language it answers (``lc_messages``)."""
_codes: dict[tuple[str, str], str] = {}
"""Of a server's address and an error that it refused with, the SQLSTATE that it answered: what waits for days asks once."""
_asked: Counter[tuple[str, str]] = Counter()
_MOST_ASKED, _TRIES = 256, 3
"""How often a process asks in all, and for one error as long as nobody answers: a server may end while it is asked."""
SETTING_UP = 7_382_511_064_118_903_021
"""The lock of who makes tables: CREATE ... IF NOT EXISTS fails where two do it at once."""


class RefusedError(psycopg.OperationalError):
    """The server is there, and lets its user not in; ``fix`` helps."""

    def __init__(self, error: psycopg.OperationalError, fix: str) -> None:
        super().__init__(*error.args)
        self.fix = fix


def opened(config: RepoConfig) -> psycopg.Connection[Any]:
    """A connection whose statements are each their own transaction. Raises RefusedError for a server that lets its user not in."""
    store = config.online_store
    seconds = max(1, round(store.connect_timeout_seconds))
    where = make_conninfo(
        host=store.host,
        port=store.port,
        dbname=store.database,
        user=store.user,
        password=store.password,
        sslmode=store.sslmode,
        sslkey=store.sslkey_path,
        sslcert=store.sslcert_path,
        sslrootcert=store.sslrootcert_path,
        keepalives_idle=store.keepalives_idle,
        connect_timeout=seconds,
        application_name="tandem",
    )
    try:
        return psycopg.connect(where, autocommit=True)
    except psycopg.OperationalError as error:
        if (fix := _refusal(error, where, seconds)) is not None:
            raise RefusedError(error, fix) from None
        raise


def connect(config: RepoConfig) -> psycopg.Connection[Any]:
    """A connection to the configured schema, with what all views share in it."""
    store = config.online_store
    schema = psycopg.sql.Identifier(store.db_schema or store.user)
    conn = opened(config)
    with conn.transaction():
        conn.execute("SELECT set_config('statement_timeout', %s, false)", (f"{round(store.statement_timeout_seconds * 1000)}ms",))
        conn.execute("SET client_min_messages = warning")
        conn.execute(psycopg.sql.SQL("SET search_path = {}").format(schema))
    found = conn.execute(tables.is_set_up()).fetchone()
    if found is None or not found[0]:
        refused = psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction
        with contextlib.suppress(*refused), conn.transaction():  # who only reads needs none of it
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (SETTING_UP,))  # CREATE ... IF NOT EXISTS fails where two do it at once
            conn.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
            conn.execute(tables.COMMON)
    return conn


def refuses(error: psycopg.Error) -> bool:
    """Whether the server is there, and does not let its user in or do that."""
    return isinstance(error, (psycopg.errors.InsufficientPrivilege, RefusedError))


def _refusal(error: psycopg.OperationalError, where: str, seconds: float) -> str | None:
    """What helps where a connection was refused by a server; None where it is another error."""
    for words, fix in _REFUSALS.items():
        if re.search(words, str(error)):
            return fix
    if isinstance(error, psycopg.errors.ConnectionTimeout):  # nobody answered
        return None
    question = where, str(error)
    if question not in _codes and _asked[question] < _TRIES and _asked.total() < _MOST_ASKED:
        _asked[question] += 1
        with contextlib.suppress(psycopg.Error, OSError):  # the error that led here is the one to tell
            if (code := _sqlstate(where, seconds)) is not None:
                _codes[question] = code
    return _REFUSAL_CODES.get(_codes.get(question, ""))


def _sqlstate(where: str, seconds: float) -> str | None:
    """What a server answers a login with, as SQLSTATE; None where it lets in or nobody answers. libpq has none of it while there is no
    connection, but in its trace of the protocol, which psycopg offers on Linux. It is one more login, and some kilobytes that psycopg
    never gives back."""
    if sys.platform != "linux":
        return None
    with open(os.memfd_create("trace"), "w+b") as trace:  # in memory: a login may be in it
        connection = pq.PGconn.connect_start(where.encode())
        try:
            if connection.status == pq.ConnStatus.BAD:  # a name without address, no such socket
                return None
            connection.trace(trace.fileno())
            until, step = time.monotonic() + seconds, int(pq.PollingStatus.WRITING)
            while step in (pq.PollingStatus.READING, pq.PollingStatus.WRITING) and (left := until - time.monotonic()) > 0:
                with selectors.DefaultSelector() as ready:  # select() takes no descriptor above 1,023
                    reads = step == pq.PollingStatus.READING
                    ready.register(connection.socket, selectors.EVENT_READ if reads else selectors.EVENT_WRITE)
                    ready.select(left)
                step = connection.connect_poll()
            connection.untrace()
        finally:
            connection.finish()
        found = re.search(rb'\tB\t\d+\tErrorResponse\t.*? C "([0-9A-Z]{5})"', trace.read() if trace.seek(0) == 0 else b"")
    return found[1].decode() if found else None


def fix_of(error: psycopg.Error) -> str:
    """What helps."""
    if isinstance(error, RefusedError):
        return error.fix
    if isinstance(error, psycopg.errors.QueryCanceled):
        return "it took longer than statement_timeout_seconds: look for who holds its locks, or raise it"
    if isinstance(error, (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory)):
        return "free its disk or memory"
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return "it is a replica or read-only: name its primary in feature_store.yaml"
    if isinstance(error, psycopg.errors.UndefinedTable):
        return "run 'tandem apply', which makes the tables of a view"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "grant its user that: CREATE in its schema for 'tandem apply', reading and writing for all else"
    if isinstance(error, psycopg.OperationalError):
        return _FIX
    return "see what its log says"
