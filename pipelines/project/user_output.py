"""What the user's functions print is no part of a command's result. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stdout_to_stderr"]


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What is written to standard output meanwhile goes to standard error: by Python, by libraries in other languages, and by children.

    So ``--json`` prints one JSON document, whatever a repository's functions and Keras print. A function may be decorated with it.
    """
    try:
        kept = os.dup(1)
    except OSError:  # closed: nothing is written to it
        yield
        return
    try:
        _flush()
        os.dup2(2, 1)
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
