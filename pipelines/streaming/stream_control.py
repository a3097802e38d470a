"""What another process asks of a stream: to stop, how far it is, to go on."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.lake import runs
from pipelines.sources.letter_spool import letters_waiting
from pipelines.streaming.driver import DriverFacts, running, stream_folder
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.streaming.state.checkpoint_records import is_stream, next_offset
from pipelines.streaming.state.job_state import RESUME, JobState, SkippedRecord
from pipelines.streaming.status import StreamStatus, Tracker
from transforms.errors import ConfigError, DataError, TandemError

__all__ = ["StreamOverview", "resume_stream", "skip_record", "stop_stream", "stream_status"]


def stop_stream(data: Path, name: str, seconds: float = 120.0, savepoint: bool = False) -> dict[str, Any] | None:
    """Ask a stream to stop, wait until it has; its run's manifest, None if none runs. Raises DataError when it takes longer, or failed."""
    folder = stream_folder(data, name)
    until = time.monotonic() + seconds
    while (facts := running(folder)) == {} and time.monotonic() < until:
        time.sleep(0.05)  # its driver has not begun: it forgets what was asked of the one before
    if facts is None:
        return None
    job_state = JobState(folder)
    if savepoint:
        _need_savepoints(facts)
    job_state.request("savepoint" if savepoint else "stop")
    while (now := running(folder)) is not None:
        if savepoint and "engine" not in facts:  # it was asked while it waited for something, and may have begun all the same
            facts = now
            try:
                _need_savepoints(facts)
            except ConfigError:
                job_state.clear("savepoint")
                raise
        if time.monotonic() > until:
            raise DataError(f"stream {name!r} (pid {facts.get('pid')}) has not stopped after {seconds:g} s; see 'tandem stream status'")
        if savepoint and not job_state.requested("savepoint") and running(folder) is not None:
            said = job_state.said()[0] or [" no savepoint was taken"]
            raise DataError(f"stream {name!r} goes on: {said[-1].partition(' ')[2]}")
        time.sleep(0.1)
    manifest = runs.find(data, facts["run"]).manifest if facts.get("run") else {}
    if manifest.get("status") == "failed":
        raise DataError(f"stream {name!r} ended with an error: {manifest.get('error')}")
    return manifest


def _need_savepoints(facts: DriverFacts) -> None:
    """Raises ConfigError where it is known that the stream's engine has none."""
    if "engine" in facts and not facts.get("savepoints"):
        raise ConfigError(f"--savepoint: engine {facts['engine']!r} has none; stop the stream without: it keeps its own checkpoint")


@dataclass(frozen=True, kw_only=True)
class StreamOverview:
    """A stream as others see it. ``driver``: of the process that runs it, None where none does; ``progress`` is None, and all behind it
    empty, where there is no such stream."""

    name: str
    driver: DriverFacts | None = None
    progress: StreamStatus | None = None
    failure: str | None = None
    """Why its job must end, or had to."""
    skipped: list[SkippedRecord] = field(default_factory=list)
    folder: str = ""
    letters_waiting: int = 0
    """Dead letters that their topic has not accepted yet."""
    said: list[str] = field(default_factory=list)
    """The last lines of its log."""

    @property
    def running(self) -> bool:
        """Whether a process runs it."""
        return self.driver is not None

    def counts(self) -> dict[str, Any]:
        """``progress`` but for what only the driver can tell: rates and its age. JSON-able."""
        found = {} if self.progress is None else self.progress.to_dict()
        return {k: v for k, v in found.items() if k not in ("seconds", "events_per_second", "rows_per_second")}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the facts of the driver stand beside the others."""
        out: dict[str, Any] = {"name": self.name, "running": self.running}
        if self.progress is None:
            return out
        return {
            **out,
            **(self.driver or {}),
            "failure": self.failure,
            "progress": self.counts(),
            "skipped": self.skipped,
            "folder": self.folder,
            "letters_waiting": self.letters_waiting,
            "said": self.said,
        }


def stream_status(data: Path, name: str) -> StreamOverview:
    """Whether the stream runs, and how far it is."""
    folder = stream_folder(data, name)
    driver = running(folder)
    if not folder.is_dir() or (driver is None and not is_stream(folder)):
        return StreamOverview(name=name)
    job_state = JobState(folder)
    return StreamOverview(
        name=name,
        driver=driver,
        progress=Tracker(job_state).look(),
        failure=job_state.failure(),
        skipped=job_state.skipped(),
        folder=str(folder),
        letters_waiting=letters_waiting(folder / "letters"),
        said=job_state.said()[0][-10:],
    )


def skip_record(data: Path, name: str, topics: Mapping[str, str], where: str, reason: str) -> None:
    """Have a stream leave out the record ``topic/partition/offset``, or all that cannot be read around it; at once if it runs, else from
    its next start on. ``topics``: topic -> source. Raises ConfigError for what is no such place, DataError for one that was delivered.
    """
    found = re.fullmatch(r"(.+)/([0-9]{1,9})/([0-9]{1,18})", where)
    if found is None or found[1] not in topics:
        raise ConfigError(f"{where!r} is not a record of this stream; use TOPIC/PARTITION/OFFSET, with one of {', '.join(sorted(topics))}")
    if not reason.strip():
        raise ConfigError("--reason is empty; give the reason for skipping the record, which is recorded with it")
    topic, partition, offset = found[1], int(found[2]), int(found[3])
    folder = stream_folder(data, name)
    if not folder.is_dir():
        raise ConfigError(f"there is no stream {name!r}; start it with 'tandem stream'")
    job_state = JobState(folder)
    for point in job_state.load_checkpoints().values():
        at = next_offset(point, topics[topic], partition)
        if at is not None and at > offset:
            raise DataError(f"{where} was delivered (the stream is at {at}): take it out of its topic and start with --reset")
    job_state.skip(topic, partition, offset, reason)
    job_state.say(f"{where} is skipped: {reason}")


def resume_stream(data: Path, name: str) -> list[str]:
    """Let paused partitions go on, rejects and all, now or when the stream is started again; which ones. Raises TandemError if there is no
    such stream."""
    folder = stream_folder(data, name)
    if not folder.is_dir():
        raise TandemError(f"there is no stream {name!r}; start it with 'tandem stream'")
    job_state = JobState(folder)
    paused = [part for part, report in PartReports.of(job_state.reports()).polls.items() if report.paused]
    for part in paused:
        job_state.request(RESUME + part)
    return paused
