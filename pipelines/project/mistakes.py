"""Exceptions that are not ours, in one line: what, and where in the user's files."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from pathlib import Path

from pipelines.lake.provenance import engine_root, masked
from transforms.source_imports import LIBRARIES

__all__ = ["kept_trace", "of_system", "one_line", "place_of"]

_OURS = tuple(str(engine_root() / name) for name in ("pipelines", "serving", "transforms", "tandem"))


def place_of(error: BaseException, folder: Path | None = None) -> str:
    """``"labels.py, line 12"``: the innermost line of a file below ``folder`` that the exception went through; without a folder, of a file
    that is neither ours nor of an installed package. Empty if there is none."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        mine = path.is_relative_to(folder) if folder is not None else path.is_absolute() and not _known(path)
        if mine:
            found = f"{path.relative_to(folder) if folder is not None else path.name}, line {frame.lineno}"
    if isinstance(error, SyntaxError) and error.filename and (not found or folder is not None):
        found = f"{Path(error.filename).name}, line {error.lineno or 0}"
    return found


def _known(path: Path) -> bool:
    return str(path).startswith(_OURS) or any(path.is_relative_to(p) for p in LIBRARIES)


def one_line(error: BaseException, folder: Path | None = None) -> str:
    """``"labels.py, line 12: KeyError: 'amount'"``; the place is left out where there is none."""
    what = error.msg if isinstance(error, SyntaxError) else (str(error).splitlines() or [""])[0]
    place = place_of(error, folder)
    return f"{place}: {type(error).__name__}: {what}" if place else f"{type(error).__name__}: {what}"


def of_system(error: OSError) -> str:
    """What the system refused, and of a full disk (whose error names no file where a write fails) or of rights that are missing, what to
    do."""
    if error.filename and error.errno == errno.EROFS:
        return f"{error.filename}: {error.strerror}: mount it writable, or choose another folder (--data)"
    if error.filename and error.errno in (errno.EACCES, errno.EPERM):
        return f"{error.filename}: {error.strerror}: grant this user access, run as the owner, or choose another folder (--data)"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    places = f"the data folder or {os.environ.get('TMPDIR', '/tmp')}"
    return f"{where}{error.strerror}: free disk space for {places}, then run the same command again"


def kept_trace(error: BaseException) -> str:
    """Write the whole trace, without secrets, into a file that only the user can read; says where it is, or why there is none."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="tandem-trace-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write("\n".join(str(masked(line)) for line in text.splitlines()) + "\n")
    except OSError as full:  # the error of before is what matters
        return f"its traceback could not be saved: {full.strerror or full}"
    return f"full traceback: {file.name}"
