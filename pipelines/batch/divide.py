"""Large event files in parts, so that many workers read one: where a file may be divided, a first look at each part, and what both together
say of the file.

Nothing of it changes what is read. A file that is used whole or not at all is looked through, each part wherever it is, before any row
of it is used; the lines of a text are counted, so that dead letters keep their numbers. What cannot be divided is one part: the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.lake.file_addresses import opening, reading, unchanged
from pipelines.sources.event_files import EventFile, verdicts
from pipelines.sources.file_formats.file_format import FileFormat, FileRange, Look, Opened, RawBatch, UnreadableFileError, damaged
from pipelines.sources.file_records import divided, read, read_part
from transforms.definitions import EventSource

__all__ = ["Divide", "FilePart", "LookAt", "division", "in_parts", "look_at", "part_events", "put_together", "read_of"]


@dataclass(frozen=True)
class FilePart:
    """A part of an event file, the ``index``-th, whose first row has the number ``first``; ``within`` None: all of it, in which ``fault``
    is what a look at its parts found."""

    file: EventFile
    within: FileRange | None = None
    index: int = 0
    first: int = 0
    fault: str = ""

    @property
    def name(self) -> str:
        """The file's name; a part's own number behind it, where it is one of several."""
        return self.file.name if self.within is None else f"{self.file.name}~{self.index:06d}"


def in_parts(file: EventFile, source: EventSource, most: int) -> bool:
    """Whether a file is to be divided, if it can: it has more than ``most`` bytes, and its format has parts."""
    return file.size > most and divided(file.name, source) is not None


def division(file: EventFile, source: EventSource, most: int) -> list[FilePart]:
    """The parts of a file, in order; itself, where there is nothing to divide. Raises DataError where it is not as it was listed."""
    form = divided(file.name, source)
    with unchanged(file.path, file.version, _start(file, source)):
        found = [] if form is None else form.parts(_opened(file), most)
    if form is not None and form.grows:
        found = [(begin, min(end, file.size)) for begin, end in found if begin < file.size]
    return [FilePart(file, within, i) for i, within in enumerate(found)] if len(found) > 1 else [FilePart(file)]


def look_at(part: FilePart, source: EventSource) -> Look:
    """A first look at one of several parts. Raises DataError where the file is not as it was listed."""
    form = divided(part.file.name, source)
    assert form is not None and part.within is not None
    with unchanged(part.file.path, part.file.version, _start(part.file, source)):
        return form.look(_opened(part.file), part.within)


def put_together(looks: Iterable[tuple[FilePart, Look]]) -> list[FilePart]:
    """What is to be read of a file, after a look at each of its parts, in any order."""
    found = sorted(looks, key=lambda pair: pair[0].index)
    file = found[0][0].file
    if any(look.alone for _, look in found):
        return [FilePart(file)]
    parts, at = [], 0
    for part, look in found:
        if look.fault:
            return [FilePart(file, fault=damaged(look.fault, at + look.numbers))]
        parts.append(replace(part, first=at))
        at += look.numbers
    return parts


def part_events(
    part: FilePart, source: EventSource, now_us: int, max_future_us: int, noted: Any, batch_rows: int = 65_536
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The events of a part, as :func:`pipelines.sources.event_files.events` gives a file's. Raises DataError, perhaps behind some of them,
    where the file is not as it was listed: no hash in a manifest would be of what was read."""
    yield from verdicts(_raw(part, source, batch_rows), source, now_us, max_future_us, part.file.name, noted)


def _raw(part: FilePart, source: EventSource, batch_rows: int) -> Iterator[RawBatch]:
    file = part.file
    if part.fault:
        raise UnreadableFileError(part.fault)
    if part.within is None:
        start = _start(file, source)
        with reading(file.path, file.version, start) as path:
            yield from read(path, source, batch_rows, file.partitions, None if start is None else start[0])
        return
    form: FileFormat | None = divided(file.name, source)
    assert form is not None
    with unchanged(file.path, file.version, _start(file, source)):
        yield from read_part(form, _opened(file), part.within, part.first, source, batch_rows, file.partitions)


def _start(file: EventFile, source: EventSource) -> tuple[int, str] | None:
    """What of a file is read, where others may append to it meanwhile: its lines of when it was listed."""
    form = divided(file.name, source)
    return (file.size, file.sha256) if form is not None and form.grows and file.sha256 else None


def _opened(file: EventFile) -> Opened:
    return partial(opening, file.path, file.size)


class Divide(beam.DoFn):
    """EventFile -> its parts, where there are several; output ``whole``: the file as one part."""

    def __init__(self, source: EventSource, most: int) -> None:
        self.source, self.most = source, most

    def process(self, file: EventFile) -> Iterator[Any]:
        """Divide one file."""
        parts = division(file, self.source, self.most)
        yield from parts if len(parts) > 1 else [beam.pvalue.TaggedOutput("whole", parts[0])]


class LookAt(beam.DoFn):
    """FilePart -> (the file's name, (the part, what a first look at it tells))."""

    def __init__(self, source: EventSource) -> None:
        self.source = source

    def process(self, part: FilePart) -> Iterator[tuple[str, tuple[FilePart, Look]]]:
        """Look at one part."""
        yield part.file.name, (part, look_at(part, self.source))


def read_of(named: tuple[str, Iterable[tuple[FilePart, Look]]]) -> Sequence[FilePart]:
    """(a file's name, the looks at its parts) -> what is to be read."""
    return put_together(named[1])
