"""What a tracker is told of a run, read from its manifest and from its report folder. Pure but for reading files.

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
    data, report, links = folder.parents[1], folder / REPORT, dict(manifest.get("links") or {})
    status = str(manifest.get("status", "running"))
    begun = _millis(manifest.get("created")) or 0
    params = {
        **{f"seed/{k}" if k != "seed" else k: v for k, v in dict(manifest.get("seeds") or {}).items()},
        **dict(manifest.get("params") or {}),
    }
    query = dict(manifest.get("query") or {})
    first, last = [*(manifest.get("range") or []), None, None][:2]
    wider = {"model": manifest.get("model"), "start": first or query.get("start"), "end": last or query.get("end")}
    params = {**{name: value for name, value in wider.items() if value is not None}, **params}
    code = dict(manifest.get("code") or {})
    tags = {
        "tandem.run": folder.name,
        "tandem.kind": manifest.get("kind", ""),
        "tandem.status": status,
        "tandem.code": code.get("sha256"),
        "tandem.dirty": code.get("dirty"),
        "tandem.lock": manifest.get("lock"),
        "tandem.error": manifest.get("error"),
        "mlflow.source.git.commit": code.get("commit"),
        "mlflow.source.name": " ".join(manifest.get("command") or ["tandem", str(manifest.get("kind", ""))]),
        **{f"tandem.graph.{k}": v for k, v in dict(manifest.get("fingerprints") or {}).items()},
        **{f"tandem.{k}": v for k, v in _flat(links)},
    }
    files = {f"{REPORT}/{p.relative_to(report).as_posix()}": p for p in sorted(report.rglob("*")) if p.is_file() and p.name[0] != "."}
    return Record(
        id=folder.name,
        kind=str(manifest.get("kind", "")),
        status=status if status in OVER else "running",
        parent=manifest.get("parent") or None,
        begun=begun,
        ended=_millis(manifest.get("finished")) if status in OVER else None,
        params={metric_name(name): v if isinstance(v, str) else json.dumps(v, default=str) for name, v in params.items()},
        metrics={
            **_numbers(manifest.get("counts"), "counts/"),
            **_numbers(manifest.get("metrics")),
            **_numbers({"seconds": manifest.get("seconds")}),
            **_tfma(report / TFMA),
        },
        series=_series(report / EPOCHS),
        tags={metric_name(name): str(v) for name, v in tags.items() if v not in (None, "")},
        files={"manifest.json": folder / layout.MANIFEST, **files},
        bundles=tuple(_bundles(data, manifest)) if status == "complete" else (),
        links=links,
    )


def _bundles(data: Path, manifest: Mapping[str, Any]) -> Iterator[Bundle]:
    """The training set and the pushed model of a training, the graphs of a batch run."""
    kind, links, fingerprints = manifest.get("kind"), dict(manifest.get("links") or {}), dict(manifest.get("fingerprints") or {})
    model = str(manifest.get("model") or "")
    training_set = manifest.get("training_set") or links.get("training_set")
    training_set = training_set.get("id") if isinstance(training_set, Mapping) else training_set
    if training_set and layout.training_set(data, str(training_set)).is_dir():
        yield Bundle(
            f"{model or 'training'}-set",
            "dataset",
            layout.training_set(data, str(training_set)),
            str(training_set),
            (str(training_set),),
            fingerprints,
        )
    version = manifest.get("version") or links.get("version")
    pushed = layout.model(data, model) / str(version or "")
    if kind == "train" and model and version and pushed.is_dir():
        yield Bundle(
            model, "model", pushed, str(version), (f"v{version}",), {"version": version, "training_set": training_set, **fingerprints}
        )
    if kind in ("batch", "apply"):
        for group, fingerprint in fingerprints.items():
            places = (layout.graph(data, group, fingerprint), layout.run(data, str(manifest.get("id"))) / "graphs" / group)
            if (place := next((p for p in places if p.is_dir()), None)) is not None:
                yield Bundle(f"{group}-graph", "graph", place, fingerprint, (fingerprint[:12],), {"fingerprint": fingerprint})
