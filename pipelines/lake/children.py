"""Child processes that never outlive their parent, however it ends (kill -9 included)."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pipelines.lake import die_with_parent

__all__ = ["end", "launch"]

_TETHER = str(Path(die_with_parent.__file__))

_orders: queue.SimpleQueue[tuple[Sequence[str], dict[str, Any], Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
_starter: list[threading.Thread] = []
_lock = threading.Lock()


def _serve() -> None:
    while True:
        args, how, answer = _orders.get()
        try:
            answer.set_result(subprocess.Popen([sys.executable, "-I", "-S", _TETHER, str(os.getpid()), *args], **how))
        except BaseException as error:
            answer.set_exception(error)


def launch(args: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start ``args`` (its first is a path) as a child that is killed when this process ends. ``how`` goes to Popen.

    All children are started by one thread that lives as long as the process: the kernel's tie is to the thread (see services.tether).
    """
    with _lock:
        if not _starter or not _starter[0].is_alive():
            _starter[:] = [threading.Thread(target=_serve, name="children", daemon=True)]
            _starter[0].start()
    answer: Future[subprocess.Popen[bytes]] = Future()
    _orders.put((args, how, answer))
    return answer.result()


def end(child: subprocess.Popen[bytes], seconds: float = 5.0) -> int:
    """End a child: SIGTERM, SIGKILL after ``seconds`` (0: at once). Returns its exit code."""
    if child.poll() is None:
        if seconds > 0:
            child.terminate()
            try:
                return child.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        child.kill()
    return child.wait()
