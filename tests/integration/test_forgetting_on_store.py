"""``tandem erase`` and ``tandem vacuum`` where the data lies on an object store: by a search over the store's own bytes, and with a machine
that is killed at each step."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting.erase import erase
from pipelines.forgetting.subject import Subject
from pipelines.forgetting.vacuum import vacuum
from pipelines.lake import layout, shared
from pipelines.lake.graphs import apply_graph
from pipelines.lake.runs import RunStore
from pipelines.registry.alias_file import change
from pipelines.streaming.state.row_log import RowLog, read_rows
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from serving.object_store import trees
from serving.object_store.cache import cache_of
from serving.object_store.following import rows_here
from tests.integration.stream_world import StreamWorld, events, make_stream_world
from tests.integration.test_erase import GONE, NAME, STAYS, renamed, search, table
from tests.network import URL, machines, network
from transforms.errors import DataError, TandemError

pytestmark = pytest.mark.timeout(900)
SUBJECT = Subject((("zone", NAME[GONE]),))
NOW = datetime(2024, 5, 1, tzinfo=UTC)
See = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> See:
    """See ``machines``."""
    return machines(tmp_path, monkeypatch)


def make(see: See, folder: Path) -> StreamWorld:
    """A stream that ran on machine ``a``, and all else that a store has, with the subject in each."""
    see("a")
    world = make_stream_world(folder, url=URL)
    log = [renamed(e) for e in events(200)]
    world.produce(log)
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest", given={"parts": "2"}), lambda line: None)["code"] == 0
    data, gone, stays = world.data, NAME[GONE], NAME[STAYS]
    store = network(data)
    store.put("events/trips/a.jsonl", b"".join(e + b"\n" for e in log))
    store.put(f"events/trips/zone={gone}/b.jsonl", b'{"fare": 1.0}\n')
    store.put("work/batch-0/part", b"rows of " + gone.encode())
    store.put("offline/zones/run=killed/0123-p.tmp", b"what no list names " + gone.encode())
    run = RunStore(data).begin("batch", {"key": 1}, NOW)
    with run.held():
        table(data / "offline" / "zones" / f"run={run.id}" / "date=2023-11-14" / "p.parquet", zone=[gone, stays], fare=[1.0, 2.0])
        table(data / "offline" / "pairs" / f"run={run.id}" / "date=2023-11-14" / "q.parquet", zone=[stays], fare=[2.0])
        table(run.folder / "dead_letters" / "trips" / "l.parquet", source=["trips"], payload=[b'{"zone": "%s"}' % gone.encode()])
        run.save(fingerprints={"zones": "f" * 64, "pairs": "f" * 64})
        run.save(status="complete")
    table(data / "training" / "set1" / "train" / "part-0.parquet", zone=[gone, stays], label=[0.0, 1.0])
    (data / "training" / "set1" / "manifest.json").write_text(json.dumps({"id": "set1", "inputs": [f"run={run.id}"]}))
    shared.publish(data, data / "training" / "set1")
    answers: dict[str, list[Any]] = {"tandem_request": ["a", "b"], "tandem_row": [0, 0], "tandem_at": [1, 2]}
    table(data / "requests" / "date=2024-01-01" / "r.parquet", **answers, zone=[gone, stays])
    table(data / "labels" / "m" / "part-000000.parquet", **answers, label=[1.0, 0.0])
    shared.send_files(data, ["requests", "labels"])
    return world


def anywhere(see: See, text: str) -> list[str]:
    """Where a text is in the store: in the bytes (and cells) of its objects, and in their keys."""
    store = network(see("a")).folder
    keys = {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()}
    return sorted({*search(store, text), *(key for key in keys if text in key)})


def stays(see: See, world: StreamWorld) -> int:
    """In how many objects the other one is, the same before and after."""
    return len([name for name in anywhere(see, NAME[STAYS]) if "checkpoints" not in name])


def test_nothing_of_a_subject_is_left_in_the_store_nor_in_copies_of_other_machines(machine: See, tmp_path: Path) -> None:
    world = make(machine, tmp_path / "world")
    before = stays(machine, world)
    machine("b")
    for group in ("zones", "pairs"):
        shared.have(world.data, next(iter(_rows_folders(world.data, group))))
    shared.have_everything(world.data, ["events/trips"])
    read_rows(world.stream, "zones")
    copies = search(world.data, NAME[GONE])
    assert {name.split("/")[0] for name in copies} == {"events", "offline", "requests", "runs", "stream", "training", ".objects"}

    machine("a")
    dry = erase(world.repo(), SUBJECT, dry_run=True)
    assert anywhere(machine, NAME[GONE]) and search(world.data, NAME[GONE])
    done = erase(world.repo(), SUBJECT)
    assert done.remains == [] == dry.remains
    assert {place for place in dry.found if not place.startswith("online")} <= set(done.found)
    assert anywhere(machine, NAME[GONE]) == [] and search(world.data, NAME[GONE]) == []
    assert {"stream/main", "events/trips", "offline/zones", "training/set1", "requests", "labels", "runs"} <= set(done.found)
    assert any("in a bucket with versioning" in note for note in done.notes)
    assert stays(machine, world) == before
    assert RunStore(world.data).find("batch").manifest["erased"][0]["subject"] == SUBJECT.digest

    machine("b")
    world.repo()  # any command
    assert search(world.data, NAME[GONE]) == []
    rows = read_rows(world.stream, "zones")
    assert NAME[STAYS] in rows.column("zone").to_pylist() and NAME[GONE] not in rows.column("zone").to_pylist()
    shared.have_everything(world.data, ["events/trips"])
    assert search(world.data, NAME[GONE]) == [] and search(world.data, NAME[STAYS])
    assert RunStore(world.data).find("batch").manifest["erased"]
    assert erase(world.repo(), SUBJECT).found == {}, "all is as it was; nothing is found twice"

    more = [renamed(e) for e in events(100, 1, start=6 * 3600, seconds=3600)]
    world.produce([e for e in more if NAME[GONE].encode() not in e])
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest", given={"parts": "2"}), lambda line: None)["code"] == 0
    assert anywhere(machine, NAME[GONE]) == []


def _rows_folders(data: Path, group: str) -> Iterator[Path]:
    for name in shared.have_names(data, f"offline/{group}"):
        yield data / "offline" / group / name


@contextmanager
def as_it_was(tmp_path: Path) -> Iterator[None]:
    """All machines and the store are set back at the end."""
    kept = tmp_path / "kept"
    if not kept.exists():
        shutil.copytree(tmp_path, kept, ignore=shutil.ignore_patterns("kept"), symlinks=True)
    yield
    for path in tmp_path.iterdir():
        if path != kept:
            shutil.rmtree(path)
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True, symlinks=True)


def test_a_machine_killed_at_each_step_of_an_erasure_leaves_nothing_that_the_next_one_does_not_finish(machine: See, tmp_path: Path) -> None:
    """The network is cut at each write in turn. Then one goes on from the store alone; another has copies."""
    world = make(machine, tmp_path / "world")
    shutil.rmtree(machine("b"), ignore_errors=True)
    machine("b")
    shared.have_everything(world.data, ["events/trips"])
    for step in range(1, 200, 3):
        with as_it_was(tmp_path):
            machine("a")
            store = network(world.data)
            store.passes = step
            try:
                erase(world.repo(), SUBJECT)
                cut = False
            except TandemError:
                cut = True
            store.passes = None
            machine("b")
            world.repo()
            shared.have_everything(world.data, ["events/trips"])
            read_rows(world.stream, "zones")
            machine("a" if step % 2 else "c")
            for key in [h.key for h in store.list("leases/")]:  # a minute later
                store.put(key, b'{"owner": null}')
            done = erase(world.repo(), SUBJECT)
            assert done.remains == [] and anywhere(machine, NAME[GONE]) == [], step
            labels = pq.ParquetFile(store.folder / "objects/labels/m/part-000000.parquet").read()
            assert labels["tandem_request"].to_pylist() == ["b"], step
            machine("b")
            world.repo()
            assert search(world.data, NAME[GONE]) == [], step
            shared.have_everything(world.data, ["events/trips"])
            rows = read_rows(world.stream, "zones").column("zone").to_pylist()
            assert NAME[STAYS] in rows and NAME[GONE] not in rows, step
        if not cut:
            break
    assert not cut and step > 30


def test_what_is_at_work_is_not_changed(machine: See, tmp_path: Path) -> None:
    world = make(machine, tmp_path / "world")
    store = network(world.data)
    store.put("leases/stream/main.json", b'{"owner": "x", "host": "another-machine", "pid": 1, "seconds": 60}')
    with pytest.raises(DataError, match="the stream 'main' is at work on another machine"):
        erase(world.repo(), SUBJECT)
    store.put("leases/stream/main.json", b'{"owner": null}')
    run = RunStore(machine("b")).begin("batch", {"key": 2}, NOW)
    with run.held():
        machine("a")
        with pytest.raises(DataError, match=f"batch run {run.id} is running"):
            erase(world.repo(), SUBJECT)
    assert anywhere(machine, NAME[GONE])


def test_what_a_lost_machine_left_in_parts(machine: See, tmp_path: Path) -> None:
    """The parts of a segment whose machine is gone are erased like any file."""
    world = make(machine, tmp_path / "world")
    folder = world.stream
    log = RowLog(folder)
    some = read_rows(folder, "zones")
    of_it = some.filter(pa.compute.equal(some.column("zone"), NAME[GONE])).combine_chunks().to_batches()[0]
    other = some.filter(pa.compute.equal(some.column("zone"), NAME[STAYS])).combine_chunks().to_batches()[0]
    for batch in (of_it, other):
        log.append("rows/zones", 0, batch)
        log.sync(0)
    parts = [h.key for h in network(world.data).list("stream/main/rows/") if h.key.endswith(".part")]
    assert len(parts) == 2
    machine("c")
    rows = read_rows(world.stream, "zones").num_rows
    mine = [each for each in read_rows(world.stream, "zones").column("zone").to_pylist() if each == NAME[GONE]]
    dry = erase(world.repo(), SUBJECT, dry_run=True)
    done = erase(world.repo(), SUBJECT)
    assert done.remains == [] == dry.remains
    assert dry.found.items() <= done.found.items(), "saved tiles, too, of which this machine had no copies"
    assert anywhere(machine, NAME[GONE]) == []
    machine("d")
    assert read_rows(world.stream, "zones").num_rows == rows - len(mine)


# ------------------------------------------------------------------------------------------------------------------------------- vacuum


def lake(see: See) -> Any:
    """A store with an old run of before and one of the applied graph, a training set of each, a model's versions, requests, and a stream's
    segments; the repository."""
    data = see("a")
    settings = SimpleNamespace(request_log=lambda path: None)
    ids = []
    for n in (1, 2):
        run = RunStore(data).begin("batch", {"key": n}, NOW)
        with run.held():
            put(layout.graph(data, "g", str(n) * 64) / "tandem.json")
            put(data / "offline" / "g" / f"run={run.id}" / "date=2024-01-01" / "p.parquet")
            put(run.folder / "tiles" / "g" / "t.parquet")
            run.save(status="complete", fingerprints={"g": str(n) * 64}, range=["2024-01-01T00:00:00+00:00", "2024-02-01T00:00:00+00:00"])
        put(data / "training" / f"set{n}" / "manifest.json", json.dumps({"inputs": [f"run={run.id}"]}))
        put(data / "training" / f"set{n}" / "train" / "part-0.parquet")
        put(data / "models" / "m" / str(n) / "tandem.json", json.dumps({"training_set": f"set{n}"}))
        for folder in (data / "training" / f"set{n}", data / "models" / "m" / str(n)):
            shared.publish(data, folder)
        ids.append(run.id)
    apply_graph(data, "g", "2" * 64)
    put(data / "graphs" / "g" / "definitions" / f"{'d' * 64}.json")
    shared.send_file(data, data / "graphs" / "g" / "definitions" / f"{'d' * 64}.json")  # what graphs are made of: in no list
    network(data).put(KILLED, b"of a writer that was killed")
    change(data / "models" / "m", "promote", lambda before: (2, None), NOW)
    for day in ("2024-01-01", "2030-01-01"):
        put(data / "requests" / f"date={day}" / "r.parquet")
    put(data / "requests" / "shadow" / "date=2024-01-01" / "r.parquet")
    shared.send_files(data, ["requests"])
    network(data).put("stream/main/rows/g/a.parquet", SEGMENT)
    network(data).put("stream/main/checkpoints/shard-0000.json", json.dumps({"attempt": "x", "record": None}).encode())
    return SimpleNamespace(path=data, data=data, settings=settings, ids=ids, groups={})


def segment() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}), out)
    return out.getvalue()


SEGMENT = segment()


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


KILLED = f"offline/g/run=killed/date=2024-01-01/{'0' * 16}-p.parquet"
LATER = datetime(2029, 6, 1, tzinfo=UTC)
TAKEN = {
    "requests/date=2024-01-01",
    "requests/shadow/date=2024-01-01",
    "set1",
    "m/1",
    "stream/main/rows/g/a.parquet",
    KILLED,
}


def test_vacuum_takes_from_the_store_what_it_takes_from_a_folder(machine: See) -> None:
    repo = lake(machine)
    there = machine("b")
    shared.have_everything(there, [])
    put(there / "stream" / "main" / "rows" / "g" / "a.parquet", "rows")
    repo.data = machine("c")
    shared.open_data(repo.data)
    old, kept = repo.ids
    dry = vacuum(repo, LATER, timedelta(days=30), 0, dry_run=True)
    assert {each["name"] for each in dry} == {*TAKEN, old} and all(each["bytes"] > 0 for each in dry)
    assert not (repo.data / "training").exists(), "nothing is fetched for it"
    before = {h.key for h in network(repo.data).list()}
    assert vacuum(repo, LATER, timedelta(days=30), 0) == dry
    left = {h.key for h in network(repo.data).list()}
    gone = before - left
    assert not {key for key in left if old in key or "set1" in key or "/m/1" in key or "a.parquet" in key or "2024-01-01/r" in key}
    assert not {key for key in gone if kept in key or "set2" in key or "/m/2" in key or "2030" in key or "graphs/" in key}
    assert vacuum(repo, LATER, timedelta(days=30), 0) == []
    there = machine("b")
    assert [run.id for run in RunStore(there).runs()] == [kept]
    assert rows_here(f"{there}/offline/g/run=*/**/*.parquet") == {f"{there}/offline/g/run={kept}"}


def test_a_vacuum_killed_at_each_step_is_finished_by_the_next_one(machine: See, tmp_path: Path) -> None:
    lake(machine)
    for step in range(200):
        with as_it_was(tmp_path):
            data = machine("a")
            repo = SimpleNamespace(path=data, data=data, settings=SimpleNamespace(request_log=lambda path: None), groups={})
            store = network(data)
            store.passes = step
            try:
                vacuum(repo, LATER, timedelta(days=30), 0)  # type: ignore[arg-type]
                cut = False
            except TandemError:
                cut = True
            store.passes = None
            for key in [h.key for h in store.list("leases/")]:  # a minute later
                store.put(key, b'{"owner": null}')
            repo.data = machine("c")
            shared.open_data(repo.data)
            for tree in trees.names(cache_of(repo.data)):  # type: ignore[arg-type]
                assert trees.fetch(cache_of(repo.data), tree), "what is listed is there whole"  # type: ignore[arg-type]
            vacuum(repo, LATER, timedelta(days=30), 0)  # type: ignore[arg-type]
            assert vacuum(repo, LATER, timedelta(days=30), 0) == []  # type: ignore[arg-type]
            left = " ".join(h.key for h in store.list())
            assert not [word for word in ("set1", "/m/1", "2024-01-01/r", "stream/main/rows") if word in left]
        if not cut:
            break
    assert not cut and step > 8
