"""Where results come from: what differs between runs, whether they can be made again, and what a served prediction was made of."""

from __future__ import annotations

from pipelines.lineage.trace import trace
from pipelines.lineage.trace_text import lines, tree

__all__ = ["lines", "trace", "tree"]
