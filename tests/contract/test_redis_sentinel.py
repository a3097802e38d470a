"""The Redis online store behind a Sentinel: another server takes over, and what it never got is found missing."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from pipelines.services.redis_server import redis_binary
from tandem.testing.online_store import NOW, Bench, view
from tests.redis_cluster import until
from tests.redis_server import RedisServer, free_port, redis_server
from transforms.errors import StoreError

REDIS = "serving.online_store.redis.OrderedRedisOnlineStore"
T = NOW - timedelta(hours=1)


@contextmanager
def watched(master: RedisServer) -> Iterator[int]:
    """A Sentinel that watches a server under the name ``features``; its port."""
    with tempfile.TemporaryDirectory(prefix="tandem-sentinel-") as folder:
        port, conf = free_port(), Path(folder) / "sentinel.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor features 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds features 500\nsentinel failover-timeout features 5000\n"
        )
        process = subprocess.Popen(
            [redis_binary(), str(conf), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            yield port
        finally:
            process.kill()
            process.wait()


def test_another_server_takes_over_and_rows_it_never_got_are_found_missing() -> None:
    with redis_server() as master, redis_server() as replica, watched(master) as port:
        replica.client.replicaof("127.0.0.1", master.port)
        until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        given = {"redis_type": "redis_sentinel", "sentinel_master": "features", "connection_string": f"127.0.0.1:{port},password=hunter2"}
        with pytest.raises(StoreError, match=rf"redis sentinel 127\.0\.0\.1:{port}: ") as e:
            Bench.open({"type": REDIS, **given}, view()).write(("EWR", T, 1, 1.0))
        assert "hunter2" not in str(e.value) and "\n" not in str(e.value)
        given["connection_string"] = f"127.0.0.1:{port}"
        until(lambda: usable(Bench.open({"type": REDIS, **given}, view())))
        bench = Bench.open({"type": REDIS, **given}, view())
        mark = partial(bench.store.mark_generation, bench.config, "s/0")
        bench.write(("EWR", T, 1, 1.0))
        assert mark(5) and mark(6, at_least=5)
        until(lambda: replica.client.info("replication")["master_repl_offset"] == master.client.info("replication")["master_repl_offset"])
        until(lambda: len(replica_of(port)) == 1)
        replica.process.send_signal(signal.SIGSTOP)
        master.client.execute_command("CLIENT", "KILL", "TYPE", "replica")  # else the kernel takes what it is sent, and it reads that later
        bench.write(("EWR", T, 2, 2.0))
        master.kill()
        replica.process.send_signal(signal.SIGCONT)
        with pytest.raises(StoreError, match="redis sentinel"):
            bench.write(("EWR", T, 3, 3.0))
        until(lambda: usable(bench))
        assert bench.x() == 1.0, "acknowledged, and gone"
        assert not mark(7, at_least=6), "the marker is there; that another server took over is seen"
        bench.write(("EWR", T, 2, 2.0))
        assert mark(7) and mark(8, at_least=7) and bench.x() == 2.0


def replica_of(port: int) -> list[object]:
    """The replicas that a Sentinel knows."""
    from redis import Redis

    found: list[object] = Redis(host="127.0.0.1", port=port).sentinel_slaves("features")
    return found


def usable(bench: Bench) -> bool:
    try:
        bench.x()
    except StoreError:
        return False
    return True
