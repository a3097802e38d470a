"""The live half of ``tandem demo``: the days after the training period pass through Kafka while the model is asked over HTTP."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import requests

from pipelines.demo.client import DemoClient, Question, past_requests
from pipelines.feature_store.store import open_store
from pipelines.lake import layout
from pipelines.lake.processes import start_child, stop_child
from pipelines.project.repository import Repo
from pipelines.replay.schedule import Alterations
from pipelines.reports.terminal import Steps, results
from pipelines.services import local
from pipelines.streaming.driver import running
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.verify.verify_table import render
from transforms.errors import TandemError
from transforms.instants import micros_of
from transforms.own_program import tandem_command

if TYPE_CHECKING:
    from pipelines.replay.replay_job import ReplayedSource, ReplaySummary

__all__ = ["Ahead", "run_live", "server", "start_over", "why_not"]

NAME = "demo"
SPEED = 7200
"""Event time per real time: two hours in a second."""
DISORDER, LATE, CORRUPT = 0.05, 0.0002, 0.001
"""What transport does to a log: shares of events that come late but in time, too late, and broken."""
PARTITIONS = 2
LATEST = 100
"""Requests asked once more at the end, when all rows have arrived."""
PACE = {"TANDEM_STREAM__CLOCK": "replay", "TANDEM_STREAM__TICK_MS": "250"}
"""Time moves by the replayed events alone, as the wall clock is years ahead; few and larger steps keep up with two hours in a second."""


def why_not(repo: Repo) -> str:
    """Why this repository's events cannot be streamed by the demo; empty if they can."""
    mute = sorted({g.source.name for g in repo.groups.values() if not g.source.topic})
    if mute:
        return f"source {mute[0]!r} has no topic; give it one: topic='...'"
    if repo.settings.kafka.bootstrap_servers:
        return "kafka.bootstrap_servers is set, and the demo only writes to its own broker"
    try:
        import kafka  # noqa: F401
    except ImportError:
        return "the streaming packages are missing: pip install 'tandem-features[stream]'"
    return ""


def start_over(repo: Repo, steps: Steps) -> None:
    """Delete what a demo before this one streamed: its topics (the whole local broker), online rows, stream, and request log."""
    if not layout.stream(repo.data, NAME).exists():
        return
    if running(layout.stream(repo.data, NAME)) is not None:
        raise TandemError(f"the stream of another demo is running on {repo.data}; stop it with 'tandem stream stop --name {NAME}'")
    steps.say("deleting the data of the previous demo: topics, online rows, stream state and request log")
    local.down(repo.data, delete=True)
    store = open_store(repo)
    store._get_provider().online_store.teardown(store.config, store.list_feature_views(), [])
    for folder in (layout.stream(repo.data, NAME), layout.replay_clock(repo.data).parent, layout.requests(repo.data)):
        shutil.rmtree(folder, ignore_errors=True)


class Ahead:
    """Kafka and the stream, started in a thread while the caller trains: neither needs the model, and a training leaves a core to them.

    Entered once the run's graphs are applied and its rows are in the online store. Left, however that comes, the stream has ended, and the
    broker, too, unless it ran before.
    """

    def __init__(self, repo: Repo, run_id: str, steps: Steps) -> None:
        self._repo, self._run_id, self._steps = repo, run_id, steps
        self._ended = ExitStack()
        self._stream: _Child | None = None
        self._error: BaseException | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="starts the stream", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        try:
            self._thread.join()  # a broker that is about to run is ended by what its start left to end
        finally:  # a second Ctrl-C, too, ends what was started
            self._thread.join()
            self._ended.close()

    def _run(self) -> None:
        repo = self._repo
        try:
            self._ended.enter_context(_broker(repo, self._steps))
            layout.replay_clock(repo.data).unlink(missing_ok=True)  # of an earlier replay: the server is not to start there
            _topics(repo)
            if not self._left.is_set():
                order = ("--name", NAME, "--from-run", self._run_id, "--reset", "--shards", "1")
                self._stream = self._ended.enter_context(_child(repo, "stream", *order, environment=PACE))
        except BaseException as error:
            self._error = error
            if not self._left.is_set():
                self._steps.say(f"the stream could not be started, so the demo ends after training: {' '.join(str(error).split())}")

    def stream(self) -> _Child:
        """The stream's process, once it is started; whether it reads yet is for :func:`_wait` to find out. Raises what went wrong."""
        with self._steps.doing("starting Kafka"):
            self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._stream is not None
        return self._stream


def run_live(repo: Repo, ahead: Ahead, model: str, end: datetime, days: int, steps: Steps, as_json: bool) -> dict[str, Any]:
    """Stream the ``days`` from ``end`` on, ask ``model`` meanwhile, and prove that stream and batch agree; returns what was seen.

    Everything that it starts ends with it, also after an error or Ctrl-C.
    """
    questions = past_requests(repo, model, end, end + timedelta(days=days))
    seen = _streamed(repo, ahead.stream(), model, questions, (end, end + timedelta(days=days)), steps)
    return {**seen, "parity": _verified(repo, steps, as_json)}


def _streamed(
    repo: Repo, stream: _Child, model: str, questions: list[Question], days: tuple[datetime, datetime], steps: Steps
) -> dict[str, Any]:
    """The stream until its stop, with the server and the replay beside it."""
    from pipelines.streaming.stream_control import stop_stream

    clock = layout.replay_clock(repo.data)
    with ExitStack() as started:
        with steps.doing("starting the server, and the stream if it is not running yet"):
            address = started.enter_context(server(repo, days[0], "--clock", str(clock)))
            _wait(stream, lambda: _reads(repo), "the stream did not start", 300)
        steps.say(f"the stream continues from the end of the batch run; the server listens on {address}")
        client = DemoClient(repo, address, model, questions, steps.say)
        steps.say(f"replaying {days[0]:%Y-%m-%d} to {days[1]:%Y-%m-%d}, two hours per second; each request is sent when its time comes,")
        steps.say("and a fixed one every second: " + ", ".join(f"{k} {v}" for k, v in client.question.items()))
        replay = started.enter_context(_Replay(repo, *days))
        while not replay.over():
            client.ask(clock)
            _alive(stream, "the stream ended")
        steps.say(f"replayed {replay.summary['sent']:,} records; waiting until the stream has delivered them")
        delivered = _delivered(repo, replay.summary["sources"])
        _wait(stream, lambda: client.ask(clock) and delivered(), "the stream did not catch up", 300)
        millis = client.millis()
        steps.say(f"the stream caught up; {client.asked:,} requests sent on time; a single one is answered within {millis:.1f} ms (median)")
        asked = client.all_of([instance for _, instance in questions[-LATEST:]])
        steps.say(f"asked {asked} requests of the last hours again, now that the features are settled")
        summary = (stop_stream(repo.data, NAME) or {}).get("summary", {})
        steps.say("the stream stopped and saved its checkpoint")
    counts = {k: summary.get(k) for k in ("events", "rows", "late", "rejected", "written", "stale")}
    return {
        "question": client.question,
        "answers": client.answers,
        "milliseconds": millis,
        "replay": replay.summary["sources"],
        "stream": counts,
    }


def _verified(repo: Repo, steps: Steps, as_json: bool) -> dict[str, Any]:
    """``tandem verify``: the report to the screen unless as JSON. Raises TandemError for differences that nothing explains."""

    from pipelines.verify.verification import VerifyOptions, run_verify
    from pipelines.verify.verify_page import write_report

    with steps.doing("proving that stream and batch agree"):
        report = run_verify(repo, VerifyOptions(name=NAME), steps.say)
    page = write_report(report)
    if not as_json:
        results().print(render(report))
    if report.unexplained:
        raise TandemError(f"{report.unexplained} differences between stream and batch are unexplained; see {page}")
    return {**report.to_dict(), "page": str(page)}


# ------------------------------------------------------------------------------------------------------------------------ processes


class _Child:
    """A command of ours as a child with a log; killed when this process ends, however it ends."""

    def __init__(self, repo: Repo, command: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.command = command
        self.log = layout.demo(repo.data) / f"{command}.log"
        words = tandem_command(command, "--repo", str(repo.path), "--data", str(repo.data), *arguments)
        self.process = start_child(words, self.log, {**os.environ, **environment}, new_log=True)

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.poll()


@contextmanager
def _child(repo: Repo, command: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[_Child]:
    child = _Child(repo, command, arguments, environment)
    try:
        yield child
    finally:
        stop_child(child.process, 40)


def _failed(child: _Child, what: str) -> None:
    lines = [line for line in child.log.read_text(errors="replace").splitlines() if line.strip()]
    raise TandemError(f"{what}: {lines[-1] if lines else 'no output'}; see {child.log}")


def _alive(child: _Child, what: str) -> None:
    if child.poll() is not None:
        _failed(child, what)


def _wait(child: _Child, true: Any, what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        _alive(child, what)
        if time.monotonic() > deadline:
            _failed(child, f"{what} within {seconds:g} s")
        time.sleep(0.2)


@contextmanager
def server(repo: Repo, as_of: datetime, *flags: str) -> Iterator[str]:
    """``tandem serve`` as a child process on a free port; yields its address once it is ready, and stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return requests.get(f"{address}/v2/health/ready", timeout=2).ok
        except requests.RequestException:
            return False

    with _child(repo, "serve", "--port", str(port), "--as-of", as_of.isoformat(), *flags) as child:
        _wait(child, ready, "the server did not start", 300)
        yield address


@contextmanager
def _broker(repo: Repo, steps: Steps) -> Iterator[None]:
    ran = local.status(repo.data)["kafka"].state == "running"
    local.up(repo.data, say=steps.say)
    try:
        yield
    finally:
        if not ran:
            local.down(repo.data, say=steps.say)


# --------------------------------------------------------------------------------------------------------------------------- stream


def _topics(repo: Repo) -> None:
    from pipelines.replay.producer import prepare_topics
    from pipelines.sources.kafka.kafka_client import client_options

    topics = sorted({s.topic for s in repo.sources.values() if s.topic})
    prepare_topics(client_options(repo.settings.kafka, repo.data), topics, PARTITIONS)


def _reads(repo: Repo) -> bool:
    """Whether the stream has looked at every partition."""
    from pipelines.streaming.stream_control import stream_status

    progress = stream_status(repo.data, NAME).progress
    return progress is not None and len(progress.lag) == PARTITIONS * len({g.source.name for g in repo.groups.values()})


def _delivered(repo: Repo, sent: Mapping[str, ReplayedSource]) -> Callable[[], bool]:
    """Whether all that was sent (a replay's summary by source) is folded, and the rows that follow from it are written."""
    from pipelines.streaming.state.job_state import JobState
    from pipelines.streaming.supervisor import reached

    read = {g.source.name for g in repo.groups.values()}
    ends = {s: {int(p): o + 1 for p, o in sent[s]["last_offsets"].items()} for s in sent if s in read}
    job_state = JobState(layout.stream(repo.data, NAME))
    return lambda: reached(ends, PartReports.of(job_state.reports()), job_state.load_checkpoints(), 1)


class _Replay:
    """``tandem replay`` in a thread of this process, which has everything loaded already; entered to start, left to end it."""

    def __init__(self, repo: Repo, start: datetime, end: datetime) -> None:
        self.repo, self.range = repo, (micros_of(start), micros_of(end))
        self.done: ReplaySummary | None = None
        self.error: Exception | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def _run(self) -> None:
        from pipelines.replay.replay_job import ReplayOptions, run_replay

        how = Alterations(seed=1, disorder=DISORDER, late=LATE, corrupt=CORRUPT)
        options = ReplayOptions(start_us=self.range[0], end_us=self.range[1], speed=SPEED, partitions=PARTITIONS, how=how)
        try:
            self.done = run_replay(self.repo, options, stopped=self.stop.is_set)
        except Exception as error:
            self.error = error

    def __enter__(self) -> _Replay:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)

    @property
    def summary(self) -> ReplaySummary:
        """What was sent, once that is over."""
        assert self.done is not None
        return self.done

    def over(self) -> bool:
        """Whether all is sent. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        return not self.thread.is_alive()
