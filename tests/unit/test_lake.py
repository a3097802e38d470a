"""The data folder has one home: paths, format number, the applied graph, atomic files, locks and instants."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.lake import data_files, graphs, layout
from pipelines.project.config import load_settings
from transforms import locks
from transforms.columns import column_us
from transforms.errors import DataError
from transforms.files import _take_over, is_unfinished, placed, replaced, write_text
from transforms.instants import instant, micros_of, now_us, to_minute

ROOT = Path(__file__).resolve().parents[2]


def lines_with(pattern: str, *tops: str) -> set[str]:
    found = re.compile(pattern)
    sources = [p for top in tops for p in (ROOT / top).rglob("*.py")]
    return {p.relative_to(ROOT).as_posix() for p in sources if any(found.search(line) for line in p.read_text().splitlines())}


RENAMES_ELSE = {
    "pipelines/services/jars.py": "jars, from the folder of the downloads",
    "pipelines/tracking/mlflow.py": "a store that MLflow has open, when it is whole",
    "transforms/plain_paths.py": "a symbolic link",
    "pipelines/batch/batch_job.py": "a folder, when it is whole",
    "pipelines/batch/work_place.py": "a folder, when it is whole",
    "pipelines/lake/staged_code.py": "a folder, when it is whole",
    "pipelines/services/kafka_broker.py": "a folder, when it is whole",
    "pipelines/sources/archive.py": "a folder, when it is whole",
    "pipelines/sources/tables/snapshots.py": "a folder, when it is whole",
    "pipelines/training/gate.py": "a folder, when it is whole",
    "pipelines/training/tfx_executors.py": "a folder, when it is whole",
    "pipelines/training/training_set.py": "a folder, when it is whole",
    "serving/object_store/trees.py": "a folder, when it is whole",
    "transforms/graph.py": "a folder, when it is whole",
    "pipelines/lake/processes.py": "a log that grew too long, out of the way",
    "pipelines/feature_store/applying.py": "what cannot be read, out of the way",
    "pipelines/registry/alias_file.py": "what cannot be read, out of the way",
    "pipelines/streaming/state/job_state.py": "a folder of an earlier version, by its new name",
    "pipelines/tracking/outbox.py": "a folder of an earlier version, by its new name",
    "pipelines/tracking/wandb.py": "a folder of an earlier version, by its new name",
}
"""Who gives something another name, and what, that is no file which takes the place of another."""


def renames(source: str) -> bool:
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    of_os = any(ast.unparse(c.func) in ("os.rename", "os.replace", "shutil.move") for c in calls)
    return of_os or any(c.func.attr in ("rename", "replace") and len(c.args) == 1 and not c.keywords for c in calls)  # type: ignore[attr-defined]


def test_one_place_puts_a_file_in_the_place_of_another():
    sources = [p for top in ("pipelines", "serving", "transforms", "tandem") for p in (ROOT / top).rglob("*.py")]
    found = {p.relative_to(ROOT).as_posix() for p in sources if p.parent.name != "testing" and renames(p.read_text("utf-8"))}
    assert found == {"transforms/files.py", *RENAMES_ELSE}


def test_a_file_takes_the_place_of_another_whole_and_with_the_rights_that_were_asked_for(tmp_path):
    file = tmp_path / "below" / "keys"
    write_text(file, "old", mode=0o600)
    assert file.read_text() == "old" and file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    with replaced(file, durable=True, mode=0o600, as_before=True) as out:
        (unfinished,) = [p for p in file.parent.iterdir() if p != file]
        assert is_unfinished(unfinished.name) and not is_unfinished(file.name)
        assert unfinished.stat().st_mode & 0o777 == 0o600, "from its first moment on"
        out.write(b"new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o640
    with suppress(ZeroDivisionError), placed(file) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "new" and [*file.parent.iterdir()] == [file]
    (tmp_path / "elsewhere").write_text("theirs")
    unfinished.symlink_to(tmp_path / "elsewhere")  # laid by somebody else: what is private is not written through it
    write_text(file, "mine", mode=0o600)
    assert (tmp_path / "elsewhere").read_text() == "theirs" and file.read_text() == "mine" and not file.is_symlink()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_whose_owner_and_permissions_cannot_be_set_is_replaced(tmp_path, monkeypatch, number):
    """A superuser without the right, NFS that maps users, a namespace of users, a file system without modes: the content counts."""
    file, asked = tmp_path / "events", []

    def refuse(path: Path, *values: int) -> None:
        asked.append(values)
        raise OSError(number, os.strerror(number))

    write_text(file, "old", mode=0o604)
    mine = file.stat().st_uid, file.stat().st_gid
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "chown", refuse)
    with replaced(file, durable=True, mode=0o600, as_before=True) as out:
        out.write(b"new")
    assert file.read_text() == "new" and asked == [(0o604,)], "the owner is the same"
    _take_over(file, os.stat_result((0o100604, 0, 0, 1, mine[0] + 1, mine[1], 0, 0, 0, 0)))
    assert asked[1:] == [(0o604,), (mine[0] + 1, mine[1])]
    with replaced(file, mode=0o600, as_before=True) as out:
        out.write(b"newer")
    assert asked[3:] == [], "the permissions are the same, too"


# ------------------------------------------------------------------------------------------------------------------------------- layout


IN_OTHER_FOLDERS = {
    "pipelines/training/trial.py",  # a temporary folder with the graphs of a check
    "pipelines/verify/verification.py",  # a proof's scratch folder
    "transforms/run_cover.py",  # in a docstring
}


def test_each_path_is_spelled_once():
    top = "|".join((*layout.NOT_EVENTS, "events", "tables"))
    joined = rf'/ f?"({top})["/]|\bdata(\.resolve\(\))?\)? / f?"({top})|f"tables/'
    joined += r"|[\"'/](mlflow\.db|mlartifacts|metadata\.db|manifest\.json)\b"
    homes = {"pipelines/lake/layout.py", "transforms/data_folder.py"}
    found = lines_with(joined, "pipelines", "serving", "transforms")
    assert found == homes | IN_OTHER_FOLDERS
    assert lines_with(r'(= |/ )"CURRENT"', "pipelines", "serving", "transforms") == {"transforms/data_folder.py"}
    assert lines_with(r'[/,(=] ?"tandem\.json', "pipelines", "serving", "transforms") == {"transforms/data_folder.py"}
    assert lines_with(r'[/,(] ?"ALIASES\.json"', "pipelines") == set()
    assert lines_with(r"\bfcntl\b", "pipelines", "serving", "transforms", "tandem") == {"transforms/locks.py"}


def test_what_tandem_writes_is_no_events():
    data = Path("/data")
    functions = [f for n, f in vars(layout).items() if inspect.isfunction(f) and n in layout.__all__ and n not in ("check_format", "claim")]
    tops = {f(data, *["x"] * (len(inspect.signature(f).parameters) - 1)).relative_to(data).parts[0] for f in functions}
    assert tops == {"events", "tables", "mlflow.db", "mlartifacts", ".identity.json", *layout.NOT_EVENTS}


def test_a_folder_without_a_number_is_of_today_and_gets_one_with_the_first_write(tmp_path):
    data = tmp_path / "data"
    layout.check_format(data)
    assert not data.exists()
    (data / "runs").mkdir(parents=True)
    layout.check_format(data)
    assert not (data / "FORMAT").exists()
    layout.claim(data)
    assert (data / "FORMAT").read_text() == f"{layout.FORMAT}\n"
    layout.claim(data)


def test_a_newer_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "FORMAT").write_text("2\n")
    with pytest.raises(DataError, match=r"is of format 2, and this version of Tandem knows 1; install a newer one"):
        layout.claim(tmp_path)
    (tmp_path / "tandem.yaml").write_text(f"data: {tmp_path}\n")
    with pytest.raises(DataError, match="is of format 2"):  # so every command refuses it
        load_settings(tmp_path)
    (tmp_path / "FORMAT").write_text("two")
    with pytest.raises(DataError, match="holds 'two' and not a number; restore it"):
        layout.check_format(tmp_path)


def test_an_older_folder_is_migrated_or_refused(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(layout, "FORMAT", 3)
    with pytest.raises(DataError, match="is of format 1, and this version of Tandem reads 3"):
        layout.check_format(tmp_path)
    steps = []
    monkeypatch.setattr(layout, "MIGRATIONS", {1: lambda data: steps.append(1), 2: lambda data: steps.append(2)})
    layout.check_format(tmp_path)
    assert steps == [1, 2] and (tmp_path / "FORMAT").read_text() == "3\n"
    layout.check_format(tmp_path)
    assert steps == [1, 2]


def test_a_migration_that_was_cut_short_goes_on_where_it_stopped(tmp_path, monkeypatch):
    done: list[int | str] = []

    def second(data: Path) -> None:
        if len(done) == 1:
            done.append("cut")
            raise OSError("cut")
        done.append(2)

    monkeypatch.setattr(layout, "FORMAT", 3)
    monkeypatch.setattr(layout, "MIGRATIONS", {1: lambda data: done.append(1), 2: second})
    with pytest.raises(OSError, match="cut"):
        layout.check_format(tmp_path)
    layout.check_format(tmp_path)
    assert done == [1, "cut", 2]


def test_the_applied_graph(tmp_path):
    assert graphs.applied_graphs(tmp_path) == {} and graphs.applied_graph(layout.graphs(tmp_path), "a") is None
    graphs.apply_graph(tmp_path, "a", "f" * 64)
    graphs.apply_graph(tmp_path, "a", "e" * 64)
    (layout.graphs(tmp_path) / "b").mkdir()
    (layout.graphs(tmp_path) / "b" / layout.CURRENT).write_text("\n")  # torn, or made by hand
    assert graphs.applied_graphs(tmp_path) == {"a": "e" * 64}
    assert [p.name for p in (layout.graphs(tmp_path) / "a").iterdir()] == ["CURRENT"]


# -------------------------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, durable):
    path = tmp_path / "deep" / "file.json"
    data_files.write_json(path, {"at": datetime(2013, 1, 1)}, durable=durable)
    assert data_files.read_json(path) == {"at": "2013-01-01 00:00:00"}
    with suppress(ValueError), data_files.replaced(path, durable=durable) as out:
        out.write(b"{")
        raise ValueError
    assert data_files.read_json(path) == {"at": "2013-01-01 00:00:00"} and [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_writers_at_once_leave_one_of_their_contents(tmp_path):
    path = tmp_path / "file"

    def write(n: int) -> None:
        for _ in range(50):
            data_files.write_text(path, f"{n}" * 10_000)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    seen = set()
    while any(t.is_alive() for t in threads):
        if path.exists():
            seen.add(path.read_text())
    assert seen <= {f"{n}" * 10_000 for n in range(4)} and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_reading_json_that_is_none(tmp_path):
    for name, content in (("torn", b'{"a": '), ("list", b"[]"), ("bytes", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        assert data_files.read_json(tmp_path / name) is None
    assert data_files.read_json(tmp_path / "none") is None


def test_hashes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 1_000_000)
    (tmp_path / "part").write_bytes((b"abc" * 1_000_000)[:1_500_001])
    assert data_files.sha256_of_start(tmp_path / "file", 1_500_001) == data_files.sha256(tmp_path / "part")
    assert data_files.sha256_of_start(tmp_path / "file", 9_000_000) == data_files.sha256(tmp_path / "file")
    assert data_files.json_digest({"a": 1, "b": 2}) == data_files.json_digest({"b": 2, "a": 1}) != data_files.json_digest({"a": 1})


# -------------------------------------------------------------------------------------------------------------------------------- locks

HOLDER = """
import sys
from pathlib import Path
from transforms import locks
with locks.try_lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared") as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    started = []

    def start(how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), how]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(child)
        assert child.stdout and child.stdout.readline() == "True\n"
        return child

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path, holder):
    process, path, told = holder("alone"), tmp_path / "lock", []
    with locks.try_lock(path) as mine:
        assert not mine
    with locks.try_lock(path, shared=True) as mine:
        assert not mine

    def end() -> None:
        told.append("busy")
        process.kill()

    with locks.lock(path, end):
        told.append("mine")
    assert told == ["busy", "mine"]
    with locks.lock(path, lambda: told.append("again")):
        pass
    assert told == ["busy", "mine"]


def test_shared_locks_keep_out_who_wants_it_alone(tmp_path, holder):
    holder("shared")
    with locks.try_lock(tmp_path / "lock", shared=True) as mine:
        assert mine
    with locks.try_lock(tmp_path / "lock") as mine:
        assert not mine


# ------------------------------------------------------------------------------------------------------------------------------ instants


def test_instants_are_exact():
    for us in (0, 1, -1, 1_362_096_000_123_457, 253_402_300_799_999_999, -62_135_596_800_000_000):
        number: Any = np.int64(us)  # a type checker wants an int; numpy's will do
        assert micros_of(instant(us)) == us == micros_of(instant(number))
    at = datetime(2013, 3, 1, 6, 0, 0, 123457)
    assert micros_of(at) == micros_of(at.replace(tzinfo=UTC)) == micros_of(at.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=9))))
    assert to_minute(micros_of(at)) == "2013-03-01 06:00"
    assert abs(now_us() - micros_of(datetime.now(UTC))) < 60_000_000
    with pytest.raises(OverflowError):
        instant(2**62)


@pytest.mark.parametrize("make", [pa.table, pa.RecordBatch.from_pydict])
def test_columns_of_microseconds(make):
    stamps = pa.array([1, 2, 3], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    assert column_us(make({"at": stamps}), "at").tolist() == [1, 2, 3]
