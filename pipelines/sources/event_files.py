"""Event logs on disk: which files a run reads, which it passes over, and their rows as valid events and dead letters.

Files of every format of :mod:`pipelines.sources.file_formats` (Parquet, JSON lines, Avro, Arrow IPC; text with delimiters where the source
declares its dialect), in folders of any depth and by symbolic links, on a local or mounted file system. What a file holds is
:mod:`pipelines.sources.file_records`' business. What lies there and is not read is named, by :func:`inventory`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from pipelines.lake import run_parts
from pipelines.lake.data_files import file_version, sha256_of_start
from pipelines.sources.archived_files import covered
from pipelines.sources.file_records import (
    Partitions,
    RawBatch,
    UnreadableFileError,
    judged_parts,
    partitions_of,
    payloads_of,
    read,
)
from pipelines.sources.log_names import HIDDEN, day_in, enters, in_range, is_hidden, why_not
from transforms.contract import DEAD_LETTER_SCHEMA, dead_letters
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.reasons import UNREADABLE_FILE

__all__ = ["DEAD_LETTER_SCHEMA", "EventFile", "Inventory", "PassedOver", "RawBatch", "UnreadableFileError", "events", "in_range"]
__all__ += ["inventory", "list_files", "passed_over_line", "passed_over_record", "read", "verdicts"]

_NO_TEXT = "its name is not UTF-8; rename it"
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What a link is answered with that no mount and no right would mend."""
MOST_NAMED = 100
"""So many of the files that were passed over are named in a manifest; all are counted."""


@dataclass(frozen=True)
class EventFile:
    """One file of an event log: ``path`` to open, ``name`` relative to the data folder, ``size`` in bytes, the hex SHA-256
    of its bytes ("" when not asked for), the day of its ``date=YYYY-MM-DD`` folder, if it lies in one, and what its folders
    ``key=value`` below the source's say; and the ``version`` of what stands at ``path`` when all of this was found
    (:mod:`pipelines.lake.file_addresses`; "": nobody noted it)."""

    path: str
    name: str
    size: int
    sha256: str
    date: date | None = None
    partitions: tuple[tuple[str, str | None], ...] = ()
    version: str = ""


@dataclass(frozen=True)
class PassedOver:
    """A file or folder of an event log that is not read: its ``name`` relative to the data folder, and ``why``."""

    name: str
    why: str


@dataclass(frozen=True)
class Inventory:
    """What lies in the folder of a source's log, by name: the files to read, and everything beside them that is passed over."""

    files: list[EventFile]
    passed_over: list[PassedOver]


def list_files(
    data_dir: str | os.PathLike[str], source: EventSource, start_us: int | None, end_us: int | None, *, hashes: bool = True
) -> list[EventFile]:
    """The files of :func:`inventory`."""
    return inventory(data_dir, source, start_us, end_us, hashes=hashes).files


def inventory(
    data_dir: str | os.PathLike[str], source: EventSource, start_us: int | None, end_us: int | None, *, hashes: bool = True
) -> Inventory:
    """The files of a source's log that may hold events of ``[start_us, end_us)`` (UTC microseconds; None: open), and what is no such file.

    Looks through ``data_dir / source.files`` and its folders, also where symbolic links lead; each file is listed once, however many
    links lead to it. A ``date=YYYY-MM-DD`` folder of another day is not entered, and nothing in it is passed over:
    it belongs to other runs. Files outside of such folders are always listed. An event in the folder of a day that is not its own is
    seen only by runs that read that day. Names that start with ``.`` or ``_`` are never read; they are passed over where they look like
    event files or are folders, and ignored (``_SUCCESS``) otherwise. ``hashes`` reads each file once for its SHA-256.

    Raises DataError when the folder does not exist or the source has none, and for a broken link; OSError for what cannot be looked at.
    """
    if not source.files:
        raise DataError(f"source {source.name!r} has no files; give its definition files='events/{source.name}'")
    root = Path(data_dir)
    top = root / source.files
    if not top.is_relative_to(root):
        raise DataError(f"source {source.name!r}: files {source.files!r} lies beyond the data folder {root}; give it relative: ../logs")
    if not top.is_dir():
        if source.table is not None:
            raise DataError(f"source {source.name!r} is a table of which there is no snapshot yet; 'tandem batch' takes one")
        raise DataError(f"source {source.name!r}: there is no folder {top}; put its events there, or correct files= or data")
    found: list[tuple[bool, Path, str]] = []  # led to by a link, its path, the path of the file itself
    passed: list[PassedOver] = []

    def walk(folder: Path, within: tuple[str, ...]) -> None:
        real = os.path.realpath(folder)
        if real in within:
            passed.append(PassedOver(_name(folder, root), "a link to a folder that it lies in"))
            return
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
        merged = covered(entry.name for entry in entries)
        for entry in entries:
            path = Path(entry.path)
            if _is_folder(entry):
                if is_hidden(entry.name):
                    passed.append(PassedOver(f"{_name(path, root)}/", HIDDEN))
                elif not _is_text(entry.name):
                    passed.append(PassedOver(f"{_name(path, root)}/", _NO_TEXT))
                elif enters(entry.name, start_us, end_us):
                    walk(path, (*within, real))
            elif (why := _why_not(entry, merged, source)) is None:
                file = os.path.realpath(path) if entry.is_symlink() else os.path.join(real, entry.name)
                found.append((file != os.path.abspath(path), path, file))
            elif why:
                passed.append(PassedOver(_name(path, root), why))

    walk(top, ())
    files: dict[str, Path] = {}
    for _, path, file in sorted(found):  # the file itself before links to it
        first = files.setdefault(file, path)
        if first is not path:
            passed.append(PassedOver(_name(path, root), f"a link to the same file as {_name(first, root)}"))
    with ThreadPoolExecutor(os.cpu_count() if hashes else 1) as pool:  # a hash holds no lock of Python's while it reads
        listed = list(pool.map(lambda path: _event_file(path, root, top, hashes), files.values()))
    return Inventory(sorted(listed, key=lambda f: f.name), sorted(passed, key=lambda p: p.name))


def _name(path: Path, root: Path) -> str:
    """As text that every encoder takes: a byte that is no UTF-8 is written as ``\\xff``."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: others go into no manifest, no Arrow column and no engine's messages."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _why_not(entry: os.DirEntry[str], merged: Mapping[str, str], source: EventSource) -> str | None:
    """As :func:`why_not`, of an entry that is no folder: by its name, and by what it is."""
    why = why_not(entry.name, merged, source)
    if why is None and not _is_text(entry.name):
        return _NO_TEXT
    if why is not None:
        return why
    try:
        return None if stat.S_ISREG(entry.stat().st_mode) else "no regular file"
    except OSError as error:
        if error.errno not in _LEADS_NOWHERE or not entry.is_symlink():
            raise
        raise DataError(f"{entry.path}: a link that leads to no file, so its events are missing; restore them, or remove it") from None


def _event_file(path: Path, root: Path, top: Path, hashes: bool) -> EventFile:
    day = day_in(path.parent.relative_to(root).parts)
    size, version = file_version(path)  # before the hash: who changes the file while it is hashed, changes it before it is read
    digest = sha256_of_start(path, size) if hashes else ""
    folders = path.parent.relative_to(top).parts
    return EventFile(str(path), _name(path, root), size, digest, day, partitions_of(folders), version)


def passed_over_line(passed: Mapping[str, Sequence[PassedOver]]) -> str:
    """One line that counts and names what was passed over, by source; "" where nothing was."""
    parts = []
    for source, entries in passed.items():
        if entries:
            named = "; ".join(f"{p.name}: {p.why}" for p in entries[:3])
            more = f"; and {len(entries) - 3:,} more" if len(entries) > 3 else ""
            parts.append(f"{len(entries):,} of {source} ({named}{more})")
    return f"skipped, not read: {', '.join(parts)}" if parts else ""


def passed_over_record(passed: Mapping[str, Sequence[PassedOver]]) -> dict[str, run_parts.PassedOver]:
    """For a manifest: source -> the number of what was passed over, and the first names with their reasons."""
    return {
        source: {"count": len(entries), "files": [{"file": p.name, "why": p.why} for p in entries[:MOST_NAMED]]}
        for source, entries in passed.items()
        if entries
    }


def events(
    path: str | os.PathLike[str],
    source: EventSource,
    now_us: int,
    max_future_us: int,
    *,
    name: str = "",
    batch_rows: int = 65_536,
    partitions: Partitions = (),
    noted: Callable[[str, int], None] = lambda what, count: None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The events of one file: pairs of a valid batch (``source.arrow_schema``) and the dead letters beside it
    (``DEAD_LETTER_SCHEMA``), either of which may have no rows.

    ``name`` is what the dead letters call the file (default: ``path``); ``now_us`` and ``max_future_us`` as in
    :func:`transforms.contract.check`, ``partitions`` as in :func:`read`. An unreadable file is one pair: no events, and one dead
    letter without row and payload. ``noted`` hears of what is in neither: ``filtered`` events, that the source's
    ``where`` passes over, and records that are ``empty``, as the list that the source explodes has no element.
    A reject's payload is the line itself (with what its folders say), or
    :func:`transforms.contract.encode_json` of all columns of the Parquet row; its row numbers are those of :class:`RawBatch`.
    """
    yield from verdicts(read(path, source, batch_rows, partitions), source, now_us, max_future_us, name or str(path), noted)


def verdicts(
    raws: Iterable[RawBatch],
    source: EventSource,
    now_us: int,
    max_future_us: int,
    file: str,
    noted: Callable[[str, int], None] = lambda what, count: None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """As :func:`events`, of the records of a file, or of a part of one, which dead letters call ``file``."""
    try:
        for raw, checked in (part for whole in raws for part in judged_parts(whole, source, now_us, max_future_us)):
            for what, count in (("filtered", checked.passed_over), ("empty", checked.empty)):
                if count:
                    noted(what, count)
            payloads = payloads_of(raw, pa.array(checked.rejected), source)
            yield checked.valid, dead_letters(source, checked, payloads, file=file, rows=raw.numbers)
    except UnreadableFileError as e:
        one = {"source": source.name, "file": file, "reason": UNREADABLE_FILE, "detail": str(e)}
        letter = pa.RecordBatch.from_arrays([pa.array([one.get(f.name)], f.type) for f in DEAD_LETTER_SCHEMA], schema=DEAD_LETTER_SCHEMA)
        yield pa.RecordBatch.from_arrays([pa.array([], f.type) for f in source.arrow_schema], schema=source.arrow_schema), letter
