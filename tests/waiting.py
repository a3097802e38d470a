"""Waiting for what another process or thread does: one way for all tests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

__all__ = ["until"]


def until(condition: Callable[[], Any], seconds: float = 120.0, process: subprocess.Popen[Any] | None = None, what: str = "") -> Any:
    """What ``condition`` gives once that is true. Fails after ``seconds``, or when ``process`` has ended before.

    How long it takes says nothing of what is tested: give less than the default only where a test must see that something never comes.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, f"the process ended with {process.returncode}"
        assert time.monotonic() < end, f"{what or 'what was waited for'} did not come within {seconds:g} s"
        time.sleep(0.02)
    return found
