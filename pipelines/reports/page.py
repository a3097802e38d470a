"""A page as one HTML file: no scripts, nothing fetched, readable on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from pipelines.lake.runs import write_json

__all__ = ["bullets", "code_text", "document", "facts", "moment", "save", "section", "table", "tiles"]


def document(title: str, body: str) -> str:
    """The whole page."""
    style = (Path(__file__).parent / "page.css").read_text("utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def save(result: Mapping[str, Any], html: str, folder: Path) -> Path:
    """``report.json`` and ``report.html`` in ``folder``, each whole or not at all; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page, unfinished = folder / "report.html", folder / ".report.html"
    unfinished.write_text(html, "utf-8")
    unfinished.replace(page)
    write_json(folder / "report.json", result)
    return page


def section(title: str, body: str, note: str = "") -> str:
    """A card with a heading; nothing if there is no body."""
    return f"<section><h2>{escape(title)}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>" if body else ""


def table(head: Sequence[str], lines: Sequence[Sequence[Any]], text: Sequence[int] = (0,), bad: Sequence[str] = ("unexplained",)) -> str:
    """A table that scrolls by itself; columns ``text`` are left-aligned; a cell that holds a word of ``bad`` is marked."""
    top = "".join(f"<th{' class=text' if i in text else ''}>{escape(h)}</th>" for i, h in enumerate(head))
    body = "".join("<tr>" + "".join(_cell(c, i in text, bad) for i, c in enumerate(line)) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any, text: bool, bad: Sequence[str]) -> str:
    if isinstance(value, int):
        return f"<td>{value:,}</td>"
    if len(str(value)) > 60:
        return f'<td class="wide">{escape(str(value))}</td>'
    marked = isinstance(value, str) and any(w in value for w in bad)
    css = " ".join(["text"] * text + ["bad"] * marked)
    return f'<td class="{css}">{escape(str(value))}</td>'


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """Numbers to see at a glance: (number, what it is, CSS class or "")."""
    drawn = (f'<div class="tile {css}"><b>{escape(n)}</b><span>{escape(text)}</span></div>' for n, text, css in items)
    return f'<div class="tiles">{"".join(drawn)}</div>'


def bullets(lines: Sequence[str], css: str = "") -> str:
    """A list; nothing if it is empty."""
    body = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{css}">{body}</ul>' if body else ""


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values beneath each other."""
    return f'<dl class="facts">{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs)}</dl>' if pairs else ""


def moment(text: str) -> str:
    """A moment in ISO 8601 as people read it."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def code_text(code: Mapping[str, Any]) -> str:
    """The version of the code in a few words."""
    commit = f", commit {code['commit'][:12]}{', changed since' if code.get('dirty') else ''}" if "commit" in code else ""
    return f"{code.get('sha256', '')[:16]}{commit}"
