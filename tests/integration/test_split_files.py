"""``tandem batch`` over files in parts: the run is that over whole files, but for the files that its dead letters lie in."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.batch_job import run_batch
from pipelines.batch.beam_options import BeamEngine
from pipelines.lake import runs
from pipelines.sources.file_letters import list_file_letters
from pipelines.sources.letters import Choice
from tests.integration.orders_world import Orders
from tests.integration.test_continued_batch import NOW, at, copied, day, file_bytes, write
from transforms.errors import DataError

ENGINE = BeamEngine(args=["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
TELLING = ("events", "filtered", "empty", "misplaced", "spans", "rejected", "rejected_fields", "rows", "tiles", "inputs", "fingerprints")


@pytest.fixture
def world(tmp_path: Path) -> Orders:
    """Four days in files by day and one that lies in no day's folder; events astray, of the future, lines that are none, a damaged file."""
    made, chance = Orders(tmp_path / "whole", amount=", max=1e16"), random.Random(4)
    for n in range(4):
        events = [at(day(n - 1) + timedelta(minutes=4 * i), f"{n}-{i}", chance) for i in range(300)]
        events[70]["amount"] = 2e16
        if n == 1:
            events[250]["at"] = "2024-04-29T23:00:00Z"  # in the folder of another day
        if n == 2:
            events[299]["at"] = "2099-01-01T00:00:00Z"
        file = write(made.data, f"date={day(n - 1):%Y-%m-%d}/all.jsonl", events)
        lines = file.read_text().splitlines()
        lines[90:90] = ["", "no event", lines[3][:-9]]
        file.write_text("\n".join(lines))
    rows = [at(day(1) + timedelta(minutes=7 * i), f"p-{i}", chance) for i in range(300)]
    table = pa.Table.from_pylist([{**row, "amount": row["amount"] or 0.0} for row in rows])
    for name in ("flat", "date=2024-05-02/part"):
        path = made.data / f"events/orders/{name}.parquet"
        pq.write_table(table, path, row_group_size=50, use_dictionary=False, compression="none")
    path.write_bytes(path.read_bytes().replace(b"p-222", b"p-\xff\xff2", 1))
    broken = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(4).column(0).data_page_offset
    broken[start : start + 12] = b"\xff" * 12
    (made.data / "events/orders/date=2024-05-02/broken.parquet").write_bytes(broken)
    return made


def told(world: Orders, engine: BatchEngine | None = None) -> tuple[dict[str, bytes], dict[str, Any], list[Any]]:
    """The bytes of a run, what its manifest tells, and its dead letters in order."""
    made = run_batch(world.repo(), day(0), day(3), now=NOW, engine=engine).run
    manifest = json.loads((made.folder / "manifest.json").read_text())
    letters = list_file_letters(runs.find(world.data, made.id), Choice(), 10_000)
    first = [(x.file, x.row, x.reason, x.detail, x.payload) for x in letters.first]
    return file_bytes(world, made.id), {k: manifest[k] for k in TELLING}, first


def in_parts(world: Orders, path: Path, most: int) -> Orders:
    other = copied(world, path)
    other.define(world.amount)
    settings = other.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("shards: 1", f"shards: 1, split_bytes: {most}"))
    return other


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, ENGINE])
def test_the_run_is_the_same(world: Orders, tmp_path: Path, engine: BatchEngine | None) -> None:
    whole = told(world)
    assert len(whole[1]["spans"]["orders"]) == 4, "two astray, one of the future, one in no folder"
    assert {r for _, _, r, _, _ in whole[2]} >= {"unreadable_file", "malformed", "out_of_range", "future_timestamp"}
    parts = in_parts(world, tmp_path / "parts", 1500)
    again = told(parts, engine)
    assert [name for name, held in whole[0].items() if again[0].get(name) != held] == [] and again == whole
    files = [p.name for p in parts.data.glob("runs/*/dead_letters/orders/*.parquet")]
    divided = sum("~00" in name for name in files)
    assert (divided > 8) if engine else (divided == 0), "one worker in this process would read each part twice, and gain nothing"


def test_what_reads_a_file_is_no_part_of_a_runs_key(world: Orders, tmp_path: Path) -> None:
    first = run_batch(world.repo(), day(0), day(3), now=NOW)
    settings = world.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("shards: 1", "shards: 1, split_bytes: 4000"))
    again = run_batch(world.repo(), day(0), day(3), now=NOW)
    assert again.reused and again.run.id == first.run.id


@pytest.mark.parametrize("most", [1500, 1 << 20])
def test_a_file_that_is_replaced_while_a_run_reads_it(world: Orders, tmp_path: Path, most: int) -> None:
    """In parts or whole, the run ends with one line, and the same command makes the rows of what lies there then, whatever threads of the
    attempt that failed are still writing."""
    other = in_parts(world, tmp_path / "other", most)
    file = other.data / f"events/orders/date={day(2):%Y-%m-%d}/all.jsonl"
    lines = file.read_text().splitlines()
    after = "\n".join(reversed(lines))

    def replaced(line: str) -> None:
        if line.startswith("windows:"):  # listed and hashed, not read yet
            file.write_text(after)

    with pytest.raises(DataError, match=r"all\.jsonl was changed, replaced or removed while the job read it; run the same command") as said:
        run_batch(other.repo(), day(0), day(3), now=NOW, engine=ENGINE, progress=replaced)
    assert len(str(said.value).splitlines()) == 1
    assert not [r for r in runs.RunStore(other.data).runs() if r.status == "complete"]
    (world.data / file.relative_to(other.data)).write_text(after)
    assert told(other, ENGINE)[1] == told(world)[1]
