"""``mlflow run``: everything in one parent run, on a small repository that ``tandem init`` makes; then experiments on it."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.mlflow_project import Shop, two_weeks_of_a_shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return two_weeks_of_a_shop(tmp_path_factory.mktemp("mlproject"))


def test_main_is_one_run_with_a_run_per_step(shop: Shop) -> None:
    (parent,) = shop.runs("pipeline")
    told = shop.tracked()
    assert told[parent.id].status == "FINISHED" and told[parent.id].parent is None
    assert told[parent.id].params["seed"] == "7" and told[parent.id].params["epochs"] == "2", "MLflow's own run became ours"
    steps = {told[i].tags["tandem.kind"] for i in told if told[i].parent == parent.id}
    assert steps == {"events", "batch", "apply", "materialize", "train", "evaluate"}
    assert all(one.status == "FINISHED" for one in told.values()) and len(told) == 7
    (train,) = shop.runs("train")
    one = told[train.id]
    assert one.metrics["test/auc"] == pytest.approx(train.manifest["metrics"]["test/auc"])
    assert one.metrics["tfma/auc"] == pytest.approx(one.metrics["test/auc"], abs=0.01)
    assert any(n.startswith("tfma/auc/country.") for n in one.metrics) and any(n.startswith("test/auc/country.") for n in one.metrics)
    assert {"epoch/train/loss", "epoch/validation/loss"} <= set(one.steps) and list(one.steps["epoch/train/loss"]) == [0, 1]
    assert {"manifest.json", "report/tfma.json", "report/roc.png", "report/calibration.png", "report/epochs-loss.png"} <= one.files


def test_mlmd_and_mlflow_name_each_other(shop: Shop) -> None:
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2

    (train,) = (r for r in shop.runs("train") if r.manifest.get("version") == 1)
    proto: Any = metadata_store_pb2  # made at run time by protobuf's builder
    config = proto.ConnectionConfig()
    config.sqlite.filename_uri = str(shop.data / train.manifest["links"]["mlmd_store"])
    context = metadata_store.MetadataStore(config).get_context_by_type_and_name("pipeline_run", train.id)
    assert context and context.custom_properties["mlflow_run"].string_value == train.manifest["links"]["mlflow_run"]
    assert shop.tracked()[train.id].tags["tandem.mlmd_run"] == train.id


def test_begun_again_after_a_kill_the_pipeline_goes_on(shop: Shop) -> None:
    """What was done stays done: here all but the evaluation. The run keeps its id."""
    (run,) = shop.runs("pipeline")
    trainings = len(shop.runs("train"))
    steps = {k: v for k, v in run.manifest["steps"].items() if k != "evaluate"}
    run.save(status="running", pid=2**22 + 1, process_start="never", steps=steps)  # as SIGKILL leaves it
    done = shop.mlflow_run("main", repo=shop.repo, start="2024-03-04", end="2024-03-18", seed=7, set="epochs=2", events="true")
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = shop.runs("pipeline")
    assert again.id == run.id and again.status == "complete" and set(again.manifest["steps"]) == {*steps, "evaluate"}
    assert len(shop.runs("train")) == trainings and len(shop.runs("evaluate")) == 2


def test_wrong_parameters_fail_the_entry_point(shop: Shop) -> None:
    done = shop.mlflow_run("train", repo=shop.repo, set="unitz=3")
    assert done.returncode != 0 and "unitz" in done.stderr and "units" in done.stderr
    assert len(shop.runs("train")) == 1


@pytest.fixture(scope="module")
def compared(shop: Shop) -> tuple[dict[str, Any], str, int]:
    """Two experiments at once, one of them killed; the table, what was said, and how many ran at once."""
    asked = ["--set", "units=8,16", "--set", "epochs=1", "--seed", "5", "--jobs", "5", "--metric", "test/log_loss"]
    child = shop.tandem("train", *asked, "--json", "--start", "2024-03-06", "--end", "2024-03-18")
    most, killed, until = 0, False, time.monotonic() + 600
    while child.poll() is None:
        assert time.monotonic() < until
        running = [r for r in shop.runs("train") if r.status == "running"]
        most = max(most, len(running))
        for r in running:
            if r.manifest.get("params", {}).get("units") == 16 and not killed:  # one that has only just begun says nothing yet
                os.kill(r.manifest["pid"], signal.SIGKILL)
                killed = True
        time.sleep(0.2)
    out, err = child.communicate()
    assert child.returncode == 0 and killed, err
    return json.loads(out), err, most


def test_experiments_are_compared_and_a_killed_one_is_named(shop: Shop, compared: tuple[dict[str, Any], str, int]) -> None:
    table, said, most = compared
    assert most <= len(os.sched_getaffinity(0)), "bounded by cores, whatever --jobs says"
    rows = {row["params"]["units"]: row for row in table["experiments"]}
    assert rows[16]["status"] == "killed" and "signal 9" in rows[16]["why"] and table["experiments"][-1] is rows[16]
    good = rows[8]
    assert good["status"] == "complete" and good["params"]["epochs"] == 1
    assert table["better"] == "lower" and table["best"] == good["run"] and table["experiments"][0] == good
    assert "killed" in said and "nothing is pushed" not in said
    (parent,) = shop.runs("experiments")
    children = [r for r in shop.runs("train") if r.manifest["parent"] == parent.id]
    assert {r.manifest["params"]["units"]: r.status for r in children} == {8: "complete", 16: "killed"}
    assert all(r.manifest["seeds"] == {"seed": 5} and not r.manifest.get("version") for r in children)
    assert [p.name for p in (shop.data / "models" / "card_fraud").iterdir() if p.name.isdecimal()] == ["1"], "experiments push nothing"
    lines = (parent.folder / "report" / "experiments.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("experiment,units,") and "killed" in lines[-1]


def test_experiments_are_in_mlflow(shop: Shop, compared: tuple[dict[str, Any], str, int]) -> None:
    (parent,) = shop.runs("experiments")
    told = shop.tracked()
    below = {i: one for i, one in told.items() if one.parent == parent.id}
    assert sorted((one.params["units"], one.status) for one in below.values()) == [("16", "KILLED"), ("8", "FINISHED")]
    assert "report/experiments.csv" in told[parent.id].files
    assert told[parent.id].metrics["best/test/log_loss"] == pytest.approx(
        min(r["metrics"].get("test/log_loss", 9) for r in compared[0]["experiments"])
    )
