"""A subject's records in a file of JSON, in any form that its events are read from, taken out; what stays is as it was, byte for byte."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pipelines.forgetting.file_bytes import PART_BYTES, packing
from pipelines.forgetting.subject import Subject
from pipelines.lake.data_files import replaced
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.file_formats.json_documents import BETWEEN, MAX_LINE_BYTES, divided_text, has_documents
from pipelines.sources.file_formats.transcoded import byte_order_mark, transcoded

__all__ = ["without_json"]

_BEGINS = re.compile(rb"(?:^|[^:\s])\s*\{")
"""An object that is no member's value, so that it may be a record."""
_CLOSED = re.compile(rb"[\]}]")
_BATCH = 1_000
_LEVELS = 16
"""In so many objects around each other records are looked for: each is held in memory."""

Piece = tuple[bytes, bytes, bool]
"""A record, what stands behind it before the next one, and whether it is one, to be asked (then: whether it is to go). Of no bytes: what is
behind it stands before the first record."""


def without_json(path: Path, subject: Subject, dry_run: bool = False, passed: Callable[[], object] = lambda: None) -> int:
    """Rewrite a file of JSON without the subject's records, in one step; how many there were. Its form and its encoding stay.

    What may hold records of others stays, too, and is found where files are searched again: what is no JSON, unless it is one line with
    one record at most. Of a file that is one object around its records, these are taken out. Memory is bounded by some records: a line
    above 16 MiB stays, and ``passed`` is called. Raises ValueError for a record of another form that is as long, and what damage raises."""
    asked = subject.within(path)
    with opened(path) as file:
        mark, encoding = byte_order_mark(file.read(4))
    with _text(path, mark, encoding) as text:
        documents = has_documents(text)
    one = _one_record(path, mark, encoding, documents, asked)

    def judged() -> Iterator[Piece]:
        if one is not None:
            yield from _joined(iter(one))
            return
        with _text(path, mark, encoding) as text:
            yield from _joined(_judged(_documents(text) if documents else _lines(text, passing), asked, documents))

    passing: list[int] = []
    count, last = 0, 0
    for at, (_, _, goes) in enumerate(judged()):
        count += goes
        last = last if goes else at
    if passing:
        passed()
    if count and not dry_run:
        with replaced(path.resolve(), durable=True, as_before=True) as out, packing(path, out) as packed:
            packed.write(mark)
            for part in _rest(judged(), last):
                packed.write(part if encoding == "utf-8" else part.decode().encode(encoding))
    return count


@contextmanager
def _text(path: Path, mark: bytes, encoding: str) -> Iterator[BinaryIO]:
    """The text of a file behind its mark, in UTF-8."""
    with opened(path) as file:
        file.read(len(mark))
        if encoding == "utf-8":
            yield file
        else:
            with transcoded(file, encoding, "as its byte order mark says", "write it again, best as UTF-8") as text:
                yield text


def _one_record(path: Path, mark: bytes, encoding: str, documents: bool, subject: Subject) -> list[Piece] | None:
    """The pieces of a file that is one object about the subject, around records of which some are; None for another."""
    with _text(path, mark, encoding) as text:
        pieces = _documents(text) if documents else _lines(text, [])
        records = list(islice((record for record, _, asked in pieces if record.strip()), 2))
    if len(records) != 1 or not subject.is_in_text(records[0]):
        return None
    with _text(path, mark, encoding) as text:
        whole = text.read(2 * MAX_LINE_BYTES)
    pieces_of_it = _wrapped(whole) if len(whole) < 2 * MAX_LINE_BYTES else []
    objects = [asked and _object(record) for record, _, asked in pieces_of_it]
    about = subject.in_texts([record for record, _, _ in pieces_of_it])
    inner = [(record, behind, bool(mine and own)) for (record, behind, _), mine, own in zip(pieces_of_it, about, objects, strict=True)]
    return inner if 0 < sum(goes for _, _, goes in inner) < sum(objects) else None


def _batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, held = list[Piece](), 0
    for piece in pieces:
        batch.append(piece)
        held += len(piece[0])
        if len(batch) == _BATCH or held > PART_BYTES:
            yield batch
            batch, held = [], 0
    yield batch


def _judged(pieces: Iterable[Piece], subject: Subject, documents: bool, divide: bool = True) -> Iterator[Piece]:
    """Which are to go. ``divide``: of those that may not go whole, as several records may be in a line, some in them may."""
    for batch in _batched(pieces):
        about = subject.in_texts([record for record, _, _ in batch])
        for (record, behind, asked), mine in zip(batch, about, strict=True):
            goes = asked and bool(mine)
            if not goes or _goes_whole(record, documents):
                yield record, behind, goes
            elif not divide:
                yield record, behind, False
            else:
                yield from _judged(_documents(io.BytesIO(record)), subject, True, divide=False)
                yield b"", behind, False


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same, with what stands behind no record behind the one before, if there is any. Raises ValueError for more than what separates
    records."""
    record, behind, goes = b"", b"", False
    for piece in pieces:
        if piece[0]:
            yield record, behind, goes
            record, behind, goes = piece
        else:
            behind = _short(behind + piece[1])
    yield record, behind, goes


def _short(between: bytes) -> bytes:
    if len(between) > PART_BYTES:
        raise ValueError(f"between two records there are more than {PART_BYTES:,} bytes")
    return between


def _lines(text: BinaryIO, passing: list[int]) -> Iterator[Piece]:
    """Of a line that is too long there are the parts, and its number is added to ``passing``."""
    number, begins = 0, True
    while line := text.readline(MAX_LINE_BYTES + 1):
        whole = line.endswith(b"\n") or len(line) <= MAX_LINE_BYTES
        if begins and not whole:
            passing.append(number)
        yield line, b"", begins and whole
        begins = line.endswith(b"\n")
        number += begins


def _documents(text: BinaryIO) -> Iterator[Piece]:
    record, between, held = b"", list[bytes](), 0
    for part, length, is_record in divided_text(text):
        if length > MAX_LINE_BYTES:
            raise ValueError(f"a record or what stands between two is longer than {MAX_LINE_BYTES:,} bytes")
        if is_record and (inner := part.strip(BETWEEN)):
            before, _, after = part.partition(inner)
            yield record, b"".join([*between, before]), bool(record)
            record, between, held = inner, [after], 0
        elif part:
            between.append(part)
            held += len(part)
            if held > MAX_LINE_BYTES:
                raise ValueError(f"between two records there are more than {MAX_LINE_BYTES:,} bytes")
    yield record, b"".join(between), bool(record)


def _wrapped(text: bytes, levels: int = _LEVELS) -> list[Piece]:
    """The pieces of one object, at the depth where it has several objects in it."""
    at = text.find(b"{") + 1
    (none, first, _), *others = _documents(io.BytesIO(text[at:]))
    pieces = [(none, text[:at] + first, False), *others]
    objects = [each for each, (record, _, _) in enumerate(pieces) if _object(record)]
    if at and levels and len(objects) == 1:
        (one,) = objects
        inner = _wrapped(pieces[one][0], levels - 1)
        if len(inner) > 1:
            return [*pieces[:one], *inner, (b"", pieces[one][1], False), *pieces[one + 1 :]]
    return pieces


def _object(record: bytes) -> bool:
    try:
        return isinstance(json.loads(record), dict)
    except (ValueError, RecursionError):
        return False


def _goes_whole(record: bytes, document: bool) -> bool:
    """Whether a text about the subject is nobody else's: an object, or what is damaged, on one line, and one record at most."""
    if _object(record):
        return True
    begins = len(_BEGINS.findall(record))
    return b"\n" not in record.strip() and (begins == 1 if document else begins <= 1)


def _rest(pieces: Iterable[Piece], last: int) -> Iterator[bytes]:
    """The text without some of its records, and what separated each from another: an array stays one. ``last``: which one stays last."""
    gap = b""
    for at, (record, following, goes) in enumerate(pieces):
        if not goes:
            yield gap
            yield record
            gap = following
        elif at > last or _CLOSED.search(following):
            gap = _short(gap[: 1 + max(map(gap.rfind, (b"[", b"]", b"{", b"}")))] + following)
        # else what stood before it is enough
    yield gap
