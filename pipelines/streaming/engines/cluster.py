"""The streaming job on a Flink cluster: this process submits it, watches it, and ends it through the cluster's REST interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.lake.staged_code import staged_code
from pipelines.streaming.engines.flink import flink_job
from pipelines.streaming.engines.flink_keys import even_keys
from pipelines.streaming.engines.flink_rest import Cluster, FlinkSettings, check_flags
from pipelines.streaming.engines.stream_engine import Engine, EngineJob, EngineOptions, read_settings
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.streaming.state.job_spec import JobSpec

__all__ = ["FlinkClusterEngine"]


class FlinkClusterEngine(Engine):
    """See the module. The cluster repairs itself from its checkpoints; a savepoint outlives the job."""

    name = "flink-cluster"
    Settings = FlinkSettings
    settings: FlinkSettings
    savepoints = True
    elsewhere = True

    @classmethod
    def check(cls, options: EngineOptions) -> None:
        """The cluster's address and a pool of workers beside it are needed."""
        given = read_settings(FlinkSettings, options, cls.name)
        if given.flink_master is None:
            raise ConfigError(f"--runner {cls.name} needs --master host:port, the cluster's REST interface, and --worker-pool")
        check_flags(given.flink_master, given.worker_pool, options.savepoint, given.worker_command)

    def parts(self, shards: int) -> int:
        """No more than there are tasks: each costs the same work anew with every tick."""
        return min(shards, self.options.parallelism)

    def shard_keys(self, shards: int) -> tuple[int, ...]:
        """Keys that Flink spreads evenly over its tasks."""
        return even_keys(shards, self.options.parallelism)

    def new_job(self, spec: JobSpec, first: bool) -> EngineJob:
        """One job of the cluster, submitted by a JVM of ours."""
        options, given = self.options, self.settings
        return flink_job(
            options,
            spec,
            self.say,
            master=given.flink_master,
            worker_pool=given.worker_pool,
            worker=given.worker_command,
            code=staged_code(options.repo, options.data) if given.worker_command is not None else b"",
            stored=spec.url is None,
            savepoint=options.savepoint if first else None,
            checkpoints=spec.stream.checkpoints,
        )

    def stop_with_savepoint(self) -> str:
        """The savepoint's path, as the cluster sees it."""
        assert self.settings.flink_master is not None
        return Cluster(self.settings.flink_master).stop_with_savepoint(self.options.name)
