"""From a file, a folder, a topic or a table to the text of a definition."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.inference.names import identifier
from pipelines.inference.proposal import Proposal, propose
from pipelines.inference.sampling import Sample, sample_files
from pipelines.inference.table_records import sample_table
from pipelines.inference.writing import USED, definition
from pipelines.project.config import KafkaSettings
from pipelines.sources.broker import PartitionReader
from transforms.errors import DataError
from transforms.tables import Query, Table

__all__ = ["Inferred", "infer_files", "infer_table", "infer_topic"]

POLL_MS = 2_000
MOST_KEYS = 100
"""Keys of records that are looked at."""


@dataclass(frozen=True)
class Inferred:
    """The definition's ``text``, what it says, and what it is called."""

    name: str
    text: str
    proposal: Proposal
    files: str
    """The folder that it expects the files in, relative to the data folder; "" where its events lie in a table."""


def infer_files(
    path: Path, *, name: str | None = None, rows: int = 20_000, explode: str | None = None, event_time: str | None = None,
    zone: str | None = None, encoding: str | None = None, group: bool = False, data: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Inferred:  # fmt: skip
    """A definition for a file or a folder of event files, from its first ``rows`` records. ``data`` is the data folder that
    the definition's ``files`` are relative to. Raises DataError, one line."""
    sample = sample_files(path, rows, explode, encoding, say)
    stem = path.name.partition(".")[0] if path.is_file() else Path(os.path.abspath(path)).name
    name = _named(name, stem)
    where = path if path.is_dir() else path.parent
    files = (None if data is None else _below(data, where)) or f"events/{name}"
    return _made(sample, name, files, "", event_time, zone, group, f"{path.name}, {sample.rows:,} records")


def _below(data: Path, folder: Path) -> str | None:
    """A folder relative to the data folder, as it is named there or by where its links lead; None: it is not below it."""
    for place, root in ((Path(os.path.abspath(folder)), Path(os.path.abspath(data))), (folder.resolve(), data.resolve())):
        if place != root and place.is_relative_to(root):
            return place.relative_to(root).as_posix()
    return None


def infer_topic(
    reader: PartitionReader, topic: str, *, name: str | None = None, rows: int = 20_000, explode: str | None = None,
    event_time: str | None = None, zone: str | None = None, group: bool = False, kafka: KafkaSettings | None = None,
    form: str | None = None,
) -> Inferred:  # fmt: skip
    """A definition for a topic, from the first ``rows`` of all its partitions: of records in JSON, in Avro and Protobuf by what ``kafka``
    says of registries and descriptors, or of lines. ``form`` is their format, where it is not ``kafka``'s and not to be told from their
    bytes. Raises DataError, UnknownTopic, BrokerAway, ConfigError."""
    from pipelines.inference.topic_records import (
        header_fields,
        key_field,
        key_names,
        sample_payloads,
    )  # more than files ask for: clients of registries

    count = reader.partitions(topic)
    payloads: list[bytes | None] = []
    keys: list[bytes | None] = []
    headers: list[list[tuple[str, bytes | None]]] = []
    parts: list[int] = []
    for partition in range(count):
        offset, end, kept = reader.start(topic, partition), reader.end(topic, partition), 0
        while offset < end and kept < -(-rows // count):
            fetched = reader.poll(topic, partition, offset, -(-rows // count) - kept, POLL_MS)
            payloads += fetched.payloads.to_pylist()
            if len(keys) < MOST_KEYS:
                originals = fetched.original(np.arange(min(MOST_KEYS, len(fetched.offsets))))
                keys += [key for key, _, _ in originals]
                headers += [each for _, _, each in originals]
            kept += len(fetched.offsets)
            if fetched.next_offset == offset:
                break
            offset = fetched.next_offset
        parts.append(kept)
    if not payloads:
        raise DataError(f"topic {topic!r} holds no records; nothing can be inferred")
    name = _named(name, topic.rpartition(".")[2] or topic)
    sample, form = sample_payloads(payloads, explode, kafka=kafka, name=name, topic=topic, form=form, parts=parts)
    names = key_names(keys, kafka, name)
    sample.key_names = frozenset(names)
    told = f"topic {topic}, {sample.rows:,} records in {form}"
    made = _made(sample, name, f"events/{name}", topic, event_time, zone, group, told)
    if field := key_field(keys, names, sample):
        made = replace(made, text=f"{made.text}# The records' keys hold what no field above does: {field}\n")
    if lines := [f"#     {field},\n" for field in header_fields(headers, {c.name for c in made.proposal.columns})]:
        made = replace(made, text=f"{made.text}# The records' headers may be fields, too:\n{''.join(lines)}")
    if form == "json" or (kafka is not None and kafka.formats.get(name) == form):
        return made
    return replace(
        made, text=f"{made.text}# tandem.yaml must say how the topic's records are encoded: kafka: {{formats: {{{name}: {form}}}}}\n"
    )


def infer_table(
    table: Table, *, name: str | None = None, rows: int = 20_000, explode: str | None = None, event_time: str | None = None,
    zone: str | None = None, group: bool = False,
) -> Inferred:  # fmt: skip
    """A definition for a table, from its first ``rows`` rows as it is now. Raises DataError and ConfigError, one line without secrets."""
    name = _named(name, _called(table))
    sample = sample_table(name, table, rows, explode)
    kind = type(table).__name__
    told = f"inferred from {'a' if kind != 'Iceberg' else 'an'} {kind} table, {sample.rows:,} rows; review and correct it"
    if isinstance(table, Query):
        told = told.replace("a Query table", "a query")
    proposal = propose(sample, zone=zone, event_time=event_time)
    return Inferred(name, definition(proposal, name, "", "", group, told, table), proposal, "")


def _called(table: Table) -> str:
    """What a table is called where nobody says: the last part of its place, or what a query is from."""
    if isinstance(table, Query):
        found = re.search(r"\bfrom\s+[\"`]?([\w.]+)", table.sql, re.IGNORECASE)
        return found[1].rpartition(".")[2] if found else "rows"
    place = str(next(iter(vars(table).values()))).rstrip("/")
    return re.split(r"[/.]", place)[-1] or "rows"


def _named(given: str | None, of: str) -> str:
    """The source's name, which is that of a variable of the definition, too, and hides nothing that it uses. Raises DataError."""
    name = identifier(of) if given is None else given
    if given is None and name in USED:
        name = f"{name}_events"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in USED:
        raise DataError(
            f"--name {name!r} cannot be a variable of the definition; write small letters, digits and _, beginning with a letter"
        )
    return name


def _made(sample: Sample, name: str, files: str, topic: str, event_time: str | None, zone: str | None, group: bool, told: str) -> Inferred:
    proposal = propose(sample, zone=zone, event_time=event_time)
    told = f"inferred from {told}; review and correct it"
    return Inferred(name, definition(proposal, name, files, topic, group, told), proposal, files)
