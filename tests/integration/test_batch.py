"""``tandem batch`` over real flights: the oracle's rows bit for bit, however the work is split, and runs that repeat exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import run_batch
from tests import line_figures
from tests.applied import apply_run
from tests.integration.flights import (
    END,
    NOW,
    START,
    World,
    all_feature_rows,
    feature_rows,
    log_events,
    make_world,
    of_keys,
    offline_rows,
    us,
)
from tests.oracle import rows as oracle_rows
from tests.oracle.compare import differences
from transforms.definitions import CREATED, FINGERPRINT
from transforms.errors import ConfigError, GraphError

GROUPS = ["origin_traffic", "carrier_traffic", "route_arrivals", "aircraft", "origin_weather"]
SAMPLE = {"origin_traffic": 1, "carrier_traffic": 3, "route_arrivals": 12, "aircraft": 40, "origin_weather": 3}
"""Entities per group that the oracle computes: the busiest, the rarest and some between."""


@pytest.fixture(scope="module")
def full(logs, tmp_path_factory):
    """The repository as it is, and a run of it that analyzed."""
    world = make_world(tmp_path_factory.mktemp("full"), logs, light=False)
    return world, world.run()


@pytest.fixture(scope="module")
def plain(logs, tmp_path_factory):
    """The light repository and a run of it."""
    world = make_world(tmp_path_factory.mktemp("plain"), logs)
    return world, world.run()


def sample(events, group, size):
    counts = Counter(tuple(e[k] for k in group.entity.keys) for e in events)
    ranked = [k for k, _ in sorted(counts.items(), key=lambda item: (item[1], item[0]))]
    places = np.unique(np.linspace(0, len(ranked) - 1, size).astype(int)) if size > 1 else [len(ranked) - 1]
    return [ranked[i] for i in places]


@pytest.mark.parametrize("name", GROUPS)
def test_rows_of_real_flights_equal_the_oracle(full, logs, name):
    world, result = full
    group = world.repo().groups[name]
    events = log_events(logs, group.source.name)
    keys = sample(events, group, SAMPLE[name])
    want = oracle_rows(of_keys(events, group, keys), group, us(START), us(END))
    got = of_keys(feature_rows(world.data, group, result.run.id), group, keys)
    assert len(want) > 20
    assert differences(got, want) == []


def test_rows_just_after_the_start_hold_what_happened_before_it(full):
    world, result = full
    group = world.repo().groups["origin_traffic"]
    rows = feature_rows(world.data, group, result.run.id)
    early = [r for r in rows if r["event_timestamp"] <= us(START + timedelta(hours=1)) and r["origin"] == "EWR"]
    assert early and all(r["count_24h"] > 200 for r in early)
    assert min(r["event_timestamp"] for r in rows) > us(START) + group.delay_us
    assert max(r["event_timestamp"] for r in rows) <= us(END) + group.delay_us


def test_every_group_of_the_repository_is_compared(full):
    assert sorted(full[0].repo().groups) == sorted(GROUPS)


def test_offline_rows_bear_graph_outputs_fingerprint_and_creation(full):
    world, result = full
    manifest = result.run.manifest
    for name, group in world.repo().groups.items():
        table = offline_rows(world.data, group, result.run.id)
        head = json.loads((world.data / "graphs" / name / manifest["fingerprints"][name] / "tandem.json").read_text())
        outputs = [row[0] for row in head["outputs"]]
        assert table.schema.names == [*group.row_schema.names, *outputs, FINGERPRINT, CREATED]
        assert outputs
        assert pc.unique(table[FINGERPRINT]).to_pylist() == [manifest["fingerprints"][name]]
        assert pc.unique(table[CREATED]).to_pylist() == [NOW]
        keys = table.select([*group.entity.keys, "event_timestamp"]).to_pylist()
        assert len({tuple(k.values()) for k in keys}) == table.num_rows == manifest["rows"][name]


def test_the_same_run_again_is_the_run_there_is(full):
    world, result = full
    before = (result.run.folder / "manifest.json").read_bytes()
    again = world.run(now=NOW + timedelta(hours=1))
    assert again.reused and again.run.id == result.run.id
    assert (result.run.folder / "manifest.json").read_bytes() == before
    assert all(ids == [result.run.id] for ids in world.visible().values())


def test_anew_and_pinned_runs_repeat_every_bit(full):
    world, result = full
    repo = world.repo()
    anew = world.run(now=NOW + timedelta(hours=1), rerun=True)
    assert not anew.reused and anew.run.id != result.run.id
    assert anew.run.manifest["fingerprints"] == result.run.manifest["fingerprints"]
    assert apply_run(repo, anew.run) == result.run.manifest["fingerprints"]
    pinned = world.run(now=NOW + timedelta(hours=2), pinned=True)
    assert pinned.run.id not in (anew.run.id, result.run.id)
    assert pinned.run.manifest["fingerprints"] == result.run.manifest["fingerprints"]
    for group in repo.groups.values():
        first, second, third = (bits(offline_rows(world.data, group, r.run.id).drop([CREATED])) for r in (result, anew, pinned))
        assert first == second == third
    assert all(len(ids) == 3 for ids in world.visible().values())
    # A group that means something else since then: its rows must not bear the old graph's fingerprint.
    carriers = repo.groups["carrier_traffic"]
    carriers = dataclasses.replace(carriers, source=dataclasses.replace(carriers.source, out_of_orderness=timedelta(minutes=2)))
    with pytest.raises(GraphError, match=r"'carrier_traffic' was redefined after its graph [0-9a-f]{12} was applied; run 'tandem batch'"):
        run_batch(dataclasses.replace(repo, groups={"carrier_traffic": carriers}), START, END, now=NOW, pinned=True)


def bits(table: pa.Table) -> bytes:
    """The table as bytes: equal exactly for equal schemas and values, to the bit."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pa.concat_tables([table]).combine_chunks())
    return hashlib.sha256(sink.getvalue()).digest()


def test_pinned_needs_an_applied_graph(plain):
    with pytest.raises(GraphError, match=r"origin_traffic.*no applied graph; run 'tandem batch' without --pinned"):
        plain[0].run(pinned=True)


@pytest.mark.parametrize(("shards", "days"), [(1, 1), (5, 1), (5, 30)])
def test_shards_and_slices_change_no_bit(plain, logs, tmp_path, shards, days):
    world = make_world(tmp_path, logs)
    world.configure(shards=shards, slice_days=days)
    result = world.run()
    assert all_feature_rows(world, result.run.id) == all_feature_rows(plain[0], plain[1].run.id)
    assert result.run.manifest["rows"] == plain[1].run.manifest["rows"]


def test_light_rows_are_the_rows_of_the_full_repository(plain, full):
    assert all_feature_rows(*_at(plain)) == all_feature_rows(*_at(full))


def _at(pair) -> tuple[World, str]:
    return pair[0], pair[1].run.id


def test_shuffled_and_split_files_change_no_bit(plain, logs, tmp_path):
    world, rng = make_world(tmp_path, logs), np.random.default_rng(7)
    for path in sorted((world.data / "events").rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        table = table.take(pa.array(rng.permutation(table.num_rows)))
        cuts = sorted(rng.integers(0, table.num_rows, 3).tolist())
        path.unlink()
        for i, (a, b) in enumerate(zip([0, *cuts], [*cuts, table.num_rows], strict=True)):
            pq.write_table(table.slice(a, b - a), path.with_name(f"part-{9 - i}.parquet"), row_group_size=int(rng.integers(1, 200)))
    result = world.run()
    assert all_feature_rows(world, result.run.id) == all_feature_rows(*_at(plain))


def test_a_range_in_two_runs_is_the_range_in_one(plain, logs, tmp_path):
    world = make_world(tmp_path, logs)
    middle = START + timedelta(hours=31, minutes=7)
    first, second = world.run(END - (END - START), middle), world.run(middle, END)
    whole = all_feature_rows(*_at(plain))
    for name, group in world.repo().groups.items():
        halves = feature_rows(world.data, group, first.run.id) + feature_rows(world.data, group, second.run.id)
        assert sorted(halves, key=str) == sorted(whole[name], key=str)


def test_the_manifest_says_what_the_rows_are_made_of(plain):
    world, result = plain
    manifest = json.loads((result.run.folder / "manifest.json").read_text())
    assert manifest["id"] == result.run.folder.name
    assert manifest["status"] == "complete"
    assert manifest["range"] == [START.isoformat(), END.isoformat()]
    files = {f["file"]: f for fs in manifest["inputs"].values() for f in fs}
    assert set(manifest["inputs"]) == {"departures", "arrivals", "weather"}
    assert "events/departures/date=2013-01-06/part-0.parquet" in files
    for name, f in files.items():
        path = world.data / name
        assert (f["size"], f["sha256"]) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert not any("date=2013-01-08" in name for name in files)  # after the end: not read
    for name, group in world.repo().groups.items():
        assert manifest["definitions"][name] == json.loads(json.dumps(group.canonical()))
        assert len(manifest["fingerprints"][name]) == 64
        assert manifest["rows"][name] == len(feature_rows(world.data, group, result.run.id))
    assert manifest["rejected"] == {}
    assert manifest["events"]["departures"] == sum(pq.ParquetFile(world.data / f).metadata.num_rows for f in files if "departures" in f)
    assert len(manifest["code"]["sha256"]) == 64
    assert {"python", "apache-beam", "tensorflow-transform", "pyarrow", "numpy"} <= set(manifest["versions"])
    assert manifest["settings"]["batch"]["shards"] == 2 and manifest["runner"] == "DirectRunner"
    assert not list(result.run.folder.rglob(".*.parquet*")) and not (result.run.folder / "rows").exists()


def test_other_inputs_are_another_run(plain, logs, tmp_path):
    world = make_world(tmp_path, logs)
    first = world.run()
    path = world.data / "events" / "departures" / "date=2013-01-06" / "part-0.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(1), path)
    second = world.run()
    assert not second.reused and second.run.id != first.run.id
    assert second.run.manifest["events"]["departures"] == first.run.manifest["events"]["departures"] - 1


def test_ranges_without_sense_are_one_line(plain):
    with pytest.raises(ConfigError, match="the end must be after the start"):
        plain[0].run(END, START)
    with pytest.raises(ConfigError, match="no event files between 2014-01-01 and 2014-01-02"):
        plain[0].run(START.replace(year=2014, day=1), START.replace(year=2014, day=2))


def test_both_lines_of_packages_give_the_same_values(full):
    """The aggregates to the bit; transformed values too where the graph has the same fingerprint, else to a float's rounding."""
    world, result = full
    want = json.loads(line_figures.FILE.read_text())
    have = json.loads(json.dumps(line_figures.figures(world, result.run)))
    assert {n: (g["rows"], g["aggregates"]) for n, g in have.items()} == {n: (g["rows"], g["aggregates"]) for n, g in want.items()}
    for name, group in have.items():
        apart = line_figures.extent(group["transformed"], want[name]["transformed"])
        if group["graph"] == want[name]["graph"]:
            assert apart == {}, f"{name}: graphs of one fingerprint gave different bits"
        else:
            assert all(v <= 1e-5 for v in apart.values()), f"{name}: the graphs are different, and so far apart: {apart}"


def test_figures_tell_each_bit_and_how_far_values_are_apart():
    def kept(*values: float) -> dict[str, object]:
        return {"sha256": line_figures.hashed([("x", list(values))]), "some": list(values)}

    near = float(np.nextafter(1.0, 2.0))
    assert line_figures.extent({"x": kept(1.0, 2.0)}, {"x": kept(1.0, 2.0)}) == {}
    assert 0 < line_figures.extent({"x": kept(1.0, 2.0)}, {"x": kept(near, 2.0)})["x"] < 1e-15
    assert line_figures.hashed([("x", [0.0])]) != line_figures.hashed([("x", [-0.0])])
    assert line_figures.extent({"x": kept(1.0)}, {"y": kept(1.0)}) == {"x": float("inf"), "y": float("inf")}
