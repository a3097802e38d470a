"""What a tracker gets of a run, read from its manifest and from its report folder. Pure but for reading files.

A job that wants more shown than its manifest puts files into ``data/runs/<id>/report/``: they become artifacts of the run as they are.
``report/epochs.json``, ``{metric: [[step, value], ...]}``, becomes metrics by step, and ``report/tfma.json``,
``{slice: {metric: value}}``, metrics.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.layout import EPOCHS, REPORT, TFMA
from pipelines.lake.run_records import RunRecord, TrainRecord, record_of

__all__ = ["Bundle", "Record", "metric_name", "read_record"]

OVER = ("complete", "failed", "killed")


@dataclass(frozen=True)
class Bundle:
    """Something that jobs make and others use: a data set, a graph or a model. ``version`` is what tells two of one name apart."""

    name: str
    kind: str
    folder: Path
    version: str
    aliases: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A run as trackers see it. ``begun`` and ``ended`` are milliseconds since 1970; ``status`` is running, complete, failed or killed."""

    id: str
    kind: str
    status: str
    parent: str | None
    begun: int
    ended: int | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    series: Mapping[str, list[tuple[int, float]]]
    tags: Mapping[str, str]
    files: Mapping[str, Path]
    """Path within the run's artifacts to file."""
    bundles: tuple[Bundle, ...]
    links: Mapping[str, Any]

    @property
    def over(self) -> bool:
        """Whether nothing is to come any more."""
        return self.status in OVER


def metric_name(name: str) -> str:
    """A name that every tracker takes: ``test/auc/origin=JFK`` becomes ``test/auc/origin.JFK``; a hash where more is lost."""
    plain = name.replace("=", ".")
    parts = (re.sub(r"[^\w\-. ]", ".", part, flags=re.ASCII).strip(". ") for part in plain.split("/"))
    out = "/".join(part for part in parts if part)[:240] or "unnamed"
    return out if out == plain else f"{out}-{hashlib.sha256(name.encode()).hexdigest()[:4]}"


def _millis(text: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except ValueError:
        return None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, with the way to them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}/{key}" if name else str(key))
    else:
        yield name, value


def _numbers(values: Any, prefix: str = "") -> dict[str, float]:
    return {
        metric_name(prefix + name): float(v)
        for name, v in _flat(values)
        if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    }


def _tfma(file: Path) -> dict[str, float]:
    try:
        found = json.loads(file.read_text())
        return _numbers({f"tfma/{metric}{'/' + part if part else ''}": v for part, values in found.items() for metric, v in values.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _series(file: Path) -> dict[str, list[tuple[int, float]]]:
    try:
        found = json.loads(file.read_text())
        named = {metric_name(name): [(int(step), float(value)) for step, value in points] for name, points in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {name: [(s, v) for s, v in points if math.isfinite(v)] for name, points in named.items()}


def read_record(folder: Path, manifest: Mapping[str, Any]) -> Record:
    """The record of the run in ``folder`` (``data/runs/<id>``)."""
    run = record_of(manifest)
    data, report, status = folder.parents[1], folder / REPORT, run.status or "running"
    query = run.query if isinstance(run, TrainRecord) else {}
    first, last = [*run.range, None, None][:2]
    wider = {"model": run.model, "start": first or query.get("start"), "end": last or query.get("end")}
    params = {
        **{name: value for name, value in wider.items() if value is not None},
        **{f"seed/{k}" if k != "seed" else k: v for k, v in run.seeds.items()},
        **run.params,
    }
    engine = run.code.get("engine") or {}
    tags = {
        "tandem.run": folder.name,
        "tandem.kind": run.kind,
        "tandem.status": status,
        "tandem.code": run.code.get("sha256"),
        "tandem.dirty": run.code.get("dirty"),
        "tandem.lock": run.lock,
        "tandem.error": run.error,
        "tandem.verdict": run.judged,
        "tandem.reasons": "; ".join(run.reasons or run.missed),
        "tandem.engine": " ".join(str(v) for v in (engine.get("version"), str(engine.get("commit", ""))[:12]) if v),
        "tandem.features": ", ".join(run.features) if isinstance(run, TrainRecord) else None,
        "mlflow.source.git.commit": run.code.get("commit"),
        "mlflow.source.name": " ".join(run.command or ["tandem", run.kind]),
        **{f"tandem.graph.{k}": v for k, v in run.fingerprints.items()},
        **{f"tandem.{k}": v for k, v in _flat(run.links)},
    }
    files = {f"{REPORT}/{p.relative_to(report).as_posix()}": p for p in sorted(report.rglob("*")) if p.is_file() and p.name[0] != "."}
    return Record(
        id=folder.name,
        kind=run.kind,
        status=status if status in OVER else "running",
        parent=run.parent or None,
        begun=_millis(run.created) or 0,
        ended=_millis(run.finished) if status in OVER else None,
        params={metric_name(name): v if isinstance(v, str) else json.dumps(v, default=str) for name, v in params.items()},
        metrics={
            **_numbers(run.counts, "counts/"),
            **_numbers(run.metrics),
            **_numbers({"seconds": run.seconds}),
            **_tfma(report / TFMA),
        },
        series=_series(report / EPOCHS),
        tags={metric_name(name): str(v) for name, v in tags.items() if v not in (None, "")},
        files={layout.MANIFEST: folder / layout.MANIFEST, **files},
        bundles=tuple(_bundles(data, run)) if status == "complete" else (),
        links=dict(run.links),
    )


def _bundles(data: Path, run: RunRecord) -> Iterator[Bundle]:
    """The training set and the pushed model of a training, the graphs of a batch run."""
    model = run.model or ""
    training_set: Any = (run.training_set if isinstance(run, TrainRecord) else None) or run.links.get("training_set")
    training_set = training_set.get("id") if isinstance(training_set, Mapping) else training_set
    if training_set and layout.training_set(data, str(training_set)).is_dir():
        yield Bundle(
            f"{model or 'training'}-set",
            "dataset",
            layout.training_set(data, str(training_set)),
            str(training_set),
            (str(training_set),),
            run.fingerprints,
        )
    version = run.version or run.links.get("version")
    pushed = layout.model(data, model) / str(version or "")
    if run.kind == "train" and model and version and pushed.is_dir():
        facts = {"version": version, "training_set": training_set, **run.fingerprints}
        yield Bundle(model, "model", pushed, str(version), (f"v{version}",), facts)
    if run.kind in ("batch", "apply"):
        for group, fingerprint in run.fingerprints.items():
            places = (layout.graph(data, group, fingerprint), layout.graphs(layout.run(data, run.id)) / group)
            if (place := next((p for p in places if p.is_dir()), None)) is not None:
                yield Bundle(f"{group}-graph", "graph", place, fingerprint, (fingerprint[:12],), {"fingerprint": fingerprint})
