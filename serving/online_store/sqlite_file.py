"""One SQLite file: a connection that writes, and a way to read that never needs to write.

The file is in WAL mode, where readers read while one writer writes. SQLite itself opens such a file only where it finds the write-ahead
log and its index beside it, or may make them. The last writer that closes the file takes both away, so after that one who may not
write in the folder (another user, a read-only file system) would be shut out. :meth:`SqliteFile.read` reads the file itself then.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from serving.online_store.base import unreachable
from transforms.errors import StoreError

__all__ = ["SqliteFile", "is_shut"]

T = TypeVar("T")
_MAY_WRITE = "give a path that can be written in feature_store.yaml"
_MAY_READ = "let a process that may write in its folder open it once, so that it is whole"
_RETRY_SECONDS = 0.01
_TICK_SECONDS = 0.05
"""Longer than the step by which a file system's clock moves: at most 10 ms."""
_COARSE_TICK_SECONDS = 2.1
"""The same where a file's times are whole seconds."""


class _State(NamedTuple):
    """What another content of a file changes, if it comes a tick of the clock later."""

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int


class _Reader(NamedTuple):
    """A connection for reading. With a ``state``, SQLite was told that the file does not change, and looks at nothing beside it."""

    process: int
    identity: tuple[int, int] | None
    state: _State | None
    conn: sqlite3.Connection


class SqliteFile:
    """The connections of this process to the file ``path``, per thread: SQLite's must not cross a fork, and transactions must not mix.

    A file that was deleted or replaced is opened anew: SQLite itself would go on with the old one, which nobody else sees.
    ``wait_seconds``: how long to wait for another process. ``make`` makes the tables that the file should have.
    """

    def __init__(self, path: str, wait_seconds: float, make: Callable[[sqlite3.Connection], None]) -> None:
        self.path, self._wait, self._make = path, wait_seconds, make
        self._local = threading.local()
        self._settled: _State | None = None

    def writer(self) -> sqlite3.Connection:
        """This thread's connection for writing; makes the file, and switches it to WAL. Raises StoreError."""
        held = getattr(self._local, "writer", None)
        if held is not None and held[:2] == (os.getpid(), _identity(self.path)):
            return held[2]  # type: ignore[no-any-return]
        try:
            conn = self._open_writer()
        except (sqlite3.Error, OSError) as e:
            raise unreachable(self.path, e, _MAY_WRITE) from e
        self._local.writer = (os.getpid(), _identity(self.path), conn)
        return conn

    def read(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """What ``do`` reads over a connection: each of its statements one state of the file, none older than this call.

        ``do`` only reads. It may be called again: what it gives or raises over a file that changed meanwhile counts for nothing.
        Raises what ``do`` raises, and StoreError where the file cannot be opened.

        One who may not write, and finds nothing in a write-ahead log or a journal, reads the file itself: all that was committed is
        in it, and nobody can change it without changing its :class:`_State`, which is looked at before and after.
        """
        until = time.monotonic() + self._wait
        while True:
            reader: _Reader | None = None
            try:
                reader = self._reader()
                found = do(reader.conn)
                if reader.state is None or reader.state == _state(self.path):
                    return found
                problem: Exception = sqlite3.OperationalError("the file changes faster than it can be read")
            except Exception as e:
                torn = reader is not None and reader.state is not None and reader.state != _state(self.path)
                if not torn and not is_shut(e):
                    raise
                problem = e
            self._forget_reader()
            if time.monotonic() > until:
                raise unreachable(self.path, problem, _MAY_READ) from problem
            time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Close this thread's connections."""
        self._forget_reader()
        process, _, conn = self._local.__dict__.pop("writer", (None, None, None))
        if process == os.getpid():
            conn.close()

    def _open_writer(self) -> sqlite3.Connection:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        kinds = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES
        conn = sqlite3.connect(self.path, timeout=self._wait, isolation_level=None, check_same_thread=False, detect_types=kinds)
        try:
            _to_wal(conn, self._wait)
            conn.execute("PRAGMA synchronous=NORMAL")
            self._make(conn)
        except BaseException:
            conn.close()
            raise
        return conn

    def _reader(self) -> _Reader:
        """This thread's connection for reading. Raises StoreError where there is no file and none can be made; sqlite3.Error may pass,
        where another process is opening or closing the file."""
        held: _Reader | None = getattr(self._local, "reader", None)
        if held is not None and held.process == os.getpid():
            if held.state is None and held.identity == _identity(self.path):
                return held
            if held.state is not None and self._whole() and held.state == _state(self.path):
                return held
        self._forget_reader()
        try:
            self.writer()
        except StoreError as e:
            if not is_shut(e.__cause__) or not os.path.exists(self.path):
                raise
        self._local.reader = reader = self._open_reader()
        return reader

    def _open_reader(self) -> _Reader:
        identity = _identity(self.path)
        conn = self._connect("mode=ro")
        try:
            conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # opens what lies beside the file
        except sqlite3.Error as e:
            conn.close()
            state = _state(self.path)
            if state is None or not is_shut(e) or not self._whole() or not self._is_settled(state):
                raise
            return _Reader(os.getpid(), identity, state, self._connect("mode=ro&immutable=1"))
        return _Reader(os.getpid(), identity, None, conn)

    def _connect(self, how: str) -> sqlite3.Connection:
        uri = f"{Path(self.path).absolute().as_uri()}?{how}"
        return sqlite3.connect(uri, uri=True, timeout=self._wait, isolation_level=None, check_same_thread=False, cached_statements=256)

    def _forget_reader(self) -> None:
        reader = self._local.__dict__.pop("reader", None)
        if reader is not None and reader.process == os.getpid():
            reader.conn.close()

    def _whole(self) -> bool:
        """Whether all that was committed is in the file itself."""
        return not any(map(_holds_something, (f"{self.path}-wal", f"{self.path}-journal")))

    def _is_settled(self, state: _State) -> bool:
        """Whether the file has had this state for a tick of its clock. What is written within one leaves no trace in its times."""
        if state != self._settled:
            whole_seconds = state.written_ns % 1_000_000_000 == state.changed_ns % 1_000_000_000 == 0
            time.sleep(_COARSE_TICK_SECONDS if whole_seconds else _TICK_SECONDS)
            if state != _state(self.path):
                return False
            self._settled = state
        return True


def is_shut(error: BaseException | None) -> bool:
    """Whether SQLite could not open a file, or not write in it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def _holds_something(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _state(path: str) -> _State | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return _State(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _identity(path: str) -> tuple[int, int] | None:
    state = _state(path)
    return state[:2] if state is not None else None


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
            time.sleep(_RETRY_SECONDS)
