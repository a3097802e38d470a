"""One portable pipeline on an engine of Java: a JVM that finds the pipeline on its class path, runs it, and ends with it.

No job server: Beam's ``FlinkPipelineRunner`` and ``SparkPipelineRunner`` are such programs. So there is one JVM per pipeline, its exit
code is the pipeline's, it is killed when this process ends, and nothing can be left in it. Embedded, the JVM is the whole engine; on a
cluster it is the client, which waits for the end.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState
from apache_beam.transforms.environments import ExternalEnvironment, ProcessEnvironment, python_sdk_capabilities

from pipelines.engines.queue_patience import QueuePatience
from pipelines.lake.private import UNIX_SOCKETS, socket_folder, without_secrets
from pipelines.lake.processes import start_child, stop_child, tail
from pipelines.lake.staged_code import EMBEDDED
from pipelines.services.jars import ADD_OPENS, classpath, java
from pipelines.services.own_jar import JAR, MAIN
from pipelines.streaming.engines.job_jar import write_job_jar
from pipelines.streaming.engines.spark_executors import Executors
from pipelines.streaming.engines.stream_engine import why_ended
from pipelines.streaming.engines.worker_pool import WorkerPool, proof_of
from transforms.errors import DataError, TandemError
from transforms.functions.travel import code_travels

__all__ = ["JvmProgram", "JvmRunner"]

_LOOK_SECONDS = 10.0
"""How often the log of a running engine is looked at."""
_LOG_BYTES = 200_000
"""Of the end of each log, where the cause of a failure is looked for."""


@dataclass(frozen=True)
class JvmProgram:
    """What runs a pipeline: ``name`` for people, the name of its lock of jars, Java's main class with its arguments.

    ``files`` are written into the folder of configuration, by name. ``embedded``: the engine runs in that JVM, on this machine. ``worker``:
    the command by which a machine of the engine starts a worker; None: a pool of this process does, by this interpreter. ``java``: more
    options of the JVM. ``options``: Beam's, of its Java side alone. ``end``: how a job of this name is ended, which a client that was
    killed has left, or leaves now; None: it ends with the JVM. ``wait_seconds``: how long it may wait for executors of a Spark cluster.
    """

    name: str
    jars: str
    main: str
    arguments: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    embedded: bool = True
    worker: str | None = None
    heap_mb: int = 1024
    java: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    end: Callable[[str], None] | None = None
    wait_seconds: float = math.inf


class JvmRunner(PipelineRunner):
    """Runs a pipeline by a :class:`JvmProgram`, in ``folder``, as the job ``name``, with ``code`` (see ``staged_code``) sent to its
    workers."""

    def __init__(self, program: JvmProgram, folder: Path, name: str, code: bytes) -> None:
        self.program, self.folder, self.name, self.code = program, folder, name, code

    def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> PipelineResult:
        """Run to the end. Raises DataError, one line with the cause; the engine's whole output is in ``folder``."""
        program, folder = self.program, self.folder
        if program.end is not None:
            program.end(self.name)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        folder.chmod(0o700)  # the pipeline's description is a pickle: who could change it would have workers run it
        for name, text in program.files.items():
            (folder / "conf").mkdir(exist_ok=True)
            (folder / "conf" / name).write_text(text.replace("{folder}", str(folder)))
        sockets = socket_folder(folder) if program.embedded and UNIX_SOCKETS else None
        log, token = folder / "engine.log", secrets.token_hex(32)
        pool = WorkerPool(folder / "worker.log", token) if program.worker is None else None
        command = [
            str(java()),
            f"-Xmx{program.heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",  # a thread of the engine that ended so would be waited for without end
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            f"-Djava.io.tmpdir={folder / 'tmp'}",
            f"-Dtandem.sockets={sockets or ''}",
            *ADD_OPENS,
            *(j.replace("{folder}", str(folder)) for j in program.java),
            MAIN,
            program.main,
            *(a.replace("{folder}", str(folder)) for a in program.arguments),
        ]
        child = None
        try:
            environment: Any = (
                ProcessEnvironment(program.worker, capabilities=python_sdk_capabilities())
                if program.worker is not None
                else ExternalEnvironment(pool.address if pool else "", params=proof_of(token), capabilities=python_sdk_capabilities())
            )
            path = [str(self._describe(pipeline, options, environment)), str(JAR), classpath(program.jars)]
            child = start_child(command, log, {**without_secrets(os.environ), "CLASSPATH": os.pathsep.join(path)}, new_log=True)
            code = self._ended(child, log)
        except BaseException:
            if program.end is not None:
                with suppress(TandemError):
                    program.end(self.name)
            raise
        finally:
            if pool is not None:
                pool.close()
            if child is not None:
                stop_child(child, 5)
            if sockets is not None:
                shutil.rmtree(sockets, ignore_errors=True)
        if code != 0:
            text = "".join(tail(p, _LOG_BYTES) for p in (log, folder / "worker.log"))
            raise DataError(f"the batch job failed on {program.name}: {why_ended(code, text)[:300]}; its full output is in {log}")
        return _Done()

    def _ended(self, child: subprocess.Popen[bytes], log: Path) -> int:
        """Wait for the JVM; its exit code. Raises DataError where it would wait for executors without end, or has for as long as it may."""
        executors, patience = Executors(), QueuePatience(self.program.name, self.program.wait_seconds, _say)
        with log.open(errors="replace") as said:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(_LOOK_SECONDS)
                executors.read(said)
                if why := executors.none_starts() or patience.look(executors.none_works(), executors.worked()):
                    raise DataError(f"the batch job failed on {self.program.name}: {why}; its full output is in {log}")

    def _describe(self, pipeline: Any, options: PipelineOptions, environment: Any) -> Path:
        """Write the pipeline and its options where the JVM looks for them on its class path; returns the jar."""
        with code_travels() if self.program.worker is not None else nullcontext():
            proto = PortableRunner._optimize_pipeline(pipeline.to_runner_api(default_environment=environment), options)
        for each in proto.components.environments.values():
            del each.dependencies[:]  # workers of this machine run this installation: nothing is to be sent to them
            if self.program.worker is not None:
                payload = beam_runner_api_pb2.EmbeddedFilePayload(data=self.code).SerializeToString()
                each.dependencies.add(type_urn=EMBEDDED, type_payload=payload)
        return write_job_jar(self.folder / "job.jar", proto, options, self.program.options)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Done(PipelineResult):
    """A pipeline that has come to its end."""

    def __init__(self) -> None:
        super().__init__(PipelineState.DONE)  # type: ignore[no-untyped-call]

    def wait_until_finish(self, duration: int | None = None) -> str:
        """It has."""
        return PipelineState.DONE
