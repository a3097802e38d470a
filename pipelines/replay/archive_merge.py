"""Many small files of a topic's archive into few: of a day and a partition those that follow on each other become one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.data_files import replaced
from pipelines.sources.archived_files import PREFIX, ArchivedFile, covered

__all__ = ["MERGE_FROM", "SMALL_BYTES", "merge_files", "remove_covered", "write_file"]

SMALL_BYTES = 32 << 20
"""A file above this is not merged any more."""
MERGE_FROM = 8
"""So many small files in a row are merged."""
KEEP_SECONDS = 3600.0
"""How long files stay after they were merged, for readers that began before."""
_ROW_GROUP = 65_536


def write_file(folder: Path, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """A file that appears whole, and outlives a crash from then on."""
    how = {"compression": "zstd", "version": "2.6", "coerce_timestamps": "us"}
    with replaced(folder / name, durable=True) as sink, pq.ParquetWriter(sink, schema, **how) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=_ROW_GROUP)


def merge_files(folder: Path) -> int:
    """Merge what can be in the folder of a day; the number of files that were merged. Memory is bounded by a row group."""
    there = {path.name: path for path in folder.glob("topic-*.parquet")}
    gone = covered(there)
    files = sorted(f for name in there if name not in gone and (f := ArchivedFile.of(name)))
    merged, row = 0, list[ArchivedFile]()
    for file in [*files, None]:
        small = file is not None and there[file.name].stat().st_size < SMALL_BYTES
        if file is not None and small and (not row or row[-1].partition == file.partition):
            row.append(file)
            continue
        if len(row) >= MERGE_FROM:
            _merge(folder, row)
            merged += len(row)
        row = [file] if file is not None and small else []
    return merged


def _merge(folder: Path, files: list[ArchivedFile]) -> None:
    into = ArchivedFile(files[0].partition, files[0].first, files[-1].upto)
    readers = [pq.ParquetFile(folder / file.name) for file in files]
    schema = readers[-1].schema_arrow
    if any(not reader.schema_arrow.equals(schema) for reader in readers):
        return  # the contract changed between them; each says for itself what it holds
    write_file(folder, into.name, _groups(readers), schema)


def _groups(readers: Sequence[pq.ParquetFile]) -> Iterator[pa.Table]:
    """All rows, in pieces of a row group."""
    held: list[pa.Table] = []
    for reader in readers:
        for group in range(reader.num_row_groups):
            held.append(reader.read_row_group(group))
            if sum(table.num_rows for table in held) >= _ROW_GROUP:
                yield pa.concat_tables(held)
                held = []
    if held:
        yield pa.concat_tables(held)


def remove_covered(folder: Path, keep_seconds: float = KEEP_SECONDS) -> int:
    """Delete the files of a day that were merged into others ``keep_seconds`` ago, and what a killed process left unfinished; how many."""
    removed, now = 0, time.time()
    for path in folder.glob(f".{PREFIX}*"):
        path.unlink(missing_ok=True)
        removed += 1
    for name, into in covered(path.name for path in folder.glob("topic-*.parquet")).items():
        if now - (folder / into).stat().st_mtime >= keep_seconds:
            (folder / name).unlink(missing_ok=True)
            removed += 1
    return removed
