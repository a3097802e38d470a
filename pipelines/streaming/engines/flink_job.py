"""One job of Flink, embedded or on a cluster.

No job server: Beam's ``FlinkPipelineRunner`` runs one portable pipeline that it finds on its class path, and ends with it. So there
is one JVM per job, its exit code is the job's, it is killed when this process ends, and nothing can be left in it. Embedded, the JVM
is the whole of Flink; on a cluster it is the client, and the job is ended through Flink's REST interface.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner

from pipelines.lake.private import UNIX_SOCKETS, socket_folder, without_secrets
from pipelines.lake.processes import start_child, stop_child, tail
from pipelines.lake.staged_code import EMBEDDED
from pipelines.services.jars import ADD_OPENS, classpath, java
from pipelines.services.own_jar import JAR, MAIN
from pipelines.streaming.engines.flink_checkpoints import CheckpointWatch
from pipelines.streaming.engines.flink_keys import MAX_PARALLELISM
from pipelines.streaming.engines.flink_rest import Cluster, check_flags
from pipelines.streaming.engines.job_jar import write_job_jar
from pipelines.streaming.engines.stream_engine import EngineJob, cause, why_ended
from pipelines.streaming.engines.worker import PRELOAD, start_worker
from pipelines.streaming.engines.worker_pool import CACHE_MB, WorkerPool, proof_of, shared_token
from transforms.errors import ConfigError
from transforms.functions.travel import code_travels

__all__ = ["FlinkJob", "FlinkOptions"]

_NO_FILE_SYSTEM = "UnsupportedFileSystemSchemeException"
_SCHEME = re.compile(r"file system implementation for scheme '([^']+)'(?:.*plugins?(?:\(s\))?: ([a-z0-9-]+(?:, [a-z0-9-]+)*))?")
_LOG_BYTES = 200_000
"""Of the end of a log, where its cause is looked for."""
MAIN_CLASS = "org.apache.beam.runners.flink.FlinkPipelineRunner"
BUNDLE_MS = 20
"""Flink closes a bundle after so long: the default of 1000 ms costs a factor of 20 (measured)."""


@dataclass(frozen=True)
class FlinkOptions:
    """How a job runs. ``master`` None is embedded; else ``host:port`` of a cluster's REST interface, which needs ``worker_pool``."""

    folder: Path
    name: str
    parallelism: int = 1
    checkpoint_seconds: float = 10.0
    retries: int = 3
    """Restarts that Flink does by itself (from its last checkpoint) before the job fails and the driver decides."""
    heap_mb: int = 1024
    master: str | None = None
    worker_pool: str | None = None
    worker: str | None = None
    """The command by which a task manager starts a worker; it is sent ``code`` (see ``staged_code``)."""
    code: bytes = field(default=b"", repr=False)
    stored: bool = True
    """Whether a cluster that was told no place keeps its state below ``folder``, which its machines share. Without: nowhere; after a
    failure the job ends, and the driver starts it anew from the stream's checkpoint."""
    savepoint: str | None = None
    checkpoints: str = ""
    """URL of the cluster's checkpoints, which all its machines reach; empty: a folder below ``folder``."""
    bundle_elements: int = 1000
    """Flink closes a bundle after so many elements, too: 1 where an element is a tick's whole work, so that it waits for nothing."""
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_flags(self.master, self.worker_pool, self.savepoint, self.worker)

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether Flink makes checkpoints."""
        return self.master is None or self.stored or bool(self.checkpoints)

    def beam_options(self, pool: str, token: str) -> PipelineOptions:
        """Beam's options of the job; ``pool`` is the address of the SDK workers' pool, which asks for a proof of ``token``."""
        flags = {
            "streaming": "",
            "job_name": self.name,
            "flink_master": self.master or "[local]",
            "environment_type": "EXTERNAL" if self.worker is None else "PROCESS",
            "environment_config": json.dumps({"url": pool, "params": proof_of(token)} if self.worker is None else {"command": self.worker}),
            **({} if self.worker is None else {"max_cache_memory_usage_mb": CACHE_MB}),
            "parallelism": self.parallelism,
            "max_parallelism": MAX_PARALLELISM,
            "max_bundle_time_mills": BUNDLE_MS,
            "max_bundle_size": self.bundle_elements,
            "checkpointing_interval": max(10, round(self.checkpoint_seconds * 1000)),
            "state_backend": "filesystem",
            "state_backend_storage_path": self.checkpoints or f"file://{self.folder / 'checkpoints'}",  # Flink decodes no %20
            "number_of_execution_retries": self.retries if self.master is None else 1000,  # a cluster repairs itself
            "execution_retry_delay": 1000,
            "object_reuse": "true",
            "enable_metrics": "false",
        }
        if not self.keeps_checkpoints:
            for name in ("checkpointing_interval", "state_backend", "state_backend_storage_path"):
                del flags[name]
            flags["number_of_execution_retries"] = 0
        elif self.master is not None:
            flags["externalized_checkpoints_enabled"] = "true"  # kept when the job fails; a cancelled one starts from the stream's
        if self.savepoint:
            flags["savepoint_path"] = self.savepoint
        return PipelineOptions([f"--{key}={value}" if value != "" else f"--{key}" for key, value in flags.items()] + list(self.extra))

    def without_file_system(self, log: str) -> str:
        """Which of the URLs the cluster's log refuses as ones that it has no file system for, one line with the fix; empty: neither."""
        refused = _SCHEME.findall(log)
        for name, url in (("stream.checkpoints", self.checkpoints), ("--from-savepoint", self.savepoint or "")):
            if refused and url.partition("://")[0] == refused[-1][0]:
                plugins = refused[-1][1]
                fix = f"its job manager and each task manager need a plugin ({plugins})" if plugins else "use one that it has"
                return f"{name} {url}: Flink at {self.master} has no file system for such a URL; {fix}"
        return ""


class FlinkJob(EngineJob):
    """One job: :meth:`start`, :meth:`poll` until it has ended, :meth:`stop`. Use a new one for a new attempt.

    ``build`` puts the graph into a pipeline; ``say`` hears of workers that ended; ``spare``: a worker that was started before.
    """

    def __init__(
        self,
        options: FlinkOptions,
        build: Callable[[beam.Pipeline], Any],
        say: Callable[[str], None] = lambda line: None,
        preload: tuple[str, ...] = PRELOAD,
        spare: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.options, self.say = options, say
        self._build, self._preload, self._spare = build, preload, spare
        self._pool: WorkerPool | None = None
        self._java: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self.log = options.folder / "flink.log"
        self.cluster = Cluster(options.master) if options.master else None
        self._checkpoints: CheckpointWatch | None = None
        if options.master is not None and options.keeps_checkpoints:
            once = Cluster(options.master, timeout=5.0, election_seconds=0.0)
            self._checkpoints = CheckpointWatch(once, options.name, max(options.checkpoint_seconds, 5.0))
        self.ends_hung_workers = self.cluster is None  # they are our children, which are killed

    def start(self) -> None:
        """Start the workers' pool and the JVM with the job; returns before the job runs. Raises ConfigError and what ``build`` raises."""
        options = self.options
        if self.cluster is not None:
            self.cluster.cancel_jobs(options.name, self.say)  # a job that a killed driver left: two would write
        for leftover in ("checkpoints", "tmp") if self.cluster is None else ("tmp",):
            shutil.rmtree(options.folder / leftover, ignore_errors=True)  # the embedded Flink never restores another one's
        (options.folder / "tmp").mkdir(parents=True, exist_ok=True)
        options.folder.chmod(0o700)  # the job's description is a pickle: who could change it would have workers run it
        if self.cluster is None and UNIX_SOCKETS:
            self._sockets = socket_folder(options.folder)
            for left in self._sockets.glob("*.sock"):  # by an engine that was killed
                left.unlink()
        if self.cluster is None:
            log, token = options.folder / "worker.log", secrets.token_hex(32)
            spare = self._spare or start_worker(log, self._preload)
            self._pool = WorkerPool(log, token, preload=self._preload, spare=spare, say=self.say)
            pool = self._pool.address
        else:
            pool, token = options.worker_pool or "", shared_token() if options.worker is None else ""
        try:
            path = [str(self._describe(pool, token)), str(JAR), classpath("flink", self.say)]
            command = [
                str(java()),
                f"-Xmx{options.heap_mb}m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",  # half the processor time at the start; the work is done in Python
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                f"-Djava.io.tmpdir={options.folder / 'tmp'}",
                f"-Dtandem.sockets={self._sockets or ''}",
                *ADD_OPENS,
                MAIN,
                MAIN_CLASS,
                # Two arguments: its parser takes a path with a space only so.
                "--flink-conf-dir",
                str(self._configure()),
            ]
            self._java = start_child(command, self.log, {**without_secrets(os.environ), "CLASSPATH": os.pathsep.join(path)}, new_log=True)
            if self._checkpoints is not None:
                self._checkpoints.start()
        except BaseException:
            self.stop()
            raise

    def _describe(self, pool: str, token: str) -> Path:
        """Write the pipeline and its options where the JVM looks for them on its class path; returns the jar."""
        options = self.options.beam_options(pool, token)
        pipeline = beam.Pipeline(options=options)
        with code_travels() if self.options.worker is not None else nullcontext():
            self._build(pipeline)
            proto = PortableRunner.get_proto_pipeline(pipeline, options)
        for environment in proto.components.environments.values():
            del environment.dependencies[:]  # the workers run this installation: nothing is to be sent to them
            if self.options.worker is not None:
                payload = beam_runner_api_pb2.EmbeddedFilePayload(data=self.options.code).SerializeToString()
                environment.dependencies.add(type_urn=EMBEDDED, type_payload=payload)
        # Not a folder: a cluster's client uploads all of its class path.
        return write_job_jar(self.options.folder / "job.jar", proto, options)

    def _configure(self) -> Path:
        """Flink's configuration: loopback and free ports; patient with a machine that sleeps. Returns the folder."""
        folder = self.options.folder / "conf"
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "io.tmp.dirs": self.options.folder / "tmp",
            "heartbeat.timeout": 600_000,  # ms: a stopped process (SIGSTOP, a laptop's lid) is no failure
            "akka.ask.timeout": "10 min",
            "execution.checkpointing.tolerable-failed-checkpoints": 1000,
        }
        if self.options.master is None:
            settings |= {
                "rest.address": "127.0.0.1",
                "rest.bind-address": "127.0.0.1",
                "rest.bind-port": "0",
                "web.submit.enable": "false",  # who reaches the port must not have it run jars
                "jobmanager.rpc.address": "127.0.0.1",
                "jobmanager.bind-host": "127.0.0.1",
                "taskmanager.bind-host": "127.0.0.1",
                "taskmanager.host": "127.0.0.1",
                "taskmanager.numberOfTaskSlots": max(1, self.options.parallelism),
            }
        (folder / "flink-conf.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        return folder

    def poll(self) -> int | None:
        """None while the job runs, else the JVM's exit code: 0 where it came to its end (or a cluster was asked to end it)."""
        assert self._java is not None
        if self._pool is not None and self._pool.failed and self._java.poll() is None:
            stop_child(self._java, 0)  # it would wait for a worker without end
        for line in self._checkpoints.told() if self._checkpoints is not None else ():
            self.say(line)
        return self._java.poll()

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        assert self._java is not None
        return self._java.pid

    def worker_pids(self) -> list[int]:
        """The SDK workers of the embedded Flink that run now."""
        return self._pool.pids() if self._pool is not None else []

    def error(self) -> str:
        """Why the job failed, one line, from the JVM's output. Raises ConfigError where the cluster has no file system for
        ``checkpoints`` or ``savepoint``."""
        text = tail(self.log, _LOG_BYTES)
        code = self.poll()
        if self._pool is not None and self._pool.failed:
            return self._pool.failed
        if code is not None and code < 0:
            return why_ended(code, text)
        found = cause(text)
        if _NO_FILE_SYSTEM in found and (why := self.options.without_file_system(text)):
            raise ConfigError(why)
        return found or f"the engine ended with code {code}; see {self.log}"

    def unheard(self, parts: Sequence[str]) -> str | None:
        """Of a cluster: each task manager asks for its workers at the pool's address, and they reach it on its own machine alone."""
        if self.cluster is None:
            return None
        if self.options.checkpoints and self.cluster.prepares(self.options.name):
            return f"Flink's job manager does not get through to stream.checkpoints {self.options.checkpoints}: look into its log"
        said = self.cluster.exception(self.options.name)
        if self.options.worker is not None:
            why = f"each task manager starts its workers by {self.options.worker!r}: look into its log, and at its free slots"
            return f"{why}{f'; Flink says: {said}' if said else ''}"
        pool = str(self.options.worker_pool)
        return (
            f"each task manager asks {pool} for workers, which must run on its own machine: with several machines start a pool"
            f" on each, and name --worker-pool localhost:{pool.rpartition(':')[2]}{f'; Flink says: {said}' if said else ''}"
        )

    def stop(self) -> None:
        """End the job and all that was started for it. What was delivered is durable; nothing else counts."""
        if self._checkpoints is not None:
            self._checkpoints.stop()
        if self.cluster is not None and self._java is not None and self._java.poll() is None:
            self.cluster.cancel_jobs(self.options.name)
        if self._pool is not None:
            self._pool.close()
        if self._java is not None:
            stop_child(self._java, 0 if self.cluster is None else 5)
        shutil.rmtree(self.options.folder / "tmp", ignore_errors=True)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
