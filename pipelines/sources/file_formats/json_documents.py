"""JSON that is not a record a line: an array of records, records behind each other without line breaks, records over several lines.

The text is divided by its brackets alone, in bounded memory; what stands between them is judged by the contract, as a line is.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["BETWEEN", "KEPT_OF_LONG_LINE", "MAX_LINE_BYTES", "Text", "divided_text", "has_documents"]

MAX_LINE_BYTES = 16 << 20
"""Of a record."""
KEPT_OF_LONG_LINE = 64 << 10
_BLOCK = 1 << 18
_LOOK = 64 << 10
BETWEEN = b" \t\r\n,\x1e"
"""What may stand between records; the last one before each, by RFC 7464."""
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"[^"{}\[\]]*+)*+')
_TO_QUOTE = re.compile(rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+')
"""A line never ends in a text."""
_SURELY = re.compile(rb"\[[ \t\r]*\n|\[\s*(?:\]|\Z)|\x1e\s*\{")
"""An array over lines, an empty one, a record of RFC 7464: whatever its first record is."""
_MAYBE = re.compile(rb"\[?\s*\{")
_INDENT = 64

Text = tuple[bytes, int, bool]
"""Some bytes of a text, of how many they are the beginning, and whether they are a record, or in a record's place."""


def has_documents(f: BinaryIO, before: bytes = b"") -> bool:
    """Whether an open file, of which some bytes ``before`` are read, surely has its records otherwise than each on a line: its first
    record stands in an array, ends on another line than it begins, or is followed by another on its line. All else is lines, which lose
    no more than what is damaged, and what bytes are no UTF-8 changes nothing."""
    start = (before + f.read(_LOOK)).removeprefix(codecs.BOM_UTF8).lstrip()
    if _SURELY.match(start):
        return True
    if not _MAYBE.match(start):
        return False
    line, ended, _ = start.partition(b"\n")
    if ended and line.startswith(b"{") and _value_end(text := line.decode("utf-8", "replace")) == len(text.rstrip()):
        return False
    start += f.read(MAX_LINE_BYTES)
    text = start.decode("utf-8", "replace")
    if text.startswith("["):
        return _value_end(text[1:].lstrip()) > 0 or _in_array(text.partition("\n")[2].partition("\n")[0].strip())
    end = _value_end(text)
    return end > 0 and ("\n" in text[:end] or _goes_on(text, end))


def _value_end(text: str) -> int:
    """Where the JSON value ends that a text begins with; 0: it begins with none."""
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return 0


def _in_array(line: str) -> bool:
    """Whether a line is one record of an array."""
    record = line.strip(",")
    return record != line and _value_end(record) == len(record.rstrip()) > 0


def _goes_on(text: str, end: int) -> bool:
    """Whether another record follows on the line: a whole one, or one in a file of a single line; or a comma, and it on the next line."""
    line, _, others = text[end:].partition("\n")
    rest = line.strip()
    if rest == ",":
        return others.lstrip()[:1] in ("", "{")
    rest = rest.removeprefix(",").lstrip()
    return rest.startswith("{") and (_value_end(rest) > 0 or not others.strip())


def divided_text(f: BinaryIO) -> Iterator[Text]:
    """All bytes of an open file, in order: its records, and what is between them. Of a record above 16 MiB there are the first 64 KiB. An
    array that never ends does so with a record, of what is behind the last whole one.

    A record that its brackets and line ends show to be damaged (or too long) ends before the next line that begins with an object and is
    indented no further than its own; what is JSON is never divided so."""
    held, head, cut = b"", b"", 0  # what is read and not handed out; of a text that is too long its beginning, and how much was let go
    start = at = top = 0  # where in `held` the text begins, and what is next to look at; top is 1 in an array
    inside: list[bytes] = []  # the brackets that are open in a record
    column = following = seen = 0  # of the record; where the next one begins, should it be damaged; how far `held` was looked at before
    quoted = damaged = False

    def up_to(end: int, record: bool | None = None) -> Text:
        nonlocal start, head, cut
        part, length = head or held[start:end], cut + end - start
        start, head, cut = end, b"", 0
        return part[:KEPT_OF_LONG_LINE] if length > MAX_LINE_BYTES else part, length, _is_something(part) if record is None else record

    def broken_off(end: int) -> Iterator[Text]:
        """A damaged record before ``end``, and the lines behind it that hold brackets of arrays alone."""
        nonlocal at, following, seen, damaged, quoted
        line = held.find(b"\n", start + len(held[start:end].rstrip(BETWEEN + b"[]")), end)
        yield up_to(end if line < 0 else line, record=True)
        yield up_to(end, record=False)
        seen, at, following, damaged, quoted = max(seen, at), end, 0, False, False
        inside.clear()

    while True:
        block = f.read(_BLOCK)
        if following and (not block or at - start > MAX_LINE_BYTES):
            yield from broken_off(following)
        elif not block:
            break
        if cut or at - start > MAX_LINE_BYTES:
            head, cut, start, following = head or held[start : start + KEPT_OF_LONG_LINE], cut + at - start, at, 0
        held, at, following, seen, start = held[start:] + block, at - start, max(following - start, 0), seen - start, 0
        while at < len(held):
            at = _end_of(_TO_QUOTE if quoted else _TO_BRACKET, held, at)
            mark = held[at : at + 1]
            odd = False
            if quoted:
                odd = mark == b"\n" or held[at : at + 2] == b"\\\n"
                if not odd and mark != b'"':
                    break  # its end is not read yet
                quoted = False
            elif mark == b'"':
                quoted = True
            at += 1
            if odd or mark == b'"':
                pass
            elif mark in (b"{", b"[") and not inside:
                yield up_to(at - 1)
                if mark == b"[" and not top:
                    top = 1
                    yield up_to(at, record=False)
                    continue
                inside.append(mark)
                column = _column(held, at - 1, column)
            elif mark in (b"{", b"["):
                if mark == b"{" and _begins_line(held, at - 1, column):
                    following = following or at - 1
                    odd = damaged or at <= seen or not _may_follow(held, at - 1, inside[-1] == b"{")
                inside.append(mark)
            elif mark and inside:
                odd = (inside.pop() == b"{") != (mark == b"}")
                if not inside:
                    yield up_to(at, record=True)
                    following, damaged = 0, False
                    continue
            elif mark == b"]" and top:
                yield up_to(at - 1)
                yield up_to(at, record=False)
                top = 0
            if odd:
                damaged = len(inside) > 0
            if damaged and following:
                yield from broken_off(following)
        at = min(at, len(held))
    if inside and top:
        yield from broken_off(len(held))
    else:
        yield up_to(len(held), record=True if inside or top else None)


def _is_something(between: bytes) -> bool:
    return bool(between.replace(codecs.BOM_UTF8, b"").strip(BETWEEN))


def _column(held: bytes, at: int, column: int) -> int:
    """How far a line may be indented that begins a record after the one that begins here; ``column``: after the one before."""
    before = held[max(at - _INDENT, 0) : at].rpartition(b"\n")[2]
    return len(before) if not before.strip(BETWEEN) else max(column, 1)


def _begins_line(held: bytes, at: int, column: int) -> bool:
    _, end, before = held[max(at - _INDENT, 0) : at].rpartition(b"\n")
    return bool(end) and len(before) <= column and not before.strip(BETWEEN)


def _may_follow(held: bytes, at: int, member: bool) -> bool:
    """Whether an object may stand here in JSON, as one's ``member`` or in a list."""
    return held[max(at - _INDENT, 0) : at].rstrip()[-1:] in ((b":", b"") if member else (b"[", b",", b""))


def _end_of(pattern: re.Pattern[bytes], held: bytes, at: int) -> int:
    found = pattern.match(held, at)
    assert found is not None  # either matches nothing, too
    return found.end()
