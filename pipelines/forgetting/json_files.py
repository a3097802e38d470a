"""A subject's records in a file of JSON, in any form that its events are read from, taken out; what stays is as it was, byte for byte."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np

from pipelines.forgetting.key_values import Mask
from pipelines.forgetting.subject import Subject, opened, packed
from pipelines.lake.data_files import replaced
from pipelines.sources.file_formats.json_documents import BETWEEN, divided_text, has_documents
from pipelines.sources.file_formats.transcoded import byte_order_mark

__all__ = ["without_json"]

_BEGINS = re.compile(rb"(?:^|[^:\s])\s*\{")
"""An object that is no member's value, so that it may be a record."""
_CLOSED = re.compile(rb"[\]}]")

Pieces = tuple[list[bytes], list[bytes]]
"""The N records of a text, and the N + 1 pieces of text before, between and behind them."""


def without_json(path: Path, subject: Subject, dry_run: bool = False) -> int:
    """Rewrite a file of JSON without the subject's records, in one step; how many there were. Its form and its encoding stay.

    What may hold records of others stays, too, and is found where files are searched again: what is no JSON, unless it is one line with
    one record at most. Of a file that is one object around its records, these are taken out."""
    with opened(path) as file:
        data = file.read()
    mark, encoding = byte_order_mark(data)
    text = data[len(mark) :]
    if encoding != "utf-8":
        text = text.decode(encoding).encode()
    pieces, gone = _asked(text, subject.within(path))
    if gone.any() and not dry_run:
        rest = _rest(pieces, gone)
        with replaced(path.resolve(), durable=True) as out:
            out.write(packed(path, mark + (rest if encoding == "utf-8" else rest.decode().encode(encoding))))
    return int(gone.sum())


def _asked(text: bytes, subject: Subject) -> tuple[Pieces, Mask]:
    """The pieces of a file, and which of its records are the subject's and are to go."""
    documents = has_documents(io.BytesIO(text))
    records, separators = _documents(text) if documents else _lines(text)
    gone = subject.in_texts(records)
    if sum(1 for record in records if record.strip()) == 1 and gone.any():
        inner = _wrapped(text)
        asked = subject.in_texts(inner[0]) & [_object(record) for record in inner[0]]
        if 0 < asked.sum() < sum(map(_object, inner[0])):
            return inner, asked
    again = {at for at in np.flatnonzero(gone) if not _goes_whole(records[at], documents)}
    return _divided(records, separators, gone, again, subject) if again else ((records, separators), gone)


def _divided(records: list[bytes], separators: list[bytes], gone: Mask, again: set[int], subject: Subject) -> tuple[Pieces, Mask]:
    """The same with those records of ``again`` divided, as several may be in a line."""
    out: list[bytes] = []
    first, *others = separators
    between, asked = [first], []
    for at, (record, following) in enumerate(zip(records, others, strict=True)):
        if at in again:
            inner, (before, *behind) = _documents(record)
            asked.append(subject.in_texts(inner) & [_goes_whole(each, True) for each in inner])
            between[-1] += before
        else:
            inner, behind = [record], [b""]
            asked.append(gone[at : at + 1])
        out += inner
        between += behind
        between[-1] += following
    return (out, between), np.concatenate(asked)


def _lines(text: bytes) -> Pieces:
    lines = io.BytesIO(text).readlines()
    return lines, [b""] * (len(lines) + 1)


def _documents(text: bytes) -> Pieces:
    records, separators, at = [], [b""], 0
    for _, length, record in divided_text(io.BytesIO(text)):
        piece, at = text[at : at + length], at + length
        if record and (inner := piece.strip(BETWEEN)):
            before, _, after = piece.partition(inner)
            separators[-1] += before
            records.append(inner)
            separators.append(after)
        else:
            separators[-1] += piece
    return records, separators


def _wrapped(text: bytes) -> Pieces:
    """The pieces of one object, at the depth where it has several objects in it."""
    at = text.find(b"{") + 1
    records, (first, *others) = _documents(text[at:])
    first = text[:at] + first
    objects = [each for each, record in enumerate(records) if _object(record)]
    if at and len(objects) == 1:
        one = objects[0]
        inner, (before, *behind) = _wrapped(records[one])
        *between, last = behind or [b""]
        if inner:
            separators = [first, *others]
            return (
                [*records[:one], *inner, *records[one + 1 :]],
                [*separators[:one], separators[one] + before, *between, last + separators[one + 1], *separators[one + 2 :]],
            )
    return records, [first, *others]


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


def _rest(pieces: Pieces, gone: Mask) -> bytes:
    """The text without some of its records, and what separated each from another: an array stays one."""
    records, (gap, *behind) = pieces
    last = max(np.flatnonzero(~gone), default=-1)
    out = []
    for at, (record, following) in enumerate(zip(records, behind, strict=True)):
        if not gone[at]:
            out += [gap, record]
            gap = following
        elif at > last or _CLOSED.search(following):
            gap = gap[: 1 + max(map(gap.rfind, (b"[", b"]", b"{", b"}")))] + following
        # else what stood before it is enough
    return b"".join([*out, gap])
