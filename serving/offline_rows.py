"""Which offline rows count, as SQL: what the point-in-time join and ``materialize`` both read.

The rows of a group lie in ``<data>/offline/<group>/run=<id>``. Rows of the applied graph alone count (the source's tag
``tandem_fingerprint``), and at each boundary those of the newest run that covers it, whatever older runs say: :mod:`transforms.run_cover`.
In any other Parquet source, of the rows that agree in key and event time the one created last counts.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa
from feast import RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource

from serving.feast_objects import DEFINITION
from serving.object_store.following import rows_here
from transforms.definitions import FINGERPRINT, REVISION
from transforms.errors import StoreError
from transforms.instants import micros_of
from transforms.plain_paths import matching
from transforms.run_cover import COVER, Cover, Segment, read_cover, segments

__all__ = ["NOTHING", "OfflineRows", "one_line", "pinned", "quoted"]

log = logging.getLogger("tandem.offline")

_PINS: ContextVar[Mapping[str, Any]] = ContextVar("pins", default=MappingProxyType({}))
_FILE = "tandem_file"
_EVER = 2**62
NOTHING = -_EVER
"""Before every event timestamp."""


@contextmanager
def pinned(pins: Mapping[str, Any]) -> Iterator[None]:
    """Joins inside read each named view from exactly ``pins[view].files``, and of these the rows of ``pins[view].fingerprint``.

    So a question asked again reads the runs of then, though newer ones were made and other graphs were applied since. Among the files
    are those that say what each run covers (:data:`transforms.run_cover.COVER`); without any, the row created last counts.
    """
    token = _PINS.set(pins)
    try:
        yield
    finally:
        _PINS.reset(token)


class OfflineRows:
    """A Parquet source in SQL: how to name it, its columns (absent ones are null), and the rows that count.

    ``empty``: there is no row at all. ``upto_us``: up to which event timestamp runs decide (:data:`NOTHING` where none does yet, None for
    rows that stem from no known run); ``newest_us``: when the newest of them began.
    Raises StoreError for what is no Parquet on a mounted file system.
    """

    def __init__(self, db: Any, config: RepoConfig, source: DataSource | None, view: str | None = None) -> None:
        if not isinstance(source, FileSource):
            raise StoreError(f"source {getattr(source, 'name', source)!r} is not a FileSource; this store only reads Parquet files")
        pin = _PINS.get().get(view) if view is not None else None
        self.path = FileSource.get_uri_for_file_path(config.repo_path, source.path.removeprefix("file://"))
        self._name, self._ours = source.name, DEFINITION in (source.tags or {})
        if "://" in self.path:
            raise StoreError(f"source {source.name!r}: {self.path} is not on a mounted file system; mount it and give its path")
        if Path(self.path).is_dir():
            self.path = f"{self.path.rstrip('/')}/**/*.parquet"
        self.fingerprint = (source.tags or {}).get(FINGERPRINT) if pin is None else pin.fingerprint
        if pin is not None:
            files = [f for f in pin.files if f.endswith(".parquet")]
            runs = sorted({str(Path(f).parent) for f in pin.files if Path(f).name == COVER})
        else:
            files, runs = self._found()
        covers = {run: cover for run in runs if (cover := read_cover(Path(run))) is not None}
        if not files and pin is None:
            _say_empty(source, self.path, max(covers.values(), key=lambda cover: cover.created_us, default=None))
        # What is known to be of another graph is not looked at.
        files = [f for f in files if (c := covers.get(_run_of(f))) is None or self.fingerprint in (None, c.fingerprint)]
        self._covers = {cover: run for run, cover in covers.items() if self.fingerprint in (None, cover.fingerprint)}
        self.upto_us = max((c.upto_us for c in self._covers), default=None if files else NOTHING)
        self.newest_us = max((c.created_us for c in self._covers), default=0)
        self._spans = self._spans_of(files)
        self.empty = not self._spans
        self.types: dict[str, str] = {}
        self._physical = {new: old for old, new in (source.field_mapping or {}).items()}
        self._db = db
        if not self.empty:
            # DuckDB takes signs of a pattern in a name for such: of data[1] it reads data1.
            text = ", ".join(f"'{_escaped(glob.escape(p))}'" for p in dict.fromkeys(name for name, _, _ in self._spans))
            self.table = f"read_parquet([{text}], union_by_name = true, hive_partitioning = false, filename = '{_FILE}')"
            try:
                self.types = {r[0]: r[1] for r in db.execute(f"DESCRIBE SELECT * EXCLUDE {_FILE} FROM {self.table}").fetchall()}
            except duckdb.Error as e:
                raise StoreError(f"source {source.name!r}: its rows cannot be read: {one_line(e)}; correct or remove that file") from e

    def _found(self) -> tuple[list[str], list[str]]:
        """The Parquet files, and the folders of runs, also of those that made no row: absence counts."""
        at = self.path.find("/run=*/")
        if at < 0:
            return [str(p) for p in matching(self.path)], []
        published = rows_here(self.path, self.fingerprint)
        files, runs = [str(p) for p in matching(self.path)], sorted(str(p) for p in Path(self.path[:at]).glob("run=*"))
        if published is None:
            return files, runs
        # A copy of an object store: what is here and not published does not count.
        return [f for f in files if _run_of(f) in published], [run for run in runs if run in published]

    def _spans_of(self, files: Sequence[str]) -> list[tuple[str, int, int]]:
        """(file, after, upto): which event timestamps of which file count. Files of no known run count where no run decides."""
        folders = {cover.run: run for cover, run in self._covers.items()}
        decided = segments(self._covers)
        of_run: dict[str, list[str]] = {run: [] for run in folders.values()}
        others: list[str] = []
        for name in files:
            of_run.get(_run_of(name), others).append(name)
        out = [(name, s.after_us, s.upto_us) for s in decided for name in of_run[folders[s.run]]]
        self._unsure = bool(others)
        return out + [(name, lo, hi) for lo, hi in _gaps(decided) for name in others]

    def need(self, names: Iterable[str]) -> None:
        """Raises StoreError for a column that no file has. A group's own rows may be from before a feature existed; of files that a user
        named a column that is not there is a mistake, and not null."""
        absent = [] if self._ours or self.empty else [n for n in names if self._physical.get(n, n) not in self.types]
        if absent:
            has = ", ".join(sorted(self.types))
            raise StoreError(f"source {self._name!r}: no file at {self.path} has a column {absent[0]!r}; it has {has}: correct the view")

    def column(self, name: str, kind: str = "VARCHAR") -> str:
        """A column by the name that Feast knows it by."""
        physical = self._physical.get(name, name)
        return quoted(physical) if physical in self.types else f"CAST(NULL AS {kind})"

    def kind(self, name: str) -> str:
        """DuckDB's type of a column; empty for one that is absent."""
        return self.types.get(self._physical.get(name, name), "")

    def micros(self, name: str) -> str:
        """A time as microseconds; times without a zone are UTC."""
        column = self.column(name)
        return f"epoch_us({column})" if self.kind(name) == "TIMESTAMP WITH TIME ZONE" else f"epoch_us(CAST({column} AS TIMESTAMP))"

    def between(self, timestamp_field: str, start: datetime, end: datetime) -> str:
        """The condition that event times lie in a range, both ends included."""
        return f"{self.micros(timestamp_field)} BETWEEN {micros_of(start)} AND {micros_of(end)}"

    def counting(
        self, picked: Sequence[str], where: str, keys: Sequence[str], timestamp_field: str, created: str | None, every: bool = False
    ) -> str:
        """``SELECT picked`` over the rows that count and satisfy ``where``: one per key and event time.

        ``keys`` are the names of the join keys; ``created`` is the column with the time of creation, if there is one. With ``every``
        rows of no known run are all given.
        """
        time, select, source, of_file = self.micros(timestamp_field), ", ".join(picked), self.table, ""
        spans = list(dict.fromkeys((lo, hi) for _, lo, hi in self._spans))
        if len(spans) > 1:
            names, lows, highs = zip(*self._spans, strict=True)
            self._db.register(
                "tandem_spans", pa.table({"name": names, "lo": pa.array(lows, pa.int64()), "hi": pa.array(highs, pa.int64())})
            )
            source = f"{self.table} JOIN tandem_spans ON {_FILE} = tandem_spans.name"
            of_file = f" AND {time} > tandem_spans.lo AND {time} <= tandem_spans.hi"
        elif spans[0] != (-_EVER, _EVER):
            of_file = f" AND {time} > {spans[0][0]} AND {time} <= {spans[0][1]}"
        query = f"SELECT {select} FROM {source} WHERE {where}{of_file}{self._of_graph()}"
        if every or not self._unsure:
            return query
        same = ", ".join([*(self.column(k) for k in keys), time])
        order = [f"{self.micros(created)} DESC NULLS LAST"] if created and self._physical.get(created, created) in self.types else []
        order += [f"{quoted(REVISION)} DESC NULLS LAST"] if REVISION in self.types else []
        newest = f" ORDER BY {', '.join(order)}" if order else ""
        return f"{query} QUALIFY row_number() OVER (PARTITION BY {same}{newest}) = 1"

    def _of_graph(self) -> str:
        if not self.fingerprint or FINGERPRINT not in self.types:
            return ""
        return f" AND {quoted(FINGERPRINT)} = '{_escaped(self.fingerprint)}'"


def _say_empty(source: FileSource, path: str, newest: Cover | None) -> None:
    """A group may have no rows yet, or runs that made none; files that a user named must be there. Raises StoreError."""
    if newest is not None:
        log.warning("source %r: its runs made no row: no event that they took has an entity of this group; 'tandem runs show %s' says what"
                    " the newest one read and refused", source.name, newest.run)  # fmt: skip
        return
    if DEFINITION not in (source.tags or {}):
        raise StoreError(f"source {source.name!r}: there is no Parquet file at {path}; correct its path, or write it")
    log.warning("source %r: no row is at %s; 'tandem batch' makes them, 'tandem apply' follows a folder that was moved", source.name, path)


def _run_of(file: str) -> str:
    """The folder of the run that a file of rows belongs to; empty for one of none."""
    return next((str(p) for p in Path(file).parents if p.name.startswith("run=")), "")


def _gaps(decided: Sequence[Segment]) -> list[tuple[int, int]]:
    out, at = [], -_EVER
    for s in decided:
        if s.after_us > at:
            out.append((at, s.after_us))
        at = s.upto_us
    return [*out, (at, _EVER)]


def _escaped(text: str) -> str:
    return text.replace("'", "''")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def one_line(error: BaseException) -> str:
    """An error of DuckDB's, shortened."""
    return " ".join(str(error).split())[:300]
