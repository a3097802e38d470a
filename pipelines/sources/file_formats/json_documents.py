"""JSON that is not a record a line: an array of records, records behind each other without line breaks, records over several lines.

The text is divided by its brackets alone, in bounded memory; what stands between them is judged by the contract, as a line is.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["KEPT_OF_LONG_LINE", "MAX_LINE_BYTES", "Text", "divided_text", "has_documents"]

MAX_LINE_BYTES = 16 << 20
"""Of a record."""
KEPT_OF_LONG_LINE = 64 << 10
_BLOCK = 1 << 18
_LOOK = 64 << 10
_BETWEEN = b" \t\r\n,\x1e"
"""What may stand between records; the last one before each, by RFC 7464."""
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL)
_TO_QUOTE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)

Text = tuple[bytes, int, bool]
"""Some bytes of a text, of how many they are the beginning, and whether they are a record, or in a record's place."""


def has_documents(f: BinaryIO, before: bytes = b"") -> bool:
    """Whether an open file, of which some bytes ``before`` are read, has its records otherwise than each on a line. Its first record
    tells: it is in an array, ends on another line than it begins, or is followed by more on its line. A first line that is no JSON is one
    of lines, and damaged."""
    start = (before + f.read(_LOOK)).removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(b"{"):
        return start[:1] in (b"[", b"\x1e")
    line, end, _ = start.partition(b"\n")
    if end and _is_json(line):
        return False
    text = (start + f.read(MAX_LINE_BYTES)).decode("utf-8", "replace")
    try:
        at = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:at] or text[at : at + _LOOK].lstrip()[:1] in ("{", ",", "[")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def divided_text(f: BinaryIO) -> Iterator[Text]:
    """All bytes of an open file, in order: its records, and what is between them. Of a record above 16 MiB there are the first 64 KiB. An
    array that never ends does so with a record, of what is behind the last whole one."""
    held, head, cut = b"", b"", 0  # what is read and not handed out; of a text that is too long its beginning, and how much was let go
    start = at = depth = top = 0  # where in `held` the text begins, and what is next to look at; top is 1 in an array
    quoted = False

    def up_to(end: int, record: bool = False) -> Text:
        nonlocal start, head, cut
        part, length = head or held[start:end], cut + end - start
        start, head, cut = end, b"", 0
        return part[:KEPT_OF_LONG_LINE] if length > MAX_LINE_BYTES else part, length, record or _is_something(part)

    while block := f.read(_BLOCK):
        if cut or at - start > MAX_LINE_BYTES:
            head, cut, start = head or held[start : start + KEPT_OF_LONG_LINE], cut + at - start, at
        held, at, start = held[start:] + block, at - start, 0
        while at < len(held):
            at = _end_of(_TO_QUOTE if quoted else _TO_BRACKET, held, at)
            mark = held[at : at + 1]
            if quoted and mark != b'"':
                break  # its end is not read yet
            at += 1
            if mark == b'"':
                quoted = not quoted
            elif mark in (b"{", b"["):
                if depth == top:
                    yield up_to(at - 1)
                if depth == 0 and mark == b"[":
                    top = 1
                    yield mark, 1, False
                    start = at
                depth += 1
            elif mark and depth > top:
                depth -= 1
                if depth == top:
                    yield up_to(at, record=True)
            elif mark == b"]" and top:
                yield up_to(at - 1)
                yield mark, 1, False
                start, depth, top = at, 0, 0
        at = min(at, len(held))
    yield up_to(len(held), record=quoted or depth > 0)


def _is_something(between: bytes) -> bool:
    return bool(between.removeprefix(codecs.BOM_UTF8).strip(_BETWEEN))


def _end_of(pattern: re.Pattern[bytes], held: bytes, at: int) -> int:
    found = pattern.match(held, at)
    assert found is not None  # either matches nothing, too
    return found.end()
