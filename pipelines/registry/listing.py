"""``tandem models``: the versions of each model, as the folders, the aliases and the runs say. Light: no TensorFlow, Feast or MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from pipelines.lake import layout
from pipelines.lake.graphs import applied_graphs
from pipelines.registry.alias_file import current, model_folder, models_of, versions_on_disk
from pipelines.registry.scores import evaluations_of
from serving.aliases import ALIASES, Aliases
from serving.model_files import check_model_files
from serving.request_errors import ModelError

__all__ = ["ListedModel", "ListedVersion", "list_models", "spec_of", "state_of"]


class ListedVersion(TypedDict):
    """A version of a model. ``state``: see :func:`state_of`; ``created``: UTC in ISO 8601."""

    version: int
    aliases: list[str]
    state: str
    fingerprints: dict[str, str]
    scores: dict[str, Any]
    run: str
    training_set: str
    created: str
    folder: str


class ListedModel(TypedDict):
    """A model. ``champions``: the champion and those before it; ``versions``: newest first; ``problem``: why nobody knows its aliases;
    ``fingerprint`` and ``applied``: the applied graphs of the views that its versions read, for people and by view."""

    model: str
    champion: int | None
    challenger: int | None
    champions: list[int]
    versions: list[ListedVersion]
    history: list[dict[str, Any]]
    problem: str
    fingerprint: str
    applied: dict[str, str]


def list_models(data: Path, only: str | None = None) -> list[ListedModel]:
    """Every model that has versions, or the one of this name."""
    return [_model(data, name) for name in models_of(data) if only in (None, name) and versions_on_disk(model_folder(data, name))]


def _model(data: Path, name: str) -> ListedModel:
    folder, problem = model_folder(data, name), ""
    try:
        aliases = current(folder)
    except ModelError as e:
        aliases, problem = Aliases(), str(e)
    scores, applied = evaluations_of(data, name), applied_graphs(data)
    versions: list[ListedVersion] = []
    known = versions_on_disk(folder)
    gone = [v for e in aliases.history for v in [e.get("version") or e.get("champion")] if v is not None and v not in known]
    for version in sorted({*known, *gone}, reverse=True):
        spec = spec_of(folder / str(version))
        prints = spec.get("fingerprints", {})
        versions.append(
            {
                "version": version,
                "aliases": [a for a in ALIASES if getattr(aliases, a) == version],
                "state": state_of(folder / str(version), spec, applied),
                "fingerprints": prints,
                "scores": scores.of(version, str(spec.get("run", ""))),
                "run": str(spec.get("run", "")),
                "training_set": str(spec.get("training_set", "")),
                "created": str(spec.get("created", "")),
                "folder": str(folder / str(version)),
            }
        )
    used = {view: applied.get(view, "") for v in versions for view in v["fingerprints"]}
    return {
        "model": name,
        "champion": aliases.champion,
        "challenger": aliases.challenger,
        "champions": list(aliases.champions),
        "versions": versions,
        "history": [dict(e) for e in aliases.history],
        "problem": problem,
        "fingerprint": ", ".join(f"{view} {p[:8]}" for view, p in sorted(used.items()) if p),
        "applied": used,
    }


def spec_of(folder: Path) -> dict[str, Any]:
    """What a version's ``tandem.json`` says; nothing where it cannot be read."""
    try:
        found = json.loads((folder / layout.SPEC_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def state_of(folder: Path, spec: dict[str, Any], applied: dict[str, str]) -> str:
    """``fits``, ``other graph of ...``, ``damaged`` (a file is missing, added or changed since the push; all are read) or ``withdrawn``
    (its folder is gone)."""
    if not folder.is_dir():
        return "withdrawn"
    if not spec or not any((folder / name).is_file() for name in ("saved_model.pb", "model.onnx")):
        return "damaged"
    try:
        check_model_files(folder, spec, folder.name)
    except ModelError:
        return "damaged"
    odd = [view for view, p in spec.get("fingerprints", {}).items() if applied.get(view, p) != p]
    return f"other graph of {', '.join(odd)}" if odd else "fits"
