"""Runs: one id per key, one holder at a time, manifests that are whole."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from pipelines import runs
from transforms.errors import DataError

NOW = datetime(2024, 5, 1, 12, 30, 5, tzinfo=UTC)


def test_a_new_run_is_named_after_kind_time_and_key_and_is_on_disk(tmp_path):
    run = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    assert run.id.startswith("batch-20240501T123005-") and len(run.id) == len("batch-20240501T123005-") + 8
    assert json.loads((tmp_path / "runs" / run.id / "manifest.json").read_text()) == run.manifest
    assert (run.manifest["kind"], run.status, run.manifest["created"]) == ("batch", "running", NOW.isoformat())


def test_ids_are_of_utc(tmp_path):
    there = NOW.astimezone(tz=datetime.strptime("+0500", "%z").tzinfo)
    assert runs.begin(tmp_path, "batch", {}, there).id.startswith("batch-20240501T123005-")


@pytest.mark.parametrize("status", ["running", "publishing", "failed"])
def test_an_unfinished_run_is_continued(tmp_path, status):
    first = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    first.save(status=status)
    for anew in (False, True):
        again = runs.begin(tmp_path, "batch", {"a": 1}, NOW + timedelta(hours=1), anew=anew)
        assert (again.id, again.status) == (first.id, status)


def test_a_complete_run_is_returned_unless_anew(tmp_path):
    first = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    first.save(status="complete")
    assert runs.begin(tmp_path, "batch", {"a": 1}, NOW).id == first.id
    second = runs.begin(tmp_path, "batch", {"a": 1}, NOW, anew=True)
    assert second.id == first.id + "-2"  # the same second
    second.save(status="complete")
    assert runs.begin(tmp_path, "batch", {"a": 1}, NOW, anew=True).id == first.id + "-3"


def test_other_keys_and_kinds_are_other_runs(tmp_path):
    ids = {runs.begin(tmp_path, kind, {"a": a}, NOW).id for kind in ("batch", "train") for a in (1, 2)}
    assert len(ids) == 4


def test_the_order_of_a_key_does_not_matter(tmp_path):
    assert runs.begin(tmp_path, "batch", {"a": 1, "b": 2}, NOW).id == runs.begin(tmp_path, "batch", {"b": 2, "a": 1}, NOW).id


def test_many_at_once_begin_one_run(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(runs.begin(tmp_path, "batch", {"a": 1}, NOW + timedelta(seconds=i)).id))
        for i in range(16)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 16 and len(set(found)) == 1


def test_one_holder_at_a_time(tmp_path):
    run = runs.begin(tmp_path, "batch", {}, NOW)
    other = runs.find(tmp_path, run.id)
    with run.held():
        run.save(status="publishing")
        with pytest.raises(DataError, match=f"^run {run.id} is being made by another process; wait for it or stop it$"), other.held():
            pytest.fail("held twice")
    with other.held():
        assert other.status == "publishing"  # as the first holder left it


def test_find_by_beginning(tmp_path):
    first = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    second = runs.begin(tmp_path, "batch", {"a": 2}, NOW + timedelta(days=1))
    assert runs.find(tmp_path, first.id).id == runs.find(tmp_path, "batch-20240501").id == first.id
    with pytest.raises(DataError, match=f"several runs are called 'batch-'; the latest are {first.id}, {second.id}"):
        runs.find(tmp_path, "batch-")
    with pytest.raises(DataError, match="no run is called 'x'"):
        runs.find(tmp_path, "x")
    with pytest.raises(DataError, match="no run is called 'x'; the latest are none"):
        runs.find(tmp_path / "nowhere", "x")


def test_runs_are_listed_oldest_first_and_damaged_manifests_left_out(tmp_path):
    later = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    earlier = runs.begin(tmp_path, "train", {"a": 1}, NOW - timedelta(days=1))
    broken = tmp_path / "runs" / "batch-broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    assert [r.id for r in runs.list_runs(tmp_path)] == [earlier.id, later.id]


def test_a_manifest_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "x.json"
    runs.write_json(path, {"a": 1})
    loop: dict = {}
    loop["loop"] = loop
    with pytest.raises(ValueError, match="Circular"):
        runs.write_json(path, loop)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_code_version_follows_the_repository(tmp_path):
    (tmp_path / "features.py").write_text("a = 1\n")
    before = runs.code_version(tmp_path)["sha256"]
    assert runs.code_version(tmp_path)["sha256"] == before
    (tmp_path / "features.py").write_text("a = 2\n")
    assert runs.code_version(tmp_path)["sha256"] != before


def test_versions_name_python_and_what_computes():
    assert {"python", "apache-beam", "tensorflow", "tensorflow-transform", "pyarrow", "numpy"} <= set(runs.library_versions())
