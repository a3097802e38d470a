"""What training and serving both know of the data folder: where transform graphs stand, and which is applied. Standard library only.

All other paths of it: ``pipelines.lake.layout``.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["APPLYING", "CURRENT", "GRAPH_HEAD", "applied_graph", "graphs", "under_way"]

APPLYING = "APPLYING.json"
"""The file of the graphs' folder that holds, for all groups, what an apply under way applies: it counts before ``CURRENT``."""
CURRENT = "CURRENT"
"""The file of a group's graphs folder that holds the fingerprint of the applied one."""
GRAPH_HEAD = "tandem.json"
"""The file of a graph that says what it was made of."""


def graphs(data: Path) -> Path:
    """The transform graphs: ``<group>/<fingerprint>/``, and ``<group>/CURRENT``."""
    return data / "graphs"


def under_way(graphs: Path) -> dict[str, str] | None:
    """Group -> fingerprint of the apply that is under way or was killed, None if there is none."""
    try:
        found = json.loads((graphs / APPLYING).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return {str(group): str(fingerprint) for group, fingerprint in found.items()} if isinstance(found, dict) else None


def applied_graph(graphs: Path, group: str) -> str | None:
    """The fingerprint of the graph of ``group`` that rows are made and read with now; None if none is applied (or it cannot be read)."""
    for _ in range(3):  # an apply that ends between the two looks is seen in the second
        fingerprint = (under_way(graphs) or {}).get(group) or _current(graphs, group)
        if (under_way(graphs) or {}).get(group, fingerprint) == fingerprint:
            break
    return fingerprint


def _current(graphs: Path, group: str) -> str | None:
    try:
        return (graphs / group / CURRENT).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
