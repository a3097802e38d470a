"""The commands that the watch starts: children that die with it, whose output goes to a log."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipelines.lake import layout
from pipelines.lake.processes import reason, rotate, start_child, stop_child
from pipelines.project.recording import Stopped
from transforms.own_program import tandem_command

__all__ = ["Children", "Commands"]

_LOOK_SECONDS = 0.2


class Commands(Protocol):
    """Runs ``tandem`` commands, one at a time."""

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """Run ``tandem WORDS`` to its end: its exit code, and the line that says most about a failure.

        Raises Stopped on a request to stop.
        """


class Children:
    """Commands as child processes (Linux: they die with us, however we die). ``stop`` ends the running one in order."""

    def __init__(self, repo: Path, data: Path, stop: threading.Event, program: Sequence[str] | None = None) -> None:
        self.repo, self.data, self.stop, self.program = repo, data, stop, program or tandem_command()
        self.log = layout.watch(data) / "commands.log"

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """See :class:`Commands`."""
        rotate(self.log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"\n$ tandem {' '.join(words)}\n")
        begin = self.log.stat().st_size
        where = ["--repo", str(self.repo), "--data", str(self.data)]
        child = start_child([*self.program, *words, *where], self.log)
        try:
            while True:
                if self.stop.is_set():
                    raise Stopped
                try:
                    return child.wait(_LOOK_SECONDS), reason(self.log, begin)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            stop_child(child)
