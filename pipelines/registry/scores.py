"""What is on record about a model's versions: scores of their training, and of later evaluations. Light at import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.lake.runs import list_runs

__all__ = ["Scores", "evaluations_of"]

KINDS = ("evaluate", "promote")


@dataclass(frozen=True)
class Scores:
    """``trained``: metrics of training runs by run id; ``evaluated``: the latest evaluation of each version, as ``tandem evaluate`` wrote
    it ({"auc", "log_loss", "rows", "slices"}), with the id of its run and the rows it was made on."""

    trained: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    evaluated: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, version: int, run: str) -> dict[str, Any]:
        """{"auc", "log_loss", "from"} of a version: its latest evaluation, else its training's test split; empty if unknown."""
        found = self.evaluated.get(version)
        if found is not None:
            return {"auc": found.get("auc"), "log_loss": found.get("log_loss"), "rows": found.get("rows"), "from": found["run"]}
        metrics = self.trained.get(run, {})
        known = {name: metrics[f"test/{name}"] for name in ("auc", "log_loss") if f"test/{name}" in metrics}
        return {**known, "from": run} if known else {}

    def tags(self, version: int, run: str) -> dict[str, str]:
        """The same for MLflow: ``test.auc``, ``evaluation.auc``, ``evaluation.auc.origin=JFK`` and so on."""
        out = {name.replace("/", "."): f"{value:.6g}" for name, value in self.trained.get(run, {}).items() if name.startswith("test/")}
        found = self.evaluated.get(version)
        if found is not None:
            parts = {"": found, **found.get("slices", {})}
            for key, scores in parts.items():
                for name in ("auc", "log_loss"):
                    if scores.get(name) is not None:
                        out[f"evaluation.{name}{'.' + key if key else ''}"] = f"{scores[name]:.6g}"
            out["evaluation.rows"], out["evaluation.run"] = str(found.get("rows")), str(found["run"])
        return out


def evaluations_of(data: Path, model: str) -> Scores:
    """All scores on record of a model's versions, from the manifests of runs."""
    trained: dict[str, Mapping[str, float]] = {}
    evaluated: dict[int, Mapping[str, Any]] = {}
    for run in list_runs(data):
        if run.kind == "train":
            trained[run.id] = run.record.metrics
        elif run.kind in KINDS and (found := run.record.evaluation).get("model") == model:
            for version, scores in found.get("versions", {}).items():
                if "unknown" not in scores:
                    evaluated[int(version)] = {**scores, "run": run.id, "how": found.get("how", "")}
    return Scores(trained, evaluated)
