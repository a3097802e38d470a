"""``tandem stream``: starts, watches and ends a streaming job, and records its run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipelines.lake import runs, shared
from pipelines.project import recording
from pipelines.project.repository import Repo
from pipelines.sources.formats.reading import reading_of
from pipelines.sources.null_fields import null_line
from pipelines.streaming.driver import Driver, stream_folder
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.log_segments import seal_leftovers
from pipelines.streaming.status import Screen, Tracker, line
from pipelines.streaming.stream_metrics import StreamMetrics, serve
from pipelines.streaming.stream_options import StreamOptions
from pipelines.streaming.stream_plan import StopAsked, StreamPlan
from pipelines.streaming.supervisor import Outcome
from transforms.errors import StoreError

__all__ = ["run_stream"]


def run_stream(repo: Repo, options: StreamOptions, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run a stream to its end; returns its run's manifest with the exit ``code`` (0: stopped as asked, or all was read). One that is
    stopped while it waits for an apply, before anything runs, has no run: ``ended`` says so.

    Raises ConfigError, DataError, GraphError for what is wrong before anything runs; later failures are in the manifest.
    """
    folder = stream_folder(repo.data, options.name)
    driver = Driver(folder)

    def begin() -> None:
        JobState(folder).begin()

    with driver.held(begin=begin), shared.only_here(repo.data, f"stream/{options.name}", f"the stream {options.name!r}"):
        shared.follow_erasures(repo.data)
        job_state = JobState(folder)
        said = job_state.said()[1]
        tracker = Tracker(job_state)
        with Screen(tracker) as screen, _signals(job_state) as signalled:
            messages = _Messages(job_state, say or screen.say, said)
            stream = StreamPlan(repo, options, job_state, messages.say)
            try:
                stream.prepare()
                with recording.recorded(repo, "stream", name=options.name, runner=options.runner) as run:
                    stream.spec = replace(stream.spec, run=run.id)
                    _record(run, stream)
                    driver.publish(
                        run=run.id,
                        started=datetime.now(UTC).isoformat(),
                        engine=stream.engine.name,
                        savepoints=stream.engine.savepoints,
                        flink_master=options.given.get("flink_master"),
                    )
                    outcome = _watched(repo, options, stream, driver, messages, screen)
                    with suppress(StoreError):  # a full disk: the next start does it
                        seal_leftovers(folder)  # of workers that were ended before they could
                    summary = tracker.look().to_dict()
                    messages.nulls(stream, tracker)
                    run.add(
                        status="failed" if outcome.code else "complete",
                        **({"error": outcome.why} if outcome.code else {"ended": outcome.why}),
                        **({"savepoint": outcome.savepoint} if outcome.savepoint else {}),
                        restarts=outcome.restarts,
                        summary=summary,
                        counts={f"rows/{n}": v for n, v in summary.get("rows_of", {}).items()},
                    )
            except StopAsked:
                messages.say("stopped before it started")
                return {"name": options.name, "status": "complete", "ended": "stopped before it started", "code": 0}
            finally:
                messages.relay()
                stream.close()
        messages.say(f"{outcome.why}{f' ({signalled[0]})' if signalled and not outcome.code else ''}: {line(tracker.look())}")
        return {**run.manifest, "code": outcome.code}


def _watched(repo: Repo, options: StreamOptions, stream: StreamPlan, driver: Driver, messages: _Messages, screen: Screen) -> Outcome:
    def watch() -> None:
        messages.relay()
        screen.watch()
        messages.nulls(stream, screen.tracker)

    with _metrics(repo, options, screen.tracker, stream, driver):
        return stream.run(watch)


class _Messages:
    """What the driver and the workers say: to the log once, and to the screen."""

    def __init__(self, job_state: JobState, show: Callable[[str], None], since: int) -> None:
        self.job_state, self.show, self.since = job_state, show, since
        self.null_fields: set[str] = set()

    def say(self, text: str) -> None:
        """A line of the driver."""
        self.job_state.say(text)
        self.relay()

    def relay(self) -> None:
        """Show what was said since."""
        lines, self.since = self.job_state.said(self.since)
        for text in lines:
            self.show(text.partition(" ")[2])

    def nulls(self, stream: StreamPlan, tracker: Tracker) -> None:
        """Say once of each field that no event had it."""
        for name, events in tracker.now.null_fields.items():
            if name not in self.null_fields:
                self.null_fields.add(name)
                source, _, field = name.partition("/")
                self.say(null_line(stream.spec.sources[source], field, events, "the workers began"))


def _record(run: runs.Run, stream: StreamPlan) -> None:
    """What the run is made of. ``settings`` are those of the flags, too."""
    spec = stream.spec
    run.add(
        start={"why": spec.start.why, "run": spec.start.run, "offsets": {s: dict(o) for s, o in spec.start.offsets.items()}},
        fingerprints=dict(spec.graphs),
        settings={"stream": spec.stream.model_dump(mode="json")},
        reading={name: reading_of(name, spec.kafka) for name in spec.sources},
    )


@contextmanager
def _metrics(repo: Repo, options: StreamOptions, tracker: Tracker, stream: StreamPlan, driver: Driver) -> Iterator[None]:
    wanted = options.metrics_port if options.metrics_port is not None else repo.settings.stream.metrics_port
    host = repo.settings.stream.metrics_host
    port, end = serve(StreamMetrics(lambda: tracker.now, lambda: stream.attempts), wanted, host=host)
    driver.publish(metrics=f"http://{host}:{port}/metrics")
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
