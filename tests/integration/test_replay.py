"""Replays into a real broker: what arrives, when, and what happens when somebody stops it or the broker goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource

from pipelines.project.config import KafkaSettings
from pipelines.project.repository import Repo, load_repo
from pipelines.replay.replay_job import Reached, ReplayOptions, ReplaySummary, run_replay
from pipelines.replay.schedule import Alterations, partitions_of
from pipelines.services.kafka_broker import Broker
from pipelines.sources.archive import archive, archive_schema
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from serving.clock import Pace
from tests.integration.kafka_world import new_topic, options_of
from tests.kafka_server import kafka_server
from tests.schema_registry import schema_registry
from tests.waiting import until
from transforms.errors import ConfigError, DataError
from transforms.reasons import REASONS

ROOT = Path(__file__).resolve().parents[2]
T0 = 1_362_096_000_000_000  # 1 March 2013
MINUTE, DAY = 60_000_000, 86_400_000_000
EVENTS = 1_500
FEATURES = """
from transforms.definitions import *

flights = EventSource(
    name="flights", event_time="at", tie_breaker="flight", files="events/flights", topic="{topic}",
    fields=[Field("flight", "string", required=True), Field("delay", "float64", max=1000), Field("legs", "int64")],
    out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
weather = EventSource(
    name="weather", event_time="at", tie_breaker="station", files="events/weather", topic="{topic}-weather",
    fields=[Field("station", "int64", required=True)],
)
alone = EventSource(name="alone", event_time="at", tie_breaker="id", fields=[Field("id", "int64", required=True)], files="events/alone")
traffic = FeatureGroup(
    name="traffic", source=flights, entity=Entity("flight"), hop=minutes(5), ttl=hours(1), aggregates=[Count(over=hours(1))]
)
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with kafka_server(tmp_path_factory.mktemp("kafka")) as running:
        yield running


_topics = iter(f"flights{i}" for i in range(1000))


@pytest.fixture
def repo(tmp_path: Path, broker: Broker) -> Repo:
    """A repository with three days of two sources, whose topics do not exist yet."""
    folder, data = tmp_path / "repo", tmp_path / "data"
    folder.mkdir()
    (folder / "tandem.yaml").write_text(f"data: ../data\nkafka:\n  bootstrap_servers: '{broker.bootstrap}'\n")
    module = f"features_{folder.parent.name.replace('-', '_')}"
    (folder / "tandem.yaml").write_text((folder / "tandem.yaml").read_text() + f"definitions: {module}\n")
    (folder / f"{module}.py").write_text(FEATURES.format(topic=next(_topics)))
    times = np.sort(np.random.default_rng(1).integers(T0, T0 + 3 * DAY, EVENTS))
    for day in range(3):
        mine = np.flatnonzero((times - T0) // DAY == day)
        path = data / "events" / "flights" / f"date=2013-03-0{day + 1}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        table = {
            "at": pa.array(times[mine], pa.timestamp("us", tz="UTC")),
            "flight": [f"F{i}" for i in mine],
            "delay": mine * 0.5,
            "legs": mine,
        }
        pq.write_table(pa.table(table), path)
    path = data / "events" / "weather"
    path.mkdir(parents=True)
    (path / "hours.jsonl").write_text("".join(f'{{"at":{T0 + i * 60 * MINUTE},"station":{i % 3}}}\n' for i in range(72)))
    return load_repo(folder)


def everything(repo: Repo, source: str, broker: Broker) -> list[dict[str, Any]]:
    """Every record of a source's topic: partition, offset, timestamp in ms, key, value."""
    reader, topic, out = KafkaPartitionReader(options_of(broker.bootstrap)), repo.sources[source].topic, []
    for partition in range(reader.partitions(topic)):
        at, end = reader.start(topic, partition), reader.end(topic, partition)
        while at < end:
            polled = reader.poll(topic, partition, at, 10_000, 1000)
            originals = polled.original(np.arange(len(polled.offsets)))
            for offset, stamp, (key, value, _) in zip(polled.offsets.tolist(), polled.timestamps_us.tolist(), originals, strict=True):
                out.append({"partition": partition, "offset": offset, "ms": stamp // 1000, "key": key, "value": value})
            at = polled.next_offset
    reader.close()
    return out


def accepted(repo: Repo, broker: Broker, folder: Path, **more: Any) -> pa.Table:
    """The archive of the flights' topic."""
    source = repo.sources["flights"]
    reader = KafkaPartitionReader(options_of(broker.bootstrap))
    try:
        path = archive(reader, source, more.pop("kafka", repo.settings.kafka), more.pop("upto", None), folder, **more)
    finally:
        reader.close()
    assert path == folder / "events" / "flights"
    files = sorted(path.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(f) for f in files]) if files else archive_schema(source).empty_table()


def test_every_event_arrives_once_in_order_with_its_own_time(repo: Repo, broker: Broker, tmp_path: Path) -> None:
    summary = run_replay(repo, ReplayOptions(partitions=3))
    flights = summary["sources"]["flights"]
    assert summary["sent"] == EVENTS + 72 and flights["sent"] == flights["events"] == EVENTS and not summary["interrupted"]
    records = everything(repo, "flights", broker)
    values = [json.loads(r["value"]) for r in records]
    assert sorted(v["legs"] for v in values) == list(range(EVENTS))
    for partition in range(3):
        mine = [r for r in records if r["partition"] == partition]
        assert [r["ms"] for r in mine] == sorted(r["ms"] for r in mine)
        assert flights["last_offsets"][str(partition)] == mine[-1]["offset"] == len(mine) - 1
    assert all(r["ms"] == v["at"] // 1000 and r["key"] == v["flight"].encode() for r, v in zip(records, values, strict=True))
    assert [r["partition"] for r in records] == partitions_of([r["key"] for r in records], 3).tolist()
    assert {r["key"] for r in everything(repo, "weather", broker)} == {b"0", b"1", b"2"}
    admin = KafkaAdminClient(**options_of(broker.bootstrap))
    found = admin.describe_configs([ConfigResource("TOPIC", repo.sources["flights"].topic)])
    admin.close()
    assert next(iter(found["topic"].values()))["retention.ms"]["value"] == "-1"
    table = accepted(repo, broker, tmp_path / "archive")
    assert table.schema.equals(archive_schema(repo.sources["flights"]))
    assert sorted(table.column("legs").to_pylist()) == list(range(EVENTS))
    clock = Pace.parse((repo.data / "replay" / "clock.json").read_bytes())
    assert clock.speed == 0 and clock.event_us0 == summary["reached_us"]


def test_the_archive_holds_what_was_not_broken(repo: Repo, broker: Broker, tmp_path: Path) -> None:
    how = Alterations(5, disorder=0.1, late=0.02, duplicates=0.05, corrupt=0.1)
    said: list[str] = []
    counts = run_replay(repo, ReplayOptions(partitions=2, how=how, sources=("flights",)), say=said.append)["sources"]["flights"]
    assert counts["sent"] == EVENTS + counts["duplicated"] + counts["corrupted"]
    assert min(counts[n] for n in ("delayed", "late", "duplicated", "corrupted")) > 0
    assert said == [f"created {repo.sources['flights'].topic} with 2 partitions"]
    table = accepted(repo, broker, tmp_path / "a")
    legs = table.column("legs").to_pylist()
    assert len(legs) == EVENTS + counts["duplicated"] and set(legs) == set(range(EVENTS))
    places = set(zip(table.column("_partition").to_pylist(), table.column("_offset").to_pylist(), strict=True))
    assert len(places) == len(legs)
    # Read again, in parts, up to given offsets: the same verdicts.
    cut = {0: 300, 1: 200}
    first = accepted(repo, broker, tmp_path / "b", upto=cut)
    assert set(zip(first.column("_partition").to_pylist(), first.column("_offset").to_pylist(), strict=True)) == {
        p for p in places if p[1] < cut[p[0]]
    }
    rest = accepted(repo, broker, tmp_path / "b", start=cut)
    assert first.num_rows + rest.num_rows == table.num_rows
    assert accepted(repo, broker, tmp_path / "b", upto={0: 5}).column("_partition").to_pylist() == [0] * 5  # in place of what was there
    with pytest.raises(DataError, match="before 100000"):
        accepted(repo, broker, tmp_path / "c", upto={0: 100_000})
    assert not (tmp_path / "c" / "events" / "flights").exists()


def test_the_same_seed_sends_the_same_whatever_the_speed(repo: Repo, broker: Broker) -> None:
    how = Alterations(9, disorder=0.2, late=0.05, duplicates=0.1, corrupt=0.1)
    other = replace(repo, sources={"flights": replace(repo.sources["flights"], topic=next(_topics))})
    options = ReplayOptions(how=how, sources=("flights",))
    run_replay(repo, options)
    run_replay(other, replace(options, speed=3 * 86_400.0))
    assert everything(repo, "flights", broker) == everything(other, "flights", broker)


def test_speed_and_clock(repo: Repo) -> None:
    start, end = T0 + DAY, T0 + DAY + 120 * MINUTE
    seen: list[tuple[Reached, Pace]] = []

    def look(reached: Reached) -> None:
        seen.append((reached, Pace.parse((repo.data / "replay" / "clock.json").read_bytes())))

    summary = run_replay(repo, ReplayOptions(start_us=start, end_us=end, speed=3600.0), progress=look)
    assert 1.0 < summary["seconds"] < 60
    paces = {pace for _, pace in seen}
    assert {p.speed for p in paces} == {3600.0}
    assert min(p.event_us0 for p in paces) == start
    sends = [reached for reached, _ in seen if reached.sent]
    assert [r.sent for r in sends] == sorted(r.sent for r in sends)
    assert summary["reached_us"] is not None
    if len(paces) == 1:  # a machine that stalls sets the clock back
        assert summary["seconds"] == pytest.approx((summary["reached_us"] - start) / 1e6 / 3600, abs=2.5)


def test_avro_says_the_same(repo: Repo, broker: Broker, tmp_path: Path) -> None:
    with schema_registry() as registry:
        kafka = repo.settings.kafka.model_copy(update={"schema_registry": registry.url, "formats": {"flights": "avro"}})
        written = replace(repo, settings=repo.settings.model_copy(update={"kafka": kafka}))
        how = Alterations(2, disorder=0.1, duplicates=0.05, corrupt=0.2)
        summary = run_replay(written, ReplayOptions(how=how))
        assert [summary["sources"][n]["format"] for n in ("flights", "weather")] == ["avro", "json"]
        assert registry.requests == [f"POST /subjects/{repo.sources['flights'].topic}-value/versions"]
        table = accepted(repo, broker, tmp_path / "a", kafka=kafka).drop(["_partition", "_offset"])
    counts = summary["sources"]["flights"]
    assert counts["corrupted"] > 50
    assert table.num_rows == EVENTS + counts["duplicated"]
    own = pq.read_table(repo.data / "events" / "flights").select(table.schema.names).cast(table.schema)
    assert pa.Table.from_pylist(sorted({r["legs"]: r for r in table.to_pylist()}.values(), key=lambda r: r["legs"]), table.schema).equals(
        own.sort_by("legs")
    )


def test_mistakes_are_one_line(repo: Repo, broker: Broker) -> None:
    with pytest.raises(ConfigError, match=r"--source nosuch is not known; sources with a topic: flights, weather"):
        run_replay(repo, ReplayOptions(sources=("nosuch",)))
    with pytest.raises(ConfigError, match="--source alone has no topic"):
        run_replay(repo, ReplayOptions(sources=("alone",)))
    new_topic(options_of(broker.bootstrap), 2, name=repo.sources["flights"].topic)
    with pytest.raises(ConfigError, match=r"--partitions 3: topic flights\d+ already has 2"):
        run_replay(repo, ReplayOptions(partitions=3))
    with pytest.raises(ConfigError, match=r"kafka.schema_registry is missing"):
        run_replay(repo, ReplayOptions(format="avro"))
    for wrong in ({"speed": 0.0}, {"partitions": 0}, {"start_us": 5, "end_us": 5}):
        with pytest.raises(ConfigError):
            ReplayOptions(**wrong)


def test_a_stopped_replay_keeps_its_word_on_what_it_sent(repo: Repo, broker: Broker) -> None:
    stop = threading.Event()

    def look(reached: Reached) -> None:
        if reached.sent >= 100:
            stop.set()

    summary = run_replay(repo, ReplayOptions(speed=86_400.0, sources=("flights",)), progress=look, stopped=stop.is_set)
    assert summary["interrupted"] and 100 <= summary["sent"] < EVENTS
    assert (
        len(everything(repo, "flights", broker))
        == summary["sent"]
        == sum(o + 1 for o in summary["sources"]["flights"]["last_offsets"].values())
    )


@pytest.mark.slow
def test_a_broker_that_goes_away_is_waited_for(repo: Repo, tmp_path: Path) -> None:
    said: list[str] = []
    summaries: list[ReplaySummary] = []
    begun, gone = threading.Event(), threading.Event()
    with kafka_server(tmp_path / "mine") as mine:
        kafka = KafkaSettings(bootstrap_servers=mine.bootstrap)
        here = replace(repo, settings=repo.settings.model_copy(update={"kafka": kafka}))
        # A broker that starts anew forgets producers whose last record is older than a day by its own time: in a topic of history it would
        # take a batch again that it took unanswered (docs/streaming.md). So this topic's time is the broker's.
        topic = here.sources["flights"].topic
        new_topic(options_of(mine.bootstrap), 1, topic, retention_ms="-1", message_timestamp_type="LogAppendTime")

        def look(reached: Reached) -> None:
            if reached.sent >= 100 and not begun.is_set():
                begun.set()
                gone.wait(60)

        options = ReplayOptions(speed=86_400.0, sources=("flights",))
        sending = threading.Thread(target=lambda: summaries.append(run_replay(here, options, progress=look, say=said.append)))
        sending.start()
        assert begun.wait(60)
        mine.kill()
        gone.set()
        until(lambda: any("does not respond; waiting" in line for line in said))
        mine.restart()  # from this thread: a broker dies with the one that started it
        sending.join(120)
        assert not sending.is_alive() and summaries[0]["sent"] == EVENTS
        values = [json.loads(r["value"])["legs"] for r in everything(here, "flights", mine)]
        assert values == sorted(values) == list(range(EVENTS))  # none lost, none twice, none out of order
        assert said[-1] == "the broker responds again; continuing"


def test_a_broker_that_is_not_there_yet(repo: Repo, tmp_path: Path) -> None:
    said: list[str] = []
    stop = threading.Event()
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    here = replace(repo, settings=repo.settings.model_copy(update={"kafka": kafka}))

    def stop_once_it_speaks() -> None:
        until(lambda: said)
        stop.set()

    waiting = threading.Thread(target=stop_once_it_speaks)
    waiting.start()
    summary = run_replay(here, ReplayOptions(), say=said.append, stopped=stop.is_set)
    waiting.join()
    assert said == ["no Kafka broker responds at 127.0.0.1:1; waiting"]
    assert summary["interrupted"] and summary["sent"] == 0


@pytest.mark.slow
def test_the_command(repo: Repo, broker: Broker) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    base = [sys.executable, "-m", "pipelines.cli", "replay", "--repo", str(repo.path), "--json"]
    done = subprocess.run(
        [*base, "--speed", "max", "--source", "flights", "--end", "2013-03-02", "--corrupt", "0.05", "--seed", "3"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["sources"]["flights"]
    assert counts["events"] == sum(
        t < T0 + DAY for t in pq.read_table(repo.data / "events" / "flights").column("at").cast(pa.int64()).to_pylist()
    )
    assert counts["corrupted"] > 0
    assert "Warning" not in done.stderr
    wrong = subprocess.run([*base, "--speed", "fast"], env=env, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.strip()) == (1, "error: --speed fast is invalid; give a number such as 3600, or max")
    slow = subprocess.Popen(
        [*base, "--speed", "600", "--start", "2013-03-02"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    began = datetime.now(UTC).timestamp() * 1e6
    clock = repo.data / "replay" / "clock.json"
    until(lambda: Pace.parse(clock.read_bytes()).speed == 600.0, 120)
    until(lambda: Pace.parse(clock.read_bytes()).at(int(time.time() * 1e6)) > T0 + DAY + 20 * MINUTE)
    slow.send_signal(signal.SIGINT)
    out, err = slow.communicate(timeout=60)
    summary = json.loads(out)
    assert slow.returncode == 130 and summary["interrupted"] and summary["sent"] > 0, err
    assert Pace.parse(clock.read_bytes()).speed == 0 and Pace.parse(clock.read_bytes()).wall_us0 > began
    assert "Traceback" not in err


def test_reasons_of_times_are_known() -> None:
    from pipelines.replay.event_log import _UNTRUSTED

    assert set(_UNTRUSTED.to_pylist()) <= set(REASONS)
