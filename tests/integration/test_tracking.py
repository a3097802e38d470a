"""Tracking that is down: a real MLflow server that comes later, and a broken or locked store. Jobs go on, and at the end all is told."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake.runs import find
from pipelines.project.recording import ProjectRef, recorded
from pipelines.tracking import background
from pipelines.tracking.mlflow import MlflowTracker, make_whole
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.stores import tracking_uri
from pipelines.tracking.sync import deliver
from tests.tracking_world import free_port, home, mlflow_runs, mlflow_server, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_mlflow_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


def until_idle(outbox: Outbox, seconds: float = 120) -> None:
    """Wait until no deliverer works."""
    end = time.monotonic() + seconds
    while outbox.busy():
        assert time.monotonic() < end, (outbox.folder / "deliver.log").read_text()
        time.sleep(0.1)


def wait(outbox: Outbox, seconds: float = 120) -> None:
    """Wait until all is told."""
    end = time.monotonic() + seconds
    while outbox.notes():
        assert time.monotonic() < end, (outbox.folder / "deliver.log").read_text()
        time.sleep(0.1)
    until_idle(outbox)


def job(place: ProjectRef, **fields: Any) -> tuple[str, float]:
    """A job with one step inside; its run and how long it took."""
    begun = time.monotonic()
    with recorded(place, "pipeline", **fields) as parent, recorded(place, "apply"):
        pass
    return parent.id, time.monotonic() - begun


def tandem(place: ProjectRef, *arguments: str, fails: bool = False) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TANDEM_TRACKING__TRACKERS": '["mlflow"]', "TANDEM_TRACKING__RETRY_SECONDS": "2"}
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--repo", str(place.path), "--data", str(place.data)]
    done = subprocess.run(command, cwd=place.path, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def test_a_server_that_is_down_and_then_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    place = home(tmp_path, trackers=["mlflow"], uri=f"http://user:secret@127.0.0.1:{port}", retry_seconds=1)
    outbox = Outbox(place.data)
    first, seconds = job(place)
    assert seconds < 3, "a tracker that is down does not hold a job up"
    said = capfd.readouterr().err
    assert said.count("tracking:") == 1 and f"127.0.0.1:{port} does not respond" in said and "2 runs wait" in said
    assert "secret" not in said
    until_idle(outbox)
    assert len(outbox.notes()) == 2 and "secret" not in (outbox.folder / "deliver.log").read_text()
    assert find(place.data, first).status == "complete"
    with mlflow_server(tmp_path / "server", port) as address:
        second, seconds = job(place)  # it takes along what waits
        assert seconds < 3 and "does not respond" not in capfd.readouterr().err
        wait(outbox)
        told = mlflow_runs(address)
        assert {first, second} <= set(told) and len(told) == 4
        assert all(one.status == "FINISHED" and "manifest.json" in one.files for one in told.values())
        assert sorted(one.parent or "" for one in told.values()) == sorted(["", "", first, second])
        assert outbox.problems() == {}
        with recorded(place, "train") as running:
            end = time.monotonic() + 60
            while running.id not in mlflow_runs(address):  # seen while it goes on
                assert time.monotonic() < end
                time.sleep(0.2)
            assert mlflow_runs(address)[running.id].status == "RUNNING"
        wait(outbox)
        assert mlflow_runs(address)[running.id].status == "FINISHED"


def test_a_broken_store_is_set_aside_and_told_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = home(tmp_path, trackers=["mlflow"], retry_seconds=1)
    outbox, store = Outbox(place.data), place.data / "mlflow.db"
    place.data.mkdir()
    store.write_bytes(b"this is no database " * 500)
    run, seconds = job(place)
    said = capfd.readouterr().err
    assert seconds < 3 and said.count("tracking:") == 1 and str(store) in said and "tandem track --all" in said
    until_idle(outbox)
    assert len(outbox.notes()) == 2
    assert "updates are still pending" in tandem(place, "track", fails=True)
    store.rename(tmp_path / "broken.db")
    told = json.loads(tandem(place, "track", "--all", "--json"))
    assert told["left"] == 0 and told["sent"] == 2
    assert run in mlflow_runs(f"sqlite:///{store}")
    assert background.problem(["mlflow"], f"sqlite:///{store}", outbox) is None


def test_a_locked_store_is_waited_for(tmp_path: Path) -> None:
    place = home(tmp_path, trackers=["mlflow"], retry_seconds=60)
    outbox, uri = Outbox(place.data), tracking_uri(place.settings, place.data)
    first, _ = job(place)
    wait(outbox)
    holder = sqlite3.connect(place.data / "mlflow.db", isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        second, seconds = job(place)
        assert seconds < 3
        end = time.monotonic() + 60
        while not outbox.problems():
            assert time.monotonic() < end
            time.sleep(0.1)
        assert "locked" in outbox.problems()["mlflow"]
    finally:
        holder.rollback()
        holder.close()
    wait(outbox)
    assert {first, second} <= set(mlflow_runs(uri)) and outbox.problems() == {}


def test_jobs_at_once_have_one_deliverer(tmp_path: Path) -> None:
    place = home(tmp_path, trackers=["mlflow"])
    code = (
        "import sys; from pathlib import Path; from tests.tracking_world import *; training(home(Path(sys.argv[1]), trackers=['mlflow']))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(3)]
    assert [c.wait(120) for c in children] == [0] * 3
    wait(Outbox(place.data))
    told = mlflow_runs(tracking_uri(place.settings, place.data))
    assert len(told) == 3 and all(one.status == "FINISHED" for one in told.values())


def test_a_run_that_is_killed_before_its_note_is_told_by_the_next_one(tmp_path: Path) -> None:
    place = home(tmp_path, trackers=["mlflow"])
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.tracking_world import *; from pipelines.tracking import run_observer;"
        "run_observer._note_and_send = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL);"
        "training(home(Path(sys.argv[1]), trackers=['mlflow']))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == -signal.SIGKILL
    outbox = Outbox(place.data)
    assert outbox.notes() == []
    after, _ = job(place)
    wait(outbox)
    told = mlflow_runs(tracking_uri(place.settings, place.data))
    (killed,) = (one for run, one in told.items() if run.startswith("train-"))
    assert killed.status == "KILLED" and after in told and outbox.opened() == []


def test_a_job_can_wait_and_joins_the_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As inside of ``mlflow run``: MLflow's run becomes ours, and the steps hang below it, in its experiment."""
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'theirs.db'}"
    client = MlflowClient(store)
    theirs = client.create_run(client.create_experiment("theirs", artifact_location=(tmp_path / "artifacts").as_uri()))
    client.log_param(theirs.info.run_id, "seed", "7.0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    place = home(tmp_path, trackers=["mlflow"], wait_seconds=600)  # MLflow makes its database meanwhile
    with recorded(place, "pipeline", seeds={"seed": 7}) as outer:
        inner = training(place)
    assert Outbox(place.data).notes() == [], "it waited"
    told = mlflow_runs(store)
    assert set(told) == {outer.id, inner.id} and told[inner.id].parent == outer.id
    assert told[outer.id].params == {"seed": "7.0", "tandem.seed": "7"}, "what MLflow wrote stays"
    assert client.get_run(theirs.info.run_id).data.tags["tandem.run"] == outer.id
    assert find(place.data, outer.id).manifest["links"]["mlflow_run"] == theirs.info.run_id
    assert not (place.data / "mlflow.db").exists()
    until_idle(Outbox(place.data))


def test_a_tracker_that_fails_at_anything_never_raises(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home(tmp_path, trackers=["mlflow"])
    place.data.mkdir()
    (place.data / "tracking").write_text("in the way")
    with recorded(place, "train") as run:
        pass
    assert run.status == "complete" and "the job continues without tracking" in capfd.readouterr().err
    (place.data / "tracking").unlink()
    monkeypatch.setattr(background, "start", lambda settings, data: None)
    with recorded(place, "train"):
        pass
    calls: list[str] = []

    def broken(*arguments: object) -> None:
        calls.append("asked")
        raise RuntimeError("no such tracker")

    monkeypatch.setattr("pipelines.tracking.sync.make_tracker", broken)
    failed = deliver(place.data, place.settings.tracking, tracking_uri(place.settings, place.data), 0.6, calls.append)
    assert failed is not None and "no such tracker" in failed["mlflow"] and calls.count("asked") >= 2, "it was tried again"
    assert len([c for c in calls if "no such tracker" in c]) == 1, "and said once"


def test_a_tracker_that_is_not_installed_or_not_wanted_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home(tmp_path, trackers=[])
    with recorded(place, "train") as run:
        pass
    outbox, uri = Outbox(place.data), tracking_uri(place.settings, place.data)
    outbox.put("wandb", run.id)

    def missing(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    monkeypatch.setattr("pipelines.tracking.sync.make_tracker", missing)
    failed = deliver(place.data, place.settings.tracking.model_copy(update={"trackers": ["wandb"]}), uri, 0)
    assert failed is not None and "not installed" in failed["wandb"] and len(outbox.notes()) == 1
    assert deliver(place.data, place.settings.tracking, uri, 0) == {} and outbox.notes() == []


def test_who_is_killed_while_a_store_is_made_leaves_none(tmp_path: Path) -> None:
    """MLflow goes on with no store that it finds half made."""
    store = tmp_path / "data" / "mlflow.db"
    code = "import sys; from pathlib import Path; from pipelines.tracking.mlflow import make_whole; make_whole(Path(sys.argv[1]))"
    making = subprocess.Popen([sys.executable, "-c", code, str(store)], cwd=ROOT)
    end = time.monotonic() + 120
    while not any(file.stat().st_size for file in store.parent.glob(".mlflow-*/*.db")):
        assert making.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    making.kill()
    making.wait()
    assert not store.exists()
    make_whole(store)
    with sqlite3.connect(store) as made:
        tables = {name for (name,) in made.execute("SELECT name FROM sqlite_master")}
    assert {"alembic_version", "runs", "experiments", "registered_models"} <= tables
    inode = store.stat().st_ino
    make_whole(store)
    assert store.stat().st_ino == inode


def test_a_store_with_options_behind_its_path_and_one_that_several_make_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("this file system has no hard links")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "there").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "there" / "mlflow.db")
    place = home(tmp_path, trackers=["mlflow"])
    uri = f"sqlite:///{tmp_path / 'link.db'}?timeout=20"
    with ThreadPoolExecutor(2) as several:
        trackers = [several.submit(MlflowTracker(place.settings.tracking, uri, place.data)._client, uri) for _ in range(2)]
        found = [tracker.result().search_experiments() for tracker in trackers]
    assert found[0][0].name == found[1][0].name == "Default"
    assert {file.name for file in (tmp_path / "there").iterdir()} == {"mlflow.db", ".mlflow.db.lock"}
    assert MlflowTracker.unreachable(uri) == ""
