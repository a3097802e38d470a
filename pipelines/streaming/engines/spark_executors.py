"""What Spark's log says of its executors: whether any begins to work, whether the cluster gives the job none, and why those were lost that
a job failed for.

Of a standalone cluster, as Spark 3.5 writes it at INFO. What is written at higher levels alone ends no job.
"""

from __future__ import annotations

import re
import signal
from typing import TextIO

__all__ = ["Executors", "loss_behind", "signalled"]

_MOST_STARTS = 20
"""So many executors that end before one begins to work."""
_STARTS_OF_A_WORKER = 3
"""So many of them by each of Spark's workers that is starting one: one whose executor was lost is given time to replace it."""
_PIECE = 1 << 20
_STEP = re.compile(
    r"Executor added: \S+/(?P<added>\d+) on (?P<worker>\S+)"
    r"|Registered executor .* with ID (?P<registered>\d+)"
    r"|Lost executor (?P<lost>\d+) on \S+:"
    r"|Executor updated: \S+/(?P<ended>\d+) is now (?P<how>EXITED|FAILED|LOST|KILLED)(?: \((?P<reason>.+)\))?"
    r"|Executor (?P<gone>\d+) on \S+ (?P<why>killed by driver|is decommissioned)"
    r"|Executors (?P<idle>\d+(?:,\d+)*) removed due to idle timeout"
    r"|(?P<wanted>Requesting \d+ new executors? because tasks are backlogged)"
)
_LOST = re.compile(r"Lost executor (\S+) on (\S+): (.+)|Executor updated: \S+/(\d+) is now (?:EXITED|FAILED|LOST) \((.+)\)")
_OF_ONE = re.compile(r"ExecutorLostFailure \(executor (\S+) ")
_TOO_OFTEN = "the maximum allowable number of times"
_NONE_LEFT = re.compile(r"Master removed our application|SparkContext was shut down")
_NOTHING_GIVEN = "Initial job has not accepted any resources"
"""Said (as a warning, every 15 s) until the first task has an executor to run on."""
_HEAP_EXIT = 52
"""The exit code of an executor whose heap is full."""


class Executors:
    """The executors of a running Spark, by their ids: :meth:`read` follows its log; the others say what came of them."""

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._registered = self._nothing_given = False  # since the last time
        self._lost: str | None = None  # the last one that was alive
        self._idle: set[str] = set()  # those that Spark gave back, as it had no task for them
        self._wanted = False  # said since Spark last gave one back, or was given one
        self._starting: dict[str, str] = {}  # -> the worker of Spark that starts it
        self._failed: dict[str, set[str]] = {}  # worker -> those that ended without having begun, since one was last at work
        self._reason = ""
        self._rest = ""

    def read(self, log: TextIO) -> None:
        """Take in what the log says since the last time, each line once; a line that is not whole yet is left for the next time."""
        self._registered = self._nothing_given = False
        while piece := log.read(_PIECE):
            *lines, self._rest = (self._rest + piece).split("\n")
            for line in lines:
                if "xecutor" in line and (step := _STEP.search(line)):
                    self._take(step)
                elif _NOTHING_GIVEN in line:
                    self._nothing_given = True

    def _take(self, step: re.Match[str]) -> None:
        if added := step["added"]:
            self._starting[added] = step["worker"]
        elif registered := step["registered"]:
            self._starting.pop(registered, None)
            self._alive.add(registered)
            self._registered, self._nothing_given, self._wanted = True, False, False
            self._failed.clear()
        elif lost := step["lost"]:  # said of those alone that were registered
            self._gone(lost)
        elif gone := step["gone"]:
            self._gone(gone, given_back=step["why"] == "killed by driver")
        elif idle := step["idle"]:
            self._idle.update(idle.split(","))
            self._wanted = False
        elif step["wanted"]:
            self._wanted = True
        elif (ended := step["ended"]) in self._alive:
            self._gone(ended, given_back=step["how"] == "KILLED")
        elif (worker := self._starting.pop(ended, None)) is not None and not self._alive and step["how"] != "KILLED":
            self._failed.setdefault(worker, set()).add(ended)
            self._reason = step["reason"] or step["how"]

    def _gone(self, executor: str, given_back: bool = False) -> None:
        if executor in self._alive:
            self._alive.remove(executor)
            self._lost = executor
            if given_back:
                self._idle.add(executor)

    def none_starts(self) -> str:
        """Why no executor begins to work, one line; empty where one is at work, or may still begin: Spark replaces those that it loses."""
        hopeful = any(len(self._failed.get(worker, ())) < _STARTS_OF_A_WORKER for worker in self._starting.values())
        return "" if self._alive or hopeful or sum(map(len, self._failed.values())) < _MOST_STARTS else _told("", self._reason)

    def worked(self) -> bool:
        """Whether one was at work since the time before the last :meth:`read`, as far as the log says."""
        return (self._registered or bool(self._alive)) and not self._nothing_given

    def none_works(self) -> bool:
        """Whether the job is in want of executors and has none, nor is one being started: Spark said in what was last read that it has
        none, or all that had begun are gone, and not because there was nothing to do."""
        gone = self._lost is not None and not self._alive and (self._wanted or self._lost not in self._idle)
        return not self._starting and (self._nothing_given or gone)


def loss_behind(failure: str, log: str) -> str:
    """Why the executors were lost that a job failed for with this line, one line; empty where it failed for something else. Where the job
    ended as none was left, a loss that Spark has made good since is no cause."""
    if one := _OF_ONE.search(failure):
        lost = [m for m in _LOST.findall(log) if one[1] in (m[0], m[3])]
    elif _TOO_OFTEN in failure:  # what they had made went with them, though others were started
        lost = _LOST.findall(log)
    elif _NONE_LEFT.search(failure):
        lost = _LOST.findall(log.rpartition("Registered executor ")[2])
    else:
        lost = []
    return _told(lost[-1][1], lost[-1][2] or lost[-1][4]) if lost else ""


def _told(host: str, reason: str) -> str:
    """Why an executor was lost, and what helps; the host is empty where it never began to work."""
    ended = re.search(r"exited with code (\d+)", reason)
    code = int(ended[1]) if ended else 0
    if code == _HEAP_EXIT:
        reason = "its heap was full; give executors more (spark.executor.memory)"
    elif code > 128:
        reason = f"it was {signalled(code - 128)}"
    elif code:
        reason += "; why is in its stderr, in the folder 'work' of Spark's worker"
    return f"executors were lost, the last one{f' on {host}' if host else ''}: {reason}"


def signalled(number: int) -> str:
    """How a process ended by a signal."""
    return f"ended by signal {number}{', as the kernel does where memory is short' if number == signal.SIGKILL else ''}"
