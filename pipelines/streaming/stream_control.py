"""What another process asks of a stream: to stop, how far it is, to go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.lake import runs
from pipelines.streaming.driver import running, stream_folder
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.status import Tracker
from transforms.errors import ConfigError, DataError, TandemError

__all__ = ["resume_stream", "stop_stream", "stream_status"]


def stop_stream(
    data: Path, name: str, seconds: float = 120.0, savepoint: bool = False, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any] | None:
    """Ask a stream to stop, wait until it has; its run's manifest, None if none runs. Raises DataError when it takes longer, or failed."""
    folder = stream_folder(data, name)
    facts = running(folder)
    if facts is None:
        return None
    if savepoint and not facts.get("savepoints"):
        raise ConfigError(f"--savepoint: engine {facts.get('engine')!r} has none; stop the stream without: it keeps its own checkpoint")
    job_state = JobState(folder)
    job_state.request("savepoint" if savepoint else "stop")
    until = time.monotonic() + seconds
    while running(folder) is not None:
        if time.monotonic() > until:
            raise DataError(f"stream {name!r} (pid {facts.get('pid')}) has not stopped after {seconds:g} s; see 'tandem stream status'")
        if savepoint and not job_state.requested("savepoint") and running(folder) is not None:
            raise DataError(f"stream {name!r} goes on: {job_state.said()[0][-1].partition(' ')[2]}")
        sleep(0.1)
    manifest = runs.find(data, facts["run"]).manifest if facts.get("run") else {}
    if manifest.get("status") == "failed":
        raise DataError(f"stream {name!r} ended with an error: {manifest.get('error')}")
    return manifest


def stream_status(data: Path, name: str) -> dict[str, Any]:
    """Whether the stream runs, and how far it is."""
    folder = stream_folder(data, name)
    facts = running(folder)
    if not folder.is_dir():
        return {"name": name, "running": False}
    job_state = JobState(folder)
    now = Tracker(job_state).look()
    out: dict[str, Any] = {"name": name, "running": facts is not None, **(facts or {}), "failure": job_state.failure()}
    out["progress"] = {k: v for k, v in now.to_dict().items() if k not in ("seconds", "events_per_second", "rows_per_second")}
    out["said"] = job_state.said()[0][-10:]
    return out


def resume_stream(data: Path, name: str) -> list[str]:
    """Let paused partitions go on, rejects and all; which ones. Raises TandemError if no such stream runs."""
    folder = stream_folder(data, name)
    if running(folder) is None:
        raise TandemError(f"no stream called {name!r} runs; start it with 'tandem stream'")
    job_state = JobState(folder)
    paused = [part for part, values in job_state.reports().items() if part.startswith("poll-") and values.get("paused")]
    for part in paused:
        job_state.request("resume-" + part.removeprefix("poll-"))
    return [part.removeprefix("poll-") for part in paused]
