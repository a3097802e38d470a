"""A subject, and its records in files: Parquet, JSON lines, anything else. Pure functions of a file.

Records are told by their key, whatever its length: events by the field of its name, in every format alike, so that an event of others that
has the value in another field stays. The tables that Tandem makes of events hold the key's values in other columns, too: as features that
keep them, or as a service joins by them; where nothing says what a column is (its definition is gone, or preprocessing made it), by its
name, or as in bytes. In what is no record (a page, a log, a payload that is no JSON) there are bytes alone. A value of few bytes (``7``,
``NY``) stands in nearly every file by chance, so there it counts where the key's name stands before it; a number where no digit stands
beside it; any other value wherever its bytes are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.forgetting.column_types import cells, is_bytes, is_letters, is_text, may_name, names_in, types_in
from pipelines.forgetting.file_bytes import PART_BYTES, all_stand_in, text_parts
from pipelines.forgetting.key_values import (
    LEAST_BYTES,
    NUMBER,
    Mask,
    cells_equal,
    column_holds,
    forms,
    is_value,
    longest_match,
    patterns,
    plain_text,
    readings,
    same_name,
)
from pipelines.forgetting.parquet_parts import UNREADABLE, parquet_parts, without
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.file_formats.transcoded import marked_encoding
from pipelines.sources.file_records import partitions_of
from transforms.computed import compute
from transforms.errors import ConfigError
from transforms.event_source import EventSource
from transforms.fields import EVENT_MARK
from transforms.mapping import Read, read_records, read_rows

__all__ = ["LINES", "Subject", "holds", "without_rows"]

LINES = (".jsonl", ".ndjson", ".json")
_RECORDS = 1_000
"""So many are asked of a source at once."""
_RECORD = re.compile(r"^\s*[\[{]")
"""What a text of JSON begins with."""
_NO_WORDS = rf"{_RECORD.pattern}|[\x00-\x08\x0b\x0c\x0e-\x1f\x80-\xff]"
"""Bytes that have none of these are words."""


@dataclass(frozen=True)
class Subject:
    """Whom to forget: the value of each entity key, as text. What is about it has all of them. ``kept`` are (key, column) where a column of
    another name holds the key's values, and ``others`` columns that hold no value of a key, both of tables that Tandem makes: what another
    entity's rows count or add up is none, whatever number it is, nor is another field. ``sources`` are those that map what they read, and
    in whose records the keys stand elsewhere than under their names."""

    keys: tuple[tuple[str, str], ...]
    kept: frozenset[tuple[str, str]] = frozenset()
    others: frozenset[str] = frozenset()
    sources: tuple[EventSource, ...] = ()

    @classmethod
    def parse(cls, given: list[str]) -> Subject:
        """From ``name=value``, one for each key. Raises ConfigError."""
        keys = []
        for text in given:
            name, separator, value = text.partition("=")
            if not separator or not name or not value:
                raise ConfigError(
                    f"--entity {text!r}: write KEY=VALUE, the entity's key and its value; for several keys give --entity again"
                )
            keys.append((name, value))
        if len({name for name, _ in keys}) < len(keys) or not keys:
            raise ConfigError("--entity: give each key once")
        return cls(tuple(keys))

    @property
    def digest(self) -> str:
        """What may stand in logs and manifests: names, and a hash of the values."""
        names = ",".join(name for name, _ in self.keys)
        return f"{names}#{hashlib.sha256(repr(self.keys).encode()).hexdigest()[:12]}"

    def is_in(self, value: Any) -> bool:
        """Whether a decoded value is a record of it, or holds one at any depth, also as a text of JSON; bytes that are no text are as a
        payload. The one rule for events, whatever format they lie in: what is asked of columns is a quick way to the same answer."""
        if isinstance(value, dict):
            if all(name in value and is_value(value[name], wanted) for name, wanted in self.keys):
                return True
            return any(self.is_in(each) for each in value.values())
        if isinstance(value, bytes):
            text = plain_text(value)
            return self.is_in_text(value) if text is None else self.is_in(text)
        if isinstance(value, str):
            try:
                return _RECORD.match(value) is not None and self.is_in(json.loads(value, object_pairs_hook=readings))
            except (ValueError, RecursionError):
                return False  # words
        if isinstance(value, list) and value and isinstance(value[0], tuple):  # a map, as Arrow decodes it
            return self.is_in(readings(value))
        return isinstance(value, list) and any(self.is_in(each) for each in value)

    def is_in_text(self, data: bytes) -> bool:
        """Whether a payload is about it. One that is no JSON: whether it holds the values at all."""
        return bool(self.in_texts([data])[0])

    def in_texts(self, payloads: Sequence[bytes]) -> Mask:
        """:meth:`is_in_text` of each payload, bool [N]. Sources that map what they read are asked for many records at once: for one it
        costs nearly as much as for a thousand."""
        out, records, places = np.zeros(len(payloads), bool), list[dict[str, Any]](), list[int]()
        for at, data in enumerate(payloads):
            if not self._may_be_in(data):
                continue
            try:
                out[at] = self.is_in(json.loads(data, object_pairs_hook=readings))
                if self.sources and not out[at] and isinstance(record := json.loads(data), dict):
                    records.append(record)
                    places.append(at)
            except (ValueError, RecursionError):
                out[at] = self.stands_in(data)
            if len(records) == _RECORDS:
                out[places] = self._mapped(records, [payloads[p] for p in places])
                records, places = [], []
        out[places] = self._mapped(records, [payloads[p] for p in places])
        return out

    def _may_be_in(self, data: bytes) -> bool:
        """Whether a payload is to be read to know. Escapes (``\\u00fc`` for any letter) and numbers (1e2 for 100) have other bytes, and so
        may what a source makes of them: then only its reader knows."""
        if self.sources or b"\\" in data or any(NUMBER.fullmatch(wanted) for _, wanted in self.keys):
            return True
        return all(any(form in data for form in forms(wanted)) for _, wanted in self.keys)

    def _mapped(self, records: list[dict[str, Any]], payloads: Sequence[bytes]) -> Mask:
        """Which records, read as ``sources`` read them, are about it. One that cannot be read so costs no other its answer."""
        if len(records) > 1:
            try:
                each = [self.events(s, read_records(records, {}, s, None, bounded=False), len(records)) for s in self.sources]
                return cast(Mask, np.logical_or.reduce(each))
            except (ArithmeticError, RecursionError, TypeError, ValueError):
                each = [self._mapped([record], [payload]) for record, payload in zip(records, payloads, strict=True)]
                return np.concatenate(each)
        try:
            return np.array([any(self.reads(s, r) for s in self.sources) for r in records], bool)
        except (ValueError, RecursionError):
            return np.array([self.stands_in(payload) for payload in payloads], bool)

    def stands_in(self, data: bytes) -> bool:
        """Whether bytes that are no record hold all its values; see the module."""
        return all(pattern.search(data) for pattern in patterns(self.keys))

    def stands_in_parts(self, parts: Iterator[bytes]) -> bool:
        """:meth:`stands_in` of all parts together, in bounded memory."""
        return all_stand_in(parts, patterns(self.keys), max((longest_match(*key) for key in self.keys), default=0))

    def within(self, path: Path) -> Subject:
        """What is left to be asked of a file's records, where its folders ``key=value`` say some of it."""
        folders = dict(partitions_of(path.parent.parts))
        return replace(self, keys=tuple((name, value) for name, value in self.keys if not same_name(folders.get(name), value)))

    def rows(self, table: pa.Table, made: bool = True) -> Mask:
        """Which rows of a table are about it, bool [N]. ``made``: Tandem made it, of events; else it holds events. See the module."""
        columns = dict(zip(table.column_names, table.columns, strict=True))
        mapped = np.zeros(table.num_rows, bool)
        for source in self.sources if EVENT_MARK.encode() not in (table.schema.metadata or {}) else ():
            at = 0
            for batch in table.to_batches():
                mapped[at : at + batch.num_rows] |= self.events(source, read_rows(batch, source, None, bounded=False), batch.num_rows)
                at += batch.num_rows
        return mapped | self._rows(table.num_rows, columns, made)

    def reads(self, source: EventSource, record: Mapping[str, Any]) -> bool:
        """Whether a decoded record has an event that is about it, as its source reads it."""
        return bool(self.events(source, read_records([record], {}, source, None, bounded=False), 1).any())

    def events(self, source: EventSource, read: Read, n: int) -> Mask:
        """Which of N records have an event that is about it, as their source reads them, and computes of them."""
        if any(f.value is not None for f in source.all_fields):
            compute(source, read.columns, len(read.records))
        mine, out = np.ones(len(read.records), bool), np.zeros(n, bool)
        for name, wanted in self.keys:
            mine &= np.array([is_value(value, wanted) for value in read.columns[name][0].to_pylist()], bool)
        out[read.records[mine]] = True
        return out

    def _rows(self, n: int, columns: dict[str, pa.ChunkedArray], made: bool) -> Mask:
        if made and is_letters(columns):  # their own columns say what became of a record, whatever a key is called
            return self._inside(columns["payload"], made)
        out = np.ones(n, bool)
        for name, wanted in self.keys:
            out &= np.logical_or.reduce([np.zeros(n, bool), *self._cells(columns, name, wanted, made)])
        if not made or any(name not in columns or columns[name].type.num_fields for name, _ in self.keys):
            for column in columns.values():
                out |= self._inside(column, made)
        return out

    def _cells(self, columns: dict[str, pa.ChunkedArray], name: str, wanted: str, made: bool) -> Iterator[Mask]:
        """By each column that holds values of a key, which rows hold this one."""
        own = name in columns
        if own:
            yield cells_equal(columns[name], wanted)
        if not made:
            return
        for each, column in columns.items():
            if each == name or ("tile_start" in columns and each.split("|")[1:2] not in ([], [name])):  # kind|field|parameter|filter
                continue
            if "tile_start" in columns and pa.types.is_nested(column.type):
                if column_holds(column, name, wanted):
                    yield np.array([column_holds(column.slice(row, 1), name, wanted) for row in range(len(column))], bool)
            elif self._keeps(each, name) or (not own and self._unknown(each, column.type, name, wanted)):
                yield cells_equal(column, wanted)

    def _inside(self, column: pa.ChunkedArray, made: bool) -> Mask:
        """Which cells of a column are payloads, or records in the record, that are about it."""
        kind = column.type
        if pa.types.is_dictionary(kind):
            return self._inside(column.cast(kind.value_type), made)
        out = np.zeros(len(column), bool)
        if is_text(kind) or is_bytes(kind):
            begin = "" if made and is_bytes(kind) else r"^\{" if made else _NO_WORDS if is_bytes(kind) else _RECORD.pattern
            found = pc.fill_null(pc.match_substring_regex(column.cast(pa.large_binary()), pattern=begin), False)
            looked = column.filter(found)
            about = self.in_texts(looked.cast(pa.large_binary()).to_pylist()) if made else [self.is_in(value) for value in cells(looked)]
            out[found.to_numpy()] = about
        elif not made and self._may_be_of(kind):
            texts = pa.types.is_list(kind) and is_text(kind.value_type)
            if texts and not any(self._inside(pa.chunked_array([chunk.flatten()]), made).any() for chunk in column.chunks):
                return out  # texts that are no records, as in most lists
            for at in range(0, len(column), _RECORDS):
                out[at : at + _RECORDS] = [self.is_in(value) for value in cells(column.slice(at, _RECORDS))]
        return out

    def _may_be_of(self, kind: pa.DataType) -> bool:
        """Whether cells of a type with parts may hold a record of it: by the names of its fields, or as they may have any (maps, texts)."""
        return kind.num_fields > 0 and (may_name(kind) or {name for name, _ in self.keys} <= {*names_in(kind)})

    def may_hold(self, column: str, kind: pa.DataType) -> bool:
        """Whether a column of a table that Tandem makes, without the keys' own, may hold a value of one."""
        return any(self._keeps(column, name) or self._unknown(column, kind, name, wanted) for name, wanted in self.keys)

    def _keeps(self, column: str, key: str) -> bool:
        return (key, column) in self.kept or (key, column.rpartition("__")[2]) in self.kept

    def _unknown(self, column: str, kind: pa.DataType, key: str, wanted: str) -> bool:
        """Whether nothing says what a column is, and it may hold this value of the key: by its name, or as bytes do."""
        _, prefixed, own = column.rpartition("__")
        if {column, own} & self.others or own.startswith("tandem_") or (prefixed and own == "status"):
            return False
        *_, inner = types_in(kind)
        number = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
        named = re.search(rf"(?<![^\W_]){re.escape(key)}(?![^\W_])", column) is not None
        return named or (not number and len(wanted.encode()) >= LEAST_BYTES)


def without_rows(
    path: Path, subject: Subject, dry_run: bool = False, made: bool = True, gone: Callable[[pa.Table], object] = lambda rows: None
) -> int:
    """Rewrite a Parquet file without the subject's rows, in one step; how many there were. ``made``: Tandem made it; ``gone`` and errors as
    of :func:`pipelines.forgetting.parquet_parts.without`."""
    asked = subject.within(path)
    return without(path, lambda rows: asked.rows(rows, made), dry_run, gone)


def holds(path: Path, subject: Subject) -> bool:
    """Whether the bytes of all its values are in a file: unpacked, and decoded where it is Parquet."""
    if path.name.lower().endswith(".parquet"):
        left = dict(subject.keys)
        try:
            with parquet_parts(path) as parts:
                for table in parts.tables():
                    left = {n: v for n, v in left.items() if not any(column_holds(column, n, v) for column in table.columns)}
                    if not left:
                        return True
        except UNREADABLE:
            with open(path, "rb") as raw:
                return subject.stands_in_parts(text_parts(raw, None))
        return False
    try:
        with opened(path) as unpacked:
            return _stands_in(unpacked, subject)
    except UNREADABLE:  # damaged: as it is
        with open(path, "rb") as raw:
            return _stands_in(raw, subject)


def _stands_in(f: BinaryIO, subject: Subject) -> bool:
    start = f.read(PART_BYTES)
    encoding = marked_encoding(start)
    return subject.stands_in_parts(text_parts(f, encoding, start))
