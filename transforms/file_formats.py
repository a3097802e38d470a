"""How event files are written, where files do not say it of themselves."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from transforms.errors import DefinitionError

__all__ = ["Csv"]

_ALL = ("delimiter", "quote", "escape", "decimal", "thousands")


@dataclass(frozen=True)
class Csv:
    """The dialect of text files with a record per line and ``delimiter`` between its values; nothing of it is guessed.

    ``header``: the first line holds the names of the columns; without it they are given as ``columns``. ``quote`` (None: none) begins
    and ends a value that holds a delimiter or a line break, and stands twice where it is part of such a value; ``escape`` stands
    before a character that is meant as it is. ``nulls``: the spellings of a value that is not there, quoted or not; one that begins
    with the escape is meant as it is written, so that ``\\N`` is null and ``\\\\N`` is text. ``decimal`` and ``thousands`` are those of
    numbers, ``true`` and ``false`` the spellings of truth values, in upper or lower case. ``encoding`` is a name that Python knows; a
    byte order mark is taken off. ``skip`` lines are passed over before anything else, and lines that begin
    with ``comment``. ``suffixes``: the names of the files that are so, also with ``.gz``, ``.zst`` or ``.bz2`` behind.

    An int64 is digits with or without a sign, or such with zeros alone behind the decimal point; text and declared forms of a field
    are taken as they stand.
    """

    delimiter: str = ","
    header: bool = True
    columns: Sequence[str] = ()
    quote: str | None = '"'
    escape: str | None = None
    nulls: Sequence[str] = ("",)
    decimal: str = "."
    thousands: str | None = None
    true: Sequence[str] = ("true",)
    false: Sequence[str] = ("false",)
    encoding: str = "utf-8"
    skip: int = 0
    comment: str | None = None
    suffixes: Sequence[str] = (".csv", ".tsv", ".txt")

    def __post_init__(self) -> None:
        for name in _ALL:
            value = getattr(self, name)
            if value is None and name in ("quote", "escape", "thousands"):
                continue
            if name == "thousands" and isinstance(value, str) and len(value) == 1 and value.isspace() and value not in "\r\n":
                continue  # no-break spaces, as many countries write them
            if not (isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"):
                raise DefinitionError(f"Csv: {name} {value!r} is no single ASCII character; write one, such as ';'")
        if self.delimiter in (self.quote, self.escape):
            raise DefinitionError(f"Csv: delimiter {self.delimiter!r} is the quote or the escape, too; give each a character of its own")
        if self.decimal == self.thousands:
            raise DefinitionError(f"Csv: decimal and thousands are both {self.decimal!r}; give each a character of its own")
        for name in ("columns", "nulls", "true", "false", "suffixes"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(v, str) for v in value):
                raise DefinitionError(f"Csv: {name} {value!r} is no list of texts; write [...]")
            object.__setattr__(self, name, tuple(value))
        if self.header == bool(self.columns):
            raise DefinitionError("Csv: the names come from the first line (header=True) or from columns=[...]; say one of both")
        if len(set(self.columns)) != len(self.columns):
            twice = next(c for c in self.columns if list(self.columns).count(c) > 1)
            raise DefinitionError(f"Csv: the column {twice!r} is there twice; give each a name of its own")
        if not isinstance(self.skip, int) or self.skip < 0:
            raise DefinitionError(f"Csv: skip {self.skip!r} is not a number of lines; write 0 or more")
        if not self.suffixes or not all(s.startswith(".") and len(s) > 1 for s in self.suffixes):
            raise DefinitionError(f"Csv: suffixes {list(self.suffixes)!r}: each is a dot and the end of a name, such as '.csv'")
        object.__setattr__(self, "suffixes", tuple(s.lower() for s in self.suffixes))
        try:
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
        except (LookupError, TypeError):
            raise DefinitionError(
                f"Csv: there is no encoding {self.encoding!r}; write one of Python's, such as 'utf-8' or 'cp1252'"
            ) from None
