"""What a file format is: how the bytes of an event file become records, unjudged.

A format of another package is a class below :class:`FileFormat`, named as an entry point of the group ``tandem.file_formats`` by the suffix
of its files, without the dot (``xml = "my_package.xml_file:XmlFile"``).
"""

from __future__ import annotations

import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.project.extensions import FILE_FORMATS
from pipelines.sources.file_formats.sizes import bytes_of
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.parsing import Decimal, Enum, Epoch, Number

__all__ = [
    "COMPRESSED",
    "DamagedBehind",
    "SMALL_BYTES",
    "FileFormat",
    "Look",
    "Opened",
    "RawBatch",
    "FileRange",
    "UnreadableFileError",
    "check_not_empty",
    "format_of",
    "native",
    "one_line",
    "packed",
    "whole",
]

COMPRESSED = (".gz", ".zst", ".bz2")
"""What may stand behind the suffix of a format whose files are read from their beginning to their end."""
SMALL_BYTES = 64 << 20
"""A file with no more bytes, decompressed, is decoded once, into memory."""

Opened = Callable[[], AbstractContextManager[BinaryIO]]
"""Opens a file anew at its beginning, decompressed."""


class UnreadableFileError(DataError):
    """A file is damaged, not of its format, not of the dialect that is declared for it, or would run code."""


class DamagedBehind(ValueError):
    """Damage behind so many ``rows`` of a file, or of a part of it, in whatever batches these are handed out."""

    def __init__(self, error: BaseException, rows: int) -> None:
        super().__init__(one_line(error))
        self.rows = rows


@dataclass(frozen=True)
class RawBatch:
    """N records as they lie in a file, in one of three forms: Arrow ``rows``; ``payloads`` (binary) of JSON; or ``values``, a mapping
    per record.

    ``numbers`` (int64, length N) are their 0-based row or line numbers in the file. ``too_long`` maps positions in the batch
    to the full length of lines of which ``payloads`` holds only the beginning. Beside ``rows`` or ``values``, ``payloads`` are the lines
    that they were read from. ``refused`` maps positions in ``values`` to (reason, detail) of records that could not be read.
    """

    numbers: pa.Array
    rows: pa.RecordBatch | None = None
    payloads: pa.Array | None = None
    too_long: dict[int, int] | None = None
    values: list[dict[str, Any]] | None = None
    refused: Mapping[int, tuple[str, str]] | None = None


FileRange = tuple[int, int]
"""A part of a file, from one place to another, in what its format divides files by: bytes of lines, row groups of Parquet."""


@dataclass(frozen=True)
class Look:
    """What a first look at a part of a file tells: how many row numbers it takes; ``fault``: what is damaged in it, behind so many rows,
    and the file with it; ``alone``: the file has something in it that only its reading from the beginning tells the meaning of."""

    numbers: int
    fault: str = ""
    alone: bool = False


class FileFormat(ABC):
    """How the files of one suffix are read, for one source."""

    title: ClassVar[str] = ""
    """What it is called in messages."""
    packed: ClassVar[bool] = True
    """Whether its files may be compressed as a whole; false where they compress themselves, or are not read in order."""
    declared: ClassVar[type | None] = None
    """The class of :mod:`transforms.file_formats` that a source must declare, as ``file_format=``, for such files to be read: no file
    says of itself which delimiter it has."""

    def __init__(self, source: EventSource) -> None:
        self.source = source

    @abstractmethod
    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """The records of a file, in order, in batches of at most ``batch_rows``, in bounded memory. Of one batch's records those that need
        a look at each may be a batch of their own behind the others: ``numbers`` say which they are.

        ``given`` are values by field from the folders that the file lies in; they are put into ``rows`` and ``values`` for it, and a format
        whose records are JSON puts them into these. Raises UnreadableFileError for a file that is used as a whole or not at all,
        before the first batch; OSError with an ``errno`` for what is not the file's fault.
        """

    # A large file is read in parts, wherever each is: `parts` says where it may be divided, `look` is at each part before any of it is
    # used, and `read_part` gives what `read` would of it. A format that has none of the three is read file by file.

    divided: ClassVar[bool] = False
    """Whether it has parts; files that are compressed as a whole never have."""

    grows: ClassVar[bool] = False
    """Whether a file that was appended to begins with the records that it had: a run reads those, though others write on meanwhile."""

    def parts(self, opened: Opened, most: int) -> list[FileRange]:
        """Where a file may be divided, in order, from its beginning to its end, each part of some ``most`` bytes; []: it is used as one, as
        is a file that something is wrong with. Reads little."""
        return []

    def look(self, opened: Opened, part: FileRange) -> Look:
        """A part, decoded or counted. Memory as for reading."""
        raise NotImplementedError

    def read_part(self, opened: Opened, part: FileRange, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """As :meth:`read`, of one part, of a file of which none has a fault; ``first`` is the first of its row numbers."""
        raise NotImplementedError


def columns_of(source: EventSource) -> dict[str, str]:
    """The columns (members of the record) that a source's fields are read from, with the dtype that a text of each stands for; ``"string"``
    where a text is what the field reads, ``"number"`` where it is the text of a number."""
    out: dict[str, str] = {}
    for f in source.all_fields:
        if f.value is not None:
            continue
        steps = f.path if isinstance(f.path, tuple) else (f.name,)
        read = {Epoch: "timestamp", Decimal: "number", Number: "number"}
        if f.parse is None:
            dtype = str(f.dtype)
        elif isinstance(f.parse, Enum):
            dtype = _of_enum(f.parse)
        else:
            dtype = "string" if getattr(f.parse, "unscaled", False) else read.get(type(f.parse), "string")
            if isinstance(f.parse, Epoch) and f.parse.text:
                dtype = "number"
        name = str(steps[0])
        out[name] = dtype if len(steps) == 1 and out.get(name, dtype) == dtype else "string"
    return out


def _of_enum(parse: Enum) -> str:
    """What a text stands for that is one of the keys of an Enum."""
    kinds = {type(key) for key, _ in parse.mapping}
    return {int: "int64", bool: "bool"}[kinds.pop()] if kinds in ({int}, {bool}) else "string"


def format_of(suffix: str) -> type[FileFormat] | None:
    """The format of files of this suffix (with its dot); None: there is none. Raises ConfigError for one that cannot be loaded."""
    return _format_named(suffix.removeprefix("."), tuple(sys.path))


@lru_cache(maxsize=256)
def _format_named(name: str, path: tuple[str, ...]) -> type[FileFormat] | None:
    """By what is installed on ``path``: to look there takes some 20 ms, and a log has any number of files."""
    if name not in FILE_FORMATS.own and name not in {p.name for p in FILE_FORMATS.installed()}:
        return None
    found: type[FileFormat] = FILE_FORMATS.load(name)
    return found


def whole(decode: Callable[[], Iterator[pa.RecordBatch]], faults: tuple[type[Exception], ...]) -> Iterator[RawBatch]:
    """All rows of a file that is used whole or not at all: decoded to its end before the first row is handed out. What is small when
    decoded once, into memory; the rest a second time, which keeps memory bounded and costs that reading. ``faults``: what damage raises."""
    kept: list[pa.RecordBatch] = []
    at = held = 0
    try:
        for batch in decode():
            at += batch.num_rows
            held += bytes_of(batch)
            if held <= SMALL_BYTES:
                kept.append(batch)
            else:
                kept.clear()
    except ImportError:  # a library that is not installed is no damage
        raise
    except OSError as e:
        if e.errno is not None:  # the disk's error; those of the format carry no number
            raise
        raise UnreadableFileError(damaged(one_line(e), at)) from e
    except faults as e:
        raise UnreadableFileError(damaged(one_line(e), _before(e, at))) from e
    at = 0
    for batch in kept if held <= SMALL_BYTES else decode():
        numbers = pa.array(np.arange(at, at + batch.num_rows, dtype=np.int64))
        at += batch.num_rows
        yield RawBatch(numbers, rows=batch)


def looked(batches: Iterator[pa.RecordBatch], faults: tuple[type[Exception], ...]) -> Look:
    """A first look at a part of a file that is used whole or not at all: decoded to its end."""
    at = 0
    try:
        for batch in batches:
            at += batch.num_rows
    except ImportError:  # a library that is not installed is no damage
        raise
    except OSError as e:
        if e.errno is not None:
            raise
        return Look(at, one_line(e))
    except faults as e:
        return Look(_before(e, at), one_line(e))
    return Look(at)


def packed(sizes: list[int], most: int) -> list[FileRange]:
    """Parts of a file of so many bytes each: neighbours together as long as they have no more than ``most``."""
    out: list[FileRange] = []
    begin = held = 0
    for at, size in enumerate(sizes):
        if at > begin and held + size > most:
            out.append((begin, at))
            begin, held = at, 0
        held += size
    return [*out, (begin, len(sizes))] if sizes else []


def _before(error: Exception, at: int) -> int:
    return error.rows if isinstance(error, DamagedBehind) else at


def damaged(fault: str, at: int) -> str:
    """The reason why a file is not used, of which ``at`` rows could be decoded."""
    return fault + (f" (behind row {at - 1:,})" if at else "")


def check_not_empty(f: BinaryIO) -> None:
    """Raises UnreadableFileError for a file of 0 bytes."""
    if os.fstat(f.fileno()).st_size == 0:
        raise UnreadableFileError("the file is empty (0 bytes)")


def native(f: BinaryIO) -> pa.NativeFile | BinaryIO:
    """The same file opened anew, as one of Arrow's own, whose reading takes no Python; ``f`` itself where Python reads it otherwise.

    Arrow's threads let go of what they read after they have handed it out. Of bytes that Python owns they do so while the interpreter
    goes down, when a process ends soon: that is SIGABRT for one that has done its work.
    """
    return pa.OSFile(f"/dev/fd/{f.fileno()}") if type(getattr(f, "raw", f)) is io.FileIO else f


def one_line(error: BaseException) -> str:
    """What an error says, on one line of at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
