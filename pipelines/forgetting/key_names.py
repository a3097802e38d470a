"""Whether a file that records are erased from has a key: as a column, in its header, or in its records of JSON. Its text says nothing: a
word as common as ``name`` or ``user`` stands in some file everywhere."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.forgetting.column_types import cells, is_letters, may_name, names_in
from pipelines.forgetting.key_values import readings
from pipelines.forgetting.other_formats import is_other, named_columns
from pipelines.forgetting.parquet_parts import UNREADABLE, parquet_parts
from pipelines.forgetting.subject import LINES
from pipelines.forgetting.waiting_letters import letters_have
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.file_formats.file_format import COMPRESSED, UnreadableFileError
from pipelines.sources.file_formats.json_lines_file import json_texts
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
            return any(json_has(text, name) for text in json_texts(lambda: opened(path)))
    except (*UNREADABLE, UnreadableFileError):
        pass  # damaged: told by what reads it
    return False


def json_has(data: bytes, name: str) -> bool:
    """Whether a payload has this key: JSON in an object, at any depth, also in texts of JSON; one that is no JSON as a whole (cut off, two
    objects in a line, framed) where the name stands in quotes with a colon behind it."""
    if _key(name, rb"\\*").search(data) is None:
        return False
    try:
        return _value_has(json.loads(data, object_pairs_hook=readings), name)
    except (ValueError, RecursionError):
        return _key(name).search(data) is not None  # its bytes are searched for the value, too


@functools.lru_cache(maxsize=16)
def _key(name: str, quoted: bytes = b"") -> re.Pattern[bytes]:
    """A key as JSON may spell it: each letter plain or escaped, ``u`` or ``\\u0075``. ``quoted``: what may be before its second quote, as
    in a text of JSON."""
    return re.compile(rb'"' + b"".join(map(_spelled, name)) + quoted + rb'"\s*:')


def _spelled(letter: str) -> bytes:
    units = letter.encode("utf-16-be").hex()
    code = b"".join(rb"\\u(?i:%b)" % units[i : i + 4].encode() for i in range(0, len(units), 4))
    plain = (letter.encode(), json.dumps(letter)[1:-1].encode(), b"\\" + letter.encode() if letter == "/" else letter.encode())
    return b"(?:%b|%b)" % (b"|".join(map(re.escape, plain)), code)


def _parquet_has(path: Path, name: str) -> bool:
    with parquet_parts(path) as parts:
        letters = is_letters(parts.schema.names)  # their own columns say what became of a record
        if not letters and name in names_in(pa.struct(list(parts.schema))):
            return True
        columns = [f.name for f in parts.schema if may_name(f.type) and (not letters or f.name == "payload")]
        return any(_value_has(cell, name) for table in parts.tables(columns) for column in table.columns for cell in cells(column))


def _value_has(value: Any, name: str) -> bool:
    """Whether a cell has this key: in a payload (framed ones are bytes), an event as it came, or a map, at any depth."""
    if isinstance(value, bytes):
        return json_has(value, name)
    if isinstance(value, str):
        return value.lstrip()[:1] in ("{", "[") and json_has(value.encode("utf-8", "surrogatepass"), name)
    if isinstance(value, dict):
        return name in value or any(_value_has(each, name) for each in value.values())
    if isinstance(value, tuple):  # of a map
        return value[0] == name or _value_has(value[1], name)
    return isinstance(value, list) and any(_value_has(each, name) for each in value)
