"""Whether Flink's own checkpoints of a job fail one after the other: the stream goes on by Tandem's, but Flink cannot repair the job."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any

from pipelines.streaming.engines.flink_rest import Cluster
from transforms.errors import TandemError

__all__ = ["CheckpointWatch", "FailedInARow"]

_TOLD = 3
"""Failures in a row of which one line is written: a task manager that is lost costs one or two."""


class FailedInARow:
    """Whether a job's checkpoints failed one after the other since the last one that was completed, by Flink's answers in turn."""

    def __init__(self) -> None:
        self._completed = self._failed = 0
        self._told = False

    def look(self, answer: Mapping[str, Any]) -> str:
        """What is to be told of an answer of ``jobs/<id>/checkpoints``; empty: nothing. Raises KeyError, TypeError, ValueError for what
        Flink does not answer.

        Ticks at which the tasks did not run yet count as failed, too, but are no checkpoints: only after one that began and failed, newer
        than the last completed one, is anything told."""
        counts, latest = answer["counts"], answer["latest"]
        completed, failed = int(counts["completed"]), int(counts["failed"])
        last = latest.get("failed")
        anew = completed < self._completed or failed < self._failed  # by a job manager that took the job over, and counts from zero
        again = completed > (0 if anew else self._completed)
        if anew or again:
            told, self._told = self._told, self._told and not again
            self._completed, self._failed = completed, failed
            return "Flink completes checkpoints again" if told and again else ""
        done = latest.get("completed")
        if last is None or (done is not None and int(done["id"]) > int(last["id"])):
            self._failed = failed
            return ""
        number = failed - self._failed
        if number < _TOLD or self._told:
            return ""
        self._told = True
        why = (str(last.get("failure_message") or "").strip().splitlines() or ["no reason given"])[0][:300]
        return (
            f"the last {number} checkpoints of Flink failed ({why}); the stream goes on and keeps its own, but Flink cannot repair the"
            " job without them: check stream.checkpoints, and whether each task manager may write there"
        )


class CheckpointWatch:
    """Asks a cluster every ``seconds`` for the checkpoints of the job called ``name``, in a thread of its own; :meth:`told` has what is to
    be told, for whoever watches the job. A cluster that does not answer, or answers otherwise, is asked again: others tell of that."""

    def __init__(self, cluster: Cluster, name: str, seconds: float) -> None:
        self.cluster, self.name, self.seconds = cluster, name, seconds
        self._lines: SimpleQueue[str] = SimpleQueue()
        self.failed = FailedInARow()
        self._job = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flink-checkpoints", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a question that is under way is not waited for."""
        self._end.set()

    def told(self) -> Iterator[str]:
        """The lines since the last call."""
        while not self._lines.empty():
            yield self._lines.get()

    def look(self) -> None:
        """Ask once."""
        try:
            for job in self.cluster.jobs(self.name)[:1]:
                if job["jid"] != self._job:
                    self._job, self.failed = job["jid"], FailedInARow()
                line = self.failed.look(self.cluster.ask("GET", f"jobs/{self._job}/checkpoints"))
                if line:
                    self._lines.put(line)
        except (TandemError, KeyError, TypeError, ValueError, AttributeError):
            return

    def _run(self) -> None:
        while not self._end.wait(self.seconds):
            self.look()
