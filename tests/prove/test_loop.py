"""The loop around the graph, over a month of real flights, by its commands: a user's way from the first run to a rollback under load.

Each of its steps has a test of its own in ``make test``, on less data: here they follow each other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.demo.client import past_requests, post
from pipelines.lake.processes import free_ports
from pipelines.project.config import parse_time
from pipelines.project.repository import load_repo
from serving.request_log import read_requests
from tests.commands_here import tandem_here
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
START, END = "2013-01-01", "2013-02-01"
TRAIN_START = "2013-01-08"


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "pipelines.cli", *words, "--repo", str(folder / "feature_repo")]


def tandem(folder: Path, *words: str, code: int = 0) -> str:
    """A command's output. Fails unless it ends with ``code``."""
    environment = {**os.environ, "TANDEM_TRACKING__TRACKERS": '["mlflow"]'} if words[0] == "track" else None
    done = subprocess.run(command(folder, *words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def as_json(folder: Path, *words: str, code: int = 0) -> Any:
    return json.loads(tandem(folder, *words, "--json", code=code))


def told(folder: Path, *words: str) -> Any:
    """What a command tells that only reads."""
    return json.loads(tandem_here(folder / "feature_repo", *words, "--json"))


def runs(folder: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(folder, "runs", "--kind", kind)["runs"]
    return found


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of flights with a trained, served model: made by a pipeline that was killed while it trained, and begun again."""
    folder = tmp_path_factory.mktemp("loop")
    shutil.copytree(ROOT / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    tandem(folder, "events", "--start", START, "--end", END)
    words = ("pipeline", "--start", START, "--end", END, "--train-start", TRAIN_START)
    first = subprocess.Popen(
        command(folder, *words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 400
    while not any(m["kind"] == "train" for m in manifests(folder)):
        assert first.poll() is None and time.monotonic() < deadline, "the pipeline did not come to its training"
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / "data/models/late_flights").exists()
    result = as_json(folder, *words)
    assert result["version"] == 1
    return folder


def manifests(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in (folder / "data/runs").glob("*/manifest.json"):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue
    return found


def test_a_killed_pipeline_is_found_killed_and_completed(world: Path) -> None:
    trainings = runs(world, "train")
    assert [r["status"] for r in trainings] == ["killed", "complete"]
    (batch,) = runs(world, "batch")
    pipeline = runs(world, "pipeline")[-1]
    assert (batch["status"], pipeline["status"]) == ("complete", "complete")
    assert trainings[-1]["parent"] == pipeline["id"]
    for manifest in (batch, trainings[-1]):
        for key in ("code", "lock", "versions", "settings", "definitions", "fingerprints", "inputs", "outputs"):
            assert manifest[key], f"{manifest['kind']}: {key}"


def test_more_days_come_and_the_same_training_is_made_again(world: Path) -> None:
    tandem(world, "events", "--start", START, "--end", "2013-02-04")
    tandem(world, "batch", "--start", "2013-01-25", "--end", "2013-02-04")
    trained = runs(world, "train")[-1]
    before = files(world / "data/models"), files(world / "data/training"), (world / "data/models/late_flights/ALIASES.json").read_text()
    report = as_json(world, "reproduce", trained["id"])
    artifacts = {a["name"]: a["verdict"] for a in report["artifacts"]}
    assert "identical" in {artifacts[name] for name in artifacts if "training set" in name}
    assert set(artifacts.values()) <= {"identical", "equal"}, report
    after = files(world / "data/models"), files(world / "data/training"), (world / "data/models/late_flights/ALIASES.json").read_text()
    assert before == after


def test_one_changed_definition_is_named(world: Path) -> None:
    features = world / "feature_repo/features.py"
    text = features.read_text()
    (batch,) = [r for r in runs(world, "batch") if r["range"][0].startswith("2013-01-25")]
    try:
        features.write_text(text.replace('Field("dep_delay") > 15', 'Field("dep_delay") > 20', 1))
        assert features.read_text() != text
        changed = as_json(world, "batch", "--start", "2013-01-25", "--end", "2013-02-04")
    finally:
        features.write_text(text)
    found = told(world, "runs", "diff", batch["id"], changed["id"])
    first = found["causes"][0]
    assert first["section"] == "definitions" and "origin_traffic" in first["line"] and "late_departures" in first["line"]
    assert "20" in first["line"]


@contextmanager
def server(world: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    words = command(world, "serve", "--port", str(port), "--as-of", END)
    with open(world / "serve.log", "ab") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "TANDEM_SERVE__POLL_SECONDS": "0.3"})
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{address}/v2/health/ready"), 180)
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM  # the server ends in order, and passes the signal on


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Clients:
    """Threads that ask on and on; every answer's version, every failure."""

    def __init__(self, address: str, instances: list[dict[str, Any]]) -> None:
        self.url, self.instances = f"{address}/v1/models/late_flights:predict", instances
        self.versions: Counter[int] = Counter()
        self.latest = 0
        self.failures: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(2)]

    def ask(self) -> None:
        for n in range(10**9):
            if self.stop.is_set():
                return
            try:
                answer = post(self.url, {"instances": [self.instances[n % len(self.instances)]]})
                self.latest = int(answer["model"]["version"])
                self.versions[self.latest] += 1
            except Exception as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_experiments_then_a_better_model_goes_live_and_comes_back_out_while_clients_ask(world: Path) -> None:
    asked = ("--start", TRAIN_START, "--end", END)
    done = as_json(world, "train", *asked, "--set", "learning_rate=0.0005,0.002", "--metric", "test/log_loss", "--push-best", code=0)
    assert len(done["experiments"]) == 2 and {e["status"] for e in done["experiments"]} == {"complete"}
    scores = {e["run"]: e["metrics"]["test/log_loss"] for e in done["experiments"]}
    assert done["best"] == min(scores, key=scores.__getitem__)
    assert aliases(world) == {"champion": 1, "challenger": 2}
    instances = [i for _, i in past_requests(load_repo(world / "feature_repo"), "late_flights", parse_time("2013-01-31"), parse_time(END))]
    with server(world) as address, Clients(address, instances) as clients:
        until(lambda: clients.versions[1] > 20, 60)
        tandem(world, "promote", "--force", "--reason", "the test wants to see it served")
        until(lambda: clients.latest == 2 and clients.versions[2] > 20, 60)
        tandem(world, "rollback", "--reason", "the test has seen it")
        seen = clients.versions[1]
        until(lambda: clients.latest == 1 and clients.versions[1] > seen + 20, 60)
    assert not clients.failures, clients.failures[:3]
    assert aliases(world)["champion"] == 1
    history = told(world, "models", "--history")
    assert "the test wants to see it served" in json.dumps(history)


def aliases(world: Path) -> dict[str, int]:
    found = json.loads((world / "data/models/late_flights/ALIASES.json").read_text())
    return {k: found[k] for k in ("champion", "challenger") if found.get(k)}


def test_a_served_prediction_is_traced_to_its_event_files(world: Path) -> None:
    log = read_requests(world / "data/requests")
    found = told(world, "lineage", log.column("tandem_request")[0].as_py())
    text = json.dumps(found)
    for what in (runs(world, "train")[1]["id"], "events/departures/date=2013-01-31", "origin_traffic"):
        assert what in text


def test_mlflow_has_the_pipeline_with_its_steps_below(world: Path) -> None:
    tandem(world, "track", "--all")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{world / 'data/mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tandem"]
    found = {r.data.tags["mlflow.runName"]: r for r in client.search_runs([experiment.experiment_id], max_results=200)}
    pipeline, training = runs(world, "pipeline")[-1], runs(world, "train")[1]
    parent = next(r for name, r in found.items() if pipeline["id"] in name)
    step = next(r for name, r in found.items() if training["id"] in name)
    assert step.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert step.data.metrics["test/auc"] == pytest.approx(training["metrics"]["test/auc"])
