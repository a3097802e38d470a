"""The snapshot of a table that runs read: its rows as event files below ``data/tables/<source>``, known by what they are.

A run of ``tandem batch`` takes one before it lists its inputs. So a table's events are files as all others are, with hashes in the
manifest: the same rows are found again, other rows are another run, and what a run read lies still while it reads.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.lake.data_files import read_json, sha256, write_json
from pipelines.project.extensions import TABLES
from pipelines.sources.file_formats.physical import plain_columns
from pipelines.sources.tables.rows_digest import RowsDigest
from pipelines.sources.tables.table_reader import TableReader
from transforms.definitions import EventSource
from transforms.errors import DataError

__all__ = ["table_news", "take_snapshot"]

GROUP_ROWS = 65_536
FILE_ROWS = 16 * GROUP_ROWS
MOST_DIGESTED = 20_000_000
"""Rows that are read to tell whether they are the same: of more only a run tells."""
_NOTE = ".snapshot"


def take_snapshot(data: Path, source: EventSource, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Have the present rows of a source's table below the data folder; what they are known by.

    A table that knows its version is read only when that is another one. Rows are streamed to files; the folder changes by one rename, and
    an earlier snapshot is removed after it. Raises ConfigError and DataError, with nothing changed.
    """
    assert source.table is not None
    reader = _reader(source)
    top = layout.snapshot(data, source.name)
    held = _held(top)
    identity = dict(reader.identity())
    if identity and held is not None and {k: held.get(k) for k in identity} == identity:
        return held
    say(f"{source.name}: taking a snapshot of its table")
    unfinished = layout.snapshot(data, f".{source.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with reader.open() as rows:
            try:
                known, digest = _write(rows.batches, unfinished)
            except (ValueError, NotImplementedError) as error:  # Arrow's are ValueErrors
                raise DataError(f"source {source.name!r}: rows of its table cannot be kept as Parquet: {error}") from None
            count = known.rows
            taken: dict[str, Any] = {**rows.identity, "rows": count, "sha256": digest, "digest": known.hexdigest()}
        taken.setdefault("kind", source.table.kind)
        if held is not None and not rows.identity and (held.get("sha256") == digest or held.get("digest") == taken["digest"]):
            say(f"{source.name}: {count:,} rows, the same as before")
            return held
        write_json(unfinished / _NOTE, taken)
        old = layout.snapshot(data, f".{source.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if top.exists():
            top.rename(old)
        unfinished.rename(top)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    say(f"{source.name}: {count:,} rows")
    return taken


def table_news(data: Path, source: EventSource) -> tuple[str, str]:
    """How a source's table differs from the snapshot that there is, by what names its rows or else by their number and a digest of them:
    ``version 4 -> 6``, ``rows 300 -> 420``, ``300 rows, not the same ones``; and what cannot be told. Both empty where it is as it was, or
    there is no snapshot yet. Only rows that nothing names are read, up to :data:`MOST_DIGESTED`, and nothing is written. Raises ConfigError
    and DataError."""
    held = _held(layout.snapshot(data, source.name))
    if held is None:
        return "", ""
    reader = _reader(source)
    identity = dict(reader.identity())
    if identity:
        return ", ".join(f"{name} {held.get(name, 'none')} -> {now}" for name, now in identity.items() if held.get(name) != now), ""
    then, now = int(held.get("rows") or 0), reader.count()
    if now is not None and now != then:
        return f"rows {then:,} -> {now:,}", ""
    if "digest" not in held or (then if now is None else now) > MOST_DIGESTED:
        many = f"its table has {then:,} rows, as many as the last snapshot; " if now is not None else ""
        return "", f"{many}whether its table has other rows than the last snapshot, only a run tells that reads them"
    found = RowsDigest()
    with reader.open() as rows:
        for batch in rows.batches:
            found.add(plain_columns(pa.Table.from_batches([batch])))
    if found.rows != then:
        return f"rows {then:,} -> {found.rows:,}", ""
    return ("" if found.hexdigest() == held["digest"] else f"{then:,} rows, not the same ones"), ""


def _reader(source: EventSource) -> TableReader:
    assert source.table is not None
    found: type[TableReader] = TABLES.load(source.table.kind)
    return found(source.name, source.table)


def _held(top: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, DataError):
        found = read_json(top / _NOTE)
        return found if isinstance(found, dict) else None
    return None


def _write(batches: Iterable[pa.RecordBatch], folder: Path) -> tuple[RowsDigest, str]:
    """Write rows into Parquet files; what they are, and a hash of all files: row groups are of one size, however the rows came."""
    known = RowsDigest()
    writer: pq.ParquetWriter | None = None
    files: list[Path] = []
    try:
        for group in map(plain_columns, _groups(batches)):  # Parquet takes no views, which newer engines give
            if writer is None or known.rows % FILE_ROWS == 0:
                if writer is not None:
                    writer.close()
                files.append(folder / f"part-{len(files):05d}.parquet")
                writer = pq.ParquetWriter(files[-1], group.schema, compression="zstd", version="2.6")
            writer.write_table(group)
            known.add(group)
    finally:
        if writer is not None:
            writer.close()
    return known, hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of :data:`GROUP_ROWS`, but for the last one."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, GROUP_ROWS - held)
            batch = batch.slice(part.num_rows)
            waiting.append(part)
            held += part.num_rows
            if held == GROUP_ROWS:
                yield pa.Table.from_batches(waiting).combine_chunks()
                waiting, held = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()
