"""Runs: one id per key, one holder at a time, manifests that are whole."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.lake import provenance, runs
from pipelines.lake.data_files import write_json
from pipelines.lake.run_records import record_of
from pipelines.project import recording
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
        again = runs.begin(tmp_path, "batch", {"a": 1}, NOW + timedelta(hours=1), rerun=anew)
        assert (again.id, again.status) == (first.id, status)


def test_a_complete_run_is_returned_unless_anew(tmp_path):
    first = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    first.save(status="complete")
    assert runs.begin(tmp_path, "batch", {"a": 1}, NOW).id == first.id
    second = runs.begin(tmp_path, "batch", {"a": 1}, NOW, rerun=True)
    assert second.id == first.id + "-2"  # the same second
    second.save(status="complete")
    assert runs.begin(tmp_path, "batch", {"a": 1}, NOW, rerun=True).id == first.id + "-3"


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
        with pytest.raises(DataError, match=f"^run {run.id} is being executed by another process; wait for it or stop it$"), other.held():
            pytest.fail("held twice")
    with other.held():
        assert other.status == "publishing"  # as the first holder left it


def test_find_by_beginning(tmp_path):
    first = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    second = runs.begin(tmp_path, "batch", {"a": 2}, NOW + timedelta(days=1))
    assert runs.find(tmp_path, first.id).id == runs.find(tmp_path, "batch-20240501").id == first.id
    with pytest.raises(DataError, match=f"several runs are called 'batch-'; the latest are {first.id}, {second.id}"):
        runs.find(tmp_path, "batch-")
    third = runs.begin(tmp_path, "apply", {"a": 3}, NOW + timedelta(days=2))
    with pytest.raises(DataError, match=f"several runs are called 'batch-'; the latest are {first.id}, {second.id}$"):
        runs.find(tmp_path, "batch-")
    with pytest.raises(DataError, match=f"no run is called 'x'; the latest are {first.id}, {second.id}, {third.id}$"):
        runs.find(tmp_path, "x")
    with pytest.raises(DataError, match="no run is called 'x'; the latest are none"):
        runs.find(tmp_path / "nowhere", "x")


def test_runs_are_listed_oldest_first_and_damaged_manifests_left_out(tmp_path):
    earlier = runs.begin(tmp_path, "train", {"a": 1}, NOW - timedelta(days=1))
    later = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    broken = tmp_path / "runs" / "batch-broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    assert [r.id for r in runs.list_runs(tmp_path)] == [earlier.id, later.id]


def test_a_parameter_of_before_is_told_by_its_name_of_now():
    params = {"since": "2024-03-04", "anew": True}
    assert record_of({"kind": "archive", "params": params}).params == {"since": "2024-03-04", "overwrite": True}
    assert record_of({"kind": "check", "params": params}).params == params and record_of({"kind": "archive"}).params == {}


def test_a_manifest_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    loop: dict = {}
    loop["loop"] = loop
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, loop)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_code_version_follows_the_repository(tmp_path):
    (tmp_path / "features.py").write_text("a = 1\n")
    before = provenance.code_version(tmp_path)["sha256"]
    assert provenance.code_version(tmp_path)["sha256"] == before
    (tmp_path / "features.py").write_text("a = 2\n")
    assert provenance.code_version(tmp_path)["sha256"] != before


@pytest.mark.parametrize("how", ["written", "renamed"])
def test_another_file_of_the_same_size_and_time_is_other_code(tmp_path, how):
    """As ``cp -p``, ``rsync`` and ``tar`` put one there, and where a clock was set back: within one process."""
    file, other = tmp_path / "features.py", tmp_path / "other"
    file.write_text("a = 1\n")
    before, at = provenance.code_version(tmp_path), file.stat()
    if how == "written":
        file.write_text("a = 2\n")
    else:
        other.write_text("a = 2\n")
        other.replace(file)
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (at.st_mtime_ns, at.st_size)
    after = provenance.code_version(tmp_path)
    assert after["files"]["repo/features.py"] != before["files"]["repo/features.py"]
    assert after["sha256"] != before["sha256"] and after["values"] != before["values"]


def test_versions_name_python_and_what_computes():
    assert {"python", "apache-beam", "tensorflow", "tensorflow-transform", "pyarrow", "numpy"} <= set(provenance.library_versions())


# --------------------------------------------------------------------------------------------------------------- recorded, killed, masked


class Tracking(BaseModel):
    trackers: list[str] = []


class Batch(BaseModel):
    shards: int = 2


class Kafka(BaseModel):
    sasl_username: str = "me"
    sasl_password: str = "hunter2"
    schema_registry: str = "https://reader:hunter2@registry:8081"


class Settings(BaseModel):
    data: str = "data"
    batch: Batch = Batch()
    kafka: Kafka = Kafka()
    tracking: Tracking = Tracking()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "repo").mkdir()
    return recording.ProjectRef(tmp_path / "repo", Settings(), tmp_path / "data")


def saved(home) -> dict:
    (path,) = (home.data / "runs").glob("*/manifest.json")
    return json.loads(path.read_text())


def test_a_job_is_recorded(home, monkeypatch):
    monkeypatch.delenv("TANDEM_PARENT_RUN", raising=False)
    with recording.recorded(home, "labels", params={"a": 1}) as run:
        assert saved(home)["status"] == "running" and saved(home)["pid"] == os.getpid()
        assert os.environ["TANDEM_PARENT_RUN"] == run.id
        run.add(counts={"rows/x": 3}, outputs=[])
        run.add(counts={"rows/y": 4})
    assert "TANDEM_PARENT_RUN" not in os.environ
    m = saved(home)
    assert m == run.manifest and m["id"].startswith("labels-") and m["status"] == "complete"
    assert m["counts"] == {"rows/x": 3, "rows/y": 4} and m["params"] == {"a": 1} and m["parent"] is None
    assert {"code", "lock", "versions", "settings", "inputs", "outputs", "metrics", "seeds", "links", "fingerprints", "finished"} <= set(m)
    assert len(m["lock"]) == 64 and m["code"]["files"]["pipelines/batch/batch_job.py"]


def test_a_job_inside_of_a_job_names_it(home):
    with recording.recorded(home, "outer") as outer, recording.recorded(home, "inner") as inner:
        pass
    assert inner.manifest["parent"] == outer.id
    with recording.recorded(home, "other", parent="somebody") as other:
        pass
    assert other.manifest["parent"] == "somebody"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("no such thing; fix it\nsecond line"), "failed", "no such thing; fix it"),
        (ValueError(), "failed", "ValueError"),
        (KeyboardInterrupt(), "killed", "interrupted (Ctrl-C)"),
        (SystemExit(3), "failed", "3"),
        (SystemExit(0), "complete", None),
    ],
)
def test_how_a_job_ended_is_recorded(home, error, status, line):
    with pytest.raises(type(error)), recording.recorded(home, "job"):
        raise error
    assert (saved(home)["status"], saved(home).get("error")) == (status, line)


def test_a_status_that_the_job_sets_stays(home):
    with recording.recorded(home, "stream") as run:
        run.save(status="failed", error="a worker gave up")
    assert (saved(home)["status"], saved(home)["error"]) == ("failed", "a worker gave up")


def test_what_cannot_be_saved_hides_no_error(home, monkeypatch):
    def full(self, **changes):
        raise OSError(28, "No space left on device")

    def job():
        with recording.recorded(home, "job"):
            monkeypatch.setattr(runs.Run, "save", full)
            raise DataError("first")

    with pytest.raises(DataError, match="first"):
        job()


JOB = """
import sys, time
from pathlib import Path
from pydantic import BaseModel
from typer.testing import CliRunner
from pipelines.lake import runs
from pipelines.lake import provenance
from pipelines.project import recording
class Settings(BaseModel):
    x: int = 1
place = recording.ProjectRef(Path(sys.argv[1]), Settings(), Path(sys.argv[2]))
with recording.recorded(place, "job", key={"a": 1}, rerun=False) as run:
    run.save(status=sys.argv[3])
    print("ready", flush=True)
    time.sleep(600)
"""


@contextmanager
def job(home, status="running"):
    process = subprocess.Popen([sys.executable, "-c", JOB, home.path, home.data, status], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.mark.parametrize("status", ["running", "publishing"])
def test_a_run_that_was_killed_by_force_is_found_killed_and_goes_on_under_its_id(home, status):
    with job(home, status) as process:
        (run,) = runs.list_runs(home.data)
        assert run.status == status
        with pytest.raises(DataError, match="is being executed by another process"), run.held():
            pytest.fail("held twice")
        process.kill()
        process.wait()
        (run,) = runs.list_runs(home.data)
        assert (run.status, run.stage) == ("killed", status) and saved(home)["status"] == "killed"
        assert f"its process ({process.pid}) no longer exists" in run.manifest["error"]
    with recording.recorded(home, "job", key={"a": 1}, rerun=False) as again:
        assert again.id == run.id and again.status == "running"
    assert saved(home)["status"] == "complete" and not {"error", "stage", "noticed"} & set(saved(home))


def test_sigterm_is_a_killed_run_with_its_reason(home):
    with job(home) as process:
        process.terminate()
        assert process.wait(30) != 0
        assert saved(home)["status"] == "killed" and saved(home)["error"].startswith("SIGTERM")


def test_a_process_id_that_another_process_has_now_is_not_the_run(home):
    run = runs.begin(home.data, "job", {}, NOW)
    run.save(process_start="long ago")
    (run.folder / ".lock").touch()
    assert runs.find(home.data, run.id).status == "killed"


def test_a_run_of_another_machine_is_judged_by_its_hold_alone(home):
    run = runs.begin(home.data, "job", {}, NOW)
    with run.held():
        run.save(host="elsewhere", pid=1)
        assert runs.find(home.data, run.id).status == "running"
    assert runs.find(home.data, run.id).status == "killed"


def test_a_run_that_nobody_can_judge_stays_as_it_is(home):
    run = runs.begin(home.data, "job", {}, NOW)
    for name in ("pid", "process_start", "host"):
        del run.manifest[name]
    run.save()
    assert runs.find(home.data, run.id).status == "running"


def test_the_last_word_of_a_server_counts(home):
    code = (
        "import sys, os; from pathlib import Path; from pydantic import BaseModel; from pipelines.project import recording\n"
        "class S(BaseModel):\n    x: int = 1\n"
        "run = recording.hand_over(recording.ProjectRef(Path(sys.argv[1]), S(), Path(sys.argv[2])), 'serve')\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[3]])"
    )
    word = (
        "import os, json; f = open(os.environ['TANDEM_RUN_FOLDER'] + '/ended.json', 'w'); json.dump({'pid': os.getpid(), 'ended': 'x'}, f)"
    )
    for program, status in ((word, "complete"), ("pass", "killed")):
        wait = "print('up', flush=True); input(); "
        process = subprocess.Popen([sys.executable, "-c", code, home.path, home.data, wait + program], stdin=-1, stdout=-1, text=True)
        assert process.stdout and process.stdout.readline() == "up\n"
        assert runs.list_runs(home.data)[-1].status == "running"
        process.communicate("\n")
        assert runs.list_runs(home.data)[-1].status == status


def test_runs_at_once_are_runs_of_their_own(home):
    ids = []

    def work():
        with recording.recorded(home, "job") as run:
            ids.append(run.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(ids)) == 8
    assert [r.status for r in runs.list_runs(home.data)] == ["complete"] * 8


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "x"}', ""])
def test_a_damaged_manifest_is_one_line_and_breaks_no_list(tmp_path, text):
    good = runs.begin(tmp_path, "batch", {"a": 1}, NOW)
    bad = tmp_path / "runs" / "batch-bad"
    bad.mkdir()
    (bad / "manifest.json").write_text(text)
    assert [r.id for r in runs.list_runs(tmp_path)] == [good.id]
    (line,) = runs.damaged(tmp_path)
    assert line.startswith("run batch-bad: its manifest cannot be read (") and "\n" not in line
    with pytest.raises(DataError, match="run batch-bad: its manifest cannot be read"):
        runs.find(tmp_path, "batch-bad")


def test_no_secret_gets_into_a_manifest(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tandem", "x", "--password", "hunter2", "--api-key=hunter2", "kafka://u:hunter2@h", "--name", "n"])
    with pytest.raises(DataError), recording.recorded(home, "job"):
        raise DataError("cannot reach https://u:hunter2@host/x?token=hunter2&a=1")
    text = json.dumps(saved(home))
    assert "hunter2" not in text
    assert saved(home)["settings"]["kafka"] == {
        "sasl_username": "me", "sasl_password": "***", "schema_registry": "https://reader:***@registry:8081",
    }  # fmt: skip
    assert saved(home)["command"] == ["tandem", "x", "--password", "***", "--api-key=***", "kafka://u:***@h", "--name", "n"]
    assert saved(home)["error"] == "cannot reach https://u:***@host/x?token=***&a=1"


names = st.sampled_from(["password", "sasl_password", "api_key", "token", "webhook", "client_secret"])
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.text("abc", max_size=5))
trees = st.recursive(
    plain, lambda t: st.one_of(st.lists(t, max_size=3), st.dictionaries(st.sampled_from("xyz"), t, max_size=3)), max_leaves=8
)


@given(trees, names, st.text("QRSTUVWXYZ", min_size=6, max_size=12))
def test_masking_hides_secrets_wherever_they_are_and_nothing_else(tree, name, secret):
    assert provenance.masked(tree) == tree
    hidden = provenance.masked({"a": [tree, {name: secret, "deep": {name: [secret]}}], "url": f"redis://u:{secret}@h/0"})
    assert secret not in json.dumps(hidden) and hidden["a"][0] == tree
    assert provenance.masked(hidden) == hidden


def test_outputs_are_hashed_file_by_file(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"")
    found = provenance.hashed(tmp_path, {"rows": tmp_path / "a", "y": tmp_path / "y", "none": tmp_path / "none"})
    assert [(o["name"], o["path"], o["bytes"]) for o in found] == [("rows/b/x", "a/b/x", 3), ("y", "y", 0)]
    assert found[0]["sha256"] == hashlib.sha256(b"123").hexdigest()


def test_a_clock_that_was_set_back_does_not_make_the_newest_run_an_older_one(tmp_path):
    """SECURITY M7: created is the later of now and just after the newest run, for runs of any kind."""
    for kind in ("batch", "stream"):
        first = runs.begin(tmp_path, kind, {"n": 1}, NOW)
        second = runs.begin(tmp_path, kind, {"n": 2}, NOW - timedelta(hours=1))
        third = runs.begin(tmp_path, kind, {"n": 3}, NOW - timedelta(days=400))
        moments = [datetime.fromisoformat(run.created) for run in (first, second, third)]
        assert moments == sorted(moments) and len(set(moments)) == 3 and moments[-1] - NOW < timedelta(seconds=1)
        assert runs.list_runs(tmp_path)[-1].id == third.id == runs.find(tmp_path, "latest").id
    later = runs.begin(tmp_path, "batch", {"n": 4}, NOW + timedelta(hours=1))
    assert later.created == (NOW + timedelta(hours=1)).isoformat(), "a clock that goes on is taken as it is"


def test_the_latest_run_of_a_kind(tmp_path: Path) -> None:
    """FAULTS 29: 'verify --against latest' picked the run of verify itself, which had begun just before."""
    now = datetime(2024, 5, 1, tzinfo=UTC)
    with pytest.raises(DataError, match="there is no complete batch run"):
        runs.find(tmp_path, "latest", "batch")
    first = runs.begin(tmp_path, "batch", {"n": 1}, now)
    first.save(status="complete")
    runs.begin(tmp_path, "batch", {"n": 2}, now + timedelta(seconds=1))  # it has not ended
    own = runs.begin(tmp_path, "verify", {"n": 3}, now + timedelta(seconds=2))
    assert runs.find(tmp_path, "latest").id == own.id
    assert runs.find(tmp_path, "latest", "batch").id == first.id
    assert runs.find(tmp_path, own.id, "batch").id == own.id  # by name whatever it is: who asked for it says what is wrong with it


@pytest.mark.parametrize("flags", [[], ["--json"], ["--output"], ["--output", "--json"]], ids=" ".join)
def test_a_version_is_printed_unless_it_goes_to_a_file_alone(tmp_path, flags):
    runs.begin(tmp_path / "data", "batch", {}, NOW).save(status="complete", range=["2024-05-01", "2024-05-02"], outputs=[], inputs={})
    (tmp_path / "tandem.yaml").write_text("data: data\n")
    file = tmp_path / "versions" / "batch.json"
    given = [word for flag in flags for word in ([flag, str(file)] if flag == "--output" else [flag])]
    done = CliRunner().invoke(app, ["runs", "version", "--repo", str(tmp_path), *given])
    assert done.exit_code == 0, done.output
    assert file.exists() == ("--output" in flags)
    texts = [text for text in (file.read_text() if file.exists() else "", done.stdout) if text]
    assert bool(done.stdout) == (flags != ["--output"]) and len(set(texts)) == 1
    assert json.loads(texts[0])["kind"] == "batch" and len(json.loads(texts[0])["version"]) == 64
