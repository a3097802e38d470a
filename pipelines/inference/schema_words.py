"""The words of enums, by the schemas that records were written with: a sample has only those that occurred."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipelines.sources.file_formats.avro_file import container
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.formats.avro_times import with_times
from pipelines.sources.formats.schema_paths import AvroPlaces, Places
from transforms.places import EACH

__all__ = ["avro_places", "file_places", "protobuf_words", "words_of"]

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


def protobuf_words(messages: Iterable[Any]) -> dict[Steps, tuple[str, ...]]:
    """The same, of all fields of messages (their descriptors) and of those within."""
    out: dict[Steps, dict[str, None]] = {}
    left = [MOST_FIELDS]
    for message in messages:
        _of_message(message, (), out, left)
    return {steps: tuple(words) for steps, words in out.items()}


def _of_message(message: Any, at: Steps, out: dict[Steps, dict[str, None]], left: list[int]) -> None:
    from pipelines.sources.formats.protobuf_columns import is_map, is_repeated

    for of in message.fields:
        left[0] -= 1
        if left[0] < 0 or len(at) >= MOST_DEPTH or is_map(of):
            continue
        steps = (*at, of.name, EACH) if is_repeated(of) else (*at, of.name)
        if of.enum_type is not None and not is_repeated(of):
            out.setdefault(steps, {}).update(dict.fromkeys(value.name for value in of.enum_type.values))
        elif of.message_type is not None:
            _of_message(of.message_type, steps, out, left)
