"""Streams on the small engine (:mod:`tests.prove.small_engine`)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

from tests.integration.flights import environment
from tests.prove.rig import Stream, alive, until

__all__ = ["Small", "Starter"]


class Starter:
    """The process that forks jobs, by default in this process' own surroundings; see :class:`tests.prove.rig.Rig`."""

    def __init__(self, before: Sequence[str] = (), environment_: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "-W", "ignore", "-m", "tests.prove.small_engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment() if environment_ is None else dict(environment_),
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def fork(self, orders: dict[str, object]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End it; jobs that it forked go on until they are killed."""
        self.process.kill()
        self.process.wait()


@dataclass
class Small(Stream):
    """A stream on the small engine."""

    starter: Starter | None = None
    life: int = 0
    rng: random.Random = field(default_factory=random.Random)
    pace: ClassVar[float] = 0.5
    supervised: ClassVar[bool] = False

    def start(self, *words: str) -> None:
        assert self.starter is not None
        orders: dict[str, object] = {"repo": str(self.rig.repo_path), "name": self.name, "run": self.rig.slice.run, "shards": self.shards}
        orders |= {"restore": "restore" in words, "seed": self.rng.randrange(2**32), "log": str(self.rig.folder / f"{self.name}.out")}
        self.life = self.starter.fork(orders)

    def part(self, what: str) -> int | None:
        return self.life

    def strike(self) -> None:
        """Its state is brought back, or not."""
        self.kill()
        self.start(*self.rng.choice([["restore"], []]))

    def hand(self) -> int:
        return self.life

    def running(self) -> None:
        if not alive(self.life):
            raise AssertionError(f"the engine ended by itself:\n{self.tail()}")

    def kill(self) -> None:
        os.kill(self.life, signal.SIGKILL)
        until(lambda: not alive(self.life), "its end", 20)

    def stop(self, seconds: float = 120.0) -> int:
        self.control.request("stop")
        until(lambda: not alive(self.life), "its end", seconds)
        return 0

    def close(self) -> None:
        with suppress(ProcessLookupError):
            if self.life:
                os.kill(self.life, signal.SIGKILL)
