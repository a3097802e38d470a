"""A small engine for many trials: the job's own stages over the real broker and stores, in a process that is forked ready-made.

It does to the stages what Flink may do: each key's elements in order, keys in any order and at any speed, its state kept at checkpoints
between which nothing is on its way, and brought back, or not, after the process was killed. A trial costs a second, not half a minute.

``python -m tests.prove.small_engine`` is the process that forks: it loads everything, starts no thread, and obeys lines of JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

CHECKPOINT_SECONDS = 0.2
LETTERS_AGAIN_SECONDS = 2.0
"""How often dead letters that wait are tried again: more often than in earnest, as all here is quicker."""
DROPS_LETTERS = "PROVE_DROPS_LETTERS"
"""In the environment: the negative control, a job that drops the letters that their topic does not take, as one does that only logs."""


class Cell:
    """A value or a bag of Beam state, as the stages see it."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def read(self) -> Any:
        return self.values[-1] if self.values else None

    def write(self, value: bytes) -> None:
        self.values = [value]

    def add(self, value: bytes) -> None:
        self.values.append(value)

    def clear(self) -> None:
        self.values = []


class Bag(Cell):
    """Reading a bag gives all."""

    def read(self) -> list[bytes]:
        return list(self.values)


class Engine:
    """The stages of one job and their state."""

    def __init__(self, spec: Any, checkpoint: Path, seed: int) -> None:
        from pipelines.streaming.stages.fold_shard import FoldShard
        from pipelines.streaming.stages.poll import Partitions, Poll
        from pipelines.streaming.stages.sink import SinkRows

        self.rng, self.checkpoint = random.Random(seed), checkpoint
        self.partitions, self.poll, self.fold, self.deliver = Partitions(spec), Poll(spec), FoldShard(spec), SinkRows(spec)
        for stage in (self.partitions, self.poll, self.fold, self.deliver):
            stage.setup()
        self.cells: dict[tuple[str, Any], Cell] = {}
        if checkpoint.exists():
            self.cells = pickle.loads(checkpoint.read_bytes())
        self.queues: dict[int, list[bytes]] = {}
        self.kept = time.monotonic()

    def _cell(self, name: str, key: Any, kind: type[Cell] = Cell) -> Cell:
        return self.cells.setdefault((name, key), kind())

    def tick(self) -> None:
        """Poll every partition once, then hand on some of what waits."""
        for key, count in self.partitions.process(b""):
            for shard, data in self.poll.process((key, count), self._cell("position", key)):
                self.queues.setdefault(shard, []).append(data)
        drain = time.monotonic() - self.kept > CHECKPOINT_SECONDS  # a checkpoint waits for what is on its way
        shards = list(self.queues)
        self.rng.shuffle(shards)
        for shard in shards:
            queue = self.queues[shard]
            for _ in range(len(queue) if drain else self.rng.randint(0, len(queue))):
                cells = self._cell("head", shard), self._cell("tiles", shard, Bag), self._cell("pending", shard, Bag)
                for emission in self.fold.process((shard, queue.pop(0)), *cells):
                    self.deliver.process(emission)
        if drain:
            unfinished = self.checkpoint.with_suffix(".part")
            with suppress(OSError):  # a full disk: Flink lives with checkpoints that fail, too
                unfinished.write_bytes(pickle.dumps(self.cells))
                unfinished.replace(self.checkpoint)
            self.kept = time.monotonic()


def run(orders: dict[str, Any]) -> int:
    """One life of a job; its exit code."""
    from pipelines.project.repository import load_repo
    from pipelines.streaming.driver import stream_folder
    from pipelines.streaming.stages.part_reports import PartReports
    from pipelines.streaming.state.job_state import JobState
    from pipelines.streaming.stream_options import StreamOptions
    from pipelines.streaming.stream_plan import StreamPlan
    from pipelines.streaming.supervisor import delivered

    repo = load_repo(Path(orders["repo"]))
    how = {"shards": orders["shards"], "given": {"parts": str(orders["shards"])}}
    options = StreamOptions(name=orders["name"], runner="direct", until="latest", from_run=orders["run"], **how)
    job_state = JobState(stream_folder(repo.data, options.name))
    job_state.begin()
    checkpoint = job_state.folder / "small-checkpoint"
    if not orders["restore"]:
        checkpoint.unlink(missing_ok=True)
    stream = StreamPlan(repo, options, job_state, job_state.say)
    stream.prepare()
    spec = replace(stream.spec, until=None, one_tick=False)
    engine, shards = Engine(spec, checkpoint, orders["seed"]), spec.stream.shards
    while True:
        engine.tick()
        stopped = job_state.requested("stop") and not any(engine.queues.values())
        if stopped and delivered(PartReports.of(job_state.reports()), job_state.load_checkpoints(), shards):
            engine.deliver.teardown()
            return 0
        time.sleep(0.005)


def drop_letters() -> None:
    """The job as it would be without a place where letters wait."""
    from pipelines.sources.broker import BrokerAway, LetterRefused
    from pipelines.sources.letter_spool import SpooledLetters
    from pipelines.streaming.stages import poll

    class Dropping(SpooledLetters):
        def write(self, *letters: Any) -> None:
            with suppress(BrokerAway, LetterRefused):
                self.inner.write(*letters)

    vars(poll)["SpooledLetters"] = Dropping


def main() -> None:
    """Load, then fork a job per line."""
    import pyarrow as pa

    import pipelines.sources.letter_spool
    import pipelines.streaming.stages.stream_graph
    import pipelines.streaming.stream_job
    import serving.online_store.redis
    import serving.online_store.sqlite  # noqa: F401

    pa.set_cpu_count(1)
    pipelines.sources.letter_spool.AGAIN_SECONDS = LETTERS_AGAIN_SECONDS
    if os.environ.get(DROPS_LETTERS):
        drop_letters()
    lives: set[int] = set()
    print("ready", flush=True)
    for line in sys.stdin:
        orders = json.loads(line)
        pid = os.fork()
        if pid == 0:
            log = os.open(orders["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                code = run(orders)
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        lives.add(pid)
        print(pid, flush=True)
        while lives:  # no zombies
            ended, _ = os.waitpid(-1, os.WNOHANG)
            if not ended:
                break
            lives.discard(ended)


if __name__ == "__main__":
    main()
