"""What every tracker keeps, said once and held by each with its real library: MLflow, and Weights & Biases offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipelines.lake.runs import Run, find
from pipelines.project.recording import Home, recorded
from pipelines.tracking.outbox import Spool
from pipelines.tracking.stores import tracking_uri
from pipelines.tracking.sync import deliver
from tests.tracking_world import Told, home, mlflow_runs, training, wandb_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


class World:
    """A data folder, a tracker, and what the tracker holds."""

    def __init__(self, folder: Path, name: str, read: Callable[[Path], Mapping[str, Told]]) -> None:
        self.name, self.read = name, read
        self.home: Home = home(folder, trackers=[])  # the jobs tell nobody: the test does

    def tell(self, *runs: Run | str) -> dict[str, str] | None:
        """Deliver notes of these runs, here and now; why it failed."""
        for run in runs:
            Spool(self.home.data).put(self.name, run if isinstance(run, str) else run.id)
        chosen = self.home.settings.tracking.model_copy(update={"trackers": [self.name]})
        return deliver(self.home.data, chosen, tracking_uri(self.home.settings, self.home.data), 0)

    def told(self) -> Mapping[str, Told]:
        return self.read(self.home.data)


@pytest.fixture(params=["mlflow", "wandb"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    readers = {"mlflow": lambda data: mlflow_runs(f"sqlite:///{data / 'mlflow.db'}"), "wandb": wandb_runs}
    return World(tmp_path, request.param, readers[request.param])


def test_a_training_is_told_whole(world: World) -> None:
    with recorded(world.home, "pipeline", params={"seed": 7}) as parent:
        run = training(world.home)
    assert world.tell(run) == {}
    told = world.told()
    assert set(told) == {run.id, parent.id}, "a parent is told before its child, note or not"
    one = told[run.id]
    assert one.status == told[parent.id].status == "FINISHED"
    assert one.parent == parent.id and told[parent.id].parent is None
    assert {"units": "32", "rate": "0.001", "seed": "7", "model": "cards"}.items() <= one.params.items()
    expected = {"test/auc": 0.9, "test/auc/country.DE": 0.8, "counts/rows/train": 5.0, "tfma/auc": 0.9, "tfma/auc/country.DE": 0.8}
    assert expected.items() <= one.metrics.items()
    assert one.steps == {"epoch/train/loss": {0: 0.7, 1: 0.5}, "epoch/validation/loss": {0: 0.8, 1: 0.6}}
    pictures = {"report/epochs-loss.png", "report/roc.png", "report/calibration.png"}
    assert {"manifest.json", "report/epochs.json", "report/tfma.json", *pictures} <= one.files
    assert one.tags["tandem.run"] == run.id and one.tags["tandem.graph.cards"] == "f" * 64
    assert one.bundles["cards-set"][0] == "dataset"
    links = find(world.home.data, run.id).manifest["links"]
    assert links[f"{world.name}_run"], "the manifest leads to the tracker"
    if world.name == "wandb":
        assert one.bundles["cards-set"] == ("dataset", ["abc", "latest"]) and one.bundles["cards"] == ("model", ["latest", "v3"])


def test_told_again_it_is_the_same_run(world: World) -> None:
    run = training(world.home)
    assert world.tell(run) == {} and world.tell(run) == {} and world.tell(run) == {}
    assert list(world.told()) == [run.id]
    assert world.told()[run.id].steps["epoch/train/loss"] == {0: 0.7, 1: 0.5}


def test_graphs_of_a_batch_run(world: World) -> None:
    graph = world.home.data / "graphs" / "cards" / ("a" * 64)
    graph.mkdir(parents=True)
    (graph / "saved_model.pb").write_text("graph")
    with recorded(world.home, "batch", fingerprints={"cards": "a" * 64}) as run:
        run.add(counts={"rows/cards": 12})
    assert world.tell(run) == {}
    told = world.told()[run.id]
    assert told.metrics["counts/rows/cards"] == 12 and told.tags["tandem.graph.cards"] == "a" * 64
    if world.name == "wandb":
        assert told.bundles["cards-graph"] == ("graph", sorted(["latest", "a" * 12]))


def test_failed_and_killed_runs_are_told_as_such(world: World) -> None:
    with pytest.raises(ValueError, match="too hot"), recorded(world.home, "train") as failed:
        raise ValueError("too hot")
    with pytest.raises(KeyboardInterrupt), recorded(world.home, "train") as killed:
        raise KeyboardInterrupt
    assert world.tell(failed, killed) == {}
    told = world.told()
    assert told[failed.id].status == "FAILED" and told[failed.id].tags["tandem.error"] == "too hot"
    assert told[killed.id].status == ("KILLED" if world.name == "mlflow" else "FAILED")
    assert told[killed.id].tags["tandem.status"] == "killed"


def test_a_run_that_was_killed_by_force_is_told_at_the_next_chance(world: World) -> None:
    """While it runs, it is told as running (by MLflow); once its process is gone, nobody need leave a note."""
    with recorded(world.home, "train") as run:
        assert world.tell(run) == {}
        if world.name == "mlflow":
            assert world.told()[run.id].status == "RUNNING"
        else:
            assert run.id not in world.told()
    run.save(status="running", pid=2**22 + 1, process_start="never")  # as SIGKILL leaves it
    assert world.tell() == {}
    assert world.told()[run.id].tags["tandem.status"] == "killed"
    assert Spool(world.home.data).opened() == []


def test_a_run_that_was_removed_is_nobodys_business(world: World) -> None:
    assert world.tell("train-of-yesterday") == {}
    assert Spool(world.home.data).notes() == []


def test_odd_names_and_long_values_are_taken(world: World) -> None:
    with recorded(world.home, "train", params={"ü/=;": "x" * 9000, "empty": "", "none": None, "list": [1, 2]}) as run:
        run.add(metrics={"test/auc/city=São Paulo": 0.5, "a//b": 1.0, "nan": float("nan"), "inf": float("inf"), "..": 2.0})
        run.add(metrics={"test/auc/city=Saõ Paulo": 0.25})
    assert world.tell(run) == {}
    told = world.told()[run.id]
    assert sorted(v for n, v in told.metrics.items() if n.startswith("test/auc/city.S")) == [0.25, 0.5], "two names stay two"
    assert 1.0 in told.metrics.values() and not {"nan", "inf"} & set(told.metrics)
    assert any(len(v) >= 5000 for v in told.params.values()) and told.params["list"] == "[1, 2]"
