"""The Redis online store over a cluster is held to the contract that ships; and what is a cluster's alone."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from feast.protos.feast.types.Value_pb2 import Value

from serving.online_store.base import ColumnRead, Covered
from serving.online_store.redis_cluster import SLOTS, Cluster, slot_of, tag_of
from tandem.testing.online_store import NOW, Bench, OnlineStoreContract, at_us, key, view
from tests.redis_cluster import Node, RedisCluster, redis_cluster, until
from tests.redis_server import free_port, redis_server
from transforms.errors import ConfigError, FingerprintError, OwnerError, StoreError

REDIS = "serving.online_store.redis.OrderedRedisOnlineStore"
T = NOW - timedelta(hours=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster() as made:
        yield made


def settings(cluster: RedisCluster, **more: Any) -> dict[str, Any]:
    return {"type": REDIS, "redis_type": "redis_cluster", "connection_string": cluster.connection_string, **more}


class TestRedisCluster(OnlineStoreContract):
    @pytest.fixture
    def store_settings(self, cluster: RedisCluster) -> Mapping[str, Any]:
        return settings(cluster)

    @pytest.fixture
    def stock_settings(self, cluster: RedisCluster) -> Mapping[str, Any]:
        return {**settings(cluster), "type": "redis"}

    @pytest.fixture
    def unusable_settings(self) -> Mapping[str, Any]:
        return {"type": REDIS, "redis_type": "redis_cluster", "connection_string": f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"}


KEYS = [f"K{i}" for i in range(400)]


def values(bench: Bench) -> list[float | None]:
    rows = bench.store.read_rows(bench.config, bench.table, [key(origin=k) for k in KEYS], ["x"], now=NOW)
    return [v.double_val if s == "PRESENT" else None for v, s in zip(rows.values["x"], rows.statuses["x"], strict=True)]


def columns(bench: Bench) -> list[float | None]:
    """As a server reads."""
    keys = [bench.store.entity_key(bench.config, key(origin=k)) for k in KEYS]
    (found,) = bench.store.read_columns(bench.config, [ColumnRead(bench.table, keys, ("x",))])
    return [None if c is None else Value.FromString(c).double_val for c in found.cells[0]]


def test_slots_are_found_as_redis_does(cluster: RedisCluster) -> None:
    for text in (
        b"",
        b"a",
        b"{}a",
        b"a{b}c",
        b"a{b}{c}",
        b"{a",
        b"x}{y}",
        b"a{}{b}",
        bytes(range(256)),
        tag_of(0).encode(),
        tag_of(16383).encode(),
    ):
        assert slot_of(text) == cluster.nodes[0].said("CLUSTER", "KEYSLOT", text), text
    assert [slot_of(f"tandem:applied:p{tag_of(slot)}".encode()) for slot in range(SLOTS)] == list(range(SLOTS))


def test_slots_that_move_and_a_server_that_joins_are_followed(cluster: RedisCluster) -> None:
    """Writes, corrections, reads, marks and drops go on at each stage of a move: begun, half of its keys over, done."""
    with redis_cluster(2) as own:
        bench = Bench.open(settings(own), view())
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        stale = Bench(type(bench.store)(), bench.config, bench.table)  # looked at the map before anything moved
        stale.store.clock = bench.store.clock
        assert stale.x() is None
        bench.write(*((k, T, 1, 1.0) for k in KEYS), fingerprint="new")
        source, target = own.nodes[0], own.add()
        mine = set(own.slots_of(source))
        moved = sorted({slot_of(bench.store.entity_key(bench.config, key(origin=k))) for k in KEYS} & mine)[:30]
        for i, slot in enumerate(moved):
            own.begin_move(slot, source, target)
            own.move_keys(slot, source, target, most=i % 3)
            if i == 0:  # the keys that went over are read there, the others where they were
                assert values(bench) == columns(bench) == [1.0] * len(KEYS)
            if i < 2:
                began = time.monotonic()
                finish = threading.Timer(0.3, own.move_rest, (slot, source, target))
                finish.start()
                assert bench.write(*((k, T, 2 + i, 2.0 + i) for k in KEYS), fingerprint="new").written == len(KEYS)
                assert time.monotonic() - began > 0.2, "a script that touches what is on its way waits for it"
                finish.join()
            else:
                own.move_rest(slot, source, target)
        assert values(stale) == columns(stale) == values(bench) == [3.0] * len(KEYS)
        assert bench.store.mark_generation(bench.config, "s/0", 5) and bench.store.mark_generation(bench.config, "s/0", 6, at_least=5)
        with pytest.raises(FingerprintError):
            stale.write(*((k, T, 9, 9.0) for k in KEYS), fingerprint="old")
        assert bench.drop(at_us(T), Covered(at_us(NOW), at_us(T))) == len(KEYS), "keys of all three servers"
        assert values(bench) == [None] * len(KEYS)
        own.begin_move(0, source, target)
        with pytest.raises(StoreError, match=r"slots are being moved.*redis-cli --cluster fix"):
            bench.drop(at_us(T), Covered(at_us(NOW), at_us(T)))


def test_a_server_that_dies_is_replaced_by_its_replica_and_what_it_had_not_passed_on_is_found_missing() -> None:
    """Its replica is stopped, so it passes nothing on: that is a failover that loses acknowledged writes. A marker tells, also where the
    replica has the marker and only rows that were written after it are lost."""
    with redis_cluster(3, replicas=True) as own:
        bench = Bench.open(settings(own), view())
        mark = partial(bench.store.mark_generation, bench.config, "s/0")
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.write(*((k, T, 1, 1.0) for k in KEYS), fingerprint="new")
        assert mark(5) and mark(6, at_least=5)
        master, replica = own.nodes[1], own.replicas[1]
        until(lambda: offset(master) == offset(replica))
        replica.process.send_signal(signal.SIGSTOP)
        master.said("CLIENT", "KILL", "TYPE", "REPLICA")  # else the kernel takes what it is sent, and it reads that later
        bench.write(*((k, T, 2, 2.0) for k in KEYS), fingerprint="new")
        assert values(bench) == [2.0] * len(KEYS)
        master.kill()
        with pytest.raises(StoreError, match=r"redis cluster 127\.0\.0\.1:\d+,127\.0\.0\.1:\d+: "):
            bench.write(*((k, T, 3, 3.0) for k in KEYS), fingerprint="new")  # before the replica goes on, which may take over at once
        replica.process.send_signal(signal.SIGCONT)
        until(lambda: b"role:master" in replica.said("INFO", "replication"))
        until(lambda: usable(bench))
        lost = values(bench).count(1.0)
        assert lost > len(KEYS) / 5, "acknowledged, and gone"
        assert not mark(7, at_least=6), "its marker is there; that another server took over is seen"
        bench.write(*((k, T, 2, 2.0) for k in KEYS), fingerprint="new")
        assert mark(7)
        assert mark(8, at_least=7), "and once is enough"
        assert min(v for v in values(bench) if v is not None) == 2.0 and bench.store.applied_fingerprint(bench.config, "traffic") == "new"


def offset(node: Node) -> bytes:
    """How far its replication is."""
    return re.findall(rb"master_repl_offset:(\d+)", node.said("INFO", "replication"))[0]


def usable(bench: Bench) -> bool:
    try:
        return None not in values(bench)
    except StoreError:
        return False


def test_a_server_that_comes_back_empty_is_noticed_and_told_the_graph_again(cluster: RedisCluster) -> None:
    with redis_cluster(2) as own:
        bench = Bench.open(settings(own), view())
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.store.cover(bench.config, "traffic", Covered(3, at_us(T) - 1))
        bench.write(*((k, T, 1, 1.0) for k in KEYS), fingerprint="new")
        mark = partial(bench.store.mark_generation, bench.config, "s/0")
        assert mark(5) and bench.covered() == Covered(3, at_us(T) - 1)
        other = Bench(type(bench.store)(), bench.config, bench.table)
        own.nodes[1].kill()
        for what in (
            lambda: values(bench),
            lambda: bench.write(*((k, T, 2, 1.0) for k in KEYS), fingerprint="new"),
            lambda: mark(6, at_least=5),
        ):
            with pytest.raises(StoreError, match="start Redis there") as e:
                what()
            assert "\n" not in str(e.value)
        own.nodes[1].start()
        until(lambda: all(b"cluster_state:ok" in node.said("CLUSTER", "INFO") for node in own.nodes))
        found = values(bench)
        assert 0 < found.count(None) < len(KEYS), "a part of the rows is gone"
        for each in (bench, other):  # whoever wrote, and a process that is new
            assert not each.store.mark_generation(each.config, "s/0", 6, at_least=5)
            assert each.store.applied_fingerprint(each.config, "traffic") is None and each.covered() is None
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.write(*((k, T, 1, 1.0) for k in KEYS), fingerprint="new")
        assert mark(6) and mark(7, at_least=6) and values(bench) == [1.0] * len(KEYS)
        with pytest.raises(FingerprintError):
            bench.write(*((k, T, 9, 9.0) for k in KEYS), fingerprint="old")
        assert values(bench) == [1.0] * len(KEYS), "refused whole"


def test_a_write_may_wait_for_replicas() -> None:
    with redis_cluster(3, replicas=True) as own:
        bench = Bench.open(settings(own, wait_replicas=1, connection_string=f"{own.connection_string},socket_timeout=1"), view())
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        assert bench.write(*((k, T, 1, 1.0) for k in KEYS), fingerprint="new").written == len(KEYS)
        own.replicas[1].process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match="0 of the 1 replicas that wait_replicas asks for"):
            bench.write(*((k, T, 2, 2.0) for k in KEYS), fingerprint="new")
        own.replicas[1].process.send_signal(signal.SIGCONT)
        until(lambda: written(bench))
        assert values(bench) == [2.0] * len(KEYS)
        for master in own.nodes:
            master.kill()  # at once: what was acknowledged is on the replicas, all of it
        until(lambda: b"cluster_state:ok" not in own.replicas[0].said("CLUSTER", "INFO"))
        for replica in own.replicas:  # without a majority nobody is elected by himself
            replica.said("CLUSTER", "FAILOVER", "TAKEOVER")
        until(lambda: usable(Bench(type(bench.store)(), settings_of(bench, own), bench.table)))
        again = Bench(type(bench.store)(), settings_of(bench, own), bench.table)
        assert values(again) == [2.0] * len(KEYS)
        assert again.store.applied_fingerprint(again.config, "traffic") == "new"


def written(bench: Bench) -> bool:
    try:
        bench.write(*((k, T, 2, 2.0) for k in KEYS), fingerprint="new")
    except StoreError:
        return False
    return True


def settings_of(bench: Bench, own: RedisCluster) -> Any:
    """The configuration, by the replicas."""
    config = bench.config.model_copy(deep=True)
    config.online_store.connection_string = f"127.0.0.1:{own.replicas[0].port}"
    return config


def test_users_and_passwords_and_what_a_wrong_string_is_told(cluster: RedisCluster) -> None:
    with redis_cluster(2, settings=("--requirepass", "123456", "--masterauth", "123456"), options={"password": "123456"}) as own:
        for node in own.nodes:
            node.said("ACL", "SETUSER", "writer", "on", ">0777", "~*", "+@all")
        address = f"127.0.0.1:{own.nodes[0].port}"
        for given in (f"{address},password=123456", f"{address},username=writer,password=0777"):
            bench = Bench.open(settings(own, connection_string=given), view())
            bench.write(*((k, T, 1, 1.0) for k in KEYS))
            assert values(bench) == [1.0] * len(KEYS)
        for wrong, what in (
            (f"{address},password=hunter2", r"redis cluster 127\.0\.0\.1:\d+: "),
            (f"{address},hunter2", "names no server that can be read"),
            (f"{address},pasword=hunter2", "option 'pasword'"),
            ("redis://:hunter2@127.0.0.1:1/0", "names no server that can be read"),
            (f"{address},db=3,password=hunter2", "a cluster has no db"),
            (f"127.0.0.1:{free_port()},password=hunter2", "start Redis there"),
        ):
            with pytest.raises((StoreError, ConfigError), match=what) as e:
                Bench.open(settings(own, connection_string=wrong), view()).write(("EWR", T, 1, 1.0))
            assert "hunter2" not in str(e.value) and "\n" not in str(e.value), wrong
    with redis_server() as single, pytest.raises(StoreError, match=r"redis cluster .*redis_type: redis"):
        Bench.open({**settings(cluster), "connection_string": single.connection_string}, view()).write(("EWR", T, 1, 1.0))
    bench = Bench.open({"type": REDIS, "connection_string": cluster.connection_string}, view())
    with pytest.raises(StoreError, match="redis_type: redis_cluster"):
        bench.write(*((k, T, 1, 1.0) for k in KEYS))


def marks(cluster: RedisCluster, project: str) -> set[bytes | None]:
    """Whose the rows are, by every copy of the mark."""
    found: set[bytes | None] = set()
    for node in cluster.nodes:
        pipe = node.client.pipeline(transaction=False)
        for slot in cluster.slots_of(node):
            pipe.hget(f"tandem:applied:{project}{tag_of(slot)}", "")
        found |= set(pipe.execute())
    return found


def writers(cluster: RedisCluster, *names: str) -> list[Bench]:
    """Stores of one project, each as a process of its own that writes as one of these."""
    opened = Bench.open(settings(cluster), view())
    out = [replace(opened, store=type(opened.store)()) for _ in names]
    for bench, name in zip(out, names):
        bench.store.clock, bench.store.writer = opened.store.clock, name
    return out


def let_in(bench: Bench, revision: int) -> int:
    """How many of the rows are let in, one by one: each by the copy of its slot."""
    count = 0
    for k in KEYS[:50]:
        with suppress(OwnerError):
            count += bench.write((k, T, revision, 1.0)).written
    return count


@pytest.mark.parametrize("call", [2, 3])
@pytest.mark.parametrize("take", [False, True])
def test_a_take_over_amid_a_claim_leaves_one_mark_in_all_copies(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch, take: bool, call: int
) -> None:
    """Before one copy decides, and before the others follow it; the claim of the owner before, and another take-over."""
    old, new = writers(cluster, "one", "two")
    config, calls = old.config, 0
    if not take:
        old.store.claim(config, "one /here")
        emptied = cluster.nodes[-1]
        emptied.client.delete(f"tandem:applied:{config.project}{tag_of(cluster.slots_of(emptied)[0])}")  # so that the claim has one to tell
    real = Cluster.run

    def run(self: Cluster, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            with monkeypatch.context() as patch:
                patch.setattr(Cluster, "run", real)
                assert new.store.claim(config, "two /there", take=True) == "two /there"
        return real(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "run", run)
        old.store.claim(config, "one /here", take)
    assert calls >= call
    (mark,) = marks(cluster, config.project)
    assert mark is not None and mark.decode() == old.store.owner(config) == old.store.claim(config, "one /here")
    loser, winner = (new, old) if mark.startswith(b"one") else (old, new)
    assert take or winner is new
    assert (let_in(loser, 1), let_in(winner, 2)) == (0, 50)


def test_a_server_that_lost_its_copies_of_the_mark_gets_them_back_by_any_claim(cluster: RedisCluster) -> None:
    old, new = writers(cluster, "one", "two")
    config = old.config
    old.store.claim(config, "one /here")
    new.store.claim(config, "two /there", take=True)
    for node in cluster.nodes:
        pipe = node.client.pipeline(transaction=False)
        for slot in cluster.slots_of(node):
            pipe.delete(f"tandem:applied:{config.project}{tag_of(slot)}")
        pipe.execute()
        assert old.store.owner(config) == "two /there", "the others have it"
        assert old.store.claim(config, "one /here") == "two /there"
        assert marks(cluster, config.project) == {b"two /there"}
    assert (let_in(old, 1), let_in(new, 2)) == (0, 50)


def test_who_was_killed_amid_a_take_over_or_gave_the_mark_back_leaves_no_old_copies(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = writers(cluster, "one", "two")
    config, real = old.config, Cluster.run
    old.store.claim(config, "one /here")
    for change in (lambda: new.store.claim(config, "two /there", take=True), lambda: new.store.disclaim(config, "two /there")):
        calls = 0

        def run(self: Cluster, *given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:  # the first copy has it
                raise StoreError("killed")
            return real(self, *given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Cluster, "run", run)
            with pytest.raises(StoreError, match="killed"):
                change()
        after = old.store.claim(config, "one /here")
        assert marks(cluster, config.project) == {after.encode()}
    assert after == "one /here", "nobody had it any more"
