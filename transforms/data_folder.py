"""What training and serving both know of the data folder: where transform graphs stand, and which is applied. Standard library only.

All other paths of it: ``pipelines.lake.layout``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CURRENT", "GRAPH_HEAD", "applied_graph", "graphs"]

CURRENT = "CURRENT"
"""The file of a group's graphs folder that holds the fingerprint of the applied one."""
GRAPH_HEAD = "tandem.json"
"""The file of a graph that says what it was made of."""


def graphs(data: Path) -> Path:
    """The transform graphs: ``<group>/<fingerprint>/``, and ``<group>/CURRENT``."""
    return data / "graphs"


def applied_graph(graphs: Path, group: str) -> str | None:
    """The fingerprint of the graph of ``group`` that rows are made and read with now; None if none is applied (or it cannot be read)."""
    try:
        return (graphs / group / CURRENT).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
