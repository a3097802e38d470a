"""Trainings made again: the same training set though events and batch runs came since, the same weights, and why where it is not so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.lake import runs
from pipelines.lineage.reproduce import render, reproduce
from pipelines.project.repository import Repo, load_repo
from pipelines.training import as_of
from pipelines.training import tfx_pipeline as tfx_module
from pipelines.training.train_job import train
from tests.integration import training_repo
from tests.integration.flights import environment

pytestmark = pytest.mark.filterwarnings("ignore")

SPINE = """
import pyarrow.dataset as ds

def spine(data, start, end):
    files = sorted((data / "events").rglob("*.parquet"))
    table = ds.dataset([str(f) for f in files], format="parquet").to_table()
    t = table.column("event_timestamp")
    return table.filter(pc.and_(pc.greater_equal(t, pa.scalar(start, t.type)), pc.less(t, pa.scalar(end, t.type))))

the_model = model(spine="labels:spine", params={"epochs": 3})
"""
FEATURES = """
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes
scans = EventSource(name="scans", fields=[Field("depot", "string", required=True)], event_time="t", tie_breaker="depot",
    out_of_orderness=minutes(1), allowed_lateness=hours(1), files="events", topic="scans")
depot_load = FeatureGroup(name="depot_load", source=scans, entity=Entity("depot"), hop=minutes(60), ttl=hours(3),
    aggregates=[Count(over=hours(1))])
"""


class NoModel(Exception):
    """Training ends here: what follows the training set takes half a minute."""


@pytest.fixture
def world(tmp_path: Path) -> Repo:
    """A repository whose spine reads every file below events/, and whose offline rows lie in a folder of a batch run."""
    path, data = training_repo.make(tmp_path, rows=1500)
    (path / "labels.py").write_text((path / "labels.py").read_text() + SPINE)
    (path / "features.py").write_text(FEATURES)
    (path / "tandem.yaml").write_text(f"data: {data}\nmodels: ['labels:the_model']\ntracking:\n  trackers: []\n")
    rows = data / "offline" / "depot_load" / "part-0.parquet"  # where Feast looks
    rows.rename(rows.with_name("x"))
    (rows / "run=batch-1").mkdir(parents=True)
    rows.with_name("x").rename(rows / "run=batch-1" / "part-0.parquet")
    return load_repo(path)


def trained(world: Repo, monkeypatch: pytest.MonkeyPatch, **options: Any) -> runs.Run:
    """The record of a training that ends right after its training set was made."""

    def stop(*args: Any, **options: Any) -> None:
        raise NoModel("no model wanted")

    with monkeypatch.context() as patch:
        patch.setattr(tfx_module, "run_pipeline", stop)
        model = world.attribute("labels:the_model")
        with pytest.raises(NoModel):
            train(model, repo=world.path, data=world.data, start=training_repo.START, end=training_repo.END, **options)
    return [r for r in runs.list_runs(world.data) if r.kind == "train"][-1]


def append(world: Repo) -> None:
    """What comes later: events inside the range, that nobody knew then, and a batch run with other values for the same rows."""
    training_repo.write_requests(world.data / "events" / "later.parquet", 200, 77)
    view = world.data / "offline" / "depot_load" / "part-0.parquet"
    rows = pq.read_table(view / "run=batch-1" / "part-0.parquet", partitioning=None)
    at = rows.schema.get_field_index("created_timestamp")
    later = pa.array([training_repo.END + timedelta(days=1)] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    rows = rows.set_column(at, "created_timestamp", later)
    at = rows.schema.get_field_index("waiting_1h")
    rows = rows.set_column(at, "waiting_1h", pa.array(np.arange(rows.num_rows)))
    (view / "run=batch-2").mkdir()
    pq.write_table(rows, view / "run=batch-2" / "part-0.parquet", coerce_timestamps="us")


def test_the_training_set_of_then_is_made_again_though_more_has_come(world, monkeypatch):
    run = trained(world, monkeypatch)
    assert run.status == "failed" and run.manifest["query"]["runs"] == {"depot_load": ["batch-1"]}
    append(world)
    now = trained(world, monkeypatch)
    assert now.manifest["training_set"] != run.manifest["training_set"]  # asked as of now, the answer is another
    assert now.manifest["query"]["runs"] == {"depot_load": ["batch-1", "batch-2"]}
    for one, left_out in ((run, True), (now, False)):
        result = reproduce(world, one.id)
        (the_set,) = result["artifacts"]
        assert (result["verdict"], the_set["name"]) == ("identical", "training set") and "3 files" in the_set["detail"]
        assert ("1 event files that the run did not read (events/later.parquet...) are left out" in result["notes"]) is left_out
    assert not list((world.data / "reproduce").iterdir())


def test_altered_events_are_the_reason(world, monkeypatch):
    run = trained(world, monkeypatch)
    file = world.data / "events" / "requests.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(10), file, coerce_timestamps="us")
    result = reproduce(world, run.id)
    assert result["verdict"] == "different" and "the labelled requests differ" in result["artifacts"][0]["detail"]
    assert result["causes"][0].startswith("input changed: events/requests.parquet is altered (sha256 ")
    told = render(result)
    assert told[told.index("why:") + 1].startswith("  input changed: events/requests.parquet is altered")


def test_rows_that_are_gone_are_the_reason(world, monkeypatch):
    run = trained(world, monkeypatch)
    append(world)
    shutil.rmtree(world.data / "offline" / "depot_load" / "part-0.parquet" / "run=batch-1")
    result = reproduce(world, run.id)
    assert result["verdict"] == "different" and "it cannot be reproduced now: feature view 'depot_load'" in result["artifacts"][0]["detail"]
    assert result["causes"][0] == "input changed: offline/depot_load/part-0.parquet/run=batch-1/part-0.parquet is gone"


def test_a_changed_spine_function_is_the_reason(world, monkeypatch):
    run = trained(world, monkeypatch)
    text = (world.path / "labels.py").read_text()
    (world.path / "labels.py").write_text(
        text.replace("pc.less(t, pa.scalar(end, t.type))", "pc.less(t, pa.scalar(end.replace(day=20), t.type))")
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "reproduce", run.id, "--repo", str(world.path), "--json"],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert done.returncode == 1 and "code changed: repo/labels.py changed" in result["causes"]
    assert result["artifacts"][0]["verdict"] == "different" and "rows then" in result["artifacts"][0]["detail"]


def test_a_log_that_has_grown_is_read_up_to_where_it_was(tmp_path):
    data = tmp_path / "data"
    (data / "events").mkdir(parents=True)
    (data / "models").mkdir()
    (data / "events" / "log.jsonl").write_bytes(b"1\n2\n")
    (data / "events" / "other.jsonl").write_bytes(b"5\n")
    events = as_of.listing(data, as_of.event_folders(data))
    with open(data / "events" / "log.jsonl", "ab") as log:
        log.write(b"3\n")
    (data / "events" / "other.jsonl").write_bytes(b"6\n")
    (data / "events" / "new.jsonl").write_bytes(b"7\n")
    files = [f for each in events.values() for f in each]
    assert [(c.file, c.how) for c in as_of.changes(data, files)] == [("events/log.jsonl", "grown"), ("events/other.jsonl", "altered")]
    past = as_of.past(data, events, tmp_path / "scratch" / "past")
    assert {p.name: p.read_bytes() for p in (past / "events").iterdir()} == {"log.jsonl": b"1\n2\n", "other.jsonl": b"6\n"}


def test_events_that_come_while_they_are_read_are_read_whole(world, monkeypatch):
    real = as_of.listing
    seen: list[Any] = []

    def listing(*args):
        if not seen:  # between the spine and the listing
            training_repo.write_requests(world.data / "events" / "later.parquet", 200, 77)
        seen.append(real(*args))
        return seen[-1]

    monkeypatch.setattr(as_of, "listing", listing)
    run = trained(world, monkeypatch)
    assert len(seen) == 2 and sum(run.manifest["counts"].values()) > 1500
    monkeypatch.undo()
    assert reproduce(world, run.id)["verdict"] == "identical"


CHILD = """
from tandem.quick_imports import quicken_imports
quicken_imports()
import os, signal, sys
from pathlib import Path
from pipelines.project.repository import load_repo
from pipelines.training import tfx_pipeline
from pipelines.training.train_job import train
from tests.integration import training_repo
tfx_pipeline.run_pipeline = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
world = load_repo(Path(sys.argv[1]))
train(world.attribute("labels:the_model"), repo=world.path, data=world.data, start=training_repo.START, end=training_repo.END)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_is_killed_and_run_again_and_then_made_again_bit_by_bit(world):
    done = subprocess.run([sys.executable, "-c", CHILD, str(world.path)], env=environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (killed,) = runs.list_runs(world.data)
    assert (killed.kind, killed.status) == ("train", "killed") and killed.manifest["query"]
    model = world.attribute("labels:the_model")
    out = train(model, repo=world.path, data=world.data, start=training_repo.START, end=training_repo.END, params={"epochs": 2})
    assert out.version == 1
    run = runs.find(world.data, out.run)
    m = run.manifest
    assert run.status == "complete" and m["training_set"] == killed.manifest["training_set"] and m["params"] == {"epochs": 2}
    assert {"test/auc", "test/log_loss", "test/auc/size=l", "test/plain/auc"} <= set(m["metrics"]) and m["version"] == 1
    assert m["links"]["mlmd_run"] == run.id and {o["name"].split("/")[0] for o in m["outputs"]} == {
        "training_set",
        "model",
        "plain",
        "version",
    }
    append(world)
    before = sorted(p for p in (world.data / "models").rglob("*") if p.is_file())
    result = reproduce(world, run.id)
    assert {a["name"]: a["verdict"] for a in result["artifacts"]} == {
        "training set": "identical",
        "model: weights": "identical",
        "model: predictions on the test split": "identical",
        "model without stored features: weights": "identical",
        "model without stored features: predictions on the test split": "identical",
        "scores": "identical",
    }, result
    assert sorted(p for p in (world.data / "models").rglob("*") if p.is_file()) == before  # nothing is pushed
    assert datetime.fromisoformat(run.manifest["query"]["as_of"]) < datetime.now(UTC) and os.path.isdir(world.data / "training")
