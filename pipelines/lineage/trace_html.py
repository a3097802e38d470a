"""A trace as a piece of an HTML page: nested lists, everything escaped, no script."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from pipelines.lineage.trace_record import Trace
from pipelines.lineage.trace_text import lines
from pipelines.reports.page import render
from pipelines.reports.templating import macro

__all__ = ["Node", "render_page", "section", "tree"]


class Node(NamedTuple):
    """A line of a trace, and those that stand under it."""

    line: str
    under: list[Node]


def tree(found: Trace) -> list[Node]:
    """The trace as nodes."""
    roots: list[Node] = []
    path: list[Node] = []  # from a root to the node before
    for depth, line in lines(found):
        node = Node(line, [])
        del path[depth:]
        (path[-1].under if path else roots).append(node)
        path.append(node)
    return roots


def section(found: Trace) -> Markup:
    """``<section class="lineage">`` with the trace as nested lists; to be put into a page."""
    return macro("lineage.html", "section", tree(found))


def render_page(found: Trace) -> str:
    """The trace as a page of its own."""
    title = f"Tandem: request {found.request}, row {found.row}"
    return render("trace.html", {"title": title, "request": found.request, "row": found.row, "nodes": tree(found), "at": found.at})
