"""Both brokers hold the contract that ships; the Kafka is a real one."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.project.config import KafkaSettings
from pipelines.sources.broker import open_broker
from pipelines.sources.kafka.kafka_client import KafkaBroker
from pipelines.sources.memory import MemoryBroker
from tandem.testing.broker import BrokerContract, BrokerHarness, MemoryHarness, read_all
from tests.contract.brokers import KafkaHarness
from transforms.errors import ConfigError


class TestMemory(BrokerContract):
    @pytest.fixture
    def harness(self) -> BrokerHarness:
        return MemoryHarness()


class TestKafka(BrokerContract):
    @pytest.fixture
    def harness(self, kafka: KafkaHarness) -> BrokerHarness:
        return kafka


# --------------------------------------------------------------------------------------------------------- which broker the settings name


def test_the_settings_choose_the_broker(tmp_path: Path) -> None:
    memory = open_broker(KafkaSettings(bootstrap_servers="memory://shop"), tmp_path)
    assert memory is MemoryBroker.named("shop")
    found = open_broker(KafkaSettings(bootstrap_servers="a:1, b:2"), tmp_path)
    assert isinstance(found, KafkaBroker) and found.public["bootstrap_servers"] == ["a:1", "b:2"]
    assert "a:1" not in repr(found), "options may hold passwords"
    with pytest.raises(ConfigError, match=r"'pulsar' is not a known broker; known: kafka, memory"):
        open_broker(KafkaSettings(bootstrap_servers="pulsar://x"), tmp_path)
    with pytest.raises(ConfigError, match="write memory://NAME"):
        open_broker(KafkaSettings(bootstrap_servers="memory://"), tmp_path)


def test_a_broker_in_memory_is_one_in_its_process_and_an_error_in_another(tmp_path: Path) -> None:
    broker = MemoryBroker("mine")
    data = pickle.dumps(broker)
    assert pickle.loads(data) is broker
    (tmp_path / "broker").write_bytes(data)
    code = f"import pickle; pickle.loads(open({str(tmp_path / 'broker')!r}, 'rb').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 1 and "memory://mine lives in process" in done.stderr and "--runner direct" in done.stderr


def test_gaps_and_lost_records_of_a_broker_in_memory() -> None:
    broker = MemoryBroker()
    broker.create_topic("t")
    broker.append("t", 0, [b"0", b"1"])
    broker.leave_gap("t", 0, 3)
    broker.append("t", 0, [b"5"])
    reader = broker.open_reader()
    fetched = reader.poll("t", 0, 0, 10, 0)
    assert (fetched.offsets.tolist(), fetched.next_offset) == ([0, 1, 5], 6)
    fetched = reader.poll("t", 0, 0, 2, 0)
    assert (fetched.offsets.tolist(), fetched.next_offset) == ([0, 1], 5)
    broker.leave_gap("t", 0, 2)
    fetched = reader.poll("t", 0, 6, 10, 0)
    assert (len(fetched.offsets), fetched.next_offset, fetched.at_end) == (0, 8, True)
    broker.cut("t", 0, 1)
    assert read_all(reader, "t") == [b"0"]
