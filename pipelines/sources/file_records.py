"""The records of one event file, unjudged: Parquet and JSON lines, plain or compressed, and what its folders say of all of them.

* A **Parquet file** is used whole or not at all. Parquet has no checksum of the whole, and damage may lie behind rows that
  read well, so a file is decoded to its end before its first row is handed out: small files once, into memory; larger ones
  a second time, which keeps memory bounded and costs that second reading. Damage that still decodes cannot be noticed here;
  the run's manifest holds each file's hash.
  A file of 0 bytes is damaged; a proper file of 0 rows is fine. A column of a pickled Python type makes a file unreadable: to read it
  would be to run it (CVE-2023-47248). INT96 timestamps are read as microseconds; one that does not fit is the last int64 can hold.
* A **JSON-lines file** is judged line by line: a line cut off at the end of the file is one malformed line. Blank lines are
  skipped but counted in row numbers. A file of 0 bytes is an empty log. A line above 16 MiB is one reject, and its dead
  letter keeps the first 64 KiB of it.
* A **compressed** JSON-lines file (``.gz``, ``.zst``) is used whole or not at all, as its checksum stands at its end: it is decompressed
  once to look, and once more to use it, in bounded memory.
* A **folder** ``name=value`` above a file is a column of all its records that have none of that name (Hive partitioning): text,
  percent-decoded; ``__HIVE_DEFAULT_PARTITION__`` is null. The value of a field that is a number or a boolean is read as one.
* A file that cannot be opened or read for reasons outside of it (it is gone, no permission, a disk error) is no bad data:
  the ``OSError`` is raised, and nothing is skipped.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.definitions import EventSource
from transforms.errors import DataError

__all__ = ["COMPRESSED", "LINES", "PARQUET", "Partitions", "RawBatch", "UnreadableFileError", "partitions_of", "read"]

PARQUET = ".parquet"
LINES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst")
SMALL_BYTES = 64 << 20
"""A Parquet file with no more bytes of uncompressed columns is decoded once, into memory."""
MAX_LINE_BYTES = 16 << 20
KEPT_OF_LONG_LINE = 64 << 10
CHUNK_BYTES = 32 << 20
"""A batch of lines ends at this size, whatever ``batch_rows`` says."""
_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE, _REAL = re.compile(r"-?[0-9]{1,18}"), re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")
_PICKLED = b"arrow.py_extension_type"

Partitions = Sequence[tuple[str, str | None]]
"""What the folders above a file say: (name, value), outermost first; None is null."""


class UnreadableFileError(DataError):
    """A file is damaged, not of its format, or would run code."""


@dataclass(frozen=True)
class RawBatch:
    """N records as they lie in a file: Arrow ``rows``, or ``payloads`` (binary) of lines; exactly one of both is set.

    ``numbers`` (int64, length N) are their 0-based row or line numbers in the file. ``too_long`` maps positions in the batch
    to the full length of lines of which ``payloads`` holds only the beginning.
    """

    numbers: pa.Array
    rows: pa.RecordBatch | None = None
    payloads: pa.Array | None = None
    too_long: dict[int, int] | None = None


def partitions_of(folders: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """What folders named ``name=value`` say, outermost first; of a name that is there twice the inner one."""
    found: dict[str, str | None] = {}
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == _NULL else unquote(value)
    return tuple(found.items())


def read(path: str | os.PathLike[str], source: EventSource, batch_rows: int = 65_536, partitions: Partitions = ()) -> Iterator[RawBatch]:
    """The records of one file, unjudged, in order, in batches of at most ``batch_rows``; memory is bounded by a batch of
    lines or a row group. Fields of ``source`` that a record has not are taken from ``partitions``.

    Raises UnreadableFileError, before the first batch, for a damaged file; OSError as in the module's text."""
    if batch_rows < 1:
        raise DataError(f"source {source.name!r}: batches of {batch_rows} rows; give at least 1")
    dtypes = {source.event_time: "timestamp", **{f.name: str(f.dtype) for f in source.fields}}
    given = {name: _typed(value, dtypes[name]) for name, value in partitions if name in dtypes and value is not None}
    name = str(path).lower()
    if name.endswith(PARQUET):
        with open(path, "rb") as f:
            yield from _read_parquet(f, batch_rows, given)
    elif name.endswith(COMPRESSED):
        with open(path, "rb") as f:
            _look_through(f, name)
        with open(path, "rb") as f, _plain(f, name) as lines:
            yield from _read_lines(lines, batch_rows, given)
    else:
        with open(path, "rb") as f:
            yield from _read_lines(f, batch_rows, given)


def _typed(text: str, dtype: str) -> Any:
    """The value of a folder's name as its field wants it; what cannot be one stays text, which the contract then refuses."""
    if dtype == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if dtype in ("int64", "timestamp") and _WHOLE.fullmatch(text):
        return int(text)
    if dtype == "float64" and _REAL.fullmatch(text):
        return float(text)
    return text


# ---- Parquet -----------------------------------------------------------------------------------------------------------


def _read_parquet(f: BinaryIO, batch_rows: int, given: dict[str, Any]) -> Iterator[RawBatch]:
    try:
        if os.fstat(f.fileno()).st_size == 0:
            raise UnreadableFileError("the file is empty (0 bytes)")
        parquet = _Parquet(f)
        small = sum(parquet.meta.row_group(i).total_byte_size for i in range(parquet.meta.num_row_groups)) <= SMALL_BYTES
        batches: Iterator[pa.RecordBatch]
        if small:
            batches = iter(list(parquet.decode(batch_rows)))
        else:
            for _ in parquet.decode(batch_rows):
                pass
            batches = parquet.decode(batch_rows)
    except OSError as e:
        if e.errno is not None:  # the disk's error; those of the format carry no number
            raise
        raise UnreadableFileError(_one_line(e)) from e
    except (pa.ArrowException, ValueError, MemoryError, RuntimeError) as e:
        if _PICKLED.decode() in str(e):  # as pyarrow_hotfix says it, with a listing of the code
            e = ValueError(_RUNS_CODE)
        raise UnreadableFileError(_one_line(e)) from None
    at = 0
    for batch in batches:
        numbers = pa.array(np.arange(at, at + batch.num_rows, dtype=np.int64))
        at += batch.num_rows
        for name, value in given.items():
            if name not in batch.schema.names:
                column = pa.array([value], pa.string() if isinstance(value, str) else None)
                whole = column.take(pa.array(np.zeros(batch.num_rows, np.int64)))
                batch = pa.RecordBatch.from_arrays([*batch.columns, whole], [*batch.schema.names, name])
        yield RawBatch(numbers, rows=batch)


_RUNS_CODE = f"a column is of a pickled Python type ({_PICKLED.decode()}): to read it would run code; write it without extension types"


class _Parquet:
    """A Parquet file whose row groups are decoded; INT96 timestamps as microseconds."""

    def __init__(self, f: BinaryIO) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyarrow 14 to 20 warn of such a type instead of loading it
            self.file = pq.ParquetFile(f, coerce_int96_timestamp_unit="us")
            pickled = any(_pickled(each) for each in self.file.schema_arrow)
        if pickled:
            raise ValueError(_RUNS_CODE)
        self.meta = self.file.metadata
        columns = [self.file.schema.column(i) for i in range(len(self.file.schema))]
        self.int96 = [c.path for c in columns if c.physical_type == "INT96" and c.path == c.name]
        # Of 12 bytes not all fit into an int64 of microseconds; as milliseconds all do, and tell which those are.
        self.coarse = pq.ParquetFile(f, coerce_int96_timestamp_unit="ms") if self.int96 else None

    def decode(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """All rows, in order."""
        # Not iter_batches: in pyarrow 10 that crashes on damaged columns of unequal length, where this raises.
        for group in range(self.file.num_row_groups):
            table = self.file.read_row_group(group)
            if self.coarse is not None:
                coarse = self.coarse.read_row_group(group, columns=self.int96)
                for name in self.int96:
                    at = table.schema.get_field_index(name)
                    table = table.set_column(at, table.schema.field(at), _fitting(table.column(at), coarse.column(name)))
            yield from table.to_batches(batch_rows)


def _fitting(fine: pa.ChunkedArray, coarse: pa.ChunkedArray) -> pa.Array:
    """Microseconds, of which those that overflowed (other than the milliseconds say) are the ends of int64."""
    one, other = fine.combine_chunks(), coarse.combine_chunks()
    one, other = (pa.concat_arrays(a.chunks) if isinstance(a, pa.ChunkedArray) else a for a in (one, other))
    us, ms = (a.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) for a in (one, other))
    ends = np.where(ms < 0, -(2**63) + 1, 2**63 - 1)
    wrong = us // 1000 != ms
    if not wrong.any():
        return one
    return pa.array(np.where(wrong, ends, us), mask=~one.is_valid().to_numpy(zero_copy_only=False)).cast(one.type)


def _pickled(field: pa.Field) -> bool:
    """Whether a column, or what it is made of, is of a type that only unpickling tells (which pyarrow does not do unless asked)."""
    told = (field.metadata or {}).get(b"ARROW:extension:name")
    name = getattr(field.type, "extension_name", None)
    inner = [field.type[i] for i in range(field.type.num_fields)] if pa.types.is_struct(field.type) else []
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        inner = [field.type.value_field]
    return told == _PICKLED or name == _PICKLED.decode() or any(map(_pickled, inner))


# ---- lines -------------------------------------------------------------------------------------------------------------


@contextmanager
def _plain(f: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of an open file."""
    if name.endswith(".gz"):
        with gzip.GzipFile(fileobj=f) as unzipped:
            yield cast(BinaryIO, unzipped)
    else:
        with pa.CompressedInputStream(pa.PythonFile(f, mode="r"), "zstd") as stream, io.BufferedReader(stream, 1 << 20) as buffered:
            yield buffered


def _look_through(f: BinaryIO, name: str) -> None:
    """Decompress to the end. Raises UnreadableFileError for damage, which may show there alone."""
    try:
        if os.fstat(f.fileno()).st_size == 0:
            raise UnreadableFileError("the file is empty (0 bytes); compressed, nothing is some bytes long")
        with _plain(f, name) as plain:
            while plain.read(1 << 20):
                pass
    except OSError as e:
        if e.errno is not None:
            raise
        raise UnreadableFileError(_one_line(e)) from e
    except (EOFError, zlib.error, pa.ArrowException, ValueError) as e:
        raise UnreadableFileError(_one_line(e)) from e


def _read_lines(f: BinaryIO, batch_rows: int, given: dict[str, Any]) -> Iterator[RawBatch]:
    lines: list[bytes] = []
    numbers: list[int] = []
    too_long: dict[int, int] = {}
    number, held = -1, 0
    while line := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        length = len(line)
        if length > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := f.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
                length += len(rest)
            too_long[len(lines)] = length + len(rest.rstrip(b"\n"))
            line = line[:KEPT_OF_LONG_LINE]
        else:
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line.strip():
                continue
            if given:
                line = _with(line, given)
        lines.append(line)
        numbers.append(number)
        held += len(line)
        if len(lines) >= batch_rows or held >= CHUNK_BYTES:
            yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(lines, pa.binary()), too_long=too_long)
            lines, numbers, too_long, held = [], [], {}, 0
    if lines:
        yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(lines, pa.binary()), too_long=too_long)


def _with(line: bytes, given: dict[str, Any]) -> bytes:
    """A JSON object with what its folders say, where it has no such key; anything else as it is."""
    text = line.lstrip()
    if not text.startswith(b"{"):
        return line
    missing = {name: value for name, value in given.items() if b"\\" in text or f'"{name}"'.encode() in text}
    if missing:  # it may have the key: only its reader knows
        try:
            there = json.loads(text)
        except (ValueError, RecursionError):
            return line
        given = {name: value for name, value in given.items() if name not in there}
    if not given:
        return line
    rest = text[1:]
    added = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
    return added[:-1] + (b"" if rest.lstrip().startswith(b"}") else b",") + rest


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
