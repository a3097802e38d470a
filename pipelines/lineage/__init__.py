"""Where results come from: what differs between runs, whether they can be made again, and what a served prediction was made of."""

from __future__ import annotations

from pipelines.lineage.trace import lines, trace, tree

__all__ = ["lines", "trace", "tree"]
