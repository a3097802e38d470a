"""The archive of a real topic, killed for good at its steps: each record once, whatever is killed, and what retention took is named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from kafka import KafkaAdminClient, TopicPartition

from pipelines.project.config import KafkaSettings
from pipelines.replay.topic_archive import archive_topic
from pipelines.sources.broker import PartitionReader
from pipelines.sources.event_files import events, list_files
from tests.integration.archive_victim import source_of
from tests.integration.kafka_world import new_topic, produce
from transforms.errors import DataError
from transforms.instants import now_us

ROOT = Path(__file__).resolve().parents[2]


def _send(options: dict[str, Any], topic: str, ids: range) -> None:
    begin = now_us() - 10 * 86_400_000_000
    for partition in (0, 1):
        values = [json.dumps({"id": i, "at": begin + i * 200_000_000}).encode() for i in ids if i % 2 == partition]
        produce(options, topic, values, partition, compression_type="gzip")


def _stored(topic: str, data: Path) -> list[int]:
    """What a batch run would read now, each as often as it is there."""
    found: list[int] = []
    if (data / "events/orders").is_dir():
        for file in list_files(data, source_of(topic), None, None, hashes=False):
            for valid, _ in events(file.path, source_of(topic), now_us(), 0, partitions=file.partitions):
                found += pc.cast(valid.column(valid.schema.get_field_index("id")), pa.int64()).to_pylist()
    return sorted(found)


@pytest.mark.slow
def test_killed_at_its_steps_each_record_is_there_once(options: dict[str, Any], tmp_path: Path, reader: PartitionReader) -> None:
    topic, sent = new_topic(options, 2, retention_ms="-1"), 0
    bootstrap, killed = ",".join(options["bootstrap_servers"]), 0
    for step in (1, 3, 6, 8, 0):  # files, the state after them, a merge: where each lies depends on how far the ones before came
        _send(options, topic, range(sent, sent + 500))
        sent += 500
        command = [sys.executable, "-W", "ignore", "-m", "tests.integration.archive_victim", bootstrap, topic, str(tmp_path), str(step)]
        code = subprocess.run(command, cwd=ROOT, timeout=300).returncode
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
        there = _stored(topic, tmp_path)
        assert len(there) == len(set(there)), f"after step {step}"
    assert killed >= 3
    assert _stored(topic, tmp_path) == list(range(sent))
    admin = KafkaAdminClient(**options)
    _send(options, topic, range(sent, sent + 100))
    admin.delete_records({TopicPartition(topic, 0): sent // 2 + 20})
    admin.close()
    with pytest.raises(DataError, match=rf"20 records were deleted by retention .*: {topic}/0 from offset 1,250 to before 1,270"):
        archive_topic(reader, source_of(topic), KafkaSettings(), tmp_path)
    assert archive_topic(reader, source_of(topic), KafkaSettings(), tmp_path, accept_missing=True).events == 80
