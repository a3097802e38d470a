"""A start goes on from the tiles that the stream saved: exact as if it had never stopped, without the records that its windows hold."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.broker import OffsetGone
from pipelines.streaming.stages import tile_saver
from pipelines.streaming.state import tile_store
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.tile_store import TileStore
from tests.examples import examples
from tests.integration.saved_world import Run, named, path_of, rows_of, world_of
from tests.integration.stages_world import HOUR, T0, World, payment

MINUTE = 60_000_000
PARTITIONS = 3


def some(n: int, seed: int = 0, first: int = 0, hours: float = 6.0) -> list[tuple[int, bytes]]:
    """(partition, record) of payments over some hours, out of order within a minute, some late and some too late."""
    r = random.Random(seed)
    out = []
    for i in range(first, first + n):
        at = T0 + round(i * hours * HOUR / 300) + r.randint(-50_000_000, 0)
        at -= r.choice([0, 0, 0, 0, 0, 0, 0, 30 * MINUTE, 3 * HOUR])
        out.append((r.randrange(PARTITIONS), payment(i, at, f"a{r.randrange(7)}")))
    return out


def send(world: World, records: list[tuple[int, bytes]]) -> None:
    for partition, record in records:
        world.send([record], partition)


def reference(tmp_path: Path, records: list[tuple[int, bytes]]) -> list[dict[str, Any]]:
    """The rows of a stream that never stopped."""
    world = world_of(tmp_path / "reference")
    run = Run(world)
    send(world, records)
    return rows_of(world, [run.read()])


def forget_all_read(world: World) -> None:
    """Retention takes every record that some life has read."""
    for point in world.control.load_checkpoints().values():
        for n, at in point["partitions"]["payments"].items():
            world.broker.truncate("payments", int(n), at["next"])


@pytest.mark.parametrize("shards", [1, 3])
def test_a_start_needs_no_record_that_was_read(tmp_path: Path, shards: int) -> None:
    world, records, runs = world_of(tmp_path / "world", shards=shards), some(300), []
    for first in range(0, 300, 60):
        send(world, records[first : first + 60])
        runs.append(Run(world, every=1e6).read())
        assert ("with its windows" in runs[-1].spec.start.why) == bool(first)
        runs[-1].stop()
        forget_all_read(world)
    starts = [line for line in world.control.said()[0] if "reading from offset" in line]
    assert len(starts) == 5 * PARTITIONS
    last = Run(world)
    assert {n: offset for n, (offset, _) in last.spec.start.offsets["payments"].items()} == {
        n: world.broker.open_reader().end("payments", n) for n in range(PARTITIONS)
    }
    assert rows_of(world, runs) == reference(tmp_path, records)


# ------------------------------------------------------------------------------------------------------------------- damage


def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, list[Run], list[tuple[int, bytes]]]:
    """A stream that has two snapshots, each with deltas behind it, was stopped, and has more to read."""
    monkeypatch.setattr(tile_saver, "LEAST_BYTES", 0)
    world, records = world_of(tmp_path / "world", PARTITIONS), some(200)
    run = Run(world)
    run.fold.saver._pool = AtOnce()  # type: ignore[assignment]
    for first in range(0, 160, 20):
        send(world, records[first : first + 20])
        run.read()
    while [file.kind for file in named(world)][-1] != "delta":  # the newest is one after a snapshot
        world.send([b"{}"])
        run.read()
    run.stop()
    send(world, records[160:])
    kinds = [file.kind for file in named(world)]
    assert kinds.count("snapshot") + kinds.count("base") == 2 and kinds[-1] == "delta"
    return world, [run], records


def start_of(world: World, runs: list[Run]) -> tuple[int, list[str]]:
    """The start after that: at which record it reads, of all partitions together, and what it says of the files."""
    runs.append(Run(world))
    offsets = runs[-1].spec.start.offsets["payments"]
    lines = [line for line in world.control.said()[0] if "saved tiles" in line]
    return sum(offset for offset, _ in offsets.values()), lines


@pytest.mark.parametrize("which", ["last delta", "last snapshot", "all"])
def test_what_is_damaged_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    world, runs, records = saved(tmp_path, monkeypatch)
    files = named(world)
    whole = sum(at["next"] for at in world.control.load_checkpoints()[0]["partitions"]["payments"].values())
    snapshot = max(i for i, file in enumerate(files) if file.kind == "snapshot")
    for file in {"last delta": files[-1:], "last snapshot": [files[snapshot]], "all": files}[which]:
        path = path_of(world, file)
        path.write_bytes(path.read_bytes()[:-7])
    at, lines = start_of(world, runs)
    assert lines and all("are damaged: their bytes are not those that the checkpoint names" in line for line in lines)
    if which == "all":  # the log is read again, and holds it all
        assert lines[-1].endswith("reading the topics again") and at < whole and not runs[-1].spec.start.saved
    else:  # a snapshot is done without altogether: the one before it and the deltas since hold the same
        assert lines[-1].endswith("continuing from the previous ones") and (at == whole if which == "last snapshot" else at < whole)
    runs[-1].read()
    assert rows_of(world, runs) == reference(tmp_path, records)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lost", "cannot be read (No such file or directory)"),
        ("older format", "were written by another version of Tandem (format 0)"),
        ("another shard", "are those of shard 1 of 2, not of 0 of 1"),
        ("other definitions", "are of other definitions"),
        ("another program", "are no such file, though the checkpoint names it"),
    ],
)
def test_files_that_are_whole_and_not_this_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str) -> None:
    """Named by the checkpoint, with right hashes: a folder that was put back in parts, an older or a newer Tandem."""
    world, runs, records = saved(tmp_path, monkeypatch)
    store, files = TileStore(world.folder), named(world)
    head, tiles = store.get(0, files[-1])
    if change == "older format":
        monkeypatch.setattr(tile_store, "FORMAT", 0)
    if change == "another program":
        monkeypatch.setattr(tile_store, "_frames", lambda head, tiles: iter([b"PAR1 and so on"]))
    head |= {"shard": 1, "shards": 2} if change == "another shard" else {}
    head |= {"schemas": {"accounts": pa.schema([("x", pa.int64())]).serialize().to_pybytes()}} if change == "other definitions" else {}
    made = store.put(0, files[-1].kind, head, tiles)
    monkeypatch.undo()
    if change == "lost":
        store.delete(0, made.name)
    world.control.rename_tiles(0, {files[-1].name: made})
    _, lines = start_of(world, runs)
    assert len(lines) == 1 and said in lines[0], lines
    runs[-1].read()
    assert rows_of(world, runs) == reference(tmp_path, records)


def test_a_start_without_the_log_and_with_damaged_tiles_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, runs, _ = saved(tmp_path, monkeypatch)
    forget_all_read(world)
    for file in named(world):
        path_of(world, file).unlink()
    start_of(world, runs)
    with pytest.raises(OffsetGone, match="start over from a batch run"):
        runs[-1].read()


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, records = world_of(tmp_path / "world", PARTITIONS), some(120)
    runs = [Run(world)]
    send(world, records[:40])
    runs[-1].read().wait()
    runs[-1].poll_once(0)

    def full(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tile_store, "replaced", full)
    send(world, records[40:80])
    runs[-1].read().wait()
    send(world, [(0, b"{}")])
    runs[-1].read()
    line = "tiles are not saved now, and a start would read more of the topics again: saved tiles"
    assert len([text for text in world.control.said()[0] if line in text]) == 1
    monkeypatch.undo()
    runs[-1].stop()
    assert [file.kind for file in named(world)][-1] == "base"
    runs.append(Run(world))
    assert runs[-1].spec.start.saved
    send(world, records[80:])
    runs[-1].read()
    assert rows_of(world, runs) == reference(tmp_path, records)


# -------------------------------------------------------------------------------------------------------------- any history


def damaged(path: Path, r: random.Random) -> None:
    """A file that is not what it was: torn, changed in a byte, lost, another one, empty."""
    data, kind = bytearray(path.read_bytes()), r.randrange(5)
    if not data:  # it was emptied before
        return
    if kind == 0:
        del data[r.randrange(len(data)) :]
    elif kind == 1:
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)
    elif kind == 2:
        path.unlink()
        return
    elif kind == 3:
        data = bytearray(r.choice([p for p in path.parent.iterdir() if p.is_file()]).read_bytes() + b"more")
    else:
        data.clear()
    path.write_bytes(data)


@given(st.integers(0, 2**32), st.sampled_from([1, 1, 2, 3]), st.booleans())
@settings(max_examples=examples(10))
def test_snapshots_and_deltas_give_the_state_of_any_history(tmp_path_factory: Any, seed: int, shards: int, damage: bool) -> None:
    """Stops, kills, an engine that goes back, files that are damaged: the rows are those of a stream that never stopped. Where no file
    is, nothing is read again but what came after the last one that a checkpoint names: the topic forgets the rest."""
    r, folder = random.Random(seed), tmp_path_factory.mktemp("history")
    world, sent, records = world_of(folder / "world", shards=shards), 0, some(150, seed)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(tile_saver, "MOST_DELTAS", r.choice([1, 3, 32]))
        changed.setattr(tile_saver, "LEAST_BYTES", r.choice([0, 4_000, 4 << 20]))
        changed.setattr(tile_store, "ROWS", r.choice([3, 100_000]))
        runs = [Run(world, every=r.choice([0.0, 1e6]))]
        state = runs[-1].state()
        while sent < len(records):
            run, what = runs[-1], r.random()
            if what < 0.35:
                n = r.randint(1, 40)
                send(world, records[sent : sent + n])
                sent += n
            elif what < 0.75:
                run.read(r.choice([None, *range(PARTITIONS)]))
                if r.random() < 0.4:
                    run.wait()
            elif what < 0.8:
                state = run.state()
            elif what < 0.85:
                run.set_back(state)
            else:
                if r.random() < 0.4:
                    run.stop()
                run.wait()
                if damage and r.random() < 0.7:
                    files = list(world.folder.glob("tiles/*/*.tiles"))
                    for path in r.sample(files, min(len(files), r.randint(1, 2))):
                        damaged(path, r)
                runs.append(Run(world, every=r.choice([0.0, 1e6])))
                state = runs[-1].state()
                if not damage:
                    for n, (offset, _) in runs[-1].spec.start.offsets.get("payments", {}).items():
                        world.broker.truncate("payments", n, offset)
        runs[-1].read()
        assert rows_of(world, runs) == reference(folder, records)
        assert len(list(world.folder.glob("tiles/*/*"))) < 60 * shards
    for run in runs:  # what is being written still
        run.wait()
    shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- a crash at each step


class AtOnce:
    """What is done in the background is done before it is returned from, and taken over later all the same."""

    def submit(self, call: Any, *args: Any) -> Future[Any]:
        """Do it."""
        out: Future[Any] = Future()
        out.set_result(call(*args))
        return out

    def shutdown(self, **how: Any) -> None:
        """Nothing to end."""


@pytest.mark.parametrize("shards", [1, 2])
def test_a_crash_at_each_step_of_saving_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """What a kill leaves is the folder as it is: it is copied before and after each file that is begun, named, written over and deleted,
    and a stream goes on from each copy, with no record of before the one that it asks for."""
    world, records = world_of(tmp_path / "world", shards=shards), some(160)
    copies: list[tuple[str, Path]] = []
    monkeypatch.setattr(tile_saver, "MOST_DELTAS", 2)
    monkeypatch.setattr(tile_saver, "LEAST_BYTES", 3_000)

    def keep(step: str) -> None:
        copies.append((step, tmp_path / "copies" / f"{len(copies):04d}"))
        shutil.copytree(world.folder, copies[-1][1])

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            keep(f"before {name}")
            out = real(*args, **more)
            keep(f"after {name}")
            return out

        monkeypatch.setattr(owner, name, call)

    real_frames = tile_store._frames

    def frames(*args: Any) -> Any:
        for frame in real_frames(*args):
            yield frame
            keep("in the middle of a file")

    monkeypatch.setattr(tile_store, "_frames", frames)
    around(TileStore, "put")
    around(TileStore, "clean")
    around(JobState, "save_checkpoint")
    run = Run(world)
    run.fold.saver._pool = AtOnce()  # type: ignore[assignment]
    for first in range(0, 120, 20):
        send(world, records[first : first + 20])
        run.read()
    monkeypatch.undo()
    assert {step for step, _ in copies} > {"in the middle of a file", "before put", "after clean", "before save_checkpoint"}
    send(world, records[120:])
    expected = reference(tmp_path, records)
    for step, folder in random.Random(shards).sample(copies, 8):
        again = World(folder, world.broker, world.group, world.stream)
        life = Run(again)
        assert not [line for line in again.control.said()[0] if "damaged" in line or "cannot be read" in line], step
        life.read()
        # What was delivered before the crash, and possibly after this copy was taken: the same rows, or later revisions of them.
        assert rows_of(world, [run, life]) == expected, step
