"""A real Redis Cluster for tests: servers of their own on free ports of the loopback interface, killed at the end."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from pipelines.lake.processes import free_ports
from pipelines.services.redis_server import redis_binary

SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


@dataclass
class Node:
    """A server of a cluster. ``client`` asks it alone."""

    port: int
    bus: int
    folder: Path
    settings: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def client(self) -> Any:
        return Redis(port=self.port, host="127.0.0.1", **self.options)

    @property
    def id(self) -> str:
        found = self.said("CLUSTER", "MYID")
        return str(found.decode())

    def said(self, *words: Any) -> Any:
        """The answer to a command, as it is."""
        with self.client.client() as single:
            single.connection.send_command(*words)
            return single.connection.read_response()

    def start(self) -> None:
        """Start it, or start it again after :meth:`kill`; returns when it answers."""
        self.folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [
                redis_binary(), "--port", str(self.port), "--cluster-port", str(self.bus), "--bind", "127.0.0.1", "--dir", str(self.folder),
                "--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
                "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
                *self.settings,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        until(lambda: self.client.ping())

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until it is true; errors of the client are not yet."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(RedisError, OSError):
            if what():
                return
        if time.monotonic() > end:
            raise TimeoutError("the cluster does not become what it should be")
        time.sleep(0.02)


@dataclass
class RedisCluster:
    """Masters, each with its share of the slots, and replicas (master's place -> replica)."""

    folder: Path
    nodes: list[Node]
    replicas: list[Node]

    @property
    def connection_string(self) -> str:
        """As in ``feature_store.yaml``: two of the servers."""
        options = [f"{name}={value}" for name, value in self.nodes[0].options.items()]
        return ",".join([*(f"127.0.0.1:{node.port}" for node in self.nodes[:2]), *options])

    def add(self) -> Node:
        """One more server, without slots."""
        node = _node(self.folder, self.nodes[0].settings, self.nodes[0].options)
        node.start()
        node.said("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        known = {n.id for n in (*self.nodes, node)}
        until(lambda: all(known <= {line.split()[0] for line in n.said("CLUSTER", "NODES").decode().splitlines()} for n in self.nodes))
        until(lambda: known <= {line.split()[0] for line in node.said("CLUSTER", "NODES").decode().splitlines()})
        until(lambda: b"cluster_state:ok" in node.said("CLUSTER", "INFO"))
        self.nodes.append(node)
        return node

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """A slot is on its way: from now on its keys may be on either."""
        target.said("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.said("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, source: Node, target: Node, most: int = 1_000_000) -> None:
        """Some of its keys go over."""
        keys = source.said("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            source.said("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        """The slot is the target's."""
        for node in (target, source, *(n for n in self.nodes if n not in (source, target))):
            node.said("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move_rest(self, slot: int, source: Node, target: Node) -> None:
        """All that is left of it goes over, and it is the target's."""
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)

    def slots_of(self, node: Node) -> list[int]:
        """What it has."""
        mine = next(line for line in node.said("CLUSTER", "NODES").decode().splitlines() if "myself" in line)
        ranges = [part.split("-") for part in mine.split()[8:] if not part.startswith("[")]
        return [slot for part in ranges for slot in range(int(part[0]), int(part[-1]) + 1)]


def _node(folder: Path, settings: tuple[str, ...], options: dict[str, Any]) -> Node:
    port, bus = free_ports(2)
    return Node(port, bus, folder / str(port), settings, options)


def _meet(made: Sequence[Node]) -> None:
    """Wait until each knows all. A handshake that takes longer than the node timeout is forgotten, so on a busy machine they meet again."""
    for left in reversed(range(6)):
        for node in made[1:]:
            node.said("CLUSTER", "MEET", "127.0.0.1", made[0].port, made[0].bus)
        try:
            until(lambda: all(len(n.said("CLUSTER", "NODES").decode().splitlines()) == len(made) for n in made), 10.0)
        except TimeoutError:
            if not left:
                raise
        else:
            return


@contextlib.contextmanager
def redis_cluster(
    masters: int = 3, replicas: bool = False, settings: tuple[str, ...] = (), options: dict[str, Any] | None = None
) -> Iterator[RedisCluster]:
    """A cluster that serves all slots, with a replica of each master if asked for."""
    with tempfile.TemporaryDirectory(prefix="tandem-cluster-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        made = [_node(folder, settings, options or {}) for _ in range(masters * (2 if replicas else 1))]
        cluster = RedisCluster(folder, made[:masters], made[masters:])
        try:
            for node in made:
                node.start()
            for i, node in enumerate(cluster.nodes):
                node.said("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                node.said("CLUSTER", "ADDSLOTSRANGE", SLOTS * i // masters, SLOTS * (i + 1) // masters - 1)
            _meet(made)
            for node, master in zip(cluster.replicas, cluster.nodes):
                until(partial(node.said, "CLUSTER", "REPLICATE", master.id))
            until(lambda: all(b"cluster_state:ok" in n.said("CLUSTER", "INFO") for n in made))
            until(lambda: all(b"master_link_status:up" in n.said("INFO", "replication") for n in cluster.replicas))
            yield cluster
        finally:
            for node in (*cluster.nodes, *cluster.replicas):
                if hasattr(node, "process"):
                    node.kill()
