"""What Redis keeps in files: a key that was deleted stands in its append-only file and its snapshot until they are written anew."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.services.redis_server import Redis
from serving.online_store.redis_files import rewrite_files
from tandem.testing.store_bench import Bench, T, key, view
from tests.redis_cluster import redis_cluster
from tests.redis_server import RedisServer, redis_server

REDIS = "serving.online_store.redis.OrderedRedisOnlineStore"
GONE, STAYS = "subject-to-be-forgotten", "somebody-else"


def settings(at: str, **more: Any) -> Mapping[str, Any]:
    return {"type": REDIS, "connection_string": at, **more}


def holds(folder: Path, text: str) -> list[str]:
    """The files below a folder that have the bytes."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and text.encode() in _bytes(p))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # Redis took it away just now
        return b""


def gone(folder: Path, text: str) -> bool:
    """Redis deletes the old file in another thread, after it has said that the new one is written."""
    until = time.monotonic() + 30
    while found := holds(folder, text):
        if time.monotonic() > until:
            raise AssertionError(found)
        time.sleep(0.02)
    return True


def forget(bench: Bench) -> list[str]:
    """Delete the subject and clean the files; what is said about these."""
    bench.store.delete_keys(bench.config, bench.table, [own(bench, GONE)])
    return list(bench.store.compact(bench.config, [bench.table]) or ())


def own(bench: Bench, origin: str) -> bytes:
    return bench.store.entity_key(bench.config, key(origin=origin))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Redis]:
    """The server that ``tandem up --redis`` starts."""
    server = Redis(tmp_path / "services")
    server.start()
    yield server
    server.stop()


def test_nothing_is_left_in_the_append_only_file_of_the_redis_that_up_starts(up: Redis, tmp_path: Path) -> None:
    bench = Bench.open(settings(up.connection_string), view())
    bench.write((GONE, T, 1, 1.0), (STAYS, T, 1, 2.0))
    assert holds(tmp_path, GONE)
    bench.store.delete_keys(bench.config, bench.table, [own(bench, GONE)])
    assert holds(tmp_path, GONE), "without more the deleted key stands in the file: the control of this test"
    assert forget(bench) == []
    assert gone(tmp_path, GONE)
    assert holds(tmp_path, STAYS)
    up.stop()
    up.start()
    assert bench.x(STAYS) == 2.0 and bench.x(GONE) is None


@pytest.mark.parametrize("at_work", ["BGREWRITEAOF", "BGSAVE"])
@pytest.mark.parametrize("kept", ["both", "append-only file", "snapshot"])
def test_what_began_before_does_not_count(tmp_path: Path, at_work: str, kept: str) -> None:
    """The server writes one of its files, of what was there before the delete, until it was looked at for the fifth time."""
    with redis_server(folder=tmp_path) as server:
        bench = Bench.open(settings(server.connection_string), view())
        bench.write((GONE, T, 1, 1.0), *((f"{STAYS}-{n}", T, 1, 2.0) for n in range(10)))
        server.client.save()
        server.client.config_set("appendonly", "no" if kept == "snapshot" else "yes")
        server.client.config_set("save", "" if kept == "append-only file" else "3600 1")
        _until(lambda: not server.client.info("persistence")["aof_rewrite_in_progress"])
        with writing(server, at_work) as go_on:
            bench.store.delete_keys(bench.config, bench.table, [own(bench, GONE)])
            looked = 0

            def pause(seconds: float) -> None:
                nonlocal looked
                looked += 1
                go_on() if looked == 5 else None
                time.sleep(seconds)

            assert rewrite_files(server.client, "redis there", pause=pause) == []
            assert looked >= 5
        if kept != "append-only file":
            found = (tmp_path / "dump.rdb").read_bytes()
            assert GONE.encode() not in found and STAYS.encode() in found
        if kept != "snapshot":
            assert gone(tmp_path / "appendonlydir", GONE)


@contextmanager
def writing(server: RedisServer, what: str) -> Iterator[Callable[[], None]]:
    """The server writes that file in a process of its own, which is held until it may go on (or the body ends)."""
    server.client.config_set("rdb-key-save-delay", 200_000)  # microseconds a key: time to hold it
    server.client.execute_command(what)
    field = {"BGREWRITEAOF": "aof_rewrite_in_progress", "BGSAVE": "rdb_bgsave_in_progress"}[what]
    child = int(subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True).stdout)
    os.kill(child, signal.SIGSTOP)
    server.client.config_set("rdb-key-save-delay", 0)
    assert server.client.info("persistence")[field] == 1
    try:
        yield lambda: os.kill(child, signal.SIGCONT)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)


def test_a_snapshot_is_taken_anew_where_the_server_saves_some(tmp_path: Path) -> None:
    with redis_server(folder=tmp_path) as server:
        server.client.config_set("appendonly", "no")
        server.client.config_set("save", "3600 1")
        bench = Bench.open(settings(server.connection_string), view())
        bench.write((GONE, T, 1, 1.0), (STAYS, T, 1, 2.0))
        server.client.save()
        assert "dump.rdb" in holds(tmp_path, GONE)
        assert forget(bench) == []
        assert not (tmp_path / "dump.rdb").read_bytes().count(GONE.encode())
        assert (tmp_path / "dump.rdb").read_bytes().count(STAYS.encode())


def test_a_server_without_files_is_left_alone(tmp_path: Path) -> None:
    with redis_server() as server:
        bench = Bench.open(settings(server.connection_string), view())
        bench.write((GONE, T, 1, 1.0))
        saves = server.client.info("persistence")["rdb_last_save_time"]
        assert forget(bench) == []
        after = server.client.info("persistence")
        assert after["rdb_last_save_time"] == saves and after["rdb_bgsave_in_progress"] == 0 and after["aof_enabled"] == 0


@pytest.mark.parametrize(
    ("rights", "says"),
    [
        ("-bgrewriteaof", ["refuses BGREWRITEAOF"]),
        ("-config", ["does not say whether it saves snapshots"]),
        ("-info", ["does not say whether it keeps files"]),
        ("-@dangerous +info +keys +cluster", ["refuses BGREWRITEAOF", "does not say whether it saves snapshots"]),
    ],
)
def test_what_the_server_forbids_is_said_in_a_line(tmp_path: Path, rights: str, says: list[str]) -> None:
    with redis_server(folder=tmp_path) as server:
        server.client.execute_command("ACL", "SETUSER", "tandem", "on", ">secret", "~*", "&*", "+@all", *rights.split())
        bench = Bench.open(settings(f"{server.connection_string},username=tandem,password=secret"), view())
        bench.write((GONE, T, 1, 1.0))
        notes = forget(bench)
        assert len(notes) == len(says) and all(word in line and "\n" not in line for word, line in zip(says, notes, strict=True)), notes
        assert not any("secret" in line for line in notes) and all(str(server.port) in line for line in notes)
        assert bench.x(GONE) is None, "it is deleted all the same"


def test_replicas_are_named_and_a_rewrite_without_end_is_bounded(tmp_path: Path) -> None:
    with redis_server(folder=tmp_path) as server, redis_server() as replica:
        replica.client.replicaof(server.host, server.port)
        _until(lambda: server.client.info("replication")["connected_slaves"] == 1)
        (line,) = rewrite_files(server.client, "redis there")
        assert line.startswith("redis there has 1 replicas, whose files are their own")
        server.client.config_set("rdb-key-save-delay", 10_000_000)
        server.client.set("a", 1)
        now = iter(range(1000))
        notes = rewrite_files(server.client, "redis there", seconds=5, clock=lambda: float(next(now)), pause=lambda seconds: None)
        assert notes[0].startswith("redis there still rewrites its file (BGREWRITEAOF)")


def _until(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_server_of_a_cluster(tmp_path: Path) -> None:
    with redis_cluster(3) as cluster:
        for node in cluster.nodes:
            node.said("CONFIG", "SET", "appendonly", "yes")
        bench = Bench.open(settings(cluster.connection_string, redis_type="redis_cluster"), view())
        names = [f"{GONE}-{n}" for n in range(60)]
        bench.write(*((name, T, 1, 1.0) for name in names), (STAYS, T, 1, 2.0))
        folders = [Path(node.said("CONFIG", "GET", "dir")[1].decode()) for node in cluster.nodes]
        assert all(holds(folder, GONE) for folder in folders)
        bench.store.delete_keys(bench.config, bench.table, [own(bench, name) for name in names])
        assert all(holds(folder, GONE) for folder in folders), "the control"
        assert bench.store.compact(bench.config, [bench.table]) == []
        assert all(gone(folder, GONE) for folder in folders)
        assert bench.x(STAYS) == 2.0
