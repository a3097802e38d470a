"""Connections to PostgreSQL for its online store, and what helps where it refuses."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import psycopg
from feast import RepoConfig
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
"""What helps where the server is there and lets nobody in, by its words: libpq gives no SQLSTATE while there is no connection. One that
answers in another language is waited for."""
SETTING_UP = 7_382_511_064_118_903_021
"""The lock of who makes tables: CREATE ... IF NOT EXISTS fails where two do it at once."""


def opened(config: RepoConfig) -> psycopg.Connection[Any]:
    """A connection whose statements are each their own transaction."""
    store = config.online_store
    return psycopg.connect(
        make_conninfo(
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
            connect_timeout=max(1, round(store.connect_timeout_seconds)),
            application_name="tandem",
        ),
        autocommit=True,
    )


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
    return isinstance(error, psycopg.errors.InsufficientPrivilege) or _refusal(error) is not None


def _refusal(error: psycopg.Error) -> str | None:
    """What helps where a connection was refused by a server; None where it is another error."""
    if not isinstance(error, psycopg.OperationalError) or error.sqlstate is not None:
        return None
    return next((fix for words, fix in _REFUSALS.items() if re.search(words, str(error))), None)


def fix_of(error: psycopg.Error) -> str:
    """What helps."""
    if (fix := _refusal(error)) is not None:
        return fix
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
