"""The contract of an engine (:mod:`pipelines.streaming.engines.stream_engine`): batch's rows, going on, stopping, failing, waiting.

An engine of another package is tested by its name and a broker that its workers reach::

    class TestMyEngine(EngineContract):
        runner = "my-engine"

        @pytest.fixture
        def harness(self):
            return MyHarness(...)  # of tandem.testing.broker
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from pipelines.feature_store.store import apply
from pipelines.project.extensions import ENGINES
from pipelines.project.repository import Repo, load_repo
from pipelines.streaming.driver import stream_folder
from pipelines.streaming.engines.stream_engine import Engine
from pipelines.streaming.stages.part_reports import PartReports, PollReport
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import newest, read_rows
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tandem.testing.broker import BrokerHarness, MemoryHarness
from transforms.aggregates import rows_between, tile
from transforms.contract import check_json
from transforms.errors import ConfigError
from transforms.graph import save_graph

__all__ = ["EngineContract", "StreamBench"]

_HOUR_US = 3_600_000_000
_BEGIN_US = 1_700_000_000_000_000 // _HOUR_US * _HOUR_US

_FEATURES = """
from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Mean, days, hours, minutes

trips = EventSource(
    name="trips",
    fields=[Field("trip", "string", required=True), Field("zone", "string", required=True), Field("fare", "float64")],
    event_time="at", tie_breaker="trip", out_of_orderness=minutes(1), allowed_lateness=hours(1), topic="{topic}",
)
zones = FeatureGroup(
    name="zones", source=trips, entity=Entity("zone"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=[hours(1), hours(2)]), Mean("fare", over=hours(1))],
)
feast_views(__name__)
"""
_STORE = """
project: trips
registry: ../data/registry.db
provider: local
entity_key_serialization_version: 3
offline_store: {type: serving.offline_store.AsofOfflineStore}
online_store: {type: serving.online_store.sqlite.OrderedSqliteOnlineStore, path: ../data/online.db}
"""


class Running:
    """A stream that runs in a thread."""

    def __init__(self, run: Callable[[], dict[str, Any]]) -> None:
        self.manifest: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self.thread.start()

    def _run(self, run: Callable[[], dict[str, Any]]) -> None:
        try:
            self.manifest = run()
        except BaseException as error:
            self.error = error

    def until(self, condition: Callable[[], Any], seconds: float = 120.0) -> None:
        """Wait until something holds of the stream that runs."""
        assert self.until_ended_or(condition, seconds), f"the stream ended before: {self.error or self.manifest}"

    def until_ended_or(self, condition: Callable[[], Any], seconds: float = 120.0) -> bool:
        """Wait until something holds, or the stream has ended without; whether it holds."""
        end = time.monotonic() + seconds
        while True:
            alive = self.thread.is_alive()  # asked first: what it did last counts
            if condition():
                return True
            if not alive:
                return False
            assert time.monotonic() < end, f"not within {seconds:g} s"
            time.sleep(0.01)

    def end(self, seconds: float = 180.0) -> dict[str, Any]:
        """Wait until it has ended; its manifest. Raises what it raised."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the stream did not end"
        if self.error is not None:
            raise self.error
        return self.manifest


@dataclass
class StreamBench:
    """A small applied repository over a topic of two partitions, and all that was sent into it."""

    folder: Path
    harness: BrokerHarness
    runner: str = "direct"
    given: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine ``runner``; any other is run without."""
    topic: str = field(init=False)
    sent: list[bytes] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topic = self.harness.new_topic(2)
        path = self.folder / "repo"
        path.mkdir(parents=True)
        (path / "features.py").write_text(_FEATURES.format(topic=self.topic))
        (path / "feature_store.yaml").write_text(_STORE)
        stream = {
            "clock": "replay",
            "idle_seconds": 3600,
            "shards": 2,
            "poll_records": 100,
            "max_future_hours": 24,
            "checkpoint_seconds": 1,
        }
        kafka = {"bootstrap_servers": self.harness.bootstrap_servers, "dead_letters": f"{self.topic}.dead"}
        (path / "tandem.yaml").write_text(json.dumps({"data": "../data", "definitions": "features", "kafka": kafka, "stream": stream}))
        repo = self.repo()
        fingerprints = {}
        for name, group in repo.groups.items():
            made = save_graph(None, repo.data / "graphs" / name / "{fingerprint}", group.definition_hash(), group.row_schema)
            (made.parent / "CURRENT").write_text(made.name + "\n")
            fingerprints[name] = made.name
        apply(repo, fingerprints)

    def repo(self) -> Repo:
        """The repository, loaded anew."""
        sys.modules.pop("features", None)
        return load_repo(self.folder / "repo")

    @property
    def control(self) -> JobState:
        """The stream's folder."""
        return JobState(stream_folder(self.folder / "data", "main"))

    def send(self, n: int, hour: int = 0) -> None:
        """Append ``n`` events of one hour, a few of them out of order."""
        random = np.random.default_rng(len(self.sent))
        times = np.sort(random.integers(0, _HOUR_US, n)) + _BEGIN_US + hour * _HOUR_US
        times -= np.where(random.random(n) < 0.2, random.integers(0, 600_000_000, n), 0)
        events = [
            json.dumps(
                {"trip": f"t{len(self.sent) + k}", "zone": f"z{k % 5}", "fare": None if k % 7 == 0 else k / 8, "at": int(at)}
            ).encode()
            for k, at in enumerate(times.tolist())
        ]
        for partition in (0, 1):
            self.harness.put(self.topic, events[partition::2], partition)
        self.sent += events

    def run(self, runner: str, **options: Any) -> dict[str, Any]:
        """Run a stream to its end; its manifest."""
        given = self.given if runner == self.runner else {}
        return run_stream(self.repo(), StreamOptions(runner=runner, given=given, **options), self.said.append)

    def begin(self, runner: str, **options: Any) -> Running:
        """Run a stream in a thread."""
        return Running(lambda: self.run(runner, **options))

    def polls(self) -> list[PollReport]:
        """What the polls of the partitions report."""
        return list(PartReports.of(self.control.reports()).polls.values())

    def starts(self) -> int:
        """How often reading a partition was begun, in all runs; said before the first poll."""
        return sum("reading from offset" in line for line in self.control.said()[0])

    def delivered(self) -> dict[int, int]:
        """partition -> offset up to which every shard has delivered."""
        points = list(self.control.load_checkpoints().values())
        each = [{int(p): at["next"] for p, at in point["partitions"].get("trips", {}).items()} for point in points]
        whole = bool(points) and all(point["shards"] == len(points) for point in points)  # an engine may make fewer than are asked for
        return {p: min(one.get(p, 0) for one in each) for p in (0, 1)} if whole else {0: 0, 1: 0}

    def assert_rows(self) -> None:
        """The newest revision of each row is the one that a batch over all events gives, and none is missing up to the watermark."""
        group = self.repo().groups["zones"]
        boundaries = [point["output_watermark"]["zones"] for point in self.control.load_checkpoints().values()]
        given = [at for at in boundaries if at is not None]
        assert given and len(given) == len(boundaries), "a shard gave out no rows"
        upto = min(given)
        valid = check_json(pa.array(self.sent, pa.binary()), group.source, time.time_ns() // 1000, 10**12).valid
        want = pa.Table.from_batches([rows_between(tile(valid, group), group, 0, upto)])
        got = newest(read_rows(stream_folder(self.folder / "data", "main"), group), group).select(group.row_schema.names)
        assert want.num_rows, "the test is empty"
        order: Sequence[tuple[str, str]] = [("zone", "ascending"), ("event_timestamp", "ascending")]
        assert got.sort_by(order).to_pylist() == want.sort_by(order).to_pylist()


class EngineContract:
    """What every engine must hold; set ``runner``, override :meth:`harness`, and :meth:`given` for an engine that needs options."""

    runner: ClassVar[str]

    @pytest.fixture
    def harness(self) -> BrokerHarness:
        """A broker that the engine's workers reach."""
        raise NotImplementedError("override the fixture 'harness'")

    @pytest.fixture
    def given(self) -> Mapping[str, str]:
        """The engine's own options (``--engine-option``), such as the address of a cluster."""
        return {}

    @pytest.fixture
    def bench(self, tmp_path: Path, harness: BrokerHarness, given: Mapping[str, str]) -> Iterator[StreamBench]:
        """A repository over a new topic."""
        found = StreamBench(tmp_path, harness, self.runner, given)
        yield found
        print("\n".join(found.said))  # pytest shows it with a failure

    @property
    def engine(self) -> type[Engine]:
        """The engine."""
        found: type[Engine] = ENGINES.load(self.runner)
        return found

    def test_it_is_found_by_its_name(self) -> None:
        assert issubclass(self.engine, Engine) and self.engine.name == self.runner
        with pytest.raises(ConfigError, match=self.runner):
            StreamOptions(runner="no such engine")

    def test_what_it_cannot_do_is_refused_in_one_line(self, tmp_path: Path, given: Mapping[str, str]) -> None:
        if not self.engine.endless:
            with pytest.raises(ConfigError, match="--until latest"):
                StreamOptions(runner=self.runner, given=given)
        if not self.engine.savepoints:
            with pytest.raises(ConfigError, match="--from-savepoint"):
                StreamOptions(runner=self.runner, until="latest", savepoint="/kept", given=given)
        if not self.engine.in_process:
            with pytest.raises(ConfigError, match="--runner direct"):
                StreamBench(tmp_path, MemoryHarness(), self.runner, given).run(self.runner, until="latest")

    def test_an_option_that_it_does_not_know_is_refused_in_one_line(self, given: Mapping[str, str]) -> None:
        with pytest.raises(ConfigError, match=r"^engine option 'no_such': .*leave it out$") as refused:
            StreamOptions(runner=self.runner, until="latest", given={**given, "no_such": "a secret"})
        assert "a secret" not in str(refused.value)

    def test_it_goes_on_from_the_checkpoint_of_any_engine_and_gives_batchs_rows(self, bench: StreamBench) -> None:
        bench.send(600)
        assert bench.run("direct", until="latest")["code"] == 0
        bench.send(600, hour=1)
        bench.said.clear()
        manifest = bench.run(self.runner, until="latest")
        assert (manifest["code"], manifest["status"]) == (0, "complete")
        assert any("starting from" in line and "the run before" in line for line in bench.said)
        assert bench.delivered() == {0: 600, 1: 600}
        bench.assert_rows()

    def test_a_stop_delivers_what_was_polled(self, bench: StreamBench) -> None:
        bench.send(4000)
        running = bench.begin(self.runner, **({} if self.engine.endless else {"until": "latest"}))
        running.until(bench.polls)
        bench.control.request("stop")
        manifest = running.end()
        assert (manifest["code"], manifest["status"]) == (0, "complete")
        assert all(poll.stopped for poll in bench.polls())
        assert bench.delivered() == {poll.partition: poll.position.next for poll in bench.polls()}
        bench.send(100, hour=1)
        assert bench.run("direct", until="latest")["code"] == 0
        bench.assert_rows()

    def test_what_cannot_be_repaired_ends_it_with_one_line(self, bench: StreamBench) -> None:
        bench.send(200)
        assert bench.run("direct", until="latest")["code"] == 0
        bench.send(200, hour=1)
        bench.harness.truncate(bench.topic, 0, 150)
        manifest = bench.run(self.runner, until="latest")
        assert (manifest["code"], manifest["status"]) == (1, "failed")
        assert "is gone by retention" in manifest["error"] and len(manifest["error"].splitlines()) == 1
        assert bench.delivered()[0] == 100, "nothing was skipped"

    def test_a_broker_that_is_away_is_waited_for(self, bench: StreamBench) -> None:
        # A stream may be through before the broker is gone: then it is sent more.
        assert any(self._was_away(bench, hour) for hour in range(5)), "the broker was never away while the stream read"
        bench.assert_rows()

    def _was_away(self, bench: StreamBench, hour: int) -> bool:
        """A run over more events, whose broker goes once it has begun to read; whether that came in time."""
        bench.send(4000, hour)
        before = bench.starts()
        running = bench.begin(self.runner, until="latest")
        running.until(lambda: bench.starts() > before)  # reports come later: what is polled goes through the fused stages first
        bench.harness.pause()
        try:
            away = running.until_ended_or(lambda: PartReports.of(bench.control.reports()).away)
        finally:
            bench.harness.resume()
        manifest = running.end()
        assert (manifest["code"], manifest["status"]) == (0, "complete")
        assert bench.delivered() == {0: 2000 * (hour + 1), 1: 2000 * (hour + 1)}
        return away
