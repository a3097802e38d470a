"""The streaming job on the embedded Flink: one JVM and one worker process as children, which end with this process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.lake.processes import stop_child
from pipelines.streaming.engines.flink_keys import even_keys
from pipelines.streaming.engines.flink_rest import FlinkSettings, check_flags
from pipelines.streaming.engines.stream_engine import Engine, EngineJob, EngineOptions, parts_allowed, read_settings
from pipelines.streaming.engines.worker import PRELOAD, start_worker

if TYPE_CHECKING:
    from pipelines.streaming.state.job_spec import JobSpec

__all__ = ["FlinkEngine", "flink_job"]

SHUFFLED_TICK_MS = 100
"""How often a job of several parts ticks at most: each tick is a bundle for every partition, and one for every shard."""


class EmbeddedSettings(FlinkSettings):
    """``parts``: into how many a job may be divided, a task of Flink each. All tasks are threads of one worker process, so more parts than
    one cost the shuffle between them, and a fold and a delivery each; they win where work waits for others, as for a distant store."""

    parts: int = Field(default=1, ge=1, le=128)


class FlinkEngine(Engine):
    """See the module. State is kept by Flink's checkpoints only while the engine lives; then the stream's own counts."""

    name = "flink"
    Settings: ClassVar[type[FlinkSettings]] = EmbeddedSettings
    settings: FlinkSettings

    def __init__(self, options: EngineOptions, say: Callable[[str], None] = lambda line: None) -> None:
        super().__init__(options, say)
        self.spare: subprocess.Popen[bytes] | None = None

    @classmethod
    def check(cls, options: EngineOptions) -> None:
        """Flags of a cluster are refused, a savepoint among them."""
        given = read_settings(cls.Settings, options, cls.name)
        check_flags(None, given.worker_pool, options.savepoint, given.worker_command)

    def parts(self, shards: int) -> int:
        """One, unless the engine's own setting allows for more."""
        return min(shards, parts_allowed(self.settings))

    def shard_keys(self, shards: int) -> tuple[int, ...]:
        """Keys that Flink spreads evenly over its tasks, of which each part has one."""
        return even_keys(shards, shards)

    def prepare(self) -> None:
        """Start a worker: its imports take as long as all that is done until the job is submitted."""
        if (asked := self.options.parallelism) > (parts := parts_allowed(self.settings)):
            self.say(
                f"--parallelism {asked} is for a cluster: the embedded Flink's tasks are threads of one Python process, where more of them"
                f" take more CPU for the same work; the job has {parts} (--engine-option parts={asked} allows for more)"
            )
        self.spare = start_worker(self.options.folder / "flink" / "worker.log", (*PRELOAD, *self.options.preload))

    def new_job(self, spec: JobSpec, first: bool) -> EngineJob:
        """One JVM."""
        spare, self.spare = self.spare, None
        return flink_job(replace(self.options, parallelism=spec.stream.shards), spec, self.say, spare=spare)

    def close(self) -> None:
        """End a worker that was not needed."""
        if self.spare is not None:
            stop_child(self.spare, 0)


def flink_job(options: EngineOptions, spec: JobSpec, say: Callable[[str], None], **more: Any) -> EngineJob:
    """The stream's graph as a job of Flink; ``more`` goes to :class:`FlinkJob` (``spare``) and :class:`FlinkOptions`."""
    from pipelines.streaming.engines.flink_job import FlinkJob, FlinkOptions
    from pipelines.streaming.stages.one_step import PULSE_MS
    from pipelines.streaming.stages.stream_graph import build

    spare = more.pop("spare", None)
    how = FlinkOptions(
        folder=options.folder / "flink",
        name=options.name,
        parallelism=options.parallelism,
        checkpoint_seconds=spec.stream.checkpoint_seconds,
        extra=options.beam_args,
        bundle_elements=1 if spec.stream.shards == 1 else 1000,
        **more,
    )
    tick_ms = max(spec.stream.tick_ms, PULSE_MS if spec.stream.shards == 1 else SHUFFLED_TICK_MS)
    ticks = _ticks(tick_ms, options.parallelism)
    return FlinkJob(how, lambda pipeline: build(pipeline, spec, ticks), say, (*PRELOAD, *options.preload), spare)


def _ticks(tick_ms: int, parallelism: int) -> Any:
    """Ticks for Flink: each of its parallel sources ticks, so each one more slowly."""
    from apache_beam.io.flink.flink_streaming_impulse_source import FlinkStreamingImpulseSource

    ticks = FlinkStreamingImpulseSource()
    ticks.config = {"interval_ms": tick_ms * parallelism}  # an attribute of its own: the class's is shared
    return ticks
