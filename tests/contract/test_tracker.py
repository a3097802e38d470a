"""Both trackers are held to the contract that ships, each with its real library: MLflow, and Weights & Biases offline."""

from __future__ import annotations

import pytest

from pipelines.project.recording import recorded
from tandem.testing.tracker import ReadBack, TrackerContract, World, training
from tests.tracking_world import mlflow_runs, wandb_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


class TestMlflow(TrackerContract):
    @pytest.fixture
    def tracker_name(self) -> str:
        return "mlflow"

    @pytest.fixture
    def read_back(self) -> ReadBack:
        return lambda data: mlflow_runs(f"sqlite:///{data / 'mlflow.db'}")


class TestWandb(TrackerContract):
    killed_status = "FAILED"

    @pytest.fixture
    def tracker_name(self) -> str:
        return "wandb"

    @pytest.fixture
    def read_back(self) -> ReadBack:
        return wandb_runs

    def test_what_a_run_made_are_artifacts(self, world: World) -> None:
        run = training(world.home)
        graph = world.home.data / "graphs" / "cards" / ("a" * 64)
        graph.mkdir(parents=True)
        (graph / "saved_model.pb").write_text("graph")
        with recorded(world.home, "batch", fingerprints={"cards": "a" * 64}) as batch:
            pass
        assert world.deliver(run, batch) == {}
        one, other = (world.tracked()[r.id] for r in (run, batch))
        assert one.bundles["cards-set"] == ("dataset", ["abc", "latest"]) and one.bundles["cards"] == ("model", ["latest", "v3"])
        assert other.bundles["cards-graph"] == ("graph", sorted(["latest", "a" * 12]))
