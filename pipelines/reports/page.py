"""A page as one HTML file: no scripts, nothing fetched, readable on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.lake.data_files import write_json, write_text
from pipelines.lake.layout import REPORT_JSON, REPORT_PAGE
from pipelines.lake.report_records import Report
from pipelines.reports import charts
from pipelines.reports.templating import TEMPLATES

__all__ = ["Cell", "Table", "Tile", "code_text", "moment", "render", "save", "span", "table"]

_WIDE = 60
"""Characters from which a cell may break its text into lines."""


class Tile(NamedTuple):
    """A number to see at a glance, what it is, and its CSS class."""

    number: str
    text: str
    css: str = ""


class Cell(NamedTuple):
    """A cell's text and CSS class."""

    text: str
    css: str


class Table(NamedTuple):
    """A table that scrolls by itself."""

    head: list[Cell]
    lines: list[list[Cell]]


def render(template: str, view: Mapping[str, Any]) -> str:
    """The page of a template, with the view's names in it. Raises jinja2.UndefinedError where the view lacks one."""
    return TEMPLATES.get_template(template).render(charts=charts, **view)


def save(report: Report, html: str, folder: Path) -> Path:
    """``report.json`` and ``report.html`` in ``folder``, each whole or not at all; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / REPORT_PAGE
    write_text(page, html)
    write_json(folder / REPORT_JSON, report.to_dict())
    return page


def table(
    head: Sequence[str], lines: Sequence[Sequence[Any]], text: Sequence[int] = (0,), bad: Sequence[str] = ("unexplained",)
) -> Table | None:
    """A table, None without lines; columns ``text`` are left-aligned; a cell that holds a word of ``bad`` is marked."""
    if not lines:
        return None
    top = [Cell(h, "text" if i in text else "") for i, h in enumerate(head)]
    return Table(top, [[_cell(c, i in text, bad) for i, c in enumerate(line)] for line in lines])


def _cell(value: Any, text: bool, bad: Sequence[str]) -> Cell:
    if isinstance(value, int):
        return Cell(f"{value:,}", "")
    if len(str(value)) > _WIDE:
        return Cell(str(value), "wide")
    listed = isinstance(value, str) and text and (", " in value or "; " in value)
    marked = isinstance(value, str) and any(w in value for w in bad)
    return Cell(str(value), " ".join(["text"] * text + ["list"] * listed + ["bad"] * marked))


def moment(text: str) -> str:
    """A moment in ISO 8601 as people read it."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def span(seconds: float) -> str:
    """A length of time as people read it, to three digits: ``45 s``, ``2.1 min``, ``5.33 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def code_text(code: Mapping[str, Any]) -> str:
    """The version of the code in a few words."""
    commit = f", commit {code['commit'][:12]}{', changed since' if code.get('dirty') else ''}" if "commit" in code else ""
    return f"{code.get('sha256', '')[:16]}{commit}"
