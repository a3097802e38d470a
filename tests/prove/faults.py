"""Blows of what surrounds a stream: disk, clock, Redis, network, the dead-letter topic, the schema registry; and a start that is killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import UnknownTopicOrPartitionError

from pipelines.sources.letter_spool import letters_waiting
from tests.prove import check
from tests.prove.hostile import AvroRig, ClockRig, DiskRig, FaultRig, LettersRig, LiveClockRig, NetworkRig
from tests.prove.rig import Rig, Stream, until

__all__ = ["FAULTS", "Fault", "noticed"]

_versions = itertools.count(1)


def _while(stream: Stream, rng: random.Random, brief: bool, seconds: float = 8.0) -> None:
    """Let the fault last for some seconds."""
    time.sleep(stream.pace * (2 if brief else rng.uniform(1, seconds)))


# ------------------------------------------------------------------------------------------------------------------------------ disk


def disk_full(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    """Also longer than the engine's restarts take, and also while a worker starts."""
    kinds = ["short", "short", "long", *(["worker killed meanwhile"] if stream.supervised else [])]
    kind = "short" if brief else rng.choice(kinds)
    with cast(DiskRig, rig).full():
        if kind == "worker killed meanwhile":
            time.sleep(rng.uniform(0, 2))
            stream.strike()
        time.sleep(stream.pace * {"short": rng.uniform(2, 6), "long": 30}.get(kind, rng.uniform(3, 10)))
    return kind


# ----------------------------------------------------------------------------------------------------------------------------- clock


HELD = "rows waited for the clock"


def _clock(to: int) -> Callable[[Rig, Stream, random.Random, bool], str]:
    def blow(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
        """Half of the time a worker starts under the wrong clock. Also said: whether rows waited for the clock at its end."""
        clocks, kill = cast(ClockRig, rig), rng.random() < 0.5
        clocks.set(to)
        time.sleep(stream.pace * rng.uniform(0.5, 2))
        if kill:
            stream.strike()
        _while(stream, rng, brief)
        fed = rig.fed
        until(lambda: stream.delivered(fed), f"delivery of {fed} records under the wrong clock", check=stream.running)
        held = "" if rig.settled(stream, fed) else f", {HELD}"
        clocks.set(0)
        return f"worker killed meanwhile{held}" if kill else f"running{held}"

    return blow


# ----------------------------------------------------------------------------------------------------------------------------- Redis


@contextmanager
def _admin_of_redis(rig: Rig) -> Iterator[Any]:
    assert rig.redis is not None
    address, _, password = rig.redis.connection_string.partition(",password=")
    host, _, port = address.rpartition(":")
    client = redis.Redis(host=host, port=int(port), password=password)
    try:
        yield client
    finally:
        client.close()


def redis_out_of_memory(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    with _admin_of_redis(rig) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        _while(stream, rng, brief)
        client.config_set("maxmemory", "0")
    return "noeviction"


def redis_read_only(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    """As after a failover of which the stream heard nothing: it is a replica, whose master nobody reaches."""
    with _admin_of_redis(rig) as client:
        client.replicaof("127.0.0.1", 1)
        _while(stream, rng, brief)
        client.replicaof("NO", "ONE")
    return "replica"


# --------------------------------------------------------------------------------------------------------------------------- network


def network_cut(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    line = cast(NetworkRig, rig).cable
    line.say("cut")
    seconds = 3 if brief else rng.choice([2, 5, 12])
    time.sleep(seconds)
    line.say("join")
    return f"{seconds} s"


def network_slow(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    line = cast(NetworkRig, rig).cable
    line.say("delay 0.1")
    time.sleep(3 if brief else 10 * stream.pace)
    line.say("delay 0")
    return "200 ms there and back"


# ---------------------------------------------------------------------------------------------------------------------- dead letters


@contextmanager
def _admin_of_kafka(rig: Rig) -> Iterator[Any]:
    admin = KafkaAdminClient(**rig.options)
    try:
        yield admin
    finally:
        admin.close()


def letters_refused(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    """The topic takes not even shortened letters for a while."""
    topic = f"{rig.prefix}dead"
    with _admin_of_kafka(rig) as admin:
        for size in ("100", "1048588"):
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": size})])
            if size == "100":
                deadline = time.monotonic() + (3 if rig.stock else 20)  # where letters are dropped, none ever waits
                while not letters_waiting(stream.folder / "letters") and time.monotonic() < deadline:
                    time.sleep(0.1)
                _while(stream, rng, brief)
    return "max.message.bytes=100"


def letters_topic_deleted(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    """What lies in it is gone, of course; what comes must be found in one that the stream makes anew."""
    with _admin_of_kafka(rig) as admin:
        worker = stream.part("worker")
        if worker:
            os.kill(worker, signal.SIGSTOP)
        try:
            time.sleep(1)  # what it had sent is there, or not
            rig.letters_before += check.letters(rig)
            admin.delete_topics([f"{rig.prefix}dead"])
            hit = "deleted"
        except UnknownTopicOrPartitionError:  # no letter came since it was deleted
            hit = "deleted before"
        finally:
            if worker:
                os.kill(worker, signal.SIGCONT)
    return hit


# -------------------------------------------------------------------------------------------------------------------- schema registry


def registry_away(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    """It stops, or answers 500, while a worker starts that knows no schema, or producers begin with a new one."""
    avro, how, why = cast(AvroRig, rig), rng.choice(["down", "answers 500"]), rng.choice(["a worker starts", "a new schema"])
    if why == "a new schema":
        avro.newer(rng.choice(sorted(avro.schemas)), f"version {next(_versions)}")
    if how == "down":
        avro.registry.stop()
    else:
        avro.registry.broken = 500
    if why == "a worker starts":
        stream.strike()
    _while(stream, rng, brief, 15)
    if how == "down":
        avro.registry.start()
    avro.registry.broken = 0
    return f"{how}, {why}"


# ----------------------------------------------------------------------------------------------------------------------------- starts


def killed_in_its_start(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    """Kill -9 of the driver, and again of driver or worker at any moment of the start that reads history, up to three times."""
    stream.kill()
    stream.start()
    times = 1 if brief else rng.randint(1, 3)
    for _ in range(times):
        time.sleep(stream.pace * rng.uniform(0.2, 12))
        if rng.random() < 0.4:
            stream.strike()
        else:
            stream.kill()
            stream.start()
    return f"{times} times"


def noticed(blow: Callable[[Rig, Stream, random.Random, bool], str]) -> Callable[[Rig, Stream, random.Random, bool], str]:
    """The blow, which also tells whether the stream said anything meanwhile: a fault that it did not meet proves little."""

    def dealt(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
        since = stream.control.said()[1]
        hit = blow(rig, stream, rng, brief)
        lines = stream.control.said(since)[0]
        return f"{hit}, {'reported' if any('wait' in line for line in lines) else 'not reported'}"

    return dealt


@dataclass(frozen=True)
class Fault:
    """A blow, the rig it needs, the stores it is about, and whether its negative control is a writer that drops what it cannot write."""

    blow: Callable[[Rig, Stream, random.Random, bool], str]
    rig: type[FaultRig] = FaultRig
    stores: tuple[str, ...] = ("sqlite", "redis")
    control: bool = False


FAULTS = {
    "disk full": Fault(disk_full, DiskRig, control=True),
    "clock one hour back": Fault(_clock(-3600), ClockRig),
    "clock one hour on": Fault(_clock(3600), ClockRig),
    "live, clock one hour back": Fault(_clock(-3600), LiveClockRig),
    "live, clock one hour on": Fault(_clock(3600), LiveClockRig),
    "redis out of memory": Fault(redis_out_of_memory, stores=("redis",), control=True),
    "redis read-only": Fault(redis_read_only, stores=("redis",), control=True),
    "network cut": Fault(network_cut, NetworkRig, ("redis",), control=True),
    "network slow": Fault(network_slow, NetworkRig, ("redis",)),
    "dead-letter topic refuses": Fault(letters_refused, LettersRig, control=True),
    "dead-letter topic deleted": Fault(letters_topic_deleted),
    "schema registry away": Fault(registry_away, AvroRig),
    "killed while it restores": Fault(killed_in_its_start),
}
