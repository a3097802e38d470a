"""The version of data: a hash of what a run read and made, the same for the same bytes, whenever and wherever they were made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.lake.data_files import json_digest
from pipelines.lake.runs import Run, list_runs
from transforms.errors import ConfigError

__all__ = ["data_version", "newest"]

_OF_THE_RUN = ("cover.json",)
"""Outputs that say when and by which run the others were made."""


def data_version(run: Run) -> dict[str, Any]:
    """What a run read (``inputs``: source -> SHA-256 over its files), made (``outputs``, by folder), with which graphs, over which range;
    ``version`` is the hash of all that. ``metrics`` stand beside it. JSON-able, without ids and times."""
    said = run.record
    made: dict[str, list[tuple[str, str]]] = {}
    for output in said.outputs:
        parts = output["name"].split("/")
        if parts[-1] not in _OF_THE_RUN:
            made.setdefault("/".join(parts[: 2 if parts[0] in ("offline", "tiles") else 1]), []).append((output["name"], output["sha256"]))
    content = {
        "kind": run.kind,
        "range": list(said.range),
        "inputs": {source: _digest((f["file"], f["sha256"]) for f in files) for source, files in sorted(said.inputs.items()) if files},
        "outputs": {folder: _digest(files) for folder, files in sorted(made.items())},
        "graphs": dict(sorted(said.fingerprints.items())),
    }
    metrics = {name: value for name, value in sorted(said.metrics.items()) if "=" not in name}
    return {"version": json_digest(content), **content, **({"metrics": metrics} if metrics else {})}


def _digest(files: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name}\0{sha256}\n" for name, sha256 in sorted(files)).encode()).hexdigest()


def newest(data: Path, kind: str) -> Run:
    """The newest complete run of a kind. Raises ConfigError if there is none."""
    found = [run for run in list_runs(data) if run.kind == kind and run.status == "complete"]
    if not found:
        raise ConfigError(f"no complete run of kind {kind!r} in {data}; 'tandem runs' lists those there are")
    return found[-1]
