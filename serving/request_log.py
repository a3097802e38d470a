"""The request log: what the server was asked and what it answered, as Parquet files.

Files ``<folder>/date=YYYY-MM-DD/<time>-<server>-<number>.parquet``; the date is the UTC day of ``tandem_at``. One row per instance of a
predict or infer request, or per entity of a ``get-online-features`` request. Requests that were refused or failed are not there; one
whose answer was ready only after the time limit (its caller got a 503) is.

Columns of every file:

====================  ==================  =====================================================================================
tandem_request        string              request id, made by the server; the answer carries it in the header ``X-Request-Id``
tandem_row            int32               position of the instance in the request, from 0
tandem_at             timestamp us, UTC   wall time of the answer
tandem_as_of          timestamp us, UTC   the server's now: what ages and TTLs were judged by (differs from ``tandem_at`` under a replay
                                          clock or ``as_of``). One instant per request, taken right before its rows were read.
tandem_endpoint       string              ``predict`` (TF-Serving), ``infer`` (Open Inference v2) or ``get-online-features`` (Feast)
tandem_model          string, null        model; null for ``get-online-features``, as are the next three
tandem_version        int64, null         its version
tandem_run            string, null        the training run that made it
tandem_prediction     double, null        the number in the answer (list<double> for a model with several outputs per row)
tandem_principal      string, null        who asked (:mod:`serving.access`); null where the server asks nobody who they are
tandem_client_request string, null        the header ``X-Request-Id`` of the request, if it had a usable one. Callers may repeat it.
====================  ==================  =====================================================================================

then one column per entity key and request field, under its own name (string, int64, double, bool or timestamp us UTC), and for
each feature view that was read, called ``V`` here:

====================  ==================  =====================================================================================
V__tandem_status      string              of the stored row: PRESENT, NOT_FOUND or OUTSIDE_MAX_AGE
V__event_timestamp    timestamp us, null  event timestamp of the stored row (also of one that is too old); null if NOT_FOUND
V__tandem_age         double, null        seconds from ``V__event_timestamp`` to ``tandem_as_of``, as answered; null if NOT_FOUND
V__tandem_revision    int64, null         revision of the stored row (also of one that is too old)
V__tandem_fingerprint string, null        fingerprint of the stored row, if PRESENT
V__tandem_projection  string              only where V is no view of the registry but a use of one, under another name or with other keys
                                          (``with_name``, ``with_join_key_map``): JSON, ``{"join_keys": {KEY: COLUMN}, "view": NAME}``
V__F                  the feature's type  for each feature F that was read: the value as served, bit by bit; null unless PRESENT
V__F__status          string              PRESENT, NULL (the row is there, its value is null), NOT_FOUND (no row, or a row from before the
                                          feature existed) or OUTSIDE_MAX_AGE
====================  ==================  =====================================================================================

So the columns of a predict request are those that the model's inputs are made of: ``serving.models.to_model_inputs`` takes them as they
are. Files of different models have different columns (one of
``get-online-features`` those of all its requests); ``read_requests``, DuckDB's ``read_parquet('<folder>/*/*.parquet',
union_by_name=true)`` and Polars' ``diagonal`` concatenation fill what a file does not have with nulls. (In such a union a null in
``V__tandem_status`` or ``V__F__status`` says: not asked.)

**Shadow predictions** (what the challenger would have answered, see :mod:`serving.shadow`) lie beside it in files of their own,
``<folder>/shadow/date=YYYY-MM-DD/*.parquet``, which the readers of the request log do not see; ``read_requests(folder / "shadow")`` reads
them. One row per instance that the challenger was run on: the eleven columns above with the values of the answer that was given
(``tandem_request``, ``tandem_row`` and ``tandem_at`` name the same row of the request log), the entity keys and request fields, and

========================  ==============  =====================================================================================
tandem_shadow_version     int64           the challenger's version
tandem_shadow_run         string          the training run that made it
tandem_shadow_prediction  double          its number (list<double> for a model with several outputs per row)
========================  ==============  =====================================================================================

Guarantees: a file is complete once it is visible (written under a hidden name, synced, then renamed). Logging never fails a request and
never waits for the disk: rows go through a queue, bounded in requests, rows and bytes, to one thread, and what does not fit, or cannot be
written, is dropped and counted in ``/metrics``. A server that is asked to stop writes what it has; one that is killed loses at most
what it answered in the last ``request_log_seconds``, the half second before and the time that writing a file takes, and never a file.

When the log is full its oldest files go; where that takes answers of the last day, the server's own log, ``/metrics`` and the warnings of
``/v2/health/ready`` say so. Requests with unusually long texts (beyond 4 KiB and 256 bytes per row) share a tenth of the log's
size per day; past that their answers are logged with long texts cut to their beginning, length and SHA-256.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.metrics import LogMetrics
from serving.request_rows import RequestRecord, merged, sampled, to_batches
from serving.text_budget import TextBudget, size_of
from transforms.errors import DataError
from transforms.files import is_unfinished, replaced
from transforms.instants import EPOCH, instant

__all__ = ["RequestRecord", "COMMON", "LogLimits", "RequestLog", "files_of", "read_requests"]

log = logging.getLogger("tandem.serving")

_LOOK_SECONDS = 1.0
"""How long what is logged waits at most before it becomes columns, unless there is as much as is taken at once."""
_SHORTEST_LOOK_SECONDS = 0.05
_AT_ONCE = 200
"""Requests that become one batch. Each of its columns takes some calls that give up the interpreter and ask for it again, which holds up
the threads that answer: fewer, larger steps do so less."""
_BREATH_SECONDS = 0.0003
"""Between columns of few rows, while nothing waits that would be a batch: else all of them would hold up answers, one after the other."""
_BREATH_ROWS = 2_000
"""Columns of more rows are work outside of the interpreter, and who answers has it meanwhile."""
_ROWS_AT_ONCE = 16_000
"""Rows, about."""
_WAITING_REQUESTS = 2_000
_WAITING_ROWS = 100_000
_WAITING_BYTES = 64 << 20
_BYTES_AT_ONCE = _WAITING_BYTES // 8
_KEPT_BYTES = 64 << 20
"""Of what is not in a file yet: about as many bytes wait, and as many again are kept as columns, at most."""
_LARGE_BYTES = 1 << 30
_BOUNDED = ["tandem_at", "tandem_request"]
"""Columns whose bounds a file keeps: what rows are looked for by. Those of all would be a fifth of its cost."""
_NEVER_NULL = ("tandem_request", "tandem_row", "tandem_at", "tandem_as_of", "tandem_endpoint")
_LOOKED_AT, _FEW = 256, 64
"""Of so many floats, so many different ones at most: a dictionary of others costs more than them, in time and in bytes."""
_DESCRIPTION = b"ARROW:schema"
"""The name, in a footer, of what only Arrow's readers look at: the types that columns had in memory."""
_CLOSE_SECONDS = 10.0
_OLD_TEMPORARY_SECONDS = 3600.0


@dataclass(frozen=True)
class LogLimits:
    """How much is logged, when a file is closed (``rows``, ``seconds``), and what all files may take (``size`` bytes, ``files``).

    A file that has to go before it is ``young_seconds`` old is told of.
    """

    sample: float = 1.0
    rows: int = 20_000
    seconds: float = 60.0
    size: int = 2**30
    files: int = 20_000
    young_seconds: float = 86_400.0


class RequestLog:
    """Writes the log of one server. :meth:`add` is called by any thread; the rest is one thread of its own."""

    def __init__(self, folder: Path, limits: LogLimits, metrics: LogMetrics) -> None:
        self._folder = folder
        self._limits = limits
        self._metrics = metrics
        self._lock = threading.Lock()
        self._waiting: deque[tuple[RequestRecord, int]] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._budget = TextBudget(limits.size)
        self._kept: list[tuple[int, pa.RecordBatch]] = []
        self._kept_rows = 0
        self._kept_bytes = 0
        self._kept_since = 0.0
        self._server = secrets.token_hex(4)
        self._number = 0
        self._problem = ""
        self.warning = ""
        """That young files had to go at the last look; empty when all is well."""
        self._closing = threading.Event()
        self._look = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tandem-request-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and end; gives up on a disk that takes longer than ten seconds."""
        self._closing.set()
        self._look.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("request log: %s did not accept the last rows within %g s; they are lost", self._folder, _CLOSE_SECONDS)

    def add(self, record: RequestRecord) -> None:
        """Log a request, if it belongs to the sample and the queue has room. Never blocks, never raises over what it is given."""
        if not sampled(record.request_id, self._limits.sample):
            return
        size = size_of(record)
        with self._lock:
            room = len(self._waiting) < _WAITING_REQUESTS and self._waiting_rows < _WAITING_ROWS and not self._closing.is_set()
            room = room and (not self._waiting or self._waiting_bytes + size <= _WAITING_BYTES)
            if room:
                self._waiting.append((record, size))
                self._waiting_rows += record.rows
                self._waiting_bytes += size
            due = self._due()
        if due and not self._look.is_set():
            self._look.set()
        if not room:
            self._metrics.log_dropped.labels("full").inc(record.rows)

    def _due(self) -> bool:
        """Whether as much waits as is taken at once. Holding the lock."""
        return len(self._waiting) >= _AT_ONCE or self._waiting_rows >= _ROWS_AT_ONCE or self._waiting_bytes >= _BYTES_AT_ONCE

    def _run(self) -> None:
        seconds = max(_SHORTEST_LOOK_SECONDS, min(_LOOK_SECONDS, self._limits.seconds / 10))
        while True:
            self._look.wait(seconds)
            self._look.clear()
            last = self._closing.is_set()
            try:
                more = True
                while more:
                    more = self._drain(last)
                    if self._kept_rows >= self._limits.rows or self._kept_bytes >= _KEPT_BYTES:
                        self._write()
                if self._kept and (last or time.monotonic() - self._kept_since >= self._limits.seconds - 2 * seconds):
                    self._write()
            except Exception as e:
                self._lost(self._kept_rows, "defect", e)
                self._kept, self._kept_rows, self._kept_bytes = [], 0, 0
            if last:
                return

    def _drain(self, all_of_it: bool) -> bool:
        """Take some of what waits, as batches; whether to do so again at once. Less than is taken at once waits for its like until the
        next look: a batch costs about as much for one request as for fifty, and who answers waits for the interpreter meanwhile."""
        rows = size = 0
        some: list[RequestRecord] = []
        with self._lock:
            while self._waiting and len(some) < _AT_ONCE and rows < _ROWS_AT_ONCE and size < _BYTES_AT_ONCE:
                record, own = self._waiting.popleft()
                some.append(record)
                rows, size = rows + record.rows, size + own
            self._waiting_rows -= rows
            self._waiting_bytes -= size
            more = bool(self._waiting) if all_of_it else self._due()
        try:
            fitted = (self._budget.fitted(record) for record in some)
            hurried = more or all_of_it or rows > _BREATH_ROWS
            batches = to_batches(fitted) if hurried else to_batches(fitted, lambda: self._closing.wait(_BREATH_SECONDS))
        except Exception as e:  # e.g. two columns of one name: never worth a thread
            self._lost(rows, "defect", e)
            return more
        if batches and not self._kept:
            self._kept_since = time.monotonic()
        self._kept += batches
        self._kept_rows += rows
        self._kept_bytes += sum(batch.nbytes for _, batch in batches)
        return more

    def _write(self) -> None:
        """Write what is kept, few files per day. What cannot be written is dropped: the next rows get their chance."""
        tables = merged(self._kept)
        self._kept, self._kept_rows, self._kept_bytes = [], 0, 0
        for day, table in tables:
            rows = table.num_rows
            try:
                self._file(day, table)
            except (OSError, pa.ArrowException) as e:
                self._lost(rows, "write", e)
            else:
                self._metrics.log_rows.inc(rows)
                if self._problem:
                    log.warning("request log: %s is writable again", self._folder)
                    self._problem = ""
        size, files, dropped, young = prune(self._folder, self._limits.size, self._limits.files, young_seconds=self._limits.young_seconds)
        self._metrics.log_bytes.set(size)
        self._metrics.log_files.set(files)
        self._metrics.log_expired.inc(dropped)
        self._metrics.log_young.inc(young)
        if young and not self.warning:
            self.warning = (
                f"the request log is full: answers of the last {self._limits.young_seconds / 3600:g} h are deleted for newer ones;"
                " raise serve.request_log_bytes or lower serve.request_log_sample"
            )
            log.error("request log: %s", self.warning)
        elif not young and dropped:
            self.warning = ""

    def _file(self, day: int, table: pa.Table) -> None:
        folder = self._folder / f"date={EPOCH + timedelta(days=day):%Y-%m-%d}"
        self._number += 1
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{self._server}-{self._number:06d}.parquet"
        made = pa.BufferOutputStream()
        pq.write_table(
            _with_needed(table.unify_dictionaries()),
            made,
            compression="zstd",
            coerce_timestamps="us",
            use_dictionary=[name for name, column in zip(table.column_names, table.columns) if _repeats(column)],
            write_statistics=_BOUNDED,
        )
        with replaced(folder / name, durable=True) as sink:  # which makes the folder every time: somebody may have deleted it
            for part in _of_plain_types(made.getvalue()):
                sink.write(part)

    def _lost(self, rows: int, reason: str, error: Exception) -> None:
        self._metrics.log_dropped.labels(reason).inc(rows)
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if problem != self._problem:  # said once, not at every file
            log.error(
                "request log: rows are dropped, requests are still answered (%s)", problem, exc_info=error if reason == "defect" else None
            )
            self._problem = problem


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a column is written by the numbers of its values in a dictionary: all but floats that seldom repeat."""
    return not pa.types.is_floating(column.type) or len(column.slice(0, _LOOKED_AT).unique()) <= _FEW


def _with_needed(table: pa.Table) -> pa.Table:
    """The table with those columns said to be without nulls that have none in any file, which then has no level for each value of them.
    Not one that has none in this file alone: Arrow's readers of a whole folder take the first file's word for all."""
    fields = [field.with_nullable(field.name not in _NEVER_NULL) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _of_plain_types(file: pa.Buffer) -> list[memoryview | bytes]:
    """The bytes of a Parquet file without Arrow's own description of its columns, so that words that were written by their numbers are
    strings to every reader. It is the last of what the footer has names for, and keeps its room under a name that nobody looks for: the
    older line's pyarrow cannot leave it out (``store_schema=False`` of later ones)."""
    whole = memoryview(file)
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    before, name, after = bytes(whole[-footer:]).rpartition(_DESCRIPTION)
    return [whole[:-footer], before, name.lower(), after]


def files_of(folder: Path) -> list[Path]:
    """The files of a log, oldest first. A file that vanishes meanwhile was deleted as one of the oldest."""
    return sorted(folder.glob("date=*/*.parquet"), key=lambda p: (p.parent.name, p.name))


def prune(
    folder: Path, most_bytes: int, most_files: int, now: Callable[[], float] = time.time, young_seconds: float = 0.0
) -> tuple[int, int, int, int]:
    """Delete the oldest files above the limits, and what killed servers left half written: (bytes left, files left, files deleted, how many
    of these were written less than ``young_seconds`` ago)."""
    with contextlib.suppress(OSError):
        for path in (p for p in folder.glob("date=*/.*") if is_unfinished(p.name) or p.suffix == ".tmp"):  # the latter of 0.1
            with contextlib.suppress(OSError):
                if now() - path.stat().st_mtime > _OLD_TEMPORARY_SECONDS:
                    path.unlink()
    sizes: list[tuple[Path, os.stat_result]] = []
    for path in files_of(folder):
        with contextlib.suppress(OSError):  # another server on the same folder was faster
            sizes.append((path, path.stat()))
    total, left, deleted, young = sum(stat.st_size for _, stat in sizes), len(sizes), 0, 0
    for path, stat in sizes:
        if total <= most_bytes and left <= most_files:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            deleted += 1
            young += now() - stat.st_mtime < young_seconds
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only if it is empty
        total, left = total - stat.st_size, left - 1
    return total, left, deleted, young


COMMON = pa.schema(
    [
        ("tandem_request", pa.string()),
        ("tandem_row", pa.int32()),
        ("tandem_at", pa.timestamp("us", tz="UTC")),
        ("tandem_as_of", pa.timestamp("us", tz="UTC")),
        ("tandem_endpoint", pa.string()),
        ("tandem_model", pa.string()),
        ("tandem_version", pa.int64()),
        ("tandem_run", pa.string()),
        ("tandem_prediction", pa.float64()),
        ("tandem_principal", pa.string()),
        ("tandem_client_request", pa.string()),
    ]
)
"""The columns that every row has, whatever was asked."""


def read_requests(folder: Path, since_us: int | None = None) -> pa.Table:
    """All rows of a log, ordered by (``tandem_at``, ``tandem_request``, ``tandem_row``), with the columns of all files (nulls where a file
    has none); those with ``tandem_at >= since_us`` if given. No files: no rows, and the columns of every file.

    A column whose type changed between files is read as double if all its types are numbers; otherwise raises DataError, as
    for a file that cannot be read. A text column of more than a GiB is a ``large_string``.
    """
    tables = []
    day = None if since_us is None else f"date={instant(since_us):%Y-%m-%d}"
    for path in files_of(folder):
        if day is not None and path.parent.name < day:
            continue
        try:
            tables.append(pq.ParquetFile(path).read())
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException) as e:
            raise DataError(f"request log: {path} cannot be read ({' '.join(str(e).split())[:120]}); move it away") from None
    kinds: dict[str, pa.DataType] = {field.name: field.type for field in COMMON}
    for table in tables:
        for field in table.schema:
            kinds[field.name] = _common(field.name, kinds.get(field.name, field.type), field.type)
    schema = pa.schema(list(kinds.items()))
    whole = pa.concat_tables([_as(t, schema) for t in tables] or [schema.empty_table()])
    for i, field in enumerate(whole.schema):  # what sorts or joins them makes one array of a column, and a string's ends are 32 bits
        if pa.types.is_string(field.type) and whole.column(i).nbytes > _LARGE_BYTES:
            whole = whole.set_column(i, field.name, whole.column(i).cast(pa.large_string()))
    if since_us is not None:
        whole = whole.filter(pc.greater_equal(whole.column("tandem_at").cast(pa.int64()), since_us))
    return whole.sort_by([("tandem_at", "ascending"), ("tandem_request", "ascending"), ("tandem_row", "ascending")])


def _common(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    if all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in (one, other)):
        return pa.float64()
    raise DataError(f"request log: column {name!r} is {one} in one file and {other} in another; read their days apart")


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    have = set(table.column_names)
    columns = [
        table.column(f.name).cast(f.type, safe=False) if f.name in have else pa.chunked_array([pa.nulls(table.num_rows, f.type)])
        for f in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
