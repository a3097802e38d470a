"""``tandem stream``: what starts, watches and ends a streaming job, and what other shells ask of it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.lake import runs
from pipelines.lake.processes import stop_child
from pipelines.project import recording
from pipelines.project.repository import Repo
from pipelines.streaming.engines.flink_cluster import check_flags
from pipelines.streaming.engines.worker import PRELOAD, start_worker
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import Control
from pipelines.streaming.state.start_decision import decide
from pipelines.streaming.status import Screen, Tracker, line
from pipelines.streaming.stream_metrics import StreamMetrics, serve
from pipelines.streaming.supervisor import Driver, Job, Outcome, Supervisor, running
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError, DataError, GraphError, TandemError

if TYPE_CHECKING:
    from pipelines.sources.kafka.partition_reader import Reader

__all__ = ["StreamOptions", "resume_stream", "run_stream", "stop_stream", "stream_folder", "stream_status"]


@dataclass(frozen=True)
class StreamOptions:
    """What is asked of ``tandem stream``; None stands for the settings' value."""

    name: str = "main"
    runner: str = "flink"
    until: Literal["latest"] | None = None
    from_run: str | None = None
    anew: bool = False
    flink_master: str | None = None
    worker_pool: str | None = None
    savepoint: str | None = None
    shards: int | None = None
    parallelism: int = 1
    metrics_port: int | None = None
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.runner not in ("flink", "direct"):
            raise ConfigError(f"--runner {self.runner}: 'flink' runs until it is stopped, 'direct' with --until latest reads to the end")
        if self.runner == "direct" and self.until is None:
            raise ConfigError("--runner direct reads what there is and ends; give --until latest, or use --runner flink")
        if self.until not in (None, "latest"):
            raise ConfigError(f"--until {self.until}: only 'latest' can be given, the ends of the topics as they are at the start")
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"--name {self.name!r}: use letters, digits, '-' and '_'")
        check_flags(self.flink_master, self.worker_pool, self.savepoint)
        if not 1 <= self.parallelism <= 128:
            raise ConfigError(f"--parallelism {self.parallelism}: give 1 to 128")


def stream_folder(data: Path, name: str) -> Path:
    """Where a stream keeps its resume points, logs and state."""
    return data / "stream" / name


def run_stream(repo: Repo, options: StreamOptions, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run a stream to its end; returns its run's manifest with the exit ``code`` (0: stopped as asked, or all was read).

    Raises ConfigError, DataError, GraphError for what is wrong before anything runs; later failures are in the manifest.
    """
    folder = stream_folder(repo.data, options.name)
    driver = Driver(folder)
    with driver.held():
        control = Control(folder)
        control.begin()
        said = control.said()[1]
        tracker = Tracker(control)
        with Screen(tracker) as screen, _signals(control) as signalled:
            tell = _Teller(control, say or screen.say, said)
            stream = _Stream(repo, options, control, tell.say)
            try:
                stream.prepare()
                with recording.recorded(repo, "stream", name=options.name, runner=options.runner) as run:
                    _record(run, stream)
                    driver.tell(run=run.id, started=datetime.now(UTC).isoformat(), flink_master=options.flink_master)
                    outcome = _watched(repo, options, stream, driver, tell, screen)
                    summary = tracker.look().to_dict()
                    run.add(
                        status="failed" if outcome.code else "complete",
                        **({"error": outcome.why} if outcome.code else {"ended": outcome.why}),
                        **({"savepoint": outcome.savepoint} if outcome.savepoint else {}),
                        restarts=outcome.restarts,
                        summary=summary,
                        counts={f"rows/{n}": v for n, v in summary.get("rows_of", {}).items()},
                    )
            finally:
                tell.relay()
                stream.close()
        tell.say(f"{outcome.why}{f' ({signalled[0]})' if signalled and not outcome.code else ''}: {line(tracker.look())}")
        return {**run.manifest, "code": outcome.code}


def _watched(repo: Repo, options: StreamOptions, stream: _Stream, driver: Driver, tell: _Teller, screen: Screen) -> Outcome:
    def watch() -> None:
        tell.relay()
        screen.watch()

    with _metrics(repo, options, screen.tracker, stream, driver):
        return stream.run(watch)


class _Stream:
    """The parts of one ``run_stream``: what is checked once, and each attempt's job."""

    def __init__(self, repo: Repo, options: StreamOptions, control: Control, say: Callable[[str], None]) -> None:
        self.repo, self.options, self.control, self.say = repo, options, control, say
        self.attempts = 0
        self.reader: Reader | None = None
        self.spare: subprocess.Popen[bytes] | None = None
        tensorflow = ("tensorflow",) if any(g.preprocessing_fn for g in repo.groups.values()) else ()
        self.preload = (*PRELOAD, "pipelines.streaming.stages.stream_graph", "feast", *tensorflow)

    def prepare(self) -> None:
        """Check everything once, and decide where to start. Raises ConfigError, DataError, GraphError, StoreError."""
        from pipelines.sources.kafka.partition_reader import Reader, client_options

        repo, options, control, settings = self.repo, self.options, self.control, self.repo.settings
        if options.runner == "flink" and options.flink_master is None:
            # Its imports take as long as all that is done here until the job is submitted.
            self.spare = start_worker(control.folder / "flink" / "worker.log", self.preload)
        stream = settings.stream.model_copy(update={"shards": options.shards} if options.shards else {})
        for group in repo.groups.values():
            if not group.source.topic:
                raise ConfigError(f"source {group.source.name!r} has no topic, and group {group.name!r} needs it; give it one: topic='...'")
        graphs = {name: _applied(repo.data, group) for name, group in repo.groups.items()}
        client = client_options(settings.kafka, repo.data)
        reader = self.reader = Reader(dict(client))
        sources = {g.source.name: g.source for g in repo.groups.values()}
        partitions = {n: reader.partitions(s.topic) for n, s in sources.items()}
        topics = {n: reader.identity(s.topic) for n, s in sources.items()}
        until = {n: {p: reader.end(s.topic, p) for p in range(partitions[n])} for n, s in sources.items()} if options.until else None
        start = decide(repo, control, stream.shards, options.from_run, options.anew)
        self.spec = JobSpec(
            repo=repo.path,
            data=repo.data,
            folder=control.folder,
            groups=repo.groups,
            graphs=graphs,
            kafka=settings.kafka,
            stream=stream,
            client=client,
            start=start,
            until=until,
            topics=topics,
            one_tick=options.runner == "direct",
            restored=options.savepoint is not None,
        )
        total = sum(partitions.values())
        why = f"savepoint {options.savepoint} (without it: {start.why})" if options.savepoint else start.why
        self.say(f"starting from {why}: {len(repo.groups)} groups, {total} partitions, {stream.shards} shards")

    def run(self, watch: Callable[[], None]) -> Outcome:
        """Run jobs until the stream ends."""
        if self.options.runner == "direct":
            return self._direct(watch)
        supervisor = Supervisor(
            self.control,
            self._attempt,
            self.spec.stream.shards,
            self.say,
            until=self.spec.until,
            watch=watch,
            savepoint=self._savepoint if self.options.flink_master else None,
        )
        return supervisor.run()

    def _attempt(self, attempt: int) -> Job:
        from pipelines.streaming.engines.flink import FlinkJob, FlinkOptions
        from pipelines.streaming.stages.stream_graph import build

        self.attempts = attempt
        spec = self.spec
        if attempt:
            spec = replace(spec, start=decide(self.repo, self.control, spec.stream.shards, self.options.from_run), restored=False)
            self.say(f"starting again from {spec.start.why}")
        parallelism = self.options.parallelism
        how = FlinkOptions(
            folder=self.control.folder / "flink",
            name=f"tandem-{self.options.name}",
            parallelism=parallelism,
            checkpoint_seconds=spec.stream.checkpoint_seconds,
            master=self.options.flink_master,
            worker_pool=self.options.worker_pool,
            savepoint=self.options.savepoint if attempt == 0 else None,
            checkpoints=spec.stream.checkpoints if self.options.flink_master else "",
            extra=self.options.beam_args,
        )
        spare, self.spare = self.spare, None
        return FlinkJob(
            how, lambda pipeline: build(pipeline, spec, _ticks(spec.stream.tick_ms, parallelism)), self.say, self.preload, spare
        )

    def _savepoint(self) -> str:
        from pipelines.streaming.engines.flink_cluster import Cluster

        assert self.options.flink_master is not None
        return Cluster(self.options.flink_master).stop_with_savepoint(f"tandem-{self.options.name}")

    def _direct(self, watch: Callable[[], None]) -> Outcome:
        """In this process, in a thread of its own, so that the driver goes on watching."""
        failed: list[BaseException] = []

        def work() -> None:
            try:
                import apache_beam as beam

                from pipelines.batch.batch_job import options
                from pipelines.streaming.stages.stream_graph import build

                with beam.Pipeline(options=options("direct", list(self.options.beam_args))) as pipeline:
                    build(pipeline, self.spec, beam.Create([b""]))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work, name="pipeline")
        thread.start()
        while thread.is_alive():
            watch()
            thread.join(0.1)
        fatal = self.control.failure()
        if fatal is not None:
            return Outcome(1, fatal)
        if failed:
            from pipelines.streaming.engines.flink import cause

            return Outcome(1, cause(str(failed[0])) or (str(failed[0]).splitlines() or [type(failed[0]).__name__])[0])
        asked = self.control.requested("stop")
        return Outcome(0, "stopped" if asked else "all records up to the end offsets are delivered")

    def close(self) -> None:
        """Close the connection, end a worker that was not needed."""
        if self.reader is not None:
            self.reader.close()
        if self.spare is not None:
            stop_child(self.spare, 0)


def _applied(data: Path, group: FeatureGroup) -> str:
    """The fingerprint of the graph that is applied to the group; the workers verify it. Raises GraphError."""
    folder = data / "graphs" / group.name
    try:
        fingerprint = (folder / "CURRENT").read_text().strip()
        made_of = json.loads((folder / fingerprint / "tandem.json").read_text())["definition_hash"]
    except (OSError, ValueError, KeyError):
        raise GraphError(f"feature group {group.name!r} has no applied graph; run 'tandem batch' and 'tandem apply' first") from None
    if made_of != group.definition_hash():
        raise GraphError(
            f"feature group {group.name!r} was redefined after its graph {fingerprint[:12]} was applied;"
            " run 'tandem batch' and 'tandem apply' first"
        )
    return str(fingerprint)


def _ticks(tick_ms: int, parallelism: int) -> Any:
    """Ticks for Flink: each of its parallel sources ticks, so each one more slowly."""
    from apache_beam.io.flink.flink_streaming_impulse_source import FlinkStreamingImpulseSource

    ticks = FlinkStreamingImpulseSource()
    ticks.config = {"interval_ms": tick_ms * parallelism}  # an attribute of its own: the class's is shared
    return ticks


class _Teller:
    """What the driver and the workers say: to the log once, and to the screen."""

    def __init__(self, control: Control, show: Callable[[str], None], since: int) -> None:
        self.control, self.show, self.since = control, show, since

    def say(self, text: str) -> None:
        """A line of the driver."""
        self.control.say(text)
        self.relay()

    def relay(self) -> None:
        """Show what was said since."""
        lines, self.since = self.control.said(self.since)
        for text in lines:
            self.show(text.partition(" ")[2])


def _record(run: runs.Run, stream: _Stream) -> None:
    """What the run is made of. ``settings`` are those of the flags, too."""
    spec = stream.spec
    run.add(
        start={"why": spec.start.why, "run": spec.start.run, "offsets": {s: dict(o) for s, o in spec.start.offsets.items()}},
        fingerprints=dict(spec.graphs),
        settings={"stream": spec.stream.model_dump(mode="json")},
    )


@contextmanager
def _metrics(repo: Repo, options: StreamOptions, tracker: Tracker, stream: _Stream, driver: Driver) -> Iterator[None]:
    wanted = options.metrics_port if options.metrics_port is not None else repo.settings.stream.metrics_port
    port, end = serve(StreamMetrics(lambda: tracker.now, lambda: stream.attempts), wanted)
    driver.tell(metrics=f"http://127.0.0.1:{port}/metrics")
    try:
        yield
    finally:
        end()


@contextmanager
def _signals(control: Control) -> Iterator[list[str]]:
    """SIGTERM and SIGINT ask the stream to stop; a second one ends it at once. Yields the names of those that came."""
    came: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def asked(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)
        control.request("stop")

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------------- from another shell


def stop_stream(
    data: Path, name: str, seconds: float = 120.0, savepoint: bool = False, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any] | None:
    """Ask a stream to stop, wait until it has; its run's manifest, None if none runs. Raises DataError when it takes longer, or failed."""
    folder = stream_folder(data, name)
    facts = running(folder)
    if facts is None:
        return None
    if savepoint and not facts.get("flink_master"):
        raise ConfigError("--savepoint: this stream runs on the embedded Flink, which has none; stop it without: it keeps its resume point")
    control = Control(folder)
    control.request("savepoint" if savepoint else "stop")
    until = time.monotonic() + seconds
    while running(folder) is not None:
        if time.monotonic() > until:
            raise DataError(f"stream {name!r} (pid {facts.get('pid')}) has not stopped after {seconds:g} s; see 'tandem stream status'")
        if savepoint and not control.requested("savepoint") and running(folder) is not None:
            raise DataError(f"stream {name!r} goes on: {control.said()[0][-1].partition(' ')[2]}")
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
    control = Control(folder)
    now = Tracker(control).look()
    out: dict[str, Any] = {"name": name, "running": facts is not None, **(facts or {}), "failure": control.failure()}
    out["progress"] = {k: v for k, v in now.to_dict().items() if k not in ("seconds", "events_per_second", "rows_per_second")}
    out["said"] = control.said()[0][-10:]
    return out


def resume_stream(data: Path, name: str) -> list[str]:
    """Let paused partitions go on, rejects and all; which ones. Raises TandemError if no such stream runs."""
    folder = stream_folder(data, name)
    if running(folder) is None:
        raise TandemError(f"no stream called {name!r} runs; start it with 'tandem stream'")
    control = Control(folder)
    paused = [part for part, values in control.reports().items() if part.startswith("poll-") and values.get("paused")]
    for part in paused:
        control.request("resume-" + part.removeprefix("poll-"))
    return [part.removeprefix("poll-") for part in paused]
