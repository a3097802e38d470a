"""What training and serving both know of the data folder: where runs, models, streams and transform graphs stand, and which graph is
applied. Standard library only.

All other paths of it: ``pipelines.lake.layout``.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = [
    "APPLYING", "CURRENT", "SPEC_FILE", "MANIFEST", "TREES", "applied_graph", "graphs", "models", "run", "runs", "snapshot",
    "snapshot_name", "stream", "streams", "under_way",
]  # fmt: skip

APPLYING = "APPLYING.json"
"""The file of the graphs' folder that holds, for all groups, what an apply under way applies: it counts before ``CURRENT``."""
CURRENT = "CURRENT"
"""The file of a group's graphs folder that holds the fingerprint of the applied one."""
SPEC_FILE = "tandem.json"
"""The file of a transform graph, and of a version of a model, that says what it was made of and what it reads."""
MANIFEST = "manifest.json"
"""What a run, or a training set, says of itself."""
TREES = {"offline": 3, "graphs": 3, "models": 3, "training": 2, "runs": 2, "verify": 2, "monitor": 2}
"""The folders in which folders lie that never change once they are whole, and how many parts of a path name one of those."""


def graphs(data: Path) -> Path:
    """The transform graphs: ``<group>/<fingerprint>/``, and ``<group>/CURRENT``."""
    return data / "graphs"


def models(data: Path) -> Path:
    """The pushed models: ``<name>/<version>/``, and ``<name>/ALIASES.json``."""
    return data / "models"


def runs(data: Path) -> Path:
    """The runs, a folder each."""
    return data / "runs"


def run(data: Path, run_id: str) -> Path:
    """One run: its manifest, and what only it needs."""
    return runs(data) / run_id


def streams(data: Path) -> Path:
    """The streams, a folder each."""
    return data / "stream"


def stream(data: Path, name: str) -> Path:
    """One stream: its state, checkpoints, rows and reports."""
    return streams(data) / name


def snapshot_name(source: str) -> str:
    """Where the snapshot of a source's table lies, relative to the data folder."""
    return f"tables/{source}"


def snapshot(data: Path, source: str) -> Path:
    """The rows of a source's table, as they were when they were last looked at."""
    return data / snapshot_name(source)


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
