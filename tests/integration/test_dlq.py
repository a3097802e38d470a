"""``tandem dlq``: dead letters listed, shown, and replayed once, however often a replay is killed, repeated or doubled."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.project.config import KafkaSettings
from pipelines.project.secrets import Secret
from pipelines.services.kafka_broker import LOCAL_USER, Broker, password_of
from pipelines.sources.broker import PartitionReader, UnknownTopic
from pipelines.sources.kafka import dead_letter_replay as dlq
from pipelines.sources.kafka.dead_letters import KafkaDeadLetters, Value
from pipelines.sources.kafka.kafka_client import KafkaBroker
from pipelines.sources.letters import Choice, list_letters, replayed
from tests.integration.dlq_victim import victim
from tests.integration.kafka_world import drain, new_topic, produce, producer
from transforms.definitions import EventSource, Field, RecordTimestamp
from transforms.errors import StoreError


def reject(
    options: dict[str, Any], reader: PartitionReader, n: int, again: int = 0, partitions: int = 2, source: str = "departures"
) -> tuple[str, str]:
    """A topic of which n records in each partition were rejected (some letters are there twice); its name, and the letters' topic."""
    topic = new_topic(options, partitions)
    with producer({**options, "value_serializer": Value()}, linger_ms=5) as p:
        for partition in range(partitions):
            for i in range(n):
                p.send(topic, Value(None if i == 3 else b"%d" % i), None if i % 2 else b"key %d" % i, [("h", b"%d" % i)], partition)
    writer = KafkaDeadLetters(options, f"dlq.{topic}")
    for partition in range(partitions):
        at = 0
        while at < n:
            polled = reader.poll(topic, partition, at, n, 5000)
            at = polled.next_offset
            for rows in (np.arange(len(polled.offsets)), np.arange(again)):
                writer.write(
                    topic, partition, "departures", polled, rows, ["no_json" if r % 5 else "too_old" for r in rows], [None] * len(rows)
                )
    writer.close()
    return topic, f"dlq.{topic}"


def replays(reader: PartitionReader, topic: str) -> Counter[str]:
    """How often a reader of committed records finds each record replayed."""
    found: Counter[str] = Counter()
    for partition in range(reader.partitions(topic)):
        for _, _, headers in drain(reader, topic, partition):
            found.update((v or b"").decode() for name, v in headers if name == dlq.REPLAYED_FROM)
    return found


def once(reader: PartitionReader, topic: str, n: int, partitions: int = 2) -> Counter[str]:
    """What a complete replay leaves."""
    identity = reader.identity(topic)
    return Counter(f"{topic}/{p}/{i}@{identity}" for p in range(partitions) for i in range(n))


# ------------------------------------------------------------------------------------------------------------------------ listing


def test_listing_counts_records_not_letters(options: dict[str, Any], reader: PartitionReader) -> None:
    _, letters = reject(options, reader, 10, again=4)
    found = list_letters(KafkaBroker(options), letters, Choice(), 5)
    assert (dict(found.records), found.repeats, found.foreign) == ({("departures", "no_json"): 16, ("departures", "too_old"): 4}, 8, 0)
    assert len(found.latest) == 5 and found.latest == sorted(found.latest, key=lambda a: a.written_us)
    produce(options, letters, [b"foreign"])
    assert list_letters(KafkaBroker(options), letters, Choice(), 5).foreign == 1
    assert sum(list_letters(KafkaBroker(options), letters, Choice(reason="too_old"), 5).records.values()) == 4
    assert sum(list_letters(KafkaBroker(options), letters, Choice(source="nobody"), 5).records.values()) == 0
    middle = found.latest[0].written_us
    assert 0 < sum(list_letters(KafkaBroker(options), letters, Choice(since_us=middle), 5).records.values()) <= 20
    assert not list_letters(KafkaBroker(options), letters, Choice(since_us=2**60), 5).records
    assert not list_letters(KafkaBroker(options), "dlq.never", Choice(), 5).records, "no topic: no dead letters"


# ------------------------------------------------------------------------------------------------------------------------- replay


def test_a_replay_logs_in_where_a_password_is_asked_for(tmp_path: Path) -> None:
    """It took the options that hold no password: listing and a dry run worked, and the replay said that nobody answered."""
    broker = Broker(tmp_path, secured=True)
    broker.start()
    try:
        kafka = KafkaSettings(
            bootstrap_servers=broker.bootstrap,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_username=LOCAL_USER,
            sasl_password=Secret(password_of(tmp_path)),
        )
        found = KafkaBroker.from_settings(kafka, tmp_path)
        reader = found.open_reader()
        topic, letters = reject(found.connection(), reader, 3, partitions=1)
        assert dlq.replay(found, letters, Choice())["replayed"] == {topic: 3}
        assert replays(reader, topic) == once(reader, topic, 3, partitions=1)
        reader.close()
    finally:
        broker.stop()


def test_a_replay_brings_the_originals_back_once(options: dict[str, Any], reader: PartitionReader) -> None:
    topic, letters = reject(options, reader, 10, again=4)
    before = {p: drain(reader, topic, p) for p in range(2)}
    would = dlq.replay(KafkaBroker(options), letters, Choice(), dry_run=True)
    assert would["replayed"] == {topic: 20} and would["repeats"] == 8
    assert {p: drain(reader, topic, p) for p in range(2)} == before, "a dry run produces nothing"
    assert dlq.replay(KafkaBroker(options), letters, Choice(reason="too_old"))["replayed"] == {topic: 4}
    done = dlq.replay(KafkaBroker(options), letters, Choice())
    assert (done["replayed"], done["already"], done["repeats"]) == ({topic: 16}, 4, 8)
    identity = reader.identity(topic)
    for p in range(2):
        back = drain(reader, topic, p)[10:]
        assert sorted(back, key=repr) == sorted(
            ((k, v, [*h, (dlq.REPLAYED_FROM, f"{topic}/{p}/{i}@{identity}".encode())]) for i, (k, v, h) in enumerate(before[p])), key=repr
        ), "key, value (a tombstone with no key too), headers, partition"
    assert dlq.replay(KafkaBroker(options), letters, Choice())["replayed"] == {}
    assert replays(reader, topic) == once(reader, topic, 10)
    found = list_letters(KafkaBroker(options), letters, Choice(), 0)
    assert found.replayed == found.records
    assert dlq.replay(KafkaBroker(options), "dlq.never", Choice())["replayed"] == {}


def test_a_tombstones_old_letter_is_not_replayed(tmp_path: Path, broker: Broker, options: dict[str, Any], reader: PartitionReader) -> None:
    """Versions before 0.2 wrote letters about tombstones. As the newest record of its key, one drops the key from a compacted topic."""
    topic = new_topic(options)
    with producer({**options, "value_serializer": Value()}, linger_ms=5) as p:
        for key, value in ((b"K", b"1"), (b"K", None), (b"K", b"2"), (None, None), (b"L", b""), (b"M", None)):
            p.send(topic, Value(value), key, None, 0)
    polled = reader.poll(topic, 0, 0, 10, 5000)
    while len(polled.offsets) < 6:
        polled = reader.poll(topic, 0, 0, 10, 5000)
    writer = KafkaDeadLetters(options, f"dlq.{topic}")
    for refused in ({}, {5: "too large"}):  # the last one has a value that its reader did not hand out: it is no tombstone
        rows = np.array([5]) if refused else np.array([1, 3, 4, 1])
        writer.write(topic, 0, "departures", replace(polled, refused=refused), rows, ["malformed"] * len(rows), [None] * len(rows))
    writer.close()
    would = dlq.replay(KafkaBroker(options), f"dlq.{topic}", Choice(), dry_run=True)
    assert would == {"replayed": {topic: 2}, "already": 0, "repeats": 1, "foreign": 0, "cut": 1, "tombstones": 1, "dry_run": True}
    assert dlq.replay(KafkaBroker(options), f"dlq.{topic}", Choice()) == would | {"dry_run": False}
    back = drain(reader, topic)
    assert [(k, v) for k, v, _ in back[6:]] == [(None, None), (b"L", b"")]
    assert {k: v for k, v, _ in back}[b"K"] == b"2", "what compaction leaves of the key"
    assert dlq.replay(KafkaBroker(options), f"dlq.{topic}", Choice()) == would | {"dry_run": False, "replayed": {}, "already": 2}
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "features.py").write_text(REPO.format(topic=topic))
    kafka = {"bootstrap_servers": broker.bootstrap, "dead_letters": f"dlq.{topic}"}
    (repo / "tandem.yaml").write_text(json.dumps({"data": str(tmp_path / "data"), "kafka": kafka}))
    said = CliRunner().invoke(app, ["dlq", "replay", "--dry-run", "--repo", str(repo)], catch_exceptions=False).output
    assert "1 dead letters are tombstones (key without value), which are no longer rejects; skipped" in " ".join(said.split())
    shown = CliRunner().invoke(app, ["dlq", "show", f"{topic}/0/1", "--repo", str(repo)], catch_exceptions=False).output
    assert "a tombstone (key without value): no longer a reject" in " ".join(shown.split())


def test_a_replayed_event_whose_time_is_its_records_keeps_it(options: dict[str, Any], reader: PartitionReader) -> None:
    """A replay's records are of now, and so was the event time of a source that reads it from the record. Replayed twice, too."""
    at = Field("at", "timestamp", path=RecordTimestamp())
    source = EventSource(name="departures", fields=[Field("k", "string", required=True)], event_time=at, tie_breaker="k", topic="t")
    topic, letters = reject(options, reader, 3, partitions=1)
    own = reader.poll(topic, 0, 0, 10, 5000).timestamps_us.tolist()
    dlq.replay(KafkaBroker(options), letters, Choice(), timed={"departures"})
    polled = reader.poll(topic, 0, 3, 10, 5000)
    writer = KafkaDeadLetters(options, letters)
    writer.write(topic, 0, "departures", polled, np.arange(3), ["still_wrong"] * 3, [None] * 3)
    writer.close()
    dlq.replay(KafkaBroker(options), letters, Choice(), timed={"departures"})
    polled = reader.poll(topic, 0, 3, 20, 5000)
    while len(polled.offsets) < 6:
        polled = reader.poll(topic, 0, 3, 20, 5000)
    origin = polled.origin(source)
    assert origin is not None and origin.timestamps_us is not None
    assert origin.timestamps_us.to_pylist() == [t // 1000 * 1000 for t in own * 2]
    assert polled.timestamps_us.min() > max(own), "the records are of now, for what judges them and for retention"


def test_a_replayed_record_that_is_wrong_again_can_be_replayed_again(options: dict[str, Any], reader: PartitionReader) -> None:
    topic, letters = reject(options, reader, 2, partitions=1)
    dlq.replay(KafkaBroker(options), letters, Choice())
    polled = reader.poll(topic, 0, 2, 10, 5000)
    writer = KafkaDeadLetters(options, letters)
    writer.write(topic, 0, "departures", polled, np.array([0, 1]), ["still_wrong"] * 2, [None] * 2)
    writer.close()
    assert dlq.replay(KafkaBroker(options), letters, Choice())["replayed"] == {topic: 2}
    identity = reader.identity(topic)
    assert [h for _, _, h in drain(reader, topic)][-1] == [
        ("h", b"1"),
        (dlq.REPLAYED_FROM, f"{topic}/0/1@{identity}".encode()),
        (dlq.REPLAYED_FROM, polled_where(topic, int(polled.offsets[1]), identity)),
    ]


def polled_where(topic: str, offset: int, identity: str) -> bytes:
    return f"{topic}/0/{offset}@{identity}".encode()


def test_a_source_topic_that_is_gone(options: dict[str, Any], reader: PartitionReader) -> None:
    topic, letters = reject(options, reader, 2, partitions=1)
    admin = KafkaAdminClient(**options)
    admin.delete_topics([topic])
    admin.close()
    with pytest.raises(UnknownTopic, match=f"there is no Kafka topic '{topic}'"):
        dlq.replay(KafkaBroker(options), letters, Choice())
    assert replayed(reader, letters) == set()


@pytest.mark.parametrize(
    ("point", "number", "committed"),
    [
        ("sending", 3, 20),
        ("sent", 1, 0),
        ("committed", 2, 20),
        pytest.param("sending", 1, 0, marks=pytest.mark.slow),
        pytest.param("sent", 3, 20, marks=pytest.mark.slow),
    ],
)
def test_killed_within_and_between_transactions(
    broker: Broker, options: dict[str, Any], reader: PartitionReader, point: str, number: int, committed: int
) -> None:
    topic, letters = reject(options, reader, 25, again=4)
    replay = victim(broker.bootstrap, letters, point, number)
    try:
        replay.wait_for("reached")
    finally:
        replay.kill()
    assert sum(replays(reader, topic).values()) <= committed, "nothing of an open transaction is seen"
    done = dlq.replay(KafkaBroker(options), letters, Choice())
    assert done["already"] == committed and sum(done["replayed"].values()) == 50 - committed
    assert replays(reader, topic) == once(reader, topic, 25)
    assert dlq.replay(KafkaBroker(options), letters, Choice())["replayed"] == {}
    assert replayed(reader, letters) == set(once(reader, topic, 25))


@pytest.mark.slow
def test_killed_at_random_moments(broker: Broker, options: dict[str, Any], reader: PartitionReader) -> None:
    chance, left = random.Random(4), []
    for _ in range(2):
        topic, letters = reject(options, reader, 200, again=20)
        for _ in range(3):
            last = chance.randint(1, 9)
            replay = victim(broker.bootstrap, letters, "never", 0, turns=last + 1)
            try:
                replay.wait_for(f"transaction {last}")
                time.sleep(chance.uniform(0, 0.3))  # anywhere in it, or in the next one: the moment is what is tested
            finally:
                replay.kill()
        done = dlq.replay(KafkaBroker(options), letters, Choice())
        left.append(sum(done["replayed"].values()))
        assert replays(reader, topic) == once(reader, topic, 200)
    assert all(0 < n < 400 for n in left), left


def test_a_second_replay_fences_the_first(options: dict[str, Any], reader: PartitionReader, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, letters = reject(options, reader, 25)
    monkeypatch.setattr(dlq, "BATCH", 10)
    stopped, go_on, commit = threading.Event(), threading.Event(), KafkaProducer.commit_transaction
    commits, first = [0], threading.Thread(target=lambda: outcome.append(attempt()))
    outcome: list[Any] = []

    def attempt() -> Any:
        try:
            return dlq.replay(KafkaBroker(options), letters, Choice())
        except Exception as error:
            return error

    def slow(self: KafkaProducer) -> None:
        commits[0] += 1
        if commits[0] == 3:  # the third transaction of the first replay waits here, its records sent
            stopped.set()
            assert go_on.wait(60)
        commit(self)

    monkeypatch.setattr(KafkaProducer, "commit_transaction", slow)
    first.start()
    assert stopped.wait(60)
    second = dlq.replay(KafkaBroker(options), letters, Choice())
    go_on.set()
    first.join(60)
    assert second["already"] == 20 and second["replayed"] == {topic: 30}
    assert isinstance(outcome[0], StoreError) and "another replay" in str(outcome[0]), outcome
    assert replays(reader, topic) == once(reader, topic, 25)


@pytest.mark.slow
def test_many_replays_at_once(broker: Broker, options: dict[str, Any], reader: PartitionReader) -> None:
    topic, letters = reject(options, reader, 300, again=10)
    started = [victim(broker.bootstrap, letters, "never", 0, turns=1_000) for _ in range(4)]
    ends = [one.last_word() for one in started]
    assert "done" in ends and all(end == "done" or "another replay" in end for end in ends), ends
    dlq.replay(KafkaBroker(options), letters, Choice())
    assert replays(reader, topic) == once(reader, topic, 300)


@pytest.mark.slow
def test_the_broker_is_killed_in_the_middle(broker: Broker, options: dict[str, Any], reader: PartitionReader) -> None:
    topic, letters = reject(options, reader, 100)
    for point, number in (("sent", 2), ("committed", 4)):
        replay = victim(broker.bootstrap, letters, point, number)
        try:
            replay.wait_for("reached")
            broker.kill()
            broker.restart()
        finally:
            replay.kill()
    with_patience = time.monotonic() + 30
    while True:
        try:
            dlq.replay(KafkaBroker(options), letters, Choice())
            break
        except StoreError:
            assert time.monotonic() < with_patience
    assert replays(reader, topic) == once(reader, topic, 100)


# ------------------------------------------------------------------------------------------------------------------- the commands


REPO = """
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes

departures = EventSource(
    name="departures",
    fields=[Field("flight_id", "string", required=True), Field("delay", "float64", max=100.0)],
    event_time="departed_at", tie_breaker="flight_id", out_of_orderness=minutes(1), allowed_lateness=minutes(1), topic="{topic}",
)
flights = FeatureGroup(
    name="flights", source=departures, entity=Entity("flight_id"), hop=minutes(5), ttl=hours(1), aggregates=[Count(over=hours(1))]
)
"""


def test_the_commands(tmp_path: Path, broker: Broker, options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    with producer(options) as p:
        p.send(topic, b'{"flight_id": "f1", "departed_at": "2013-01-31T06:00:00Z", "delay": 50.5}', b"f1", [("trace", b"42")]).get(30)
        p.send(topic, b"\xff\x00binary", b"\x00\x01").get(30)
    polled = reader.poll(topic, 0, 0, 10, 5000)
    writer = KafkaDeadLetters(options, f"dlq.{topic}")
    writer.write(topic, 0, "departures", polled, np.array([0, 1]), ["out_of_range", "no_json"], ["delay: 50.5 is above 10", None])
    writer.close()
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "features.py").write_text(REPO.format(topic=topic))
    kafka = {"bootstrap_servers": broker.bootstrap, "dead_letters": f"dlq.{topic}"}
    (repo / "tandem.yaml").write_text(json.dumps({"data": str(tmp_path / "data"), "kafka": kafka}))

    def run(*args: str) -> str:
        result = CliRunner().invoke(app, ["dlq", *args, "--repo", str(repo)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    listed = json.loads(run("list", "--json"))
    assert listed["counts"] == [
        {"source": "departures", "reason": "no_json", "records": 1, "replayed": 0},
        {"source": "departures", "reason": "out_of_range", "records": 1, "replayed": 0},
    ]
    assert [(a["record"], a["detail"]) for a in listed["latest"]] == [(f"{topic}/0/0", "delay: 50.5 is above 10"), (f"{topic}/0/1", "")]
    text = run("list", "--reject-reason", "no_json")
    assert f"{topic}/0/1" in text and f"{topic}/0/0" not in text
    assert "no dead letters" in run("list", "--since", "2100-01-01")

    shown = json.loads(run("show", f"{topic}/0/0", "--json"))
    assert shown["payload"]["text"].startswith('{"flight_id": "f1"') and shown["key"] == {"text": "f1"}
    assert shown["headers"] == [{"name": "trace", "value": {"text": "42"}}]
    assert (shown["event_time"], shown["contract_now"], shown["replayed"]) == ("2013-01-31T06:00:00Z", "valid", False)
    binary = json.loads(run("show", f"{topic}/0/1", "--json"))
    assert binary["payload"] == {"hex": b"\xff\x00binary".hex()} and binary["event_time"] is None and binary["contract_now"] != "valid"
    text = run("show", f"{topic}/0/0")
    assert "header trace" in text and "delay: 50.5 is above 10" in text and "valid" in text

    assert run("replay", "--dry-run", "--reject-reason", "out_of_range").strip() == f"would replay 1 to {topic}"
    assert run("replay", "--reject-reason", "out_of_range").strip() == f"replayed 1 to {topic}"
    assert run("replay").strip() == f"replayed 1 to {topic}; 1 already replayed"
    assert json.loads(run("replay", "--json"))["already"] == 2
    assert json.loads(run("show", f"{topic}/0/0", "--json"))["replayed"] is True
    assert json.loads(run("list", "--json"))["counts"][0]["replayed"] == 1
    missing = CliRunner().invoke(app, ["dlq", "show", f"{topic}/0/9", "--repo", str(repo)])
    assert "there is no dead letter for" in str(missing.exception)
