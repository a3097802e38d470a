"""The engines that ``tandem batch --runner`` knows by name: ``flink``, ``spark`` and ``dataflow``, each with all that Beam must be told.

Any other name is Beam's own: its options stand after ``--``.
"""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.batch.batch_engine import BatchEngine
from pipelines.lake.staged_code import staged_code
from pipelines.project.repository import Repo
from pipelines.services.jars import cache_folder, listed
from pipelines.streaming.engines.flink_rest import Cluster
from transforms.errors import ConfigError

__all__ = ["EngineFlags", "PRESETS", "engine_of"]


@dataclass(frozen=True)
class EngineFlags:
    """What the command line says of an engine. ``master`` is a cluster's (Flink ``host:port``, Spark ``spark://host:port``); None:
    embedded, on this machine. ``worker``: the command by which a machine of the cluster starts a worker. ``wait_minutes``: how long a
    job may wait for executors of Spark's cluster."""

    master: str | None = None
    parallelism: int | None = None
    worker: str = "tandem-worker"
    wait_minutes: float = 60.0


def engine_of(name: str, repo: Repo, flags: EngineFlags, args: Sequence[str]) -> BatchEngine:
    """The engine called ``name``; ``args`` are for Beam. Raises ConfigError for flags that it does not have."""
    make = PRESETS.get(name.lower())
    if make is not None:
        return make(repo, flags, args)
    if flags.master is not None or flags.parallelism is not None:
        raise ConfigError(f"--runner {name} does not take --master or --parallelism; pass Beam options after --")
    from pipelines.batch.beam_options import BeamEngine

    return BeamEngine(name, args)


class _Jvm(BatchEngine):
    """An engine of Java, by :class:`pipelines.engines.portable_job.JvmRunner`. ``reach``: looks whether its cluster answers; None: it is
    embedded."""

    has_code = True

    def __init__(
        self,
        name: str,
        repo: Repo,
        program: Callable[[], Any],
        flags: Mapping[str, str],
        args: Sequence[str],
        reach: Callable[[], object] | None,
    ) -> None:
        self.name, self.repo, self.program, self.reach, self.elsewhere = name, repo, program, reach, reach is not None
        self.args = [*(f"--{key}={value}" for key, value in flags.items()), *args]
        self.count = 0

    def ready(self) -> None:
        """See :class:`BatchEngine`."""
        if self.reach is not None:
            self.reach()

    @contextmanager
    def pipeline(self, folder: Path) -> Iterator[Any]:
        """A pipeline of the engine, which is run when the block ends."""
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from pipelines.engines.portable_job import JvmRunner

        self.count += 1
        name = f"tandem-{folder.name}-{self.count}"
        code = staged_code(self.repo.path, self.repo.data) if self.elsewhere else b""  # workers of this machine have it
        runner = JvmRunner(self.program(), folder / "engine" / str(self.count), name, code)
        options = PipelineOptions([f"--job_name={name}", *self.args], save_main_session=False)
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            yield pipeline


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _flink(repo: Repo, flags: EngineFlags, args: Sequence[str]) -> BatchEngine:
    """Beam's Flink runner, by our own pinned jars: embedded, or a client of a cluster of Flink 1.19."""
    if flags.master is not None and not re.fullmatch(r"[^\s:/]+:\d+", flags.master):
        raise ConfigError(f"--master {flags.master}: use host:port of Flink's REST API, such as localhost:8081")
    parallelism = flags.parallelism or (_cores() if flags.master is None else -1)
    conf = {"io.tmp.dirs": "{folder}/tmp", "heartbeat.timeout": 600_000, "akka.ask.timeout": "10 min"}
    if flags.master is None:
        conf |= {
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.bind-port": "0",
            "web.submit.enable": "false",
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": parallelism,
            "taskmanager.memory.network.min": "256m",  # 64 is too little for these graphs
            "taskmanager.memory.network.max": "256m",
        }
    said = {
        "flink_master": flags.master or "[local]",
        "parallelism": str(parallelism),
        "sdk_worker_parallelism": str(parallelism if flags.master is None else 0),  # a process each: Python has one lock
        "object_reuse": "true",
        "enable_metrics": "false",
    }

    def program() -> Any:
        from pipelines.engines.portable_job import JvmProgram

        return JvmProgram(
            "Flink",
            "flink",
            "org.apache.beam.runners.flink.FlinkPipelineRunner",
            ("--flink-conf-dir", "{folder}/conf"),
            files={"flink-conf.yaml": "".join(f"{key}: {value}\n" for key, value in conf.items())},
            embedded=flags.master is None,
            worker=None if flags.master is None else flags.worker,
            end=None if flags.master is None else Cluster(flags.master).cancel_jobs,
        )

    return _Jvm("flink", repo, program, said, args, None if flags.master is None else partial(_reach_flink, flags.master))


def _reach_flink(master: str) -> None:
    Cluster(master).ask("GET", "overview")


def _spark(repo: Repo, flags: EngineFlags, args: Sequence[str]) -> BatchEngine:
    """Beam's Spark runner, by our own pinned jars (Spark 3.5): embedded, or the driver of a cluster, which reaches back to it."""
    if flags.master is not None and not re.fullmatch(r"spark://[^\s:/]+:\d+", flags.master):
        raise ConfigError(f"--master {flags.master}: use spark://host:port of Spark's master")
    said = {"spark_master": flags.master or f"local[{flags.parallelism or _cores()}]"}

    def program() -> Any:
        from pipelines.engines.portable_job import JvmProgram

        jars = [str(cache_folder() / jar.path) for jar in listed("spark") if _for_executors(jar.path)]
        staged = {} if flags.master is None else {"files_to_stage": jars}
        here = "127.0.0.1" if flags.master is None else _reach_spark(flags.master)  # Spark's own guess is the host's first interface
        settings = {
            "spark.ui.enabled": "false",
            "spark.local.dir": "{folder}/tmp",
            "spark.driver.host": here,
            "spark.driver.bindAddress": here,
            "spark.network.timeout": "600s",  # as of Flink: a machine that is busy is no failure
        }
        if flags.master is not None and flags.parallelism is not None:
            settings["spark.cores.max"] = str(flags.parallelism)
        opens = ("java.base/sun.nio.cs", "java.base/sun.security.action", "java.base/sun.util.calendar")
        return JvmProgram(
            "Spark",
            "spark",
            "org.apache.beam.runners.spark.SparkPipelineRunner",
            embedded=flags.master is None,
            worker=None if flags.master is None else flags.worker,
            options={"runner": "org.apache.beam.runners.spark.SparkRunner", **staged},  # its Java side looks for one where none is named
            wait_seconds=math.inf if flags.master is None else 60 * flags.wait_minutes,
            java=(*(f"--add-opens={each}=ALL-UNNAMED" for each in opens), *(f"-D{key}={value}" for key, value in settings.items())),
        )

    return _Jvm("spark", repo, program, said, args, None if flags.master is None else partial(_reach_spark, flags.master))


def _for_executors(jar: str) -> bool:
    """Beam's own, which a Spark does not have. What it has comes first there, and Google's file system, which nothing of ours uses, fails
    with the Guava of a Spark."""
    own = jar.startswith(("org/apache/beam/", "net/bytebuddy/", "args4j/"))
    return own and "google-cloud-platform" not in jar


def _reach_spark(master: str) -> str:
    """The address of this machine on the way to the master: there its executors reach the driver."""
    host, _, port = master.removeprefix("spark://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 10) as reached:
            address = str(reached.getsockname()[0])
            return f"[{address}]" if ":" in address else address
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--master {master}: no Spark master answers there ({error}); correct the address or start it") from None


def _dataflow(repo: Repo, flags: EngineFlags, args: Sequence[str]) -> BatchEngine:
    """Google's Dataflow, on data in Google Cloud Storage."""
    from pipelines.engines.dataflow import DataflowEngine

    if flags.master is not None:
        raise ConfigError(f"--master {flags.master}: Dataflow has no master; give --project and --region after --")
    return DataflowEngine(repo, flags.parallelism, args)


PRESETS: dict[str, Callable[[Repo, EngineFlags, Sequence[str]], BatchEngine]] = {"flink": _flink, "spark": _spark, "dataflow": _dataflow}
