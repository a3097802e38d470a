"""The dialect of delimited text, guessed from its beginning, and records of lines in a dialect.

Here alone a dialect is guessed, as what it is goes into the definition that is written, for its reader to correct.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.sources.file_formats.csv_lines import NullSpellings
from transforms.definitions import Csv
from transforms.errors import DataError

__all__ = ["dialect_of", "text_records"]

_ESCAPED = ("\\", "", *"NZbfnrtv0")
"""What MySQL and PostgreSQL write behind an escape beside delimiters and quotes."""
_NULLS = ("\\N", "NULL", "null", "NA", "N/A", "NaN", "nan", "None")
"""What stands for nothing wherever it is."""
_MARKS = ("-", "--", "?", ".", "*", "n/a", "#N/A", "<NA>", "M")
"""What stands for nothing where numbers would; elsewhere it may be a word."""
MOST_BEFORE = 50
"""Lines before a header."""


def text_records(lines: Iterable[str], dialect: Csv, doubled: dict[str, None] | None = None) -> Iterator[Mapping[str, Any]]:
    """The records of lines in a dialect; those of another number of values are left out, and so are columns whose name others have, too,
    which are noted in ``doubled``."""
    how: Any = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    nulls = NullSpellings(dialect)
    if dialect.comment is not None:
        lines = (line for line in lines if not line.startswith(dialect.comment))
    reader = _rows(csv.reader(map(nulls.mark, lines), **_how(dialect.delimiter, dialect.escape), **how))
    names: Sequence[str] = dialect.columns or [n.strip().lstrip("\ufeff") for n in next(reader, [])]
    several = {name: None for name in names if name and names.count(name) > 1}  # which one is meant nobody can say
    once = {name for name in names if name} - set(several)
    if doubled is not None:
        doubled |= several
    for row in reader:
        if len(row) == len(names):
            yield {name: value for name, value in zip(names, nulls.read(row), strict=True) if name in once}


def _rows(reader: Any) -> Iterator[list[str]]:
    """Rows, without those that Python's reader refuses: values of more than 128 KiB, zero bytes."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue


def dialect_of(start: bytes, encoding: str | None, what: str, header: bool | None = None) -> Csv:
    """The dialect that fits the beginning of some lines: of the usual delimiters the one that cuts all alike, into most values.
    ``header``: whether the first one is of names; None: as it looks. Raises DataError for nothing, which ``what`` names."""
    if encoding is None:
        encoding = _encoding(start, what)
    raw = start.decode(encoding, "replace").lstrip("\ufeff").splitlines()
    named = _fields_named(raw)
    lines = [line for line in (raw[:-1] if len(start) == 1 << 18 else raw) if line.strip() and not (named and line.startswith("#"))][:200]
    if not lines:
        raise DataError(f"{what} is empty; nothing can be said of it")
    best: tuple[float, int, bool, str] | None = None
    behind = {found for line in lines for found in re.findall(r"\\(.?)", line)}
    for delimiter in (",", ";", "\t", "|", " "):
        if delimiter == " " and best is not None and best[1] > 1:
            break  # words have blanks, too
        escaped = bool(behind & {delimiter, '"'}) and behind <= {delimiter, '"', *_ESCAPED}  # not in C:\d1\
        for escape in (None, "\\") if escaped else (None,):  # where both cut all alike a mark behind it is none
            widths = [len(row) for row in _rows(csv.reader(lines, **_how(delimiter, escape)))]
            common = max(set(widths), key=widths.count, default=0)
            if delimiter == " " and not _are_columns(list(_rows(csv.reader(lines, **_how(" ", escape)))), common):
                continue
            score = (widths.count(common) / len(widths) if common > 1 else 0.0, common, escape is not None, delimiter)
            if best is None or score[:2] > best[:2] or (score[0] == best[0] > 0 and delimiter == best[3] and escape is not None):
                best = score
    assert best is not None
    if not best[1]:
        raise DataError(f"{what} holds no lines of values; nothing can be said of it")
    delimiter, how = best[3], _how(best[3], "\\" if best[2] else None)
    rows = [row for row in _rows(csv.reader(lines, **how)) if len(row) == best[1]]
    more: dict[str, Any] = {"escape": "\\"} if best[2] else {}
    if len(named) == best[1]:
        more["comment"], header = "#", False
    elif header is None and (skip := _before(raw, how, best[1])):
        more |= {"comment": "#"} if _are_comments(raw, skip, how, best[1]) else {"skip": skip}
    header = _has_header(rows) if header is None else header
    rows = rows[1 if header else 0 :]
    values = {value for row in rows for value in row}
    spellings = NullSpellings(Csv(delimiter=delimiter, nulls=["\\N"], **more))
    if best[2] and any(None in spellings.read(row) for row in _rows(csv.reader(map(spellings.mark, lines), **how))):
        values.add("\\N")
    nulls = ["", *(n for n in _NULLS if n in values)]
    nulls += [n for n in _MARKS if n in values and _among_numbers(n, rows)]
    numbers: dict[str, Any] = {}
    for mark, group in ((",", "."), (".", ","), (",", " "), (",", "\u00a0"), (",", "\u202f"), (".", "'"), (".", "\u2019")):
        if any(re.fullmatch(rf"[+-]?\d{{1,3}}({re.escape(group)}\d{{3}})+{re.escape(mark)}\d+", value) for value in values):
            numbers = {"decimal": mark, "thousands": group}
            break
    if not numbers and delimiter != "," and _comma_decimals(values):
        numbers["decimal"] = ","
    more |= numbers
    if not header:
        more |= {"header": False, "columns": named if len(named) == best[1] else _columns(best[1])}
    if '"' not in start.decode(encoding, "replace") and delimiter == "\t":
        more["quote"] = None
    return Csv(delimiter=delimiter, nulls=nulls, encoding=encoding, **more)


def _how(delimiter: str, escape: str | None) -> dict[str, Any]:
    """What Python's reader is told of a dialect with quotes."""
    return {"delimiter": delimiter} if escape is None else {"delimiter": delimiter, "escapechar": escape, "doublequote": False}


def _among_numbers(mark: str, rows: Sequence[Sequence[str]]) -> bool:
    """Whether a mark stands in a column that is of numbers otherwise."""
    columns = [{value for value in column if value} for column in zip(*rows, strict=True)]
    return any(mark in column and len(column) > 2 and all(map(_is_number, column - {mark})) for column in columns)


def _before(raw: Sequence[str], how: dict[str, Any], width: int) -> int:
    """How many lines stand before the first one of so many values: a report's title, an account's holder."""
    for at, line in enumerate(raw[:MOST_BEFORE]):
        if any(len(row) == width for row in _rows(csv.reader([line], **how))):
            return at
    return 0


def _are_columns(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether lines that are cut at blanks have columns, and not words: the first line has as many, and two are of numbers alone."""
    if not rows or len(rows[0]) != width or width < 2:
        return False
    return width > 2 or (all(len(row) == 2 and all(map(_is_number, row)) for row in rows[1:]) and len(rows) > 1)


def _are_comments(raw: Sequence[str], skip: int, how: dict[str, Any], width: int) -> bool:
    """Whether the lines before the first one of so many values are comments: a mark begins them, and none of those lines, or it would be
    lost."""
    if not all(line.startswith("#") for line in raw[:skip]):
        return False
    marked = [line for line in raw[skip:] if line.startswith("#")]
    return all(len(row) != width for line in marked for row in _rows(csv.reader([line], **how)))


def _fields_named(raw: Sequence[str]) -> list[str]:
    """The names that a comment gives the columns, as logs of W3C's format have it (IIS, CloudFront); none where there is none."""
    found = next((line for line in raw[:MOST_BEFORE] if line.startswith("#Fields:")), "")
    names = found.removeprefix("#Fields:").split()
    return names if len(set(names)) == len(names) else []


def _columns(count: int) -> list[str]:
    return [f"column_{i + 1}" for i in range(count)]


def _encoding(start: bytes, what: str) -> str:
    """Raises DataError for bytes that are text in nothing that is usual."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        start[: len(start) - 4 if len(start) > 1_000 else len(start)].decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        if not any(0x80 <= b <= 0x9F for b in start):
            return "latin-1"
    try:
        start.decode("cp1252")
    except UnicodeDecodeError:
        raise DataError(f"{what} is neither UTF-8 nor Windows-1252; say --encoding, e.g. cp1251, shift_jis or gb18030") from None
    return "cp1252"


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row is of names. It is not where a value of it is a number, or a day as others below it. It is where there are
    numbers below a name. Else names are there once each, none is empty, and no more than one is among the values below it."""
    first, below = rows[0], rows[1:]
    columns = [[row[at] for row in below if row[at]] for at in range(len(first))]
    if any(_is_number(value) for value in first):
        return False
    if any(_DAY.match(value) and (not column or any(map(_DAY.match, column))) for value, column in zip(first, columns, strict=True)):
        return False
    named = [column for value, column in zip(first, columns, strict=True) if value and value not in (*_NULLS, *_MARKS)]
    if any(column and all(map(_begins_as_number, column)) for column in named):
        return True
    equal = sum(row[at] == value for row in below if row != first for at, value in enumerate(first) if value)
    return equal < 2 and len({value for value in first if value}) == len(first)


_DAY = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
"""What a time begins with, and no name."""


def _is_number(value: str) -> bool:
    return value.strip().lstrip("-").replace(".", "", 1).isdigit()


def _begins_as_number(value: str) -> bool:
    return value.strip().lstrip("+-$€£")[:1].isdigit()


def _comma_decimals(values: set[str]) -> bool:
    def number(text: str) -> bool:
        whole, comma, part = text.lstrip("+-").partition(",")
        return bool(comma) and whole.isdigit() and part.isdigit()

    return any(map(number, values))
