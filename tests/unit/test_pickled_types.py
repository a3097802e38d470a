"""SECURITY C2: no Parquet file runs code (CVE-2023-47248), whatever of ours was imported, in whatever order, and in every child."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.batch.steps import ReadEvents
from pipelines.replay.event_log import EventLog
from pipelines.sources.event_files import events, inventory
from tests.pickled_parquet import MakesFolder, write_pickled
from transforms.definitions import EventSource, Field
from transforms.own_program import module_command

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_800_000_000_000_000
SOURCE = EventSource(
    name="orders", fields=[Field("order_id", "string", required=True)], event_time="at", tie_breaker="order_id", files="events/orders"
)
READ = """
import pyarrow.parquet as pq, sys
try:
    pq.ParquetFile(sys.argv[1]).read()
except Exception as error:
    print("refused:", type(error).__name__)
"""


def main_modules() -> list[str]:
    """Every module of ours that is run as a program."""
    found = [
        p for top in ("pipelines", "serving", "tandem") for p in (ROOT / top).rglob("*.py") if '__name__ == "__main__"' in p.read_text()
    ]
    return sorted(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in found if "templates" not in p.parts)


@pytest.fixture
def log(tmp_path):
    """(data folder, the proof that code was run) of a log with a good file and one with a pickled type."""
    folder = tmp_path / "data" / "events" / "orders"
    folder.mkdir(parents=True)
    table = pa.table({"order_id": ["a", "b"], "at": pa.array([NOW - 2, NOW - 1], pa.timestamp("us", "UTC"))})
    write_pickled(table, folder / "bad.parquet", tmp_path / "proof")
    (folder / "good.jsonl").write_text(f'{{"order_id":"c","at":{NOW - 3}}}\n')
    return tmp_path / "data", tmp_path / "proof"


@pytest.mark.skipif(int(pa.__version__.split(".")[0]) >= 14, reason="this pyarrow does not unpickle types")
def test_the_file_runs_code_where_nothing_of_ours_was_imported(log):
    data, proof = log
    subprocess.run([sys.executable, "-c", READ, data / "events/orders/bad.parquet"], capture_output=True)
    assert proof.is_dir(), "this test would show nothing"


@pytest.mark.parametrize("first", ["transforms", "pipelines", "serving", "tandem", "pyarrow, transforms", "pyarrow, pipelines.cli"])
def test_no_code_is_run_once_anything_of_ours_was_imported(log, first):
    data, proof = log
    done = subprocess.run(
        [sys.executable, "-c", f"import {first}\n{READ}", data / "events/orders/bad.parquet"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not proof.exists()


@pytest.mark.parametrize("module", main_modules())
def test_no_program_of_ours_runs_code(log, module):
    """Each with all that it imports; what it imports later comes too late to change that."""
    data, proof = log
    code = f"import {module}\n{READ}"
    done = subprocess.run([sys.executable, "-c", code, data / "events/orders/bad.parquet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not proof.exists()


def test_a_child_process_of_ours_runs_no_code(log, tmp_path):
    data, proof = log
    (tmp_path / "child.py").write_text(READ)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*module_command("child"), data / "events/orders/bad.parquet"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not proof.exists()


def test_such_a_file_is_one_dead_letter_for_batch(log):
    data, proof = log
    found = inventory(data, SOURCE, None, None).files
    valid, letters = zip(*(pair for f in found for pair in events(f.path, SOURCE, NOW, 0, name=f.name)))
    assert sum(v.num_rows for v in valid) == 1
    assert [d["reason"] for batch in letters for d in batch.to_pylist()] == ["unreadable_file"]
    assert "would run code" in letters[0].column("detail")[0].as_py()
    step = ReadEvents(SOURCE, 0, NOW, NOW, 0)
    assert [v.num_rows for f in found for v in step.process(f) if isinstance(v, pa.RecordBatch)] == [1]
    assert not proof.exists()


def test_such_a_file_is_passed_over_by_a_replay_and_named(log):
    data, proof = log
    sent = EventLog(data, [SOURCE], None, None, now_us=NOW, max_future_us=0)
    assert sum(t.num_rows for part in sent.slices() for t in part.events.values()) == 1
    assert [(p.name, "would run code" in p.why) for p in sent.passed_over["orders"]] == [("events/orders/bad.parquet", True)]
    assert not proof.exists()


def ipc_with_pickled_type(path: Path, proof: Path, as_file: bool) -> None:
    """Arrow IPC whose type, within a list, is a pickle that makes a folder."""
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(MakesFolder(proof), 0)}
    schema = pa.schema([pa.field("order_id", pa.string()), pa.field("extra", pa.list_(pa.field("item", pa.int64(), metadata=kind)))])
    table = pa.table([pa.array(["a", "b"]), pa.array([[1], [2]], schema.field("extra").type)], schema=schema)
    with (pa.ipc.new_file if as_file else pa.ipc.new_stream)(str(path), schema) as out:
        out.write_table(table)


@pytest.mark.parametrize("name", ["a.arrow", "b.arrows", "c.feather"])
def test_arrow_files_are_as_parquet(tmp_path, name):
    """SECURITY C2, in another format: one dead letter with a line of its own, and not the text of a pickle."""
    path, proof = tmp_path / name, tmp_path / "proof"
    ipc_with_pickled_type(path, proof, name != "b.arrows")
    letters = pa.Table.from_batches([letter for _, letter in events(path, SOURCE, NOW, 0, name=name)])
    assert letters["reason"].to_pylist() == ["unreadable_file"]
    assert "would run code" in letters["detail"][0].as_py() and "PROTO" not in letters["detail"][0].as_py()
    assert not proof.exists()
