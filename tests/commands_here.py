"""Commands of ``tandem`` run in this process: for tests that are about what a command does, not about its being a process of its own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from typer.testing import CliRunner

from pipelines.cli.root import app

__all__ = ["forgotten", "tandem_here"]


@contextmanager
def forgotten(repo: Path) -> Iterator[None]:
    """The modules of a repository that are imported within are forgotten afterwards; those of another one, of the same names, before:
    Feast would take them for this one's."""
    paths = list(sys.path)
    _forget(repo)
    try:
        yield
    finally:
        sys.path[:] = paths
        _forget(repo)


def _forget(repo: Path) -> None:
    for stem in (p.stem for p in repo.glob("*.py")):
        sys.modules.pop(stem, None)


def tandem_here(repo: Path, *words: str) -> str:
    """What a command on a repository writes to standard output. Fails unless it ends with 0; leaves this process as it was."""
    level = logging.getLogger().level
    with forgotten(repo), mock.patch.dict(os.environ):
        done = CliRunner().invoke(app, [*words, "--repo", str(repo)])
    logging.getLogger().setLevel(level)
    assert done.exit_code == 0, (words, done.exit_code, done.output, done.exception)
    return done.stdout
