"""The streaming job in this process, in a thread of its own, by Beam's direct runner: for tests, notebooks and catching up.

One tick polls every partition to its end offset, so it ends by itself (``--until latest``); no Java, no worker processes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.streaming.engines.stream_engine import Engine, EngineJob, EngineSettings, cause, parts_allowed
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.streaming.state.job_state import JobState

if TYPE_CHECKING:
    from pipelines.streaming.state.job_spec import JobSpec

__all__ = ["DirectEngine", "DirectSettings"]

_STOP_SECONDS = 30.0


class DirectSettings(EngineSettings):
    """``parts``: into how many a job may be divided. One thread works on all of them, so more than one only cost."""

    parts: int = Field(default=1, ge=1, le=128)


class DirectEngine(Engine):
    """See the module."""

    name = "direct"
    Settings: ClassVar[type[EngineSettings]] = DirectSettings
    endless = False
    in_process = True

    def parts(self, shards: int) -> int:
        """One, unless the engine's own setting allows for more."""
        return min(shards, parts_allowed(self.settings))

    def new_job(self, spec: JobSpec, first: bool) -> EngineJob:
        """A pass over what is there."""
        return _DirectJob(spec, self.options.beam_args)


class _DirectJob(EngineJob):
    def __init__(self, spec: JobSpec, beam_args: tuple[str, ...]) -> None:
        self.spec, self.beam_args = spec, beam_args
        self.job_state = JobState(spec.folder)
        self.failed: BaseException | None = None
        # A thread cannot be killed: one that hangs must not keep the process, and what it did not deliver comes again.
        self.thread = threading.Thread(target=self._run, name="pipeline", daemon=True)

    def _run(self) -> None:
        try:
            import apache_beam as beam

            from pipelines.batch.beam_options import options
            from pipelines.streaming.stages.stream_graph import build

            with beam.Pipeline(options=options("direct", list(self.beam_args))) as pipeline:
                build(pipeline, self.spec, beam.Create([b""]))
        except BaseException as error:
            self.failed = error

    def start(self) -> None:
        """In the background."""
        self.thread.start()

    def poll(self) -> int | None:
        """A pass that had to leave something out is a failure: it is made again, or ends the stream where that would not help."""
        if self.thread.is_alive():
            return None
        return 1 if self.failed is not None or self._away() else 0

    def _away(self) -> tuple[str, ...]:
        return PartReports.of(self.job_state.reports()).away

    def error(self) -> str:
        """What the pipeline raised, or what did not answer."""
        if self.failed is None:
            return f"the broker did not respond for {', '.join(self._away())}"
        text = str(self.failed)
        return cause(text) or (text.splitlines() or [type(self.failed).__name__])[0]

    def stop(self) -> None:
        """Wait for the end; a pass that is not through yet is asked to end where it is."""
        if self.thread.ident is None:
            return
        self.thread.join(1.0)
        if self.thread.is_alive():
            self.job_state.request("stop")
            self.thread.join(_STOP_SECONDS)
