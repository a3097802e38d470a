"""A batch up to B, its last tiles, and a stream of what comes after B: together they are one batch over everything."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch.run_key import seed_start
from pipelines.batch.steps import Tile, WindowRows, from_ipc, slice_us, to_ipc
from pipelines.streaming.state.initial_tiles import batch_run_end, load_tiles
from tests.examples import examples
from tests.oracle import strategies as make
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import FeatureGroup, hours
from transforms.errors import DataError

HOUR = make.HOUR


def run_batch(folder: Path, group: FeatureGroup, parts: list[pa.RecordBatch], start: int, end: int, shards: int) -> pa.Table:
    """The batch job's steps without a runner; gives the rows it wrote."""
    length, shuffled = slice_us(group, 1), defaultdict(list)
    for part in parts:
        times = part.column(0).cast(pa.int64())
        inside = pa.array([seed_start(group, min(start, end)) - HOUR <= t < end for t in times.to_pylist()], pa.bool_())
        for key, data in Tile(group, shards, length, start, end).process(part.filter(inside)):
            shuffled[key].append(data)
    window = WindowRows(group, length, start, end, str(folder / "rows"), str(folder / "tiles"))
    paths = [out for item in shuffled.items() for out in window.process(item) if isinstance(out, str)]
    manifest = {
        "status": "complete",
        "definitions": {group.name: group.canonical()},
        "tiles": {"end_us": end, "shards": shards, "groups": {group.name: 0}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    import pyarrow.parquet as pq

    return pa.concat_tables([group.row_schema.empty_table(), *(pq.ParquetFile(p).read().cast(group.row_schema) for p in paths)])


def as_set(rows: pa.Table | pa.RecordBatch) -> list[str]:
    return sorted(repr(r) for r in rows.to_pylist())


@settings(max_examples=examples(60))
@given(data=st.data())
def test_batch_then_stream_is_batch_over_everything(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    group = data.draw(make.groups())
    log = data.draw(make.events(group, 20))
    if not log:
        return
    name, hop = group.source.event_time, group.hop_us
    times = sorted(e[name] for e in log)
    # The border: on an event, between events, on a hop or not.
    end = data.draw(st.sampled_from([*times, *((t // hop + 1) * hop for t in times), times[-1] + 1])) + data.draw(
        st.sampled_from([0, 0, 1])
    )
    start = min(times[0], end) - hop
    folder = tmp_path_factory.mktemp("run")
    made = run_batch(folder, group, make.to_batches(log, group.source, [7]), start, end, data.draw(st.integers(1, 4)))
    assert batch_run_end(folder) == end
    later = tile(make.to_batch([e for e in log if e[name] >= end], group.source), group)
    upto = (times[-1] + group.longest_us) // hop * hop + 2 * hop
    shards = data.draw(st.integers(1, 5))
    seeds = [load_tiles(folder, group, shard, shards) for shard in range(shards)]
    whole = merge([tile(make.to_batch(log, group.source), group)], group)
    # What the stream makes: rows after the batch's last boundary, from the seed and the events that come after the end.
    after = end // hop * hop
    streamed = rows_between(merge([*seeds, later], group), group, after, upto)
    assert as_set(streamed) == as_set(rows_between(whole, group, after, upto))
    assert as_set(made) == as_set(rows_between(whole, group, start, end))
    assert sum(s.num_rows for s in seeds) == merge(seeds, group).num_rows, "a tile is in two shards"


def test_every_aggregate_survives_the_file(tmp_path: Path) -> None:
    group = make.make_group(make.every_aggregate([hours(1), hours(3)]), keys=("origin", "gate"))
    log: list[dict[str, Any]] = [
        {
            group.source.event_time: i * HOUR // 4,
            "origin": "JFK",
            "gate": i % 2,
            "flight": f"f{i}",
            "serial": i,
            "x": i / 3,
            "n": i,
            "s": f"s{i}",
            "b": True,
            "at": i,
        }
        for i in range(40)
    ]
    log[7].update(x=None, n=None, s=None, b=None, at=None)
    end = 8 * HOUR
    run_batch(tmp_path, group, [make.to_batch(log, group.source)], 0, end, 3)
    seeds = [load_tiles(tmp_path, group, shard, 2) for shard in range(2)]
    found = merge(seeds, group)
    low = seed_start(group, end)
    expected = merge([tile(make.to_batch([e for e in log if low <= e[group.source.event_time] < end], group.source), group)], group)
    assert found.equals(expected)
    assert found.num_rows > 4


def test_late_events_of_allowed_lateness_keep_their_tiles(tmp_path: Path) -> None:
    source = make.make_source(lateness_us=26 * HOUR)
    group = make.make_group(make.every_aggregate([hours(2)])[:1], source=source)
    log = [{source.event_time: i * HOUR, "origin": "JFK", "gate": 1, "flight": "f", "serial": i} for i in range(100)]
    run_batch(tmp_path, group, [make.to_batch(log, source)], 95 * HOUR, 97 * HOUR, 1)
    (first, *_, last) = load_tiles(tmp_path, group, 0, 1).column(1).cast(pa.int64()).to_pylist()
    assert (first, last) == ((97 - 26 - 2 - 1) * HOUR, 96 * HOUR)


def test_a_run_that_cannot_be_started_from_is_one_clear_line(tmp_path: Path) -> None:
    group = make.make_group(make.every_aggregate([hours(1)])[:1])
    other = make.make_group(make.every_aggregate([hours(2)])[:1])
    with pytest.raises(DataError, match="manifest cannot be read"):
        load_tiles(tmp_path, group, 0, 1)
    run_batch(tmp_path, group, [], 0, HOUR, 1)
    assert load_tiles(tmp_path, group, 0, 1).num_rows == 0
    with pytest.raises(DataError, match="not as it was in run"):
        load_tiles(tmp_path, other, 0, 1)
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "status": "running"}))
    with pytest.raises(DataError, match="is running, not complete"):
        load_tiles(tmp_path, group, 0, 1)
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != "tiles"}))
    with pytest.raises(DataError, match="kept no tiles"):
        batch_run_end(tmp_path)


@settings(max_examples=examples(25))
@given(data=st.data())
def test_tiles_are_merged_as_they_come(data: Any) -> None:
    """However few bytes may wait for the others, the tiles are those of one merge, to the byte."""
    group = data.draw(make.groups())
    log = data.draw(make.events(group, 20))
    parts = [to_ipc(tile(part, group)) for part in make.to_batches(log, group.source, [3])]
    window = WindowRows(group, slice_us(group, 1), 0, 1, "", "")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipelines.batch.steps.MERGED_BYTES", data.draw(st.sampled_from([0, 1000, 100_000])))
        assert to_ipc(window.merged(parts)) == to_ipc(merge([from_ipc(part) for part in parts], group))
