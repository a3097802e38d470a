"""The dead letters of batch runs: what event files held and no run could use, as each run keeps them.

They lie in ``data/runs/<id>/dead_letters/<source>/*.parquet`` (:data:`transforms.contract.DEAD_LETTER_SCHEMA`). Nothing replays them: the
log is corrected, or the contract, and the next run reads it anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import runs
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.file_formats.csv_file import CsvFile
from pipelines.sources.file_formats.file_format import COMPRESSED, UnreadableFileError
from pipelines.sources.letters import Choice
from transforms.contract import field_of
from transforms.definitions import Csv, EventSource
from transforms.errors import DataError
from transforms.instants import micros_of

__all__ = ["FileLetter", "FileListing", "find_file_letter", "line_columns", "list_file_letters", "run_with_letters"]


@dataclass(frozen=True)
class FileLetter:
    """One dead letter of a batch run; ``row`` is None where the whole file could not be read."""

    source: str
    reason: str
    detail: str
    file: str
    row: int | None
    payload: bytes | None
    run: str
    written_us: int
    """When the run began."""

    @property
    def where(self) -> str:
        """The file, relative to the data folder, and the row or line in it, from 0 up: ``events/orders/a.jsonl:27``."""
        return self.file if self.row is None else f"{self.file}:{self.row}"


@dataclass
class FileListing:
    """The dead letters of one run: how many by source and reason, how many of these are about which field, and the first ones."""

    run: str
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    fields: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    first: list[FileLetter] = field(default_factory=list)


def run_with_letters(data: Path, run_id: str | None = None) -> runs.Run | None:
    """The batch run of this id, else the newest that ended, well or not (None: there is none). Raises DataError."""
    if run_id is not None:
        return runs.find(data, run_id, "batch")
    ended = [r for r in runs.list_runs(data) if r.kind == "batch" and r.status in ("complete", "failed")]
    return ended[-1] if ended else None


def _letters(run: runs.Run, choice: Choice) -> Iterator[FileLetter]:
    began = micros_of(datetime.fromisoformat(run.created))
    if choice.since_us is not None and began < choice.since_us:
        return
    for file in sorted((run.folder / "dead_letters").glob("*/*.parquet")):
        if choice.source not in (None, file.parent.name):
            continue
        for batch in pq.ParquetFile(file).iter_batches():
            yield from _of(batch, run.id, began, choice)


def _of(batch: pa.RecordBatch, run: str, began: int, choice: Choice) -> Iterator[FileLetter]:
    names = ("source", "reason", "detail", "file", "row", "payload")
    columns = (batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names)
    for source, reason, detail, file, row, payload in zip(*columns, strict=True):
        if choice.reason in (None, reason):
            yield FileLetter(source, reason, detail, file or "", row, payload, run, began)


def list_file_letters(run: runs.Run, choice: Choice, first: int) -> FileListing:
    """Count the letters of a choice, and keep the first in order of source, file and row."""
    found = FileListing(run.id)
    for letter in _letters(run, choice):
        found.records[letter.source, letter.reason] += 1
        named = field_of(letter.detail)
        if named is not None:
            found.fields[letter.source, letter.reason, named] += 1
        if len(found.first) < first:
            found.first.append(letter)
    return found


def find_file_letter(run: runs.Run, where: str) -> FileLetter:
    """The letter about a file and row. Raises DataError."""
    for letter in _letters(run, Choice()):
        if letter.where == where:
            return letter
    raise DataError(f"run {run.id} has no dead letter for {where}; see 'tandem dlq list', or give another run with --run")


def line_columns(data: Path, file: str, source: EventSource) -> tuple[str, ...] | None:
    """The names of the values of a line of an event file, by the source's dialect or the file's header; None: its records are JSON.

    Raises DataError where the header would tell, and the file is not there any more, or no longer what it was."""
    name = file.lower()
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    if not isinstance(source.file_format, Csv) or not name.endswith(tuple(source.file_format.suffixes)):
        return None
    try:
        return tuple(CsvFile(source).names(lambda: opened(data / file)))
    except (OSError, UnreadableFileError) as error:
        raise DataError(f"{file}, whose header names the values of this line, cannot be read: {error}") from None
