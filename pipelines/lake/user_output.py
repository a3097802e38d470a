"""What the user's functions print is no part of a command's result. Standard library only."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["result_stream", "stdout_to_stderr"]

_lock = threading.Lock()
_depth = 0
_kept: int | None = None
"""Standard output as it was, while it is redirected and was open."""
_before: Any = None
"""``sys.stdout`` as it was; in its place stands :data:`_instead`."""
_instead: Any = None
_results: TextIO | None = None
"""What writes to :data:`_kept`."""


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What is written to standard output meanwhile goes to standard error: by Python, by libraries in other languages, and by children.

    So ``--json`` prints one JSON document, whatever a repository's modules and functions print: a command's own result is written to
    :func:`result_stream`. The streams are the process's: of threads that are within it at once the last one out puts them back. A function
    may be decorated with it.
    """
    global _depth
    with _lock:
        if not _depth:
            _redirect()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                _restore()


def result_stream() -> TextIO | None:
    """Standard output as it is without :func:`stdout_to_stderr`; ``sys.stdout`` where that is a file of its own, as in notebooks."""
    with _lock:
        if not _depth:
            return sys.stdout
        return _before if _results is None else _results


def _redirect() -> None:
    global _kept, _before, _instead, _results
    _flush(sys.stdout)  # first: where it cannot be written, nothing was changed
    _before, _instead = sys.stdout, sys.stderr
    with suppress(OSError):  # one of them is closed: nothing is written to it
        os.fstat(2)
        _kept = _copy(1)
        os.dup2(2, 1)
        if _is_stdout(_before):
            _results = open(_kept, "w", encoding=_before.encoding, errors=_before.errors, closefd=False)  # noqa: SIM115
    sys.stdout = _instead


def _copy(number: int) -> int:
    """A descriptor for the same, which children do not get; not the number of a standard stream that is closed."""
    copy = os.dup(number)
    if copy > 2:
        return copy
    try:
        return _copy(number)
    finally:
        os.close(copy)


def _restore() -> None:
    """Whatever cannot be written. An error of writing the result is raised, as the result would not be whole."""
    global _kept, _before, _instead, _results
    kept, before, results = _kept, _before, _results
    if sys.stdout is _instead:  # else somebody's own, who puts it back
        sys.stdout = before
    _kept = _before = _instead = _results = None
    try:
        with suppress(OSError):  # remarks for stderr, of who had kept the stream
            _flush(before)
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            try:
                if results is not None:
                    _flush(results)
            finally:
                if results is not None:
                    with suppress(OSError):
                        results.close()
                os.close(kept)


def _is_stdout(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 1)
    except (AttributeError, OSError, ValueError):
        return False


def _flush(stream: Any) -> None:
    if stream is not None and not getattr(stream, "closed", False):
        stream.flush()
