"""One SDK worker of the streaming job, a process of its own: ``tandem -m pipelines.streaming.engines.worker``, started by the pool.

It loads what it needs while Flink still starts, and waits for its orders: one line of JSON on stdin, which is a socket. There it says
(:data:`SERVING`) that its runner has given it work: one that ends before has never been heard of by its runner, who waits for it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from serving import json_logs
from transforms.own_program import leave, module_command

__all__ = ["PRELOAD", "SERVING", "has_served", "start_worker"]

SERVING = b"1"

_LEFT_SECONDS = 2.0
"""For what a worker is still at when its runner has hung up: nobody takes it any more, and the next worker is on its way."""

PRELOAD = ("apache_beam.runners.worker.sdk_worker",)
"""Modules that every worker imports while it waits for its orders."""


def start_worker(log: Path, preload: Sequence[str] = PRELOAD) -> subprocess.Popen[bytes]:
    """Start a worker that imports ``preload`` and waits for its orders on stdin; its output is appended to ``log``."""
    from pipelines.lake.processes import rotate, start_child

    rotate(log)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # Ctrl-C in a terminal is for the driver alone, which then drains.
        worker = start_child(module_command("pipelines.streaming.engines.worker", *preload), log, stdin=theirs.fileno())
        worker.stdin = cast(IO[bytes], ours.makefile("rwb", buffering=0))
    return worker


def has_served(worker: subprocess.Popen[bytes]) -> bool:
    """Whether a worker that has ended had been given work by its runner."""
    assert worker.stdin is not None
    with suppress(OSError, ValueError):  # closed, as all of its pool is
        return bool(select.select([worker.stdin], [], [], 0)[0]) and worker.stdin.read(1) == SERVING
    return False


def _end_with_parent() -> None:
    """The pool's end of stdin closes when it ends: so does the worker (beside the kernel's own rule, see processes)."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Wait for orders, serve one runner, end."""
    if not json_logs.on():
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    class Harness(SdkHarness):
        """Beam's, which waits without end for work in progress when its runner has hung up; ours ends. It says that it has work."""

        said = False

        def _execute(self, task: Callable[[], Any], request: Any) -> None:
            if not self.said:
                self.said = True
                with suppress(OSError):
                    os.write(0, SERVING)
            super()._execute(task, request)

        @property
        def _alive(self) -> bool:
            return False

        @_alive.setter
        def _alive(self, alive: bool) -> None:
            if not alive:
                end = threading.Timer(_LEFT_SECONDS, os._exit, (0,))
                end.daemon = True
                end.start()

    line = sys.stdin.buffer.readline()
    if not line:
        return
    orders = json.loads(line)
    sys.path.extend(path for path in orders["path"] if path not in sys.path)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    code = 0
    try:
        Harness(orders["control"], worker_id=orders["id"], state_cache_size=orders["cache_bytes"], data_buffer_time_limit_ms=0).run()
    except BaseException:
        logging.getLogger("tandem.worker").exception("the worker failed")
        code = 1
    leave(code)


if __name__ == "__main__":
    main()
