"""A trace as a piece of an HTML page: nested lists, everything escaped, no script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.lineage.trace import lines

__all__ = ["section"]


def section(found: Mapping[str, Any]) -> str:
    """``<section class="lineage">`` with the trace as nested lists; to be put into a page."""
    out = ['<section class="lineage">']
    depth = -1
    for level, line in lines(found):
        if level > depth:
            out += ["<ul>"] * (level - depth)
        else:
            out += ["</li>"] + ["</ul></li>"] * (depth - level)
        out.append(f"<li>{escape(line)}")
        depth = level
    out += ["</li></ul>"] * (depth + 1)
    return "\n".join([*out, "</section>"])
