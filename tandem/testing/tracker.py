"""The contract of a tracker (:mod:`pipelines.tracking.tracker`): it ends at what the manifests say, however often it is delivered.

A tracker of another package is tested by a class of two fixtures::

    class TestMyTracker(TrackerContract):
        @pytest.fixture
        def tracker_name(self):
            return "mine"  # as its entry point is called

        @pytest.fixture
        def read_back(self):
            return my_runs  # data folder -> {run id: TrackedRun}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pipelines.lake.runs import Run, find
from pipelines.project.config import load_settings
from pipelines.project.recording import ProjectRef, recorded
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.stores import tracking_uri
from pipelines.tracking.sync import deliver
from pipelines.tracking.tracker import tracker_class
from pipelines.training.evidence import curves

__all__ = ["ReadBack", "TrackedRun", "TrackerContract", "World", "home", "training"]


def home(folder: Path, **tracking: Any) -> ProjectRef:
    """An empty repository in ``folder`` with these settings of tracking."""
    repo = folder / "repo"
    repo.mkdir(parents=True, exist_ok=True)
    settings = load_settings(repo, data=folder / "data", tracking=tracking)
    return ProjectRef(repo, settings, settings.data)


def training(place: ProjectRef, **fields: Any) -> Run:
    """A run that looks like a training: parameters, metrics, curves, a training set and a pushed model."""
    with recorded(place, "train", params={"units": 32, "rate": 0.001}, seeds={"seed": 7}, model="cards", **fields) as run:
        data, report = place.data, run.folder / "report"
        for path, text in (
            ("training/abc/train/part-0.txt", "rows"),
            ("models/cards/3/saved_model.pb", "graph"),
            ("models/cards/3/tandem.json", "{}"),
        ):
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            (data / path).write_text(text)
        report.mkdir()
        label, guess = np.array([0.0, 1.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.35, 0.8, 0.9])
        (report / "epochs.json").write_text(
            json.dumps({"epoch/train/loss": [[0, 0.7], [1, 0.5]], "epoch/validation/loss": [[0, 0.8], [1, 0.6]]})
        )
        (report / "curves.json").write_text(json.dumps(curves(label, {"all features": guess})))
        (report / "tfma.json").write_text(json.dumps({"": {"auc": 0.9}, "country=DE": {"auc": 0.8}}))
        run.add(metrics={"test/auc": 0.9, "test/auc/country=DE": 0.8}, counts={"rows/train": 5}, fingerprints={"cards": "f" * 64})
        run.save(training_set="abc", version=3)
    return run


@dataclass
class TrackedRun:
    """A tracker's run: ``status`` is RUNNING, FINISHED, FAILED or KILLED; ``steps`` are values by metric and step, ``bundles`` (kind,
    aliases) by name."""

    status: str
    parent: str | None
    params: dict[str, str]
    metrics: dict[str, float]
    steps: dict[str, dict[int, float]]
    tags: dict[str, str]
    files: set[str] = field(default_factory=set)
    bundles: dict[str, tuple[str, list[str]]] = field(default_factory=dict)


ReadBack = Callable[[Path], Mapping[str, TrackedRun]]
"""What the tracker holds for a data folder, by our run's id; read with its own means."""


class World:
    """A data folder, a tracker, and what the tracker holds."""

    def __init__(self, folder: Path, name: str, read: ReadBack) -> None:
        self.name, self.read, self.only_ended = name, read, tracker_class(name).only_ended
        self.home: ProjectRef = home(folder, trackers=[])  # the jobs deliver nothing: the test does

    def deliver(self, *runs: Run | str) -> dict[str, str] | None:
        """Deliver notes of these runs, here and now; why it failed."""
        for run in runs:
            Outbox(self.home.data).put(self.name, run if isinstance(run, str) else run.id)
        chosen = self.home.settings.tracking.model_copy(update={"trackers": [self.name]})
        return deliver(self.home.data, chosen, tracking_uri(self.home.settings, self.home.data), 0)

    def tracked(self) -> Mapping[str, TrackedRun]:
        """What the tracker holds."""
        return self.read(self.home.data)


class TrackerContract:
    """What every tracker keeps. Subclass it as ``class TestX`` and override both fixtures; the class attributes say what it can."""

    killed_status: ClassVar[str] = "KILLED"
    """What it calls a run that was killed; some know only that it FAILED."""
    draws: ClassVar[bool] = True
    """Whether it keeps the pictures of :mod:`pipelines.tracking.plots`."""

    @pytest.fixture
    def tracker_name(self) -> str:
        """The name that the tracker is registered by. Its links in a manifest begin with it: ``<name>_run``."""
        raise NotImplementedError("override the fixture tracker_name")

    @pytest.fixture
    def read_back(self) -> ReadBack:
        """Reads what the tracker holds."""
        raise NotImplementedError("override the fixture read_back")

    @pytest.fixture
    def world(self, tmp_path: Path, tracker_name: str, read_back: ReadBack, monkeypatch: pytest.MonkeyPatch) -> World:
        """A data folder, and the tracker over it."""
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return World(tmp_path, tracker_name, read_back)

    def test_its_module_does_not_load_its_library(self, tracker_name: str) -> None:
        """Every job asks the class in its own process."""
        kind = tracker_class(tracker_name)
        code = f"import sys; from pipelines.tracking.tracker import tracker_class; tracker_class({tracker_name!r}).given('x')"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; assert not {kind.library!r} or {kind.library!r} not in sys.modules"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert done.returncode == 0, done.stderr

    def test_a_training_is_told_whole(self, world: World) -> None:
        with recorded(world.home, "pipeline", params={"seed": 7}) as parent:
            run = training(world.home)
        assert world.deliver(run) == {}
        found = world.tracked()
        assert set(found) == {run.id, parent.id}, "a parent comes before its child, note or not"
        one = found[run.id]
        assert one.status == found[parent.id].status == "FINISHED"
        assert one.parent == parent.id and found[parent.id].parent is None
        assert {"units": "32", "rate": "0.001", "seed": "7", "model": "cards"}.items() <= one.params.items()
        expected = {"test/auc": 0.9, "test/auc/country.DE": 0.8, "counts/rows/train": 5.0, "tfma/auc": 0.9, "tfma/auc/country.DE": 0.8}
        assert expected.items() <= one.metrics.items()
        assert one.steps == {"epoch/train/loss": {0: 0.7, 1: 0.5}, "epoch/validation/loss": {0: 0.8, 1: 0.6}}
        pictures = {"report/epochs-loss.png", "report/roc.png", "report/calibration.png"} if self.draws else set()
        assert {"manifest.json", "report/epochs.json", "report/tfma.json", *pictures} <= one.files
        assert one.tags["tandem.run"] == run.id and one.tags["tandem.graph.cards"] == "f" * 64
        assert one.bundles["cards-set"][0] == "dataset"
        links = find(world.home.data, run.id).manifest["links"]
        assert links[f"{world.name}_run"], "the manifest leads to the tracker"

    def test_told_again_it_is_the_same_run(self, world: World) -> None:
        run = training(world.home)
        assert world.deliver(run) == {} and world.deliver(run) == {} and world.deliver(run) == {}
        assert list(world.tracked()) == [run.id]
        assert world.tracked()[run.id].steps["epoch/train/loss"] == {0: 0.7, 1: 0.5}

    def test_graphs_of_a_batch_run(self, world: World) -> None:
        graph = world.home.data / "graphs" / "cards" / ("a" * 64)
        graph.mkdir(parents=True)
        (graph / "saved_model.pb").write_text("graph")
        with recorded(world.home, "batch", fingerprints={"cards": "a" * 64}) as run:
            run.add(counts={"rows/cards": 12})
        assert world.deliver(run) == {}
        found = world.tracked()[run.id]
        assert found.metrics["counts/rows/cards"] == 12 and found.tags["tandem.graph.cards"] == "a" * 64

    def test_failed_and_killed_runs_are_told_as_such(self, world: World) -> None:
        with pytest.raises(ValueError, match="too hot"), recorded(world.home, "train") as failed:
            raise ValueError("too hot")
        with pytest.raises(KeyboardInterrupt), recorded(world.home, "train") as killed:
            raise KeyboardInterrupt
        assert world.deliver(failed, killed) == {}
        found = world.tracked()
        assert found[failed.id].status == "FAILED" and found[failed.id].tags["tandem.error"] == "too hot"
        assert found[killed.id].status == self.killed_status
        assert found[killed.id].tags["tandem.status"] == "killed"

    def test_a_run_that_was_killed_by_force_is_told_at_the_next_chance(self, world: World) -> None:
        """While it runs, it is delivered as running where the tracker takes that; once its process is gone, nobody need leave a note."""
        with recorded(world.home, "train") as run:
            assert world.deliver(run) == {}
            if world.only_ended:
                assert run.id not in world.tracked()
            else:
                assert world.tracked()[run.id].status == "RUNNING"
        run.save(status="running", pid=2**22 + 1, process_start="never")  # as SIGKILL leaves it
        assert world.deliver() == {}
        assert world.tracked()[run.id].tags["tandem.status"] == "killed"
        assert Outbox(world.home.data).opened() == []

    def test_a_run_that_was_removed_is_nobodys_business(self, world: World) -> None:
        assert world.deliver("train-of-yesterday") == {}
        assert Outbox(world.home.data).notes() == []

    def test_odd_names_and_long_values_are_taken(self, world: World) -> None:
        with recorded(world.home, "train", params={"ü/=;": "x" * 9000, "empty": "", "none": None, "list": [1, 2]}) as run:
            run.add(metrics={"test/auc/city=São Paulo": 0.5, "a//b": 1.0, "nan": float("nan"), "inf": float("inf"), "..": 2.0})
            run.add(metrics={"test/auc/city=Saõ Paulo": 0.25})
        assert world.deliver(run) == {}
        found = world.tracked()[run.id]
        assert sorted(v for n, v in found.metrics.items() if n.startswith("test/auc/city.S")) == [0.25, 0.5], "two names stay two"
        assert 1.0 in found.metrics.values() and not {"nan", "inf"} & set(found.metrics)
        assert any(len(v) >= 5000 for v in found.params.values()) and found.params["list"] == "[1, 2]"
