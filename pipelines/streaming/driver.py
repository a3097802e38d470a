"""One driver per stream: who holds a stream's folder, and what others may know of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict, Unpack

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from transforms.errors import ConfigError, DataError
from transforms.locks import take

__all__ = ["Driver", "DriverFacts", "running", "stream_folder"]


class DriverFacts(TypedDict, total=False):
    """What a driver lets other processes know of itself; each from when it is known."""

    pid: int
    run: str
    started: str
    """UTC, ISO 8601."""
    engine: str
    savepoints: bool
    """Whether the engine has savepoints."""
    flink_master: str | None
    """The cluster's REST API, where there is one."""
    metrics: str
    """The address of ``/metrics``."""


def stream_folder(data: Path, name: str) -> Path:
    """Where a stream keeps its checkpoints, logs and state. Raises ConfigError for a name that is none."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--name {name!r}: use letters, digits, '-' and '_'")
    return layout.stream(data, name)


class Driver:
    """The hold on a stream's folder, and the facts about who has it (``driver.json``); both end with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: DriverFacts = {}

    @contextmanager
    def held(self, seconds: float = 2.0, begin: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the stream, and ``begin`` before another process can know of it. Raises DataError while another driver does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".driver.lock", "a") as lock:
            until = time.monotonic() + seconds  # somebody who looks whether a driver runs holds it for a moment
            while not take(lock):
                if time.monotonic() > until:
                    other = (running(self.folder) or {}).get("pid", "unknown")
                    raise DataError(
                        f"stream {self.folder.name!r} already runs (pid {other});"
                        " stop it with 'tandem stream stop', or choose another --name"
                    )
                time.sleep(0.05)
            try:
                begin()
                self.publish()  # in place of what a driver that was killed left there
                yield
            finally:
                (self.folder / "driver.json").unlink(missing_ok=True)

    def publish(self, **facts: Unpack[DriverFacts]) -> None:
        """Add to the facts that other processes see."""
        self.facts.update(facts)
        write_json(self.folder / "driver.json", {"pid": os.getpid(), **self.facts})


def running(folder: Path) -> DriverFacts | None:
    """The facts about the driver that holds this stream's folder; None when nobody does."""
    try:
        with open(folder / ".driver.lock") as lock:
            if not take(lock, shared=True):
                with suppress(OSError, ValueError):
                    found: DriverFacts = json.loads((folder / "driver.json").read_text())
                    return found
                return {}
    except FileNotFoundError:
        pass
    return None
