"""Which transform graph of a group is applied: one reader (``transforms.data_folder.applied_graph``) and one writer."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.lake import layout
from pipelines.lake.files import write_text
from transforms.data_folder import applied_graph
from transforms.definitions import FeatureGroup
from transforms.errors import GraphError

__all__ = ["apply_graph", "applied_graph", "applied_graphs", "graph_for"]


def applied_graphs(data: Path) -> dict[str, str]:
    """Group -> fingerprint of its applied graph, for all groups that have one."""
    folder = layout.graphs(data)
    found = ((path.parent.name, applied_graph(folder, path.parent.name)) for path in sorted(folder.glob(f"*/{layout.CURRENT}")))
    return {group: fingerprint for group, fingerprint in found if fingerprint is not None}


def apply_graph(data: Path, group: str, fingerprint: str) -> None:
    """From now on rows of ``group`` are made and read with this graph. Readers see the one before or this one."""
    write_text(layout.graphs(data) / group / layout.CURRENT, fingerprint + "\n")


def graph_for(data: Path, group: FeatureGroup, make: str) -> str:
    """The fingerprint of the graph that is applied to ``group`` as it is defined now; its files are not verified.

    Raises GraphError, which ends with ``make`` (what is to be run), if none is applied, or one of another definition.
    """
    fingerprint = applied_graph(layout.graphs(data), group.name)
    if fingerprint is None:
        raise GraphError(f"feature group {group.name!r} has no applied graph; run {make} first")
    try:
        made_of = json.loads((layout.graph(data, group.name, fingerprint) / layout.GRAPH_HEAD).read_text())["definition_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise GraphError(f"the graph {fingerprint[:12]} that is applied to {group.name!r} cannot be read; run {make} first") from None
    if made_of != group.definition_hash():
        raise GraphError(f"feature group {group.name!r} was redefined after its graph {fingerprint[:12]} was applied; run {make} first")
    return fingerprint
