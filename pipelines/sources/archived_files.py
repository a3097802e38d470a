"""The names of event files that were made of a topic: ``topic-PPPPP-FIRST-UPTO.parquet`` holds, of its day, the events of partition P at
the offsets from FIRST to before UPTO. The name alone says what a file is of, so that nothing has to be kept beside it.

Small files are merged into one whose name covers theirs. From the moment at which that is there (one rename) the covered ones count no
more, for every reader, whether they were deleted yet or not: so no event is there twice or missing at any moment, whatever is killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ArchivedFile", "PREFIX", "covered"]

PREFIX = "topic-"
_NAME = re.compile(r"topic-([0-9]{5,})-([0-9]{20})-([0-9]{20})\.parquet")


@dataclass(frozen=True, order=True)
class ArchivedFile:
    """What a file of a topic holds: the offsets ``[first, upto)`` of a partition."""

    partition: int
    first: int
    upto: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{PREFIX}{self.partition:05d}-{self.first:020d}-{self.upto:020d}.parquet"

    @classmethod
    def of(cls, name: str) -> ArchivedFile | None:
        """The file of this name; None: it is no file of a topic."""
        found = _NAME.fullmatch(name)
        return cls(*map(int, found.groups())) if found else None

    def covers(self, other: ArchivedFile) -> bool:
        """Whether another one's offsets all lie within this one's."""
        return self != other and self.partition == other.partition and self.first <= other.first and other.upto <= self.upto


def covered(names: Iterable[str]) -> dict[str, str]:
    """Of the files of one folder those that were merged into another one, and into which."""
    files = sorted((f for name in names if (f := ArchivedFile.of(name))), key=lambda f: (f.partition, f.first, -f.upto))
    found: dict[str, str] = {}
    whole: ArchivedFile | None = None
    for file in files:
        if whole is not None and whole.covers(file):
            found[file.name] = whole.name
        else:
            whole = file
    return found
