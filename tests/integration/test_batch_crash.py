"""Batch runs that are killed, and runs that meet: nothing half-written is ever visible, and the same command completes the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.batch.row_jobs import RowJobs
from pipelines.lake import runs
from tests.integration.flights import World, all_feature_rows, environment, feature_rows, make_world
from transforms.errors import DataError

PATIENCE = 120
"""Seconds after which a command that neither ends nor gets there fails a test."""


class Power(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def wanted(logs, tmp_path_factory):
    """The rows of an undisturbed run."""
    world = make_world(tmp_path_factory.mktemp("undisturbed"), logs)
    return all_feature_rows(world, world.run().run.id)


@pytest.fixture
def world(logs, tmp_path) -> World:
    return make_world(tmp_path, logs)


def manifests(world: World) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((world.data / "runs").glob("*/manifest.json"))]


def assert_nothing_partial(world: World, wanted) -> None:
    """Whatever is visible of a run is all of its group."""
    groups = world.repo().groups
    for name, ids in world.visible().items():
        for run_id in ids:
            assert feature_rows(world.data, groups[name], run_id) == wanted[name]
    files = [p for p in (world.data / "offline").rglob("*") if p.is_file() and p.name != "cover.json"]
    stray = [p for p in files if p.name.startswith(".") or p.suffix != ".parquet"]
    assert stray == []


def assert_completes(world: World, wanted) -> None:
    """The run again: under the same id, with the same rows, once."""
    (before,) = manifests(world)
    result = world.run()
    assert result.run.id == before["id"]
    (after,) = manifests(world)
    assert after["status"] == "complete" and "error" not in after and after["created"] == before["created"]
    assert all_feature_rows(world, result.run.id) == wanted
    assert world.visible() == {name: [result.run.id] for name in wanted}
    assert world.run().reused


MOMENTS = {
    "writing rows": lambda runs: any(runs.glob(".work/*/*/rows/*/*/*.parquet")),
    "counted": lambda runs: any(runs.glob(".work/*/*/stats.json")),
    "writing offline rows": lambda runs: any(runs.glob(".work/*/*/offline/*/*/*.parquet")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_leaves_nothing_partial_and_is_completed(world, wanted, moment):
    world.configure(shards=8, slice_days=1)  # more files: more to be caught between
    process = subprocess.Popen(world.batch_command(), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        limit = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < limit:
            if MOMENTS[moment](world.data / "runs"):
                break
            time.sleep(0.001)
        caught = process.poll() is None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert caught, f"the command ended with {process.returncode} before it was {moment}: {errors.decode()[-2000:]}"
    assert_nothing_partial(world, wanted)
    assert_completes(world, wanted)


def test_a_stop_between_two_groups_is_completed_without_computing_again(world, wanted, monkeypatch):
    real = os.rename
    renamed: list[str] = []

    def rename(a, b):
        if f"run={Path(a).parents[1].name}" == Path(b).name:  # a group's rows become visible
            if renamed:
                raise Power
            renamed.append(b)
        real(a, b)

    monkeypatch.setattr("pipelines.batch.batch_job.os.rename", rename)
    with pytest.raises(Power):
        world.run()
    monkeypatch.undo()
    (manifest,) = manifests(world)
    assert manifest["status"] == "failed" and manifest["stage"] == "publishing"
    assert len(world.visible()) == 1
    assert_nothing_partial(world, wanted)
    monkeypatch.setattr(RowJobs, "make", lambda *a: pytest.fail("the rows were made already"))
    assert_completes(world, wanted)


def test_a_stop_before_the_last_word_is_completed(world, wanted, monkeypatch):
    real = runs.Run.save

    def save(self, **changes):
        if changes.get("status") == "complete":
            raise Power
        real(self, **changes)

    monkeypatch.setattr(runs.Run, "save", save)
    with pytest.raises(Power):
        world.run()
    monkeypatch.undo()
    assert len(world.visible()) == len(wanted)
    assert_completes(world, wanted)


def test_a_failure_while_writing_is_completed(world, wanted, monkeypatch):
    real, written = pq.write_table, []

    def write_table(*args, **options):
        written.append(1)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr("pipelines.batch.steps.pq.write_table", write_table)
    with pytest.raises(DataError, match=r"No space left.*run the same command again"):
        world.run()
    monkeypatch.undo()
    (manifest,) = manifests(world)
    assert manifest["status"] == "failed" and "No space left" in manifest["error"]
    assert world.visible() == {}
    assert_completes(world, wanted)


def refused(world: World) -> subprocess.CompletedProcess:
    return subprocess.run(world.batch_command(), env=environment(), capture_output=True, text=True, timeout=PATIENCE)


def test_a_run_that_is_being_made_is_refused_in_one_line(world, wanted, monkeypatch):
    def stop(*args):
        raise Power

    monkeypatch.setattr(RowJobs, "make", stop)
    with pytest.raises(Power):
        world.run()
    monkeypatch.undo()
    (run,) = runs.list_runs(world.data)
    with run.held():
        done = refused(world)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = [x for x in done.stderr.splitlines() if "error" in x]
    assert line == f"error: run {run.id} is being executed by another process; wait for it or stop it"
    assert "Traceback" not in done.stderr
    assert_completes(world, wanted)


def test_a_run_that_another_process_completes_meanwhile_is_taken_as_it_is(world, wanted, monkeypatch):
    real = runs.begin
    first: list[Any] = []

    def begin(*args, **options):
        run = real(*args, **options)
        if not first:  # between our look and our hold somebody else begins and completes the run
            first.append(run)
            assert not world.run().reused
        return run

    monkeypatch.setattr(runs, "begin", begin)
    result = world.run()
    monkeypatch.undo()
    assert result.reused and result.run.status == "complete"
    assert len(manifests(world)) == 1
    assert all_feature_rows(world, result.run.id) == wanted


def test_two_processes_at_once_make_one_run(world, wanted):
    processes = [subprocess.Popen(world.batch_command(), env=environment(), stdout=-1, stderr=-1, text=True) for _ in range(2)]
    try:
        ended = [(*p.communicate(timeout=PATIENCE), p.returncode) for p in processes]
    finally:
        for p in processes:
            p.kill()
    codes = sorted(code for _, _, code in ended)
    assert codes in ([0, 1], [0, 0]), ended  # the second one may come when the first is done
    for _, errors, code in ended:
        if code:
            (line,) = [x for x in errors.splitlines() if x.startswith("error")]
            assert line.endswith("is being executed by another process; wait for it or stop it")
            assert "Traceback" not in errors
    (manifest,) = manifests(world)
    assert manifest["status"] == "complete"
    assert world.visible() == {name: [manifest["id"]] for name in wanted}
    assert all_feature_rows(world, manifest["id"]) == wanted
