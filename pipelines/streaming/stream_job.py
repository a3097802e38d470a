"""``tandem stream``: what starts, watches and ends a streaming job, and what other shells ask of it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipelines.lake import runs
from pipelines.project import recording
from pipelines.project.extensions import ENGINES
from pipelines.project.repository import Repo
from pipelines.sources.broker import PartitionReader, open_broker
from pipelines.streaming.engines.base import Engine, EngineJob, EngineOptions
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.start_position import choose_start
from pipelines.streaming.status import Screen, Tracker, line
from pipelines.streaming.stream_metrics import StreamMetrics, serve
from pipelines.streaming.supervisor import Driver, Outcome, Supervisor, running
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError, DataError, GraphError, TandemError

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
        if self.until not in (None, "latest"):
            raise ConfigError(f"--until {self.until}: only 'latest' can be given, the ends of the topics as they are at the start")
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"--name {self.name!r}: use letters, digits, '-' and '_'")
        if not 1 <= self.parallelism <= 128:
            raise ConfigError(f"--parallelism {self.parallelism}: give 1 to 128")
        engine = self.engine()
        if self.until is None and not engine.endless:
            raise ConfigError(f"--runner {self.runner} reads what there is and ends; give --until latest, or use --runner flink")
        engine.check(self.engine_options(Path()))

    def engine(self) -> type[Engine]:
        """The engine that is asked for; ``flink`` with a cluster's address is the cluster. Raises ConfigError."""
        name = "flink-cluster" if self.runner == "flink" and self.flink_master is not None else self.runner
        try:
            found: type[Engine] = ENGINES.load(name)
        except ConfigError as error:
            raise ConfigError(f"--runner {self.runner}: {error}") from None
        return found

    def engine_options(self, folder: Path, preload: tuple[str, ...] = ()) -> EngineOptions:
        """What the engine is given; ``folder`` is the stream's."""
        return EngineOptions(
            f"tandem-{self.name}", folder, self.parallelism, self.flink_master, self.worker_pool, self.savepoint, preload, self.beam_args
        )


def stream_folder(data: Path, name: str) -> Path:
    """Where a stream keeps its checkpoints, logs and state."""
    return data / "stream" / name


def run_stream(repo: Repo, options: StreamOptions, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run a stream to its end; returns its run's manifest with the exit ``code`` (0: stopped as asked, or all was read).

    Raises ConfigError, DataError, GraphError for what is wrong before anything runs; later failures are in the manifest.
    """
    folder = stream_folder(repo.data, options.name)
    driver = Driver(folder)
    with driver.held():
        job_state = JobState(folder)
        job_state.begin()
        said = job_state.said()[1]
        tracker = Tracker(job_state)
        with Screen(tracker) as screen, _signals(job_state) as signalled:
            tell = _Teller(job_state, say or screen.say, said)
            stream = _Stream(repo, options, job_state, tell.say)
            try:
                stream.prepare()
                with recording.recorded(repo, "stream", name=options.name, runner=options.runner) as run:
                    _record(run, stream)
                    driver.tell(
                        run=run.id,
                        started=datetime.now(UTC).isoformat(),
                        engine=stream.engine.name,
                        savepoints=stream.engine.savepoints,
                        flink_master=options.flink_master,
                    )
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

    def __init__(self, repo: Repo, options: StreamOptions, job_state: JobState, say: Callable[[str], None]) -> None:
        self.repo, self.options, self.job_state, self.say = repo, options, job_state, say
        self.attempts = 0
        self.reader: PartitionReader | None = None
        tensorflow = ("tensorflow",) if any(g.preprocessing_fn for g in repo.groups.values()) else ()
        preload = ("pipelines.streaming.stages.stream_graph", "feast", *tensorflow)
        self.engine = options.engine()(options.engine_options(job_state.folder, preload), say)

    def prepare(self) -> None:
        """Check everything once, and choose_start where to start. Raises ConfigError, DataError, GraphError, StoreError."""
        repo, options, job_state, settings = self.repo, self.options, self.job_state, self.repo.settings
        broker = open_broker(settings.kafka, repo.data)
        if not (broker.shared or self.engine.in_process):
            raise ConfigError(
                f"{broker!r} lives in this process, and the workers of engine {self.engine.name!r} do not; use --runner direct"
            )
        self.engine.prepare()
        stream = settings.stream.model_copy(update={"shards": options.shards} if options.shards else {})
        for group in repo.groups.values():
            if not group.source.topic:
                raise ConfigError(f"source {group.source.name!r} has no topic, and group {group.name!r} needs it; give it one: topic='...'")
        graphs = {name: _applied(repo.data, group) for name, group in repo.groups.items()}
        reader = self.reader = broker.open_reader()
        sources = {g.source.name: g.source for g in repo.groups.values()}
        partitions = {n: reader.partitions(s.topic) for n, s in sources.items()}
        topics = {n: reader.identity(s.topic) for n, s in sources.items()}
        until = {n: {p: reader.end(s.topic, p) for p in range(partitions[n])} for n, s in sources.items()} if options.until else None
        start = choose_start(repo, job_state, stream.shards, options.from_run, options.anew)
        self.spec = JobSpec(
            repo=repo.path,
            data=repo.data,
            folder=job_state.folder,
            groups=repo.groups,
            graphs=graphs,
            kafka=settings.kafka,
            stream=stream,
            broker=broker,
            start=start,
            until=until,
            topics=topics,
            one_tick=not self.engine.endless,
            restored=options.savepoint is not None,
        )
        total = sum(partitions.values())
        why = f"savepoint {options.savepoint} (without it: {start.why})" if options.savepoint else start.why
        self.say(f"starting from {why}: {len(repo.groups)} groups, {total} partitions, {stream.shards} shards")

    def run(self, watch: Callable[[], None]) -> Outcome:
        """Run jobs until the stream ends."""
        supervisor = Supervisor(
            self.job_state,
            self._attempt,
            self.spec.stream.shards,
            self.say,
            until=self.spec.until,
            watch=watch,
            savepoint=self.engine.stop_with_savepoint if self.engine.savepoints else None,
        )
        return supervisor.run()

    def _attempt(self, attempt: int) -> EngineJob:
        self.attempts = attempt
        spec = self.spec
        if attempt:
            spec = replace(spec, start=choose_start(self.repo, self.job_state, spec.stream.shards, self.options.from_run), restored=False)
            self.say(f"starting again from {spec.start.why}")
        return self.engine.new_job(spec, attempt == 0)

    def close(self) -> None:
        """Close the connection, end what the engine prepared and did not need."""
        if self.reader is not None:
            self.reader.close()
        self.engine.close()


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


class _Teller:
    """What the driver and the workers say: to the log once, and to the screen."""

    def __init__(self, job_state: JobState, show: Callable[[str], None], since: int) -> None:
        self.job_state, self.show, self.since = job_state, show, since

    def say(self, text: str) -> None:
        """A line of the driver."""
        self.job_state.say(text)
        self.relay()

    def relay(self) -> None:
        """Show what was said since."""
        lines, self.since = self.job_state.said(self.since)
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
def _signals(job_state: JobState) -> Iterator[list[str]]:
    """SIGTERM and SIGINT ask the stream to stop; a second one ends it at once. Yields the names of those that came."""
    came: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def asked(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)
        job_state.request("stop")

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
