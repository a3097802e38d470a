"""The records of a text file: which lines belong together, as a quoted value may hold line breaks; and a record's values."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from transforms.file_formats import Csv

__all__ = ["MAX_RECORD_BYTES", "NullSpellings", "Record", "Splitter"]

MAX_RECORD_BYTES = 1 << 20
"""A record of several lines is no longer; what would be has a quote that is never closed."""

Record = tuple[int, bytes, str]
"""The number of its first line, its bytes without the last line break, and what is wrong with it ("": nothing seen yet)."""
_MARK = "\ud800"
"""In no text that was decoded: half of a character, and not one of those that stand for bytes."""


class NullSpellings:
    """Which values of a record are null. A spelling that begins with the escape, as MySQL and PostgreSQL write ``\\N``, is one where it
    stands so in the line, in quotes or without: behind another escape, or within a longer value, it is text as any other."""

    def __init__(self, dialect: Csv) -> None:
        escape = dialect.escape
        self.escaped = [null for null in dialect.nulls if escape is not None and null.startswith(escape)]
        self.plain = set(dialect.nulls).difference(self.escaped)
        d, e, q = (re.escape(c) if c else "" for c in (dialect.delimiter, escape, dialect.quote))
        quoted = rf"(?:{q}(?:{e}.|{q}{q}|[^{q}{e}])*{q})?" if q else ""
        self.written = {*self.escaped, *(f"{dialect.quote}{null}{dialect.quote}" for null in self.escaped if q)}
        self.value = re.compile(rf"(\A|{d})({quoted}(?:{e}.|[^{d}{e}])*)", re.DOTALL) if self.escaped else None

    def mark(self, text: str) -> str:
        """The text of a record, or a line of it with its end, with :data:`_MARK` for values that are an escaped spelling."""
        return text if self.value is None or not any(null in text for null in self.escaped) else self.value.sub(self._marked, text)

    def _marked(self, found: re.Match[str]) -> str:
        bare = found[2].rstrip("\r\n")
        return f"{found[1]}{_MARK}{found[2][len(bare) :]}" if bare in self.written else found[0]

    def read(self, values: Sequence[str]) -> list[str | None]:
        """The values of a marked record, null where they are."""
        return [None if v == _MARK or v in self.plain else v if _MARK not in v else v.replace(_MARK, self.escaped[0]) for v in values]


class Splitter:
    """Lines to records, by a dialect. The bytes are UTF-8, or another encoding in which ASCII stands for itself."""

    def __init__(self, dialect: Csv) -> None:
        self.dialect = dialect
        self.comment = dialect.comment.encode() if dialect.comment else None
        self.quote = dialect.quote.encode() if dialect.quote else None
        self.escape = dialect.escape.encode() if dialect.escape else None
        self.delimiter = dialect.delimiter.encode()
        self.nulls = NullSpellings(dialect)
        d, q = (re.escape(b) if b else b"" for b in (self.delimiter, self.quote))
        e = re.escape(self.escape) if self.escape else None
        inner = rb"[^%s]" % q if e is None else rb"%s.|[^%s%s]" % (e, q, e)
        self.rest = re.compile(rb"(?:%s|%s%s)*%s(?!%s)" % (inner, q, q, q, q), re.DOTALL) if q else None  # of a quoted value, to its end
        plain = rb"(?:[^%s%s][^%s]*)?" % (d, q, d)
        self.simple = re.compile(rb"(?:(?:%s(?:%s|%s%s)*%s|%s)%s)*(?:%s(?:%s|%s%s)*%s|%s)" % (
            q, inner, q, q, q, plain, d, q, inner, q, q, q, plain), re.DOTALL) if q and e is None else None  # fmt: skip

    def records(self, f: BinaryIO, first: int, limit: int) -> Iterator[Record]:
        """The records of an open file from line ``first`` on, blank lines and comments left out. Lines above ``limit`` bytes are cut."""
        number = first - 1
        # Lines that were looked at already: behind each of them a value that is open before it is open still. So whichever line opens one,
        # they need no second look, and a file costs one look at each of its lines however many open one.
        ahead, waiting = deque[bytes](), 0
        while line := ahead.popleft() if ahead else f.readline(limit + 1):
            number += 1
            waiting = max(0, waiting - len(line))
            if len(line) > limit and not line.endswith(b"\n"):
                length = len(line)
                while (rest := f.readline(limit)) and not rest.endswith(b"\n"):
                    length += len(rest)
                yield number, line[: 64 << 10], f"the line is {length + len(rest.rstrip()):,} bytes long, above the limit of {limit:,}"
                continue
            text = _without_line_end(line)
            if not text.strip() or (self.comment and text.startswith(self.comment)):
                continue
            if self.quote is None or self.quote not in text or not self._open(text, False):
                yield number, text, ""
                continue
            last = b""
            while len(line) + waiting <= MAX_RECORD_BYTES and (last := f.readline(limit + 1)) and self._open(_without_line_end(last), True):
                ahead.append(last)
                waiting += len(last)
                last = b""
            if last:
                yield number, _without_line_end(b"".join((line, *ahead, last))), ""
                number += len(ahead) + 1
                ahead.clear()
                waiting = 0
            else:
                yield number, text, "a quoted value begins in it that is never closed"

    def one_line_each(self, f: BinaryIO, limit: int) -> bool:
        """Whether no value of what follows in an open file goes on in a further line, or seems to: then each line can be read by itself."""
        while line := f.readline(limit + 1):
            if len(line) > limit and not line.endswith(b"\n"):
                while (rest := f.readline(limit)) and not rest.endswith(b"\n"):
                    pass
                continue
            text = _without_line_end(line)
            if self.quote is None or self.quote not in text or not text.strip() or (self.comment and text.startswith(self.comment)):
                continue
            if self._open(text, False):
                return False
        return True

    def _open(self, line: bytes, inside: bool) -> bool:
        """Whether a quoted value goes on behind a line; ``inside``: one does before it."""
        if not inside and self.simple is not None and self.simple.fullmatch(line):
            return False
        assert self.rest is not None and self.quote is not None
        at = 0
        while True:
            if inside or line.startswith(self.quote, at):
                end = self.rest.match(line, at if inside else at + 1)
                if end is None:
                    return True
                at, inside = end.end(), False
            if (at := line.find(self.delimiter, at) + 1) == 0:
                return False

    def values(self, record: bytes) -> list[str]:
        """The values of one record, as text. Raises ValueError, one line, for what is none."""
        return self._values(record.decode("utf-8", "surrogateescape"))

    def cells(self, record: bytes) -> list[str | None]:
        """The values of one record, null where they are a spelling of it. Raises as :meth:`values`."""
        return self.nulls.read(self._values(self.nulls.mark(record.decode("utf-8", "surrogateescape"))))

    def _values(self, text: str) -> list[str]:
        d = self.dialect
        try:
            found = list(csv.reader(
                [text], delimiter=d.delimiter, quotechar=d.quote, escapechar=d.escape,
                quoting=csv.QUOTE_MINIMAL if d.quote else csv.QUOTE_NONE, strict=True,
            ))  # fmt: skip
        except csv.Error as error:
            raise ValueError(str(error)) from None
        if len(found) != 1:
            raise ValueError("a line break stands in a value that is not quoted")
        return found[0]


def _without_line_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")
