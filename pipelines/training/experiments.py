"""Several trainings at a time, with different parameters: each a run of its own in a process of its own, compared at the end.

An experiment is what ``tandem train --set ... --seed ...`` runs, but that it pushes nothing; so each can be made again alone, from its
manifest. One that fails or is killed leaves the others as they are.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.lake.counted import counted
from pipelines.lake.data_files import replaced
from pipelines.lake.layout import REPORT
from pipelines.lake.processes import start_child, stop_child
from pipelines.lake.runs import Run, list_runs
from pipelines.training.definition import Model
from serving.yaml_text import yaml_file
from transforms.errors import ConfigError, TandemError
from transforms.own_program import tandem_command

__all__ = [
    "Comparison", "Experiment", "best", "combinations", "direction", "jobs_for", "parse_sets", "plan", "read_grid", "run_experiments",
]  # fmt: skip

AT_MOST = 1000
_LOWER = ("log_loss", "loss", "seconds", "error")


@dataclass
class Experiment:
    """One combination of parameters, and what became of it. ``why`` says what failed."""

    number: int
    params: dict[str, Any]
    run: str = ""
    status: str = "waiting"
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""


def parse_sets(texts: Sequence[str]) -> dict[str, list[str]]:
    """``["units=32,64", "epochs=3"]`` as ``{"units": ["32", "64"], "epochs": ["3"]}``. Raises ConfigError."""
    out: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        found = [v.strip() for v in values.split(",")]
        if not equals or not name.strip() or "" in found:
            raise ConfigError(f"--set {text!r}: write name=value, or name=value,value for several experiments")
        if name.strip() in out:
            raise ConfigError(f"--set {name.strip()} is given twice; list its values in one: --set {name.strip()}=value,value")
        out[name.strip()] = found
    return out


def read_grid(path: Path) -> list[dict[str, Any]]:
    """The combinations that a YAML or JSON file asks for: a mapping of lists (all of their combinations), or a list of mappings (these).

    Raises ConfigError.
    """
    found = yaml_file(path, f"--grid {path}", names=1)
    if isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
        return [dict(one) for one in found]
    if isinstance(found, dict) and found:
        return combinations({str(k): v if isinstance(v, list) else [v] for k, v in found.items()})
    raise ConfigError(f"--grid {path}: write a mapping of lists, such as 'units: [32, 64]', or a list of mappings")


def combinations(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of one value per name, the last name changing fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def direction(metric: str) -> int:
    """1 if a higher value is better, -1 if a lower one is (losses and times)."""
    return -1 if any(part in _LOWER for part in metric.split("/")) else 1


def best(experiments: Sequence[Experiment], metric: str) -> Experiment | None:
    """The experiment with the best value, of equal ones the first; None if none has a value."""
    scored = [e for e in experiments if e.status == "complete" and metric in e.metrics]
    return max(scored, key=lambda e: (direction(metric) * e.metrics[metric], -e.number), default=None)


def jobs_for(asked: int | None, count: int) -> int:
    """How many experiments run at a time: as many as asked, at most one per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(asked or cores, cores, count))


def run_experiments(
    model: Model,
    chosen: Sequence[Mapping[str, Any]],
    parent: Run,
    *,
    repo: Path,
    data: Path,
    start: datetime,
    end: datetime,
    seed: int,
    metric: str,
    jobs: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Experiment]:
    """Train all of ``chosen`` below the run ``parent``, ``jobs`` at a time, and write the comparison into its report.

    Raises ConfigError before anything starts if a parameter is unknown, of another type, or unknown metric; use one of a training;
    TandemError if every experiment failed.
    """
    experiments = plan(model, chosen, metric)
    folder = parent.folder / "experiments"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = list(experiments)
    running: dict[int, tuple[Experiment, subprocess.Popen[bytes], float]] = {}
    most = jobs_for(jobs, len(experiments))
    say(f"{counted(experiments, 'experiment')}, {most} at a time; each logs to {folder}")
    try:
        while waiting or running:
            while waiting and len(running) < most:
                one = waiting.pop(0)
                running[one.number] = (one, _start(one, model, parent, repo, data, start, end, seed, folder), time.monotonic())
                one.status = "running"
            time.sleep(0.2)
            for number, (one, child, begun) in list(running.items()):
                if (code := child.poll()) is None:
                    continue
                del running[number]
                one.seconds = round(time.monotonic() - begun, 1)
                _collect(one, code, parent, data, folder, metric)
                value = f"{metric} {one.metrics[metric]:.4f}" if metric in one.metrics else one.why
                say(f"experiment {one.number} ({_words(one.params)}): {one.status} in {one.seconds} s, {value}")
                _write(parent, experiments, metric)
    finally:
        for one, child, _ in running.values():
            child.terminate()
            one.status, one.why = "killed", "the comparison was stopped"
        for _, child, _ in running.values():
            stop_child(child, 10)
        _write(parent, experiments, metric)
    if best(experiments, metric) is None:
        raise TandemError(f"none of {len(experiments)} experiments has {metric}; the first: {experiments[0].why}; see {folder}")
    return experiments


def plan(model: Model, chosen: Sequence[Mapping[str, Any]], metric: str) -> list[Experiment]:
    """The experiments, equal ones once. Raises ConfigError for what the model does not know, or a metric that no training has."""
    if len(chosen) > AT_MOST:
        raise ConfigError(f"{len(chosen):,} experiments are more than {AT_MOST:,}; give fewer values")
    if not metric.startswith("test/"):
        raise ConfigError(f"--metric {metric}: name a metric of the test split, such as test/auc, test/log_loss or test/auc/origin=JFK")
    seen: dict[str, dict[str, Any]] = {}
    for one in chosen:
        params = model.with_params(one)
        seen.setdefault(json.dumps(params, sort_keys=True), params)  # 0.1 and 1e-1 are one experiment
    return [Experiment(number, params) for number, params in enumerate(seen.values(), 1)]


def _start(
    one: Experiment, model: Model, parent: Run, repo: Path, data: Path, start: datetime, end: datetime, seed: int, folder: Path
) -> subprocess.Popen[bytes]:
    command = tandem_command("train", "--repo", str(repo), "--data", str(data), "--model", model.name)
    command += ["--start", start.isoformat(), "--end", end.isoformat(), "--seed", str(seed), "--no-push", "--json"]
    command += [f"--set={name}={value}" for name, value in one.params.items()]
    environment = {**os.environ, "TANDEM_PARENT_RUN": parent.id}
    # An experiment whose comparison is gone helps nobody: it ends with us.
    return start_child(command, folder / f"{one.number}.log", environment, new_log=True, output=folder / f"{one.number}.json")


def _collect(one: Experiment, code: int, parent: Run, data: Path, folder: Path, metric: str) -> None:
    """What a child that ended left."""
    log = (folder / f"{one.number}.log").read_text("utf-8", "replace").strip().splitlines()
    mine = [r for r in list_runs(data) if r.head.parent == parent.id and r.record.params == one.params]
    run = mine[-1] if mine else None
    one.run = run.id if run is not None else ""
    if code == 0 and run is not None:
        one.status, one.metrics = run.status, dict(run.record.metrics)
        if metric not in one.metrics:
            one.why = f"it has no {metric}; it has {', '.join(sorted(one.metrics))}"
        return
    one.status = "killed" if code < 0 else "failed"
    one.why = f"ended by signal {-code}" if code < 0 else next((x for x in reversed(log) if x), f"exit code {code}").removeprefix("error: ")


def _words(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items()) or "no parameters"


@dataclass(frozen=True)
class Comparison:
    """Experiments held against each other by a metric: the best first, then those without a value."""

    metric: str
    experiments: Sequence[Experiment]

    @classmethod
    def of(cls, experiments: Sequence[Experiment], metric: str) -> Comparison:
        """Those of any order."""
        worst = float("-inf")
        return cls(
            metric,
            sorted(experiments, key=lambda e: (-(direction(metric) * e.metrics[metric] if metric in e.metrics else worst), e.number)),
        )

    @property
    def better(self) -> str:
        """Which values of the metric are: ``higher`` or ``lower``."""
        return "higher" if direction(self.metric) > 0 else "lower"

    @property
    def best(self) -> Experiment | None:
        """The one of the best value; None if none has one."""
        return best(self.experiments, self.metric)

    @property
    def scores(self) -> list[str]:
        """The metrics that are shown of each."""
        return list(dict.fromkeys((self.metric, "test/auc", "test/log_loss")))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, as it stands in the run's manifest."""
        first = self.best
        return {
            "metric": self.metric,
            "better": self.better,
            "best": first.run if first is not None else None,
            "best_params": first.params if first is not None else None,
            "experiments": [
                {
                    "number": e.number,
                    "params": e.params,
                    "status": e.status,
                    "run": e.run,
                    "metrics": {k: e.metrics[k] for k in self.scores if k in e.metrics},
                    "seconds": e.seconds,
                    **({"why": e.why} if e.why else {}),
                }
                for e in self.experiments
            ],
        }


def _write(parent: Run, experiments: Sequence[Experiment], metric: str) -> None:
    """The comparison so far, for the manifest and as CSV for trackers."""
    import csv

    compared = Comparison.of(experiments, metric)
    folder = parent.folder / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    names = list(experiments[0].params)
    with replaced(folder / "experiments.csv") as file, io.TextIOWrapper(file, "utf-8", newline="", write_through=True) as text:
        out = csv.writer(text)
        out.writerow(["experiment", *names, *compared.scores, "status", "seconds", "run", "why"])
        for e in compared.experiments:
            values = [e.params.get(n) for n in names], [e.metrics.get(s) for s in compared.scores]
            out.writerow([e.number, *values[0], *values[1], e.status, e.seconds, e.run, e.why])
    first = compared.best
    found = {f"best/{metric}": first.metrics[metric]} if first is not None else {}
    done = {f"experiments/{s}": sum(e.status == s for e in experiments) for s in ("complete", "failed", "killed")}
    parent.save(comparison=compared.to_dict(), metrics=found, counts=done)
