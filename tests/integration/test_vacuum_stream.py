"""``tandem vacuum`` of the log of a real stream (a broker in memory, Beam's direct runner), in a folder and in an object store: the stream
goes on, restores an online store that came back empty, and ``tandem verify`` says what was vacuumed instead of calling it missing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.feature_store.store import apply, open_store
from pipelines.forgetting.vacuum import vacuum
from pipelines.lake import runs
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import read_late, read_rows
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.integration.stream_world import FEATURES, StreamWorld, events, make_stream_world
from tests.network import URL, machines
from transforms.instants import micros_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LATER = datetime(2090, 1, 1, tzinfo=UTC)
SHORT = FEATURES.replace("days(36500)", "hours(2)")
HOUR = 3600


def run(world: StreamWorld) -> None:
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0


def stored(world: StreamWorld, group: str, names: tuple[str, ...], keys: list[tuple[str, ...]]) -> dict[tuple[str, ...], int | None]:
    """When the stored row of each key is of, whether it has expired or not."""
    store = open_store(world.repo())
    entities = [EntityKey(join_keys=list(names), entity_values=[Value(string_val=v) for v in key]) for key in keys]
    online = store._get_provider().online_store
    found = online.read_rows(store.config, store.get_feature_view(group), entities, ["tandem_revision"])
    return dict(zip(keys, found.event_us, strict=True))


@pytest.fixture(params=["folder", "bucket"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StreamWorld:
    url = None
    if request.param == "bucket":
        machines(tmp_path, monkeypatch)("a")
        url = URL
    return make_stream_world(tmp_path / "world", features=SHORT, url=url)


def test_a_stream_whose_log_was_vacuumed_goes_on_restores_and_is_proven(world: StreamWorld) -> None:
    for step in range(4):  # each start seals what the one before it wrote
        log = events(400, step, start=step * 9 * HOUR, seconds=6 * HOUR)
        late = [json.loads(e) for e in log[50:60]] if step else []
        world.produce([*log[:300], *log[300:]])
        world.produce([json.dumps({**e, "at": e["at"] - 20 * HOUR * 1_000_000}).encode() for e in late])
        run(world)
    group = world.repo().groups["zones"]
    logged = {n: read_rows(world.stream, g).combine_chunks() for n, g in world.repo().groups.items()}
    before, noted = logged["zones"], read_late(world.stream, group.source)
    assert noted.num_rows == 30
    live = runs.begin(world.data, "stream", {"n": "live"}, datetime.now(UTC))
    gone = [each["name"] for each in vacuum(world.repo(), LATER, timedelta(days=1), 0, ("stream",))]
    assert vacuum(world.repo(), LATER, timedelta(days=1), 0, ("stream",)) == []
    live.save(status="complete")
    assert [n for n in gone if "/rows/zones/" in n], "the first windows are long over"
    left, notes = read_rows(world.stream, group), read_late(world.stream, group.source)
    assert 0 < left.num_rows < before.num_rows
    newest = max(micros_of(t.as_py()) for t in before.column("event_timestamp"))
    young = [micros_of(t.as_py()) for t in left.column("event_timestamp") if micros_of(t.as_py()) > newest - 2 * HOUR * 1_000_000]
    assert len(young) == len([t for t in before.column("event_timestamp") if micros_of(t.as_py()) > newest - 2 * HOUR * 1_000_000])
    needed = {p: min(c["partitions"]["trips"][p]["needed"] for c in JobState(world.stream).load_checkpoints().values()) for p in "01"}
    kept = {(r["_partition"], r["_offset"]) for r in notes.to_pylist()}
    assert kept >= {(r["_partition"], r["_offset"]) for r in noted.to_pylist() if r["_offset"] >= needed[str(r["_partition"])]}
    result = run_verify(world.repo(), VerifyOptions())
    assert result.verdict == "proven" and result.problems == [], result.problems
    assert result.groups["zones"]["rows"]["missing"]["vacuumed"] > 0
    # The online store comes back empty: the stream writes the newest row of every key again.
    (world.folder / "data" / "online.db").unlink()
    world.produce(events(40, 9, start=36 * HOUR, seconds=600))
    apply(world.repo(), {n: (world.data / "graphs" / n / "CURRENT").read_text().strip() for n in world.repo().groups})
    run(world)
    assert any("online store lost rows" in line for line in JobState(world.stream).said()[0])
    for name, each in world.repo().groups.items():
        rows = [row for table in (logged[name], read_rows(world.stream, each)) for row in table.to_pylist()]
        newest_of: dict[tuple[str, ...], int] = {}
        for row in rows:
            key = tuple(row[k] for k in each.entity.keys)
            newest_of[key] = max(newest_of.get(key, 0), micros_of(row["event_timestamp"]))
        assert stored(world, name, each.entity.keys, list(newest_of)) == newest_of
    done = CliRunner().invoke(app, ["verify", "--json", "--repo", str(world.path)])
    assert done.exit_code == 0 and json.loads(done.stdout)["verdict"] == "proven", done.output
