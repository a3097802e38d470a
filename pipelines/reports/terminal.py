"""What people see on a terminal: one screen for progress (stderr), results on stdout. Light at import."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Steps", "screen", "show"]

screen = Console(stderr=True, soft_wrap=True)
"""Where progress and remarks go; results go to stdout."""


class Steps:
    """Progress for people: a line per step on stderr, with the seconds it took; a spinner where there is a terminal."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def say(self, line: str) -> None:
        """One line with the seconds since the start."""
        screen.print(f"[dim]{time.monotonic() - self.begun:7.1f}s[/dim]  {line}", highlight=False)

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        """A spinner with ``what`` while the body runs; yields a function that says a line above it."""
        with screen.status(what):
            yield self.say

    def timed(self, name: str, seconds: float | None) -> None:
        """The callback of training: a step starts (None) or ended."""
        if seconds is not None:
            self.say(f"{name}: {seconds:.1f} s")


def show(value: dict[str, Any], as_json: bool, table: Callable[[], Table] | None = None) -> None:
    """The result: JSON on stdout, or a table."""
    if as_json:
        print(json.dumps(value, indent=2, default=str))
    elif table is not None:
        Console().print(table())
