"""Several processes that serve at one port: the first one binds it, begins the others, and begins anew whichever ends.

All accept from one listening socket, so that while one is away the others answer. Limits hold for the server: rates are counted in memory
that all share, and of threads, connections and what may wait each process has its part. If the first one ends, however it ends, so do they.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from serving.metrics_files import retire
from serving.settings import ServingSettings
from serving.shared_buckets import shared_table
from transforms.errors import ConfigError
from transforms.own_program import module_command

__all__ = ["Worker", "bound", "end_with_parent", "run_workers"]

log = logging.getLogger("uvicorn.error")

_AGAIN_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a worker that ends is waited for, the first time and later ones; one that ran for a minute counts as well again."""
_WELL_SECONDS = 60.0


@dataclass(frozen=True)
class Worker:
    """What a worker is told, beside the settings: descriptors that it inherits, and where its numbers go."""

    name: str
    listener: int
    parent: int
    """The end of a pipe that closes when the first process is gone."""
    limits: int
    metrics: str

    def to_json(self) -> str:
        """For the command line of the worker."""
        return json.dumps(self.__dict__)

    @staticmethod
    def parse(text: str) -> Worker:
        """What :meth:`to_json` gave."""
        return Worker(**json.loads(text))


def end_with_parent(worker: Worker) -> None:
    """End this process in order once the first one is gone."""

    def wait() -> None:
        select.select([worker.parent], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="tandem-parent", daemon=True).start()


def run_workers(settings: ServingSettings, say: Callable[[str, int], None], backlog: int) -> None:
    """Serve with ``settings.workers`` processes until SIGTERM or Ctrl-C, which is passed on and then raised again.

    ``say(host, port)`` is called when the port is bound. Raises ConfigError where it cannot be, and SystemExit if no worker can begin.
    """
    listener = bound(settings)
    listener.listen(backlog)
    say(settings.host, listener.getsockname()[1])
    gone, ours = os.pipe()
    folder = Path(tempfile.mkdtemp(prefix="tandem-serve-"))
    group = _Group(settings, listener, gone, shared_table(), folder)
    caught: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        caught.append(number)
        group.stop()

    before = {int(number): signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        group.run()
    finally:
        os.close(ours)  # whatever still runs ends now
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in caught[:1]:
        signal.raise_signal(number)


def bound(settings: ServingSettings) -> socket.socket:
    """A socket at the address of these settings, which does not listen yet. Raises ConfigError where somebody else listens there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as e:
        why = e.strerror or str(e)
        raise ConfigError(f"serve.host {settings.host!r} port {settings.port}: cannot listen there ({why}); choose another port") from None
    return listener


class _Group:
    """The worker processes. All but :meth:`stop` on the main thread."""

    def __init__(self, settings: ServingSettings, listener: socket.socket, gone: int, limits: int, folder: Path) -> None:
        self._settings = settings
        self._fds = (listener.fileno(), gone, limits)
        self._folder = folder
        self._begun = 0
        self._running: dict[subprocess.Popen[bytes], tuple[int, str, float]] = {}
        self._failures = [0] * settings.workers
        self._stopping = False

    def stop(self) -> None:
        """Tell all to finish what they answer, and to end."""
        self._stopping = True
        for process in list(self._running):
            with contextlib.suppress(OSError):
                process.terminate()

    def run(self) -> None:
        """Until all have ended."""
        due = dict.fromkeys(range(self._settings.workers), 0.0)
        while self._running or (due and not self._stopping):
            if not self._stopping:
                for place in [p for p, at in due.items() if at <= time.monotonic()]:
                    del due[place]
                    self._begin(place)
            for process in [p for p in self._running if p.poll() is not None]:
                place, name, since = self._running.pop(process)
                due[place] = self._ended(process, place, name, since)
            time.sleep(0.05)

    def _begin(self, place: int) -> None:
        listener, parent, limits = self._fds
        self._begun += 1
        worker = Worker(f"{place}-{self._begun}", listener, parent, limits, str(self._folder))
        command = module_command("serving", self._settings.model_dump_json(), worker.to_json())
        environment = {k: v for k, v in os.environ.items() if k != "TANDEM_RUN_FOLDER"}  # how the server ends is told once
        # A group of its own: Ctrl-C in a terminal comes to the first process alone, which passes it on.
        process = subprocess.Popen(command, pass_fds=self._fds, env=environment, process_group=0)
        self._running[process] = (place, worker.name, time.monotonic())
        if self._stopping:  # the signal came in between
            process.terminate()

    def _ended(self, process: subprocess.Popen[bytes], place: int, name: str, since: float) -> float:
        """When the next one begins in its place."""
        began, ran = (self._folder / f"{name}.json").exists(), time.monotonic() - since
        with contextlib.suppress(OSError):
            retire(self._folder, name)
        if self._stopping:
            return 0.0
        if not began and self._begun <= self._settings.workers:
            self.stop()
            for other in self._running:
                other.wait()
            raise SystemExit(process.returncode if process.returncode > 0 else 3)
        self._failures[place] = 0 if ran > _WELL_SECONDS else self._failures[place] + 1
        seconds = _AGAIN_SECONDS[min(max(self._failures[place] - 1, 0), len(_AGAIN_SECONDS) - 1)]
        log.error("worker %d (process %d) exited with %d; restarting it in %g s", place, process.pid, process.returncode, seconds)
        return time.monotonic() + seconds


def share(settings: ServingSettings) -> ServingSettings:
    """The settings of one worker: its part of what the server may hold."""

    def part(whole: int) -> int:
        return -(-whole // settings.workers)

    changes: dict[str, Any] = {name: part(getattr(settings, name)) for name in ("threads", "max_connections", "max_waiting_bytes")}
    changes["max_waiting"] = part(settings.max_waiting)
    if settings.max_connections_per_client is not None:
        changes["max_connections_per_client"] = part(settings.max_connections_per_client)
    return settings.model_copy(update=changes)
