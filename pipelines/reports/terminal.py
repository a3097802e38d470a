"""What people see on a terminal: one screen for progress (stderr), results on stdout. Light at import.

The one place that prints data. Records, names and errors are others' words: none of them is markup, none reaches the terminal as an
escape sequence, and where there is no terminal nothing is cut to the width of one.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pipelines.lake.user_output import result_stream
from serving import json_logs

__all__ = ["Screen", "Steps", "on_one_line", "results", "screen", "show", "visible", "write"]

_WIDE = 100_000
"""Columns where there is no terminal."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""What a terminal obeys instead of showing it, what turns the order of letters, and what no output can encode; not line ends and tabs."""


def visible(text: str) -> str:
    """The same text with what cannot be seen as Python writes it: ``\\x1b``."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def on_one_line(text: object) -> str:
    """A text without line ends and tabs either, for the cells of a list: whoever wrote it makes no second entry of it."""
    return visible(str(text)).replace("\n", "\\n").replace("\t", "\\t")


class Screen(Console):
    """A console for data: text is shown as it is, whatever it holds, and a table in a file or pipe is as wide as it needs to be."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False, **options)
        if not self.is_terminal and options.get("width") is None:
            self.width = _WIDE

    def print(self, *objects: Any, **how: Any) -> None:
        """As rich does, but the title and caption of a table are lines above and below it: rich breaks them at the table's width."""
        if len(objects) != 1 or not isinstance(objects[0], Table):
            super().print(*objects, **how)
            return
        table = copy(objects[0])
        title, caption = self._line(table.title, "table.title"), self._line(table.caption, "table.caption")
        table.title = table.caption = None
        for part in (title, table, caption):
            if part is not None:
                super().print(part, **how)

    def _line(self, text: Any, style: str) -> Text | None:
        return Text(visible(text), style, no_wrap=True, overflow="ignore") if isinstance(text, str) else text

    def render_str(self, text: str, **how: Any) -> Text:
        """Before its place is measured."""
        return super().render_str(visible(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What was no plain string: whatever it was made into, this is what leaves."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


screen = Screen(stderr=True, soft_wrap=True)
"""Where progress and remarks go; results go to stdout."""


class Steps:
    """Progress for people: a line per step on stderr, with the seconds it took; a spinner where there is a terminal."""

    def __init__(self, on: Screen | None = None) -> None:
        self.begun, self.screen = time.monotonic(), on or screen

    def say(self, line: str) -> None:
        """One line with the seconds since the start."""
        seconds = time.monotonic() - self.begun
        if json_logs.on():
            json_logs.say(visible(line), seconds=round(seconds, 3))
            return
        self.screen.print(Text.assemble((f"{seconds:7.1f}s", "dim"), "  ", line))

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        """A spinner with ``what`` while the body runs; yields a function that says a line above it."""
        with self.screen.status(Text(what)):
            yield self.say

    def timed(self, name: str, seconds: float | None) -> None:
        """The callback of training: a step starts (None) or ended."""
        if seconds is not None:
            self.say(f"{name}: {seconds:.1f} s")


def show(value: Mapping[str, object], as_json: bool, table: Callable[[], Table] | None = None) -> None:
    """The result: JSON on stdout, or a table."""
    if as_json:
        print(json.dumps(value, indent=2, default=str), file=result_stream())
    elif table is not None:
        results().print(table())


def write(line: str, err: bool = False) -> None:
    """Lines of a result on stdout (``err``: on stderr), as long as they are."""
    print(visible(line), file=sys.stderr if err else result_stream())


def results() -> Screen:
    """Standard output as it is now, for tables."""
    return Screen(file=result_stream())
