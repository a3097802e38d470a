"""The store of runs: typed records, and lists that open one file however many runs there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from pipelines.lake import run_index, run_records
from pipelines.lake.run_records import BatchRecord, RunRecord, TrainRecord, record_of
from pipelines.lake.runs import RunStore
from transforms.errors import DataError

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2024, 5, 1, tzinfo=UTC)
OPENED: list[str] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(_hear)


def opened(work: Callable[[], T]) -> tuple[T, int]:
    """What ``work`` gives, and how many manifests it opened."""
    OPENED.clear()
    result = work()
    return result, sum(name.endswith("manifest.json") for name in OPENED)


def history(data: Path, count: int) -> RunStore:
    """A data folder with complete runs of an hour ago."""
    for n in range(count):
        folder = data / "runs" / f"batch-{n:05}"
        folder.mkdir(parents=True)
        manifest = {"id": folder.name, "kind": "batch", "status": "complete", "created": f"2024-01-01T{n:05}", "rows": {"a": n}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        long_ago(folder)
    return RunStore(data)


def long_ago(folder: Path) -> None:
    at = time.time() - 3600
    os.utime(folder / "manifest.json", (at, at))


def test_a_list_opens_no_manifest_that_did_not_change(tmp_path):
    store = history(tmp_path, 500)
    first, many = opened(store.runs)
    assert len(first) == many == 500
    second, none = opened(store.runs)
    assert none == 0 and [r.id for r in second] == [r.id for r in first]
    assert opened(lambda: [(r.kind, r.status, r.head.created) for r in store.runs()])[1] == 0
    assert opened(lambda: store.runs()[7].as_(BatchRecord).rows) == ({"a": 7}, 1)


def test_the_list_follows_every_change(tmp_path):
    store = history(tmp_path, 100)
    store.runs()
    run = store.find("batch-00007")
    run.save(status="failed", error="full disk")
    (tmp_path / "runs" / "batch-00008" / "manifest.json").unlink()
    torn = tmp_path / "runs" / "batch-00009" / "manifest.json"
    torn.write_text("{")
    for _ in range(2):
        runs = {r.id: r for r in store.runs()}
        assert len(runs) == 98 and runs["batch-00007"].status == "failed" and runs["batch-00007"].head.error == "full disk"
    assert len(store.damaged()) == 1 and "batch-00009" in store.damaged()[0]
    long_ago(torn.parent)
    assert len(store.runs()) == 98
    again = store.begin("train", {"a": 1}, NOW)
    assert again.id in {r.id for r in store.runs()}


def test_changes_within_a_tick_of_the_clock_are_seen(tmp_path):
    """Files of one size and time are told apart: the manifests of the last moments are read."""
    store = history(tmp_path, 64)
    store.runs()
    run = store.find("batch-00001")
    at = time.time_ns()
    for n in range(200):
        run.save(error=f"{n:03}")
        os.utime(run.folder / "manifest.json", ns=(at, at))
        assert store.find("batch-00001").head.error == f"{n:03}"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": 1}', '{"fields": [], "runs": {}}', "\0" * 100])
def test_a_damaged_index_is_made_anew(tmp_path, content):
    store = history(tmp_path, 50)
    store.runs()
    (tmp_path / "runs" / run_index.NAME).write_text(content)
    assert opened(store.runs)[1] == 50
    assert opened(store.runs)[1] == 0


def test_an_index_with_broken_entries_is_made_anew(tmp_path):
    store = history(tmp_path, 50)
    store.runs()
    path = tmp_path / "runs" / run_index.NAME
    said = json.loads(path.read_text())
    said["runs"]["batch-00003"] = [1, 2]
    path.write_text(json.dumps(said))
    assert len(store.runs()) == 50 and opened(store.runs)[1] == 0


def test_a_folder_that_cannot_be_written_is_listed(tmp_path, monkeypatch):
    store = history(tmp_path, 50)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(run_index, "write_json", refused)
    assert len(store.runs()) == 50 and not (tmp_path / "runs" / run_index.NAME).exists()


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines.lake.runs import RunStore
store = RunStore(Path(sys.argv[1]))
for n in range(60):
    run = store.begin("train", {"who": sys.argv[2], "n": n}, datetime.now(UTC))
    run.save(status="complete")
    store.runs()
    print(run.id, flush=True)
"""


def test_processes_at_once_and_one_that_is_killed(tmp_path):
    store = history(tmp_path, 40)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    children = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for n in range(3)]
    for _ in range(20):
        assert children[0].stdout
        children[0].stdout.readline()
    children[0].kill()
    done = [set(child.communicate(timeout=240)[0].split()) for child in children]
    assert [child.returncode for child in children] == [-9, 0, 0]
    listed = {r.id: r.status for r in store.runs()}
    assert all(listed[i] == "complete" for ids in done[1:] for i in ids) and len(done[1] | done[2]) == 120
    for run in store.runs():
        long_ago(run.folder)
    assert {r.id: r.status for r in store.runs()} == {r.id: r.status for r in RunStore(tmp_path).runs()} == listed


def test_threads_that_list_while_runs_begin(tmp_path):
    store, wrong = history(tmp_path, 100), []
    stop = threading.Event()

    def listing() -> None:
        while not stop.is_set():
            if len(RunStore(tmp_path).runs()) < 100:
                wrong.append("some are missing")

    threads = [threading.Thread(target=listing) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(30):
        store.begin("train", {"n": n}, NOW + timedelta(seconds=n)).save(status="complete")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and len(store.runs()) == 130


# ------------------------------------------------------------------------------------------------------------------------------ records


def test_a_record_is_of_its_kind(tmp_path):
    run = RunStore(tmp_path).begin("batch", {"a": 1}, NOW)
    run.save(rows={"fares": 3}, range=["2013-01-01T00:00:00+00:00", "2013-01-02T00:00:00+00:00"])
    found = RunStore(tmp_path).find(run.id)
    assert found.as_(BatchRecord).rows == {"fares": 3} and found.record.format == run_records.FORMAT == 1
    assert found.head.range == found.record.range and found.head.parent is None
    with pytest.raises(DataError, match=f"{run.id} is a batch run; give a train run"):
        found.as_(TrainRecord)


def test_fields_have_one_home(tmp_path):
    run = RunStore(tmp_path).begin("batch", {"a": 1}, NOW)
    with pytest.raises(TypeError, match="a batch run has no field 'rws'; add it to its record"):
        run.save(rws={})
    RunStore(tmp_path).begin("a kind of somebody's", {}, NOW).save(anything=1)


def test_what_a_newer_version_wrote_stays(tmp_path):
    run = RunStore(tmp_path).begin("batch", {"a": 1}, NOW)
    path = run.folder / "manifest.json"
    newer = {**json.loads(path.read_text()), "format": 7, "colour": {"of": "paper"}}
    path.write_text(json.dumps(newer))
    found = RunStore(tmp_path).find(run.id)
    assert found.record.more == {"colour": {"of": "paper"}} and found.record.format == 7
    found.save(status="complete")
    with found.held():
        found.add(counts={"rows": 1})
    written = json.loads(path.read_text())
    assert written["colour"] == {"of": "paper"} and written["format"] == 7 and written["counts"] == {"rows": 1}


def test_manifests_without_a_format_or_with_nulls_are_read():
    old = record_of({"id": "x", "kind": "train", "status": "complete", "params": None, "version": None, "blessed": True})
    assert isinstance(old, TrainRecord) and old.format == 0 and old.params == {} and old.version is None and old.blessed is True
    assert type(record_of({"kind": "of somebody", "status": "complete", "x": 1})) is RunRecord
