"""What the outside package brings, at work: its store under batch, materialize, lookups and a stream; its format; its tracker."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from pipelines import workflow
from pipelines.feature_store.store import apply
from pipelines.project.config import KafkaSettings
from pipelines.reports.terminal import Steps
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from serving.features import OnlineFeatures
from serving.projections import FeatureSet
from tests.integration.kafka_world import drain, options_of
from tests.integration.stream_world import FEATURES, SECOND, T0, StreamWorld, events, make_stream_world
from tests.kafka_server import kafka_server
from transforms.contract import check_json
from transforms.definitions import EventSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("outside_package")]
HOUR = 3600 * SECOND
STORE = (
    "project: trips\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
    "offline_store: {type: tandem.serving.offline_store.AsofOfflineStore}\n"
    "online_store: {type: tandem_outside.store.OneTableOnlineStore, path: ../data/rows.db}\n"
)


def moment(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def test_batch_materialize_and_lookups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside_package: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in (str(outside_package), os.environ.get("PYTHONPATH", "")) if p))
    monkeypatch.delenv("TANDEM_TRACKING__TRACKERS", raising=False)
    world = StreamWorld(tmp_path, "", 1)
    world.path.mkdir()
    (world.path / "features.py").write_text(FEATURES.replace('topic="{topic}"', 'files="events/trips"'))
    (world.path / "feature_store.yaml").write_text(STORE)
    (world.path / "tandem.yaml").write_text(json.dumps({"data": "../data", "tracking": {"trackers": ["outside"], "wait_seconds": 120}}))
    end = T0 + 4 * HOUR
    repo = world.repo()
    source = repo.sources["trips"]
    made = check_json(pa.array(events(1500, 5), pa.binary()), source, end + 10 * HOUR, 0).valid
    world.sent[0] = [e for e in events(1500, 5) if json.loads(e)["at"] < end]
    (world.data / "events" / "trips").mkdir(parents=True)
    pq.write_table(pa.Table.from_batches([made]), world.data / "events" / "trips" / "all.parquet")

    steps = Steps()
    workflow.batch(repo, moment(T0 - 3 * HOUR), moment(end), steps)
    workflow.apply(repo, None, steps)
    workflow.materialize(repo, moment(T0 - 3 * HOUR), moment(end + HOUR), steps)  # rows are known a minute after their boundary

    for group in repo.groups.values():
        world.assert_online(group, world.expected(group, end))
    features = OnlineFeatures(world.path, now_us=lambda: end + HOUR)
    features.refresh()
    features.connect()
    found = features.read(FeatureSet.of(["zones:count_1h"]), {"zone": ["z3", "nowhere", "z3"]}, 3)["zones"]
    right = [row for row in world.expected(repo.groups["zones"], end) if row["zone"] == "z3"][-1]
    assert found.columns["count_1h"].to_pylist() == [right["count_1h"], None, right["count_1h"]]
    assert right["count_1h"] > 0
    assert found.row_status.tolist() == [0, 2, 0]
    assert found.fingerprints[0] == features.applied_fingerprint("zones") is not None

    from tandem_outside.tracker import runs

    told = runs(world.data)
    assert sorted(run.split("-")[0] for run in told) == ["apply", "batch", "materialize"]
    assert {line["status"] for line in told.values()} == {"complete"}


def test_a_stream_of_its_format_into_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside_package: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in (str(outside_package), os.environ.get("PYTHONPATH", "")) if p))
    (tmp_path / "broker").mkdir()
    with kafka_server(tmp_path / "broker") as broker:
        world = make_stream_world(tmp_path / "world", broker.bootstrap)
        (world.path / "feature_store.yaml").write_text(STORE)
        settings: dict[str, Any] = json.loads((world.path / "tandem.yaml").read_text())
        settings["kafka"] |= {"formats": {"trips": "outside_csv"}, "format_options": {"trips": {"delimiter": ";"}}}
        (world.path / "tandem.yaml").write_text(json.dumps(settings))
        repo = world.repo()
        apply(repo, {name: (world.data / "graphs" / name / "CURRENT").read_text().strip() for name in repo.groups})
        log = events(2000, 1)
        with KafkaProducer(**options_of(broker.bootstrap)) as producer:
            for n, line in enumerate(as_csv(repo.sources["trips"], repo.settings.kafka, log)):
                producer.send("trips", line, partition=n % world.partitions)
                world.sent.setdefault(n % world.partitions, []).append(log[n])
            producer.send("trips", b'{"at": 3}', partition=0)
        said: list[str] = []
        manifest = run_stream(repo, StreamOptions(runner="direct", until="latest"), said.append)
        assert (manifest["code"], manifest["status"]) == (0, "complete"), said
        world.assert_right()
        reader = KafkaPartitionReader(options_of(broker.bootstrap))
        letters = drain(reader, repo.settings.kafka.dead_letters)
        reader.close()
        assert [value for _, value, _ in letters] == [b'{"at": 3}']
        assert dict(letters[0][2])["tandem.detail"] == b"1 values where one line of 4 values should be"


def as_csv(source: EventSource, kafka: KafkaSettings, log: list[bytes]) -> list[bytes]:
    """JSON events in the format of the settings."""
    valid = check_json(pa.array(log, pa.binary()), source, np.iinfo(np.int64).max // 2, 0).valid
    lines: list[bytes] = record_format(source, kafka).encode(valid).to_pylist()
    assert len(lines) == len(log) and lines[0].count(b";") == 3
    return lines
