"""The words of enums, and of pandas' categories, by the schemas that records were written with: a sample has only those that occurred."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.file_formats.avro_file import container
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.formats.avro_times import with_times
from pipelines.sources.formats.schema_paths import AvroPlaces, Places
from transforms.places import EACH

__all__ = ["avro_places", "categories", "file_places", "protobuf_words", "words_of"]

Steps = tuple[Any, ...]
"""As in :mod:`pipelines.inference.sampling`."""

MOST_DEPTH = 8
MOST_FIELDS = 2_000


def words_of(columns: Iterable[Steps], places: Sequence[Places]) -> dict[Steps, tuple[str, ...]]:
    """For the columns that are of an enum in all schemas that have them: its words, in their order."""
    out: dict[Steps, tuple[str, ...]] = {}
    for steps in columns:
        found = [each.words_at(steps) for each in places]
        if found and None not in found and (words := dict.fromkeys(word for some in found for word in some or ())):
            out[steps] = tuple(words)
    return out


def avro_places(schema: Any, named: dict[str, Any]) -> AvroPlaces:
    """Of a schema of Avro (JSON), and the parsed ones that it refers to, which it is added to."""
    from fastavro import parse_schema

    return AvroPlaces(parse_schema(with_times(schema), named), named)


def file_places(file: Path) -> AvroPlaces:
    """Of a file of Avro, which could be read."""
    with opened(file) as f:
        return avro_places(container(f)[0], {})


def categories(columns: Mapping[Steps, Sequence[Any]], files: Iterable[Path]) -> dict[Steps, tuple[str, ...]]:
    """For the columns of texts that are categories of pandas, the same in all of the files (of Arrow or Parquet, which could be read) that
    have them: these, in their order. Not where all of them are among the values and they have no order: pandas made them of the rows."""
    found: dict[str, list[tuple[tuple[str, ...], bool]]] = {}
    for file in files:
        for name, told in _categories(file).items():
            found.setdefault(name, []).append(told)
    out: dict[Steps, tuple[str, ...]] = {}
    for name, each in found.items():
        (words, ordered), values = each[0], columns.get((name,), ())
        if all(told == each[0] for told in each) and (ordered or not set(words) <= set(values)):
            out[(name,)] = words
    return out


def _categories(file: Path) -> dict[str, tuple[tuple[str, ...], bool]]:
    """The words of a file's categories of text, and whether these have an order; none where it, of which the first rows could be read, is
    damaged."""
    try:
        with open(file, "rb") as f:
            table = _first_rows(f)
    except (OSError, pa.ArrowException):
        return {}
    out = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.num_chunks and pa.types.is_dictionary(column.type):
            words = column.chunk(0).dictionary.to_pylist()
            if words and all(isinstance(word, str) for word in words):
                out[name] = tuple(words), bool(column.type.ordered)
    return out


def _first_rows(f: BinaryIO) -> pa.Table:
    """The first rows of a file's categories; no columns where it has none."""
    start = f.read(6)
    f.seek(0)
    if start.startswith(b"PAR1"):
        parquet = pq.ParquetFile(f)
        names = _categorical(parquet.schema_arrow)
        return parquet.read_row_group(0, columns=names) if names and parquet.num_row_groups else pa.table({})
    reader = pa.ipc.open_file(f) if start == b"ARROW1" else pa.ipc.open_stream(f)
    names = _categorical(reader.schema)
    first = reader.get_batch(0) if names and start == b"ARROW1" and reader.num_record_batches else None
    first = next(iter(reader), None) if names and start != b"ARROW1" else first
    return pa.table({}) if first is None else pa.Table.from_batches([first]).select(names)


def _categorical(schema: pa.Schema) -> list[str]:
    """The columns that pandas says it has as categories."""
    try:
        told = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("columns", [])
        named = {each["field_name"] for each in told if each.get("pandas_type") == "categorical"}
    except (ValueError, TypeError, AttributeError, KeyError):
        return []
    return [field.name for field in schema if field.name in named and pa.types.is_dictionary(field.type)]


def protobuf_words(messages: Iterable[Any]) -> dict[Steps, tuple[str, ...]]:
    """The same, of the fields of messages (their descriptors) and of those within: the first :data:`MOST_FIELDS`, the upper ones before
    those within them, as messages within messages stand at any number of places."""
    from pipelines.sources.formats.protobuf_columns import enum_names, is_map, is_repeated

    out: dict[Steps, dict[str, None]] = {}
    places = deque[tuple[Steps, Any]](((), message) for message in messages)
    left = MOST_FIELDS
    while places and left > 0:
        at, message = places.popleft()
        for of in islice(message.fields, left):
            left -= 1
            if is_map(of):
                continue
            steps = (*at, of.name, EACH) if is_repeated(of) else (*at, of.name)
            if of.enum_type is not None and not is_repeated(of):
                out.setdefault(steps, {}).update(dict.fromkeys(list(enum_names(of.enum_type).values())[::-1]))
            elif of.message_type is not None and len(steps) < MOST_DEPTH:
                places.append((steps, of.message_type))
    return {steps: tuple(words) for steps, words in out.items()}
