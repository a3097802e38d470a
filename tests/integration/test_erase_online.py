"""``tandem erase`` and the online store: what is about a subject goes from it, whether or not any file still names the row's other keys."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from pipelines.feature_store.store import open_store, ordered_store
from pipelines.forgetting.erase import erase
from pipelines.forgetting.subject import Subject
from pipelines.streaming.state.row_log import read_rows
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.stream_world import StreamWorld, events, make_stream_world
from tests.redis_server import RedisServer, redis_server
from tests.waiting import until
from transforms.errors import StoreError

SQLITE = "{type: serving.online_store.sqlite.OrderedSqliteOnlineStore, path: ../data/online.db}"
RIDER = "rider-to-be-forgotten"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One with an append-only file, as that of ``tandem up --redis``."""
    with redis_server(folder=tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> Iterator[StreamWorld]:
    """A stream that ran and whose files are gone: the online store alone knows which trips there were in which zones."""
    on_redis = f'{{type: serving.online_store.redis.OrderedRedisOnlineStore, connection_string: "{redis.connection_string}"}}'
    made = make_stream_world(tmp_path / "world", online_store=SQLITE if request.param == "sqlite" else on_redis)
    log = [json.loads(event) for event in events(400)]
    for event in log[::5]:
        event["trip"] = RIDER
    made.produce([json.dumps(event).encode() for event in log])
    assert run_stream(made.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    shutil.rmtree(made.data / "stream")
    yield made
    if request.param == "redis":
        redis.client.flushall()


def written(redis: RedisServer) -> list[str]:
    """The files of the server that hold the subject."""
    assert redis.folder is not None
    found = []
    for path in redis.folder.rglob("*"):
        with suppress(OSError):  # a folder, or taken away by Redis just now
            found += [path.name] if RIDER.encode() in path.read_bytes() else []
    return found


def rows(world: StreamWorld, view: str, feature: str) -> dict[tuple[str, ...], Any]:
    """Of each entity that there may be: the value of a feature, of those that have a row."""
    store = open_store(world.repo())
    online, table = ordered_store(store), store.get_feature_view(view)
    zones, trips = [f"z{n}" for n in range(8)], [RIDER, *(f"t{n}" for n in range(20))]
    keys = [(zone,) for zone in zones] if view == "zones" else [(trip, zone) for trip in trips for zone in zones]
    names = ["zone"] if view == "zones" else ["trip", "zone"]
    protos = [EntityKey(join_keys=names, entity_values=[Value(string_val=part) for part in key]) for key in keys]
    found = online.read_rows(store.config, table, protos, [feature])
    return {key: _value(found.values[feature][i]) for i, key in enumerate(keys) if found.event_us[i] is not None}


def _value(value: Value) -> Any:
    slot = value.WhichOneof("val")
    return None if slot is None else getattr(value, slot)


def test_rows_go_whose_other_key_no_file_names(world: StreamWorld, redis: RedisServer) -> None:
    """By part of a key; and rows of zones of which it was the last trip. The others stay, to the value."""
    pairs, zones = rows(world, "pairs", "event_count_1h"), rows(world, "zones", "trip_last_1h")
    mine = [key for key in pairs if key[0] == RIDER]
    held = [key for key, last in zones.items() if last == RIDER]
    assert len(mine) > 3 and len(pairs) > len(mine) and held and len(zones) > len(held)
    subject = Subject.parse([f"trip={RIDER}"])
    dry = erase(world.repo(), subject, dry_run=True)
    assert dry.found == {"online/pairs": len(mine), "online/zones": len(held)}
    assert rows(world, "pairs", "event_count_1h") == pairs, "a dry run changes nothing"
    on_redis = bool(redis.client.dbsize())
    assert bool(written(redis)) == on_redis
    report = erase(world.repo(), subject)
    assert report.found == dry.found and report.remains == []
    assert not any("redis" in note for note in report.notes)
    if on_redis:
        until(lambda: not written(redis), 30)
    assert rows(world, "pairs", "event_count_1h") == {key: value for key, value in pairs.items() if key[0] != RIDER}
    assert rows(world, "zones", "trip_last_1h") == {key: value for key, value in zones.items() if value != RIDER}
    assert not erase(world.repo(), subject).found


def test_of_a_subject_with_both_keys_one_row_goes(world: StreamWorld) -> None:
    pairs = rows(world, "pairs", "event_count_1h")
    mine = next(key for key in pairs if key[0] == RIDER)
    found = erase(world.repo(), Subject.parse([f"zone={mine[1]}", f"trip={RIDER}"])).found
    assert found["online/pairs"] == 1
    assert rows(world, "pairs", "event_count_1h") == {key: value for key, value in pairs.items() if key != mine}


def test_killed_before_the_store_is_cleaned_and_run_again(world: StreamWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files first, then the store: what the first run had no time for the next one finds, though the files say nothing any more."""
    online = type(ordered_store(open_store(world.repo())))

    def away(*given: Any) -> None:
        raise StoreError("away")

    subject = Subject.parse([f"trip={RIDER}"])
    with monkeypatch.context() as patch:
        patch.setattr(online, "delete_keys", away)
        with pytest.raises(StoreError, match="run the same command again"):
            erase(world.repo(), subject)
    report = erase(world.repo(), subject)
    assert report.found["online/pairs"] > 3 and report.remains == []
    assert not [key for key in rows(world, "pairs", "event_count_1h") if key[0] == RIDER]


def test_where_a_store_cannot_name_all_rows_of_a_view_the_others_go(world: StreamWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it named before, and those of the other views: then it is said that it is not done."""
    online = type(ordered_store(open_store(world.repo())))
    named = online.stored_keys

    def untold(self: Any, config: Any, table: Any, holding: bytes = b"") -> Iterator[bytes]:
        yield from named(self, config, table, holding)
        raise StoreError(f"some rows of {table.name} have no key")

    subject = Subject.parse([f"trip={RIDER}"])
    with monkeypatch.context() as patch:
        patch.setattr(online, "stored_keys", untold)
        with pytest.raises(StoreError, match=r"was not erased: some rows of .* have no key"):
            erase(world.repo(), subject)
    assert not [key for key in rows(world, "pairs", "event_count_1h") if key[0] == RIDER]
    assert RIDER not in rows(world, "zones", "trip_last_1h").values()
    assert not erase(world.repo(), subject).found


def kept(data: Path) -> dict[str, bytes | str]:
    """What files hold: their bytes, and of SQLite's the rows, since it writes into its log and index when it is read, too."""
    files = {str(p): p.read_bytes() for p in data.rglob("*") if p.is_file() and "runs" not in p.parts and "online.db" not in p.name}
    with closing(sqlite3.connect(data / "online.db")) as online:
        return files | {"online.db": "\n".join(online.iterdump())}


def test_a_disk_without_room_to_write_the_store_anew_is_said_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files were rewritten and rows deleted before SQLite said that its disk was full, and the file still held them."""
    world = make_stream_world(tmp_path / "world", online_store=SQLITE)
    world.produce(events(50))
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    subject = Subject.parse(["trip=t1"])
    found = erase(world.repo(), subject, dry_run=True).found
    file, room = world.data / "online.db", shutil.disk_usage(tmp_path)
    assert found["online/pairs"]
    before = kept(world.data)
    elsewhere = tmp_path / "other disk"
    elsewhere.mkdir()
    device, free = tmp_path.stat().st_dev, 0

    def asked(path: Any) -> Any:
        return room._replace(free=free if os.stat(path).st_dev == device else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", asked)
    monkeypatch.setenv("SQLITE_TMPDIR", str(elsewhere))
    said = r"^nothing was erased: online store .*/online\.db: to write it anew takes ([0-9,]+) bytes in .+ and .+, and .+ has 0; make room"
    with pytest.raises(StoreError, match=said) as told:
        erase(world.repo(), subject)
    assert str(elsewhere) in str(told.value) and "\n" not in str(told.value)
    needed = int(re.match(said, str(told.value))[1].replace(",", ""))  # type: ignore[index]
    assert 2 * file.stat().st_size <= needed < 2 * (file.stat().st_size + (1 << 20))
    with pytest.raises(StoreError, match=r"^--dry-run copies the online store .*/online\.db, which takes .* has 0; make room$"):
        erase(world.repo(), subject, dry_run=True)
    free = needed - 1
    with pytest.raises(StoreError, match="nothing was erased"):
        erase(world.repo(), subject)
    assert kept(world.data) == before
    assert erase(world.repo(), subject, dry_run=True).found == found
    monkeypatch.setenv("SQLITE_TMPDIR", "/dev/shm")  # half of it goes elsewhere, and then there is room
    assert erase(world.repo(), subject).found == found


def logged(world: StreamWorld) -> set[str]:
    """The trips of which there are rows in the stream's log."""
    return set(read_rows(world.stream, "pairs").column("trip").to_pylist())


@pytest.mark.parametrize("what", ["the store", "the registry"])
def test_a_store_that_cannot_be_read_stops_no_file_from_being_erased(tmp_path: Path, what: str) -> None:
    """As one that is away: what can be erased is, then it is said what was not, and the same command goes on."""
    world = make_stream_world(tmp_path / "world", online_store=SQLITE)
    world.produce(events(50))
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    file = world.data / ("online.db" if what == "the store" else "registry.db")
    content = file.read_bytes()
    for beside in world.data.glob(f"{file.name}*"):
        beside.unlink()
    file.write_bytes(b"no such file " * 1000)
    subject = Subject.parse(["trip=t1"])
    assert "t1" in logged(world)
    with pytest.raises(StoreError, match=r"^the online store was not erased: .*; files are; run the same command again$"):
        erase(world.repo(), subject)
    assert logged(world) and "t1" not in logged(world)
    file.unlink()
    if what == "the registry":
        file.write_bytes(content)
    report = erase(world.repo(), subject)
    assert report.remains == [] and bool(report.found["online/pairs"]) == (what == "the registry")


def test_a_store_that_is_away_stops_no_file_from_being_erased(tmp_path: Path) -> None:
    with redis_server() as server:
        on_redis = f'{{type: serving.online_store.redis.OrderedRedisOnlineStore, connection_string: "{server.connection_string}"}}'
        world = make_stream_world(tmp_path / "world", online_store=on_redis)
        world.produce(events(50))
        assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    subject = Subject.parse(["trip=t1"])
    assert "t1" in logged(world)
    with pytest.raises(StoreError, match=r"^the online store was not erased: .*; files are; run the same command again$"):
        erase(world.repo(), subject)
    assert logged(world) and "t1" not in logged(world)
