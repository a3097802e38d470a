"""Whether a file that records are erased from has a key: as a column, in its header, or in its records of JSON. Its text says nothing: a
word as common as ``name`` or ``user`` stands in some file everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.forgetting.other_formats import is_other, named_columns
from pipelines.forgetting.subject import LINES, UNREADABLE, opened
from pipelines.forgetting.waiting_letters import letters_have
from pipelines.sources.file_formats.file_format import COMPRESSED, UnreadableFileError
from pipelines.sources.file_records import partitions_of
from transforms.event_source import EventSource

__all__ = ["has_key", "json_has"]


def has_key(path: Path, folders: Iterable[str], name: str, source: EventSource | None, letters: bool) -> bool:
    """Whether records of this file have a key ``name``, or the ``folders`` that it lies in say it (``name=value``); False for one that
    cannot be read. ``letters``: it is one of letters that wait."""
    if name in dict(partitions_of(tuple(folders))):
        return True
    low = path.name.lower()
    try:
        if letters:
            return letters_have(path, lambda data: json_has(data, name))
        if low.endswith(".parquet"):
            return _parquet_has(path, name)
        if source is not None and is_other(path, source):
            return name in named_columns(path, source)
        for ending in COMPRESSED:
            low = low.removesuffix(ending)
        if low.endswith(LINES):
            with opened(path) as lines:
                return any(json_has(line, name) for line in lines.read().splitlines())
    except (*UNREADABLE, UnreadableFileError):
        pass  # damaged: told by what reads it
    return False


def json_has(data: bytes, name: str) -> bool:
    """Whether a payload of JSON has this key in an object, at any depth; False for one that is no JSON."""
    if re.search(b'"' + re.escape(json.dumps(name)[1:-1].encode()) + rb'"\s*:|"' + re.escape(name.encode()) + rb'"\s*:', data) is None:
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _parquet_has(path: Path, name: str) -> bool:
    with pq.ParquetFile(path) as file:
        if name in file.schema_arrow.names:
            return True
        for batch in file.iter_batches():
            for column in batch.columns:  # payloads of letters, and of events as they came
                if pa.types.is_binary(column.type) or pa.types.is_string(column.type):
                    cells = (cell for cell in column.cast(pa.binary()).to_pylist() if cell is not None)
                    if any(cell.lstrip()[:1] in (b"{", b"[") and json_has(cell, name) for cell in cells):
                        return True
    return False
