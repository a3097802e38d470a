"""Whether a file that records are erased from has a key: as a column, in its header, or in its records of JSON. Its text says nothing: a
word as common as ``name`` or ``user`` stands in some file everywhere."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.forgetting.other_formats import is_other, named_columns
from pipelines.forgetting.subject import LINES, UNREADABLE, names_in, opened
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
    """Whether a payload has this key: JSON in an object, at any depth; one that is no JSON as a whole (cut off, two objects in a line,
    framed) where the name stands in quotes with a colon behind it."""
    if _key(name).search(data) is None:
        return False
    found = set[str]()
    try:
        json.loads(data, object_pairs_hook=lambda pairs: found.update(key for key, _ in pairs))
    except (ValueError, RecursionError):
        return True  # its bytes are searched for the value, too
    return name in found


@functools.lru_cache(maxsize=16)
def _key(name: str) -> re.Pattern[bytes]:
    """A key as JSON may spell it: each letter plain or escaped, ``u`` or ``\\u0075``."""
    return re.compile(b'"' + b"".join(map(_spelled, name)) + rb'"\s*:')


def _spelled(letter: str) -> bytes:
    units = letter.encode("utf-16-be").hex()
    code = b"".join(rb"\\u(?i:%b)" % units[i : i + 4].encode() for i in range(0, len(units), 4))
    plain = (letter.encode(), json.dumps(letter)[1:-1].encode(), b"\\" + letter.encode() if letter == "/" else letter.encode())
    return b"(?:%b|%b)" % (b"|".join(map(re.escape, plain)), code)


def _parquet_has(path: Path, name: str) -> bool:
    with pq.ParquetFile(path) as file:
        if name in names_in(pa.struct(list(file.schema_arrow))):
            return True
        for batch in file.iter_batches():
            for column in batch.columns:  # payloads of letters, and of events as they came; framed ones are bytes
                framed = pa.types.is_binary(column.type)
                if framed or pa.types.is_string(column.type):
                    cells = (cell for cell in column.cast(pa.binary()).to_pylist() if cell is not None)
                    if any((framed or cell.lstrip()[:1] in (b"{", b"[")) and json_has(cell, name) for cell in cells):
                        return True
    return False
