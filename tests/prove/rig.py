"""One run of ``tandem stream`` as a user starts it, in processes of its own, with records fed share by share and whatever is done to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from pipelines.lake.processes import start_child
from pipelines.project.repository import load_repo
from pipelines.replay.producer import Outbox
from pipelines.services.kafka_broker import Broker
from pipelines.services.redis_server import Redis
from pipelines.sources.kafka.kafka_client import client_options
from pipelines.sources.letter_spool import letters_waiting
from pipelines.sources.letters import Letter
from pipelines.streaming.state.job_state import JobState
from tests.integration.flights import environment
from tests.prove.slice import Record, Slice, as_logged

__all__ = ["Rig", "Stream", "alive", "children", "until"]

PATIENCE = 240.0
"""Seconds until a stream must have delivered what it was fed, on a machine that has much else to do."""


def until(done: Callable[[], Any], what: str, seconds: float = PATIENCE, check: Callable[[], None] = lambda: None) -> Any:
    """Ask until the answer is true; it. Fails after ``seconds``; ``check`` may fail earlier."""
    deadline = time.monotonic() + seconds
    while not (answer := done()):
        check()
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return answer


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> dict[int, str]:
    """Direct children of a process, with their command lines."""
    out = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text().split():
                with suppress(OSError):
                    out[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return out


@dataclass
class Stream:
    """One name of a stream over the rig's topics. ``seen``: every process that belonged to it."""

    rig: Rig
    name: str = "main"
    shards: int = 2
    process: subprocess.Popen[bytes] | None = None
    seen: set[int] = field(default_factory=set)
    pace: ClassVar[float] = 1.0
    """What times within a trial are multiplied by: how slow its starts are."""
    supervised: ClassVar[bool] = True
    """Whether somebody starts anew what ended."""

    @property
    def folder(self) -> Path:
        return self.rig.data / "stream" / self.name

    @property
    def control(self) -> JobState:
        return JobState(self.folder)

    def start(self, *words: str) -> None:
        """Start it; returns at once."""
        command = [sys.executable, "-m", "pipelines.cli", "stream", "--repo", str(self.rig.repo_path), "--name", self.name]
        command += ["--from-run", self.rig.slice.run, "--shards", str(self.shards)]
        command += ["--engine-option", f"parts={self.shards}", *words]  # an engine of one process divides a job where it is told to
        self.process = start_child([*self.rig.before, *command], self.rig.folder / f"{self.name}.out", self.rig.environment)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def part(self, what: str) -> int | None:
        """The process id of the ``worker`` or the ``engine`` (the JVM) that is at work now."""
        word = {"worker": "pipelines.streaming.engines.worker", "engine": "FlinkPipelineRunner"}[what]
        now = children(self.pid)
        self.seen |= set(now)
        return max((pid for pid, command in now.items() if word in command), default=None)

    def hand(self) -> int:
        """The process that writes, as soon as there is one."""
        pid: int = until(lambda: self.part("worker"), "a worker", check=self.running)
        return pid

    def strike(self) -> None:
        """kill -9 of the worker, if there is one; the stream starts another by itself."""
        if worker := self.part("worker"):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def running(self) -> None:
        """Fails where the driver has ended unasked; one that found no broker when it started is started again, as by whoever runs it."""
        if self.process is not None and self.process.poll() is not None:
            if self.process.returncode == 1 and "error: no response from Kafka" in self.tail(1):
                self.start()
                return
            raise AssertionError(f"the stream ended by itself with code {self.process.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The last words of the driver and of the job."""
        out = self.rig.folder / f"{self.name}.out"
        said = out.read_text(errors="replace").splitlines()[-lines:] if out.exists() else []
        return "\n".join([*said, f"fed {self.rig.fed}, progress {self.at()}"])

    def at(self) -> dict[str, dict[int, int]]:
        """source -> partition -> the offset up to which all shards delivered."""
        progress = self.control.load_checkpoints()
        shards = {p["shards"] for p in progress.values()}
        out: dict[str, dict[int, int]] = {}
        if len(shards) != 1 or len(progress) < max(shards):
            return out
        for source, counts in self.rig.slice.ends(0).items():
            for partition in counts:
                each = [p["partitions"].get(source, {}).get(str(partition), {"next": 0})["next"] for p in progress.values()]
                out.setdefault(source, {})[partition] = min(each)
        return out

    def delivered(self, n: int) -> bool:
        """Whether all shards delivered the first n records."""
        at = self.at()
        return bool(at) and all(at[s][p] >= end for s, each in self.rig.slice.ends(n).items() for p, end in each.items())

    def delivered_of(self, before: int, n: int) -> int:
        """How many of the records from the ``before``-th to the n-th all shards delivered."""
        at, first = self.at(), self.rig.slice.ends(before)
        ends = self.rig.slice.ends(n)
        return sum(max(0, min(at.get(s, {}).get(p, 0), end) - first[s][p]) for s, each in ends.items() for p, end in each.items())

    def wait(self, n: int) -> None:
        """Until the first n records are delivered, and no dead letter waits any more."""
        until(lambda: self.delivered(n) and self.rig.settled(self, n), f"delivery of {n} records by {self.name}", check=self.running)
        until(lambda: not letters_waiting(self.folder / "letters"), "the dead letters that wait", check=self.running)

    def stop(self, seconds: float = 120.0) -> int:
        """SIGTERM; its exit code. No process of it may be left behind."""
        assert self.process is not None
        self.seen |= set(children(self.pid))
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self.gone()
        return code

    def kill(self) -> None:
        """kill -9 of the driver. No process of it may be left behind."""
        assert self.process is not None
        self.seen |= set(children(self.pid))
        self.process.kill()
        self.process.wait()
        self.gone()

    def gone(self) -> None:
        """Fails unless everything that belonged to the driver ends too."""
        until(lambda: not any(map(alive, self.seen)), f"the end of all processes of {self.name}", 20)
        self.seen.clear()

    def close(self) -> None:
        """For the end of a test, however it ended."""
        if self.process is not None and self.process.poll() is None:
            for pid in [*children(self.pid), self.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class Rig:
    """Topics, a repository and an online store of its own for one run of trials, fed from a slice.

    ``environment`` and ``before`` (words in front of the command) are those of its streams.
    """

    def __init__(self, folder: Path, slice_: Slice, broker: Broker, number: int, store: str, stock: bool = False, **stream: Any) -> None:
        self.folder, self.slice, self.broker, self.store, self.stock = folder, slice_, broker, store, stock
        self.prefix, self.data = f"r{number}.", folder / "data"
        self.repo_path = folder / "feature_repo"
        self.environment, self.before = environment(), list[str]()
        folder.mkdir(parents=True)
        self._prepare()
        shutil.copytree(slice_.folder / "feature_repo", self.repo_path)
        shutil.copytree(slice_.data, self.data, symlinks=True, dirs_exist_ok=True)
        self.redis: Redis | None = None
        if store == "redis":
            self.redis = Redis(folder / "redis")
            self.redis.start()
        self._write(stream)
        self.repo = load_repo(self.repo_path)
        self.options = client_options(self.repo.settings.kafka, self.data)
        self._topics()
        self.feast_store = self._feast()
        self.fed = self.doubled = 0
        self.letters_before: list[Letter] = []  # of a dead-letter topic that was deleted since
        self._outbox: Outbox | None = None
        self.streams: list[Stream] = []

    def _prepare(self) -> None:
        """For rigs with more to them: before anything lies in the folder."""

    def payload(self, record: Record) -> bytes | None:
        """What is sent of a record."""
        return record.value

    def settled(self, stream: Stream, n: int) -> bool:
        """Whether nothing of the first n records, which are delivered, waits for the clock."""
        return True

    def _write(self, stream: dict[str, Any]) -> None:
        definitions = self.repo_path / "features.py"
        definitions.write_text(re.sub(r'topic="', f'topic="{self.prefix}', definitions.read_text()))
        settings = {
            "data": "../data",
            "definitions": "features",
            "kafka": {"bootstrap_servers": self.broker.bootstrap, "dead_letters": f"{self.prefix}dead"},
            "stream": {
                "clock": "replay",
                "idle_seconds": 100_000,  # no partition ever counts as idle: what is due follows from the log alone
                "max_reject_share": 0.5,
                "checkpoint_seconds": 1,
                **stream,
            },
        }
        (self.repo_path / "tandem.yaml").write_text(yaml.safe_dump(settings))
        kind = {
            ("sqlite", False): "serving.online_store.sqlite.OrderedSqliteOnlineStore",
            ("redis", False): "serving.online_store.redis.OrderedRedisOnlineStore",
            ("sqlite", True): "tests.prove.stock.StockSqliteOnlineStore",
            ("redis", True): "tests.prove.stock.StockRedisOnlineStore",
        }[self.store, self.stock]
        online: dict[str, Any] = {"type": kind}
        if self.redis is not None:
            online["connection_string"] = self.redis.connection_string
        else:
            online["path"] = "../data/online.db"
        path = self.repo_path / "feature_store.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "online_store": online}))

    def _topics(self) -> None:
        admin = KafkaAdminClient(**self.options)
        try:
            topics = [s.topic for s in self.repo.sources.values()]
            wanted = {t: {"num_partitions": self.slice.partitions, "configs": {"retention.ms": "-1"}} for t in topics}
            admin.create_topics(wanted, wait_for_metadata=True)
        finally:
            admin.close()

    def _feast(self) -> Any:
        from pipelines.feature_store.store import open_store

        for path in self.data.glob("online.db*"):
            path.unlink()
        store = open_store(self.repo)
        for name in self.repo.groups:
            fingerprint = (self.data / "graphs" / name / "CURRENT").read_text().strip()
            store._get_provider().online_store.apply_fingerprint(store.config, name, fingerprint)
        return store

    def stream(self, name: str = "main", shards: int = 2) -> Stream:
        """A stream over the topics, not yet started."""
        made = Stream(self, name, shards)
        self.streams.append(made)
        return made

    # ------------------------------------------------------------------------------------------------------------ feeding

    @contextmanager
    def feeding(self, upto: int, seconds: float) -> Iterator[None]:
        """Send the records up to the ``upto``-th, spread over some seconds, beside what is done within; ends when all are acknowledged.

        ``fed`` counts them then, and what a killed broker took twice with them (:meth:`_learn`).
        """
        failed: list[BaseException] = []

        def work() -> None:
            try:
                self._feed(upto, seconds)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work, name="feeder")
        thread.start()
        try:
            yield
        finally:
            thread.join(PATIENCE)
        if failed or thread.is_alive():
            raise AssertionError(f"the feeder failed: {failed}")

    def _feed(self, upto: int, seconds: float) -> None:
        if self._outbox is None:
            self._outbox = Outbox(self.options).__enter__()
        first, begun = self.fed, time.monotonic()
        while self.fed < upto:
            due = upto if seconds <= 0 else first + int((time.monotonic() - begun) / seconds * (upto - first))
            some = self.slice.records[self.fed : min(due, upto)]
            topics = [self.repo.sources[r.source].topic for r in some]
            self._outbox.send_all(
                topics, [r.partition for r in some], [self.payload(r) for r in some], [r.key for r in some], [r.stamp_ms for r in some]
            )
            self.fed += len(some)
            time.sleep(0.03)
        self._learn(self._outbox.finish())

    def _learn(self, last: Mapping[tuple[str, int], int]) -> None:
        """A broker that is killed forgets a producer of old records, and takes those again that it could not acknowledge before
        (:class:`Outbox`). They are in the log twice, and an event is an offset: so they are in the slice twice."""
        ends = self.slice.ends(self.fed)
        for source, each in ends.items():
            topic = self.repo.sources[source].topic
            for partition, end in each.items():
                if last.get((topic, partition), end - 1) + 1 > end:
                    self._learn_partition(source, partition, last[topic, partition] + 1)

    def _learn_partition(self, source: str, partition: int, end: int) -> None:
        """Put what a partition's log of ``end`` records really holds in the place of what was sent to it; the number of those fed grows."""
        values = self._values(self.repo.sources[source].topic, partition, end)
        records = as_logged(self.slice.records, self.fed, (source, partition), values, self.payload)
        added = len(records) - len(self.slice.records)
        self.slice = replace(self.slice, records=records, _known={}, _ends={})
        self.fed += added
        self.doubled += added

    def _values(self, topic: str, partition: int, end: int) -> list[bytes | None]:
        """What the first ``end`` records of a partition hold, read by Kafka's usual client."""
        options = {name: value for name, value in self.options.items() if name in KafkaConsumer.DEFAULT_CONFIG}
        with closing(KafkaConsumer(**options, max_partition_fetch_bytes=64 << 20)) as consumer:
            place, values = TopicPartition(topic, partition), list[bytes | None]()
            consumer.assign([place])
            consumer.seek(place, 0)
            while len(values) < end:
                values += [record.value for record in consumer.poll(1000).get(place, [])]
        return values[:end]

    def close(self) -> None:
        """End everything."""
        for stream in self.streams:
            stream.close()
        if self._outbox is not None:
            self._outbox.__exit__(None, None, None)
        if self.redis is not None and self.redis.process is not None:
            self.redis.process.kill()
            self.redis.process.wait()
