"""The engines hold the contract that ships: the direct one over a broker in memory, the embedded Flink over a real Kafka (and Flink's
cluster: ``test_engine_cluster.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipelines.project import extensions
from pipelines.streaming.engines.direct import DirectEngine, DirectSettings
from pipelines.streaming.engines.flink import FlinkEngine
from pipelines.streaming.engines.flink_rest import FlinkSettings
from pipelines.streaming.engines.stream_engine import Engine, EngineOptions, EngineSettings
from pipelines.streaming.stream_options import StreamOptions
from tandem.testing.broker import BrokerHarness, MemoryHarness
from tandem.testing.engine import EngineContract
from tests.contract.brokers import KafkaHarness
from transforms.errors import ConfigError

pytestmark = pytest.mark.timeout(600)


class TestDirect(EngineContract):
    runner = "direct"

    @pytest.fixture
    def harness(self) -> BrokerHarness:
        return MemoryHarness()


class TestDirectInParts(TestDirect):
    """With a shuffle between polls and folds."""

    @pytest.fixture
    def given(self) -> Mapping[str, str]:
        return {"parts": "2"}


@pytest.mark.slow
class TestEmbeddedFlink(EngineContract):
    runner = "flink"

    @pytest.fixture
    def harness(self, kafka: KafkaHarness) -> BrokerHarness:
        return kafka


class Flush(EngineSettings):
    every: int


class FlushInParts(DirectSettings):
    every: int


class Patient(FlinkSettings):
    every: int


class Brought(DirectEngine):
    """An engine of another package, with a setting of its own."""

    name = "brought"
    Settings = Flush


class BroughtInParts(DirectEngine):
    """One with those of the engine that it derives from, too."""

    name = "brought"

    Settings = FlushInParts


class BroughtFlink(FlinkEngine):
    """Of the embedded Flink."""

    name = "brought-flink"
    Settings = Patient


class TestBrought(TestDirect):
    """The whole suite with such an engine."""

    runner = "brought"

    @pytest.fixture(autouse=True)
    def brought(self, monkeypatch: pytest.MonkeyPatch) -> None:
        points = [EntryPoint("brought", f"{__name__}:Brought", "tandem.engines")]
        monkeypatch.setattr(extensions, "entry_points", lambda group: points if group == "tandem.engines" else [])

    @pytest.fixture
    def given(self) -> Mapping[str, str]:
        return {"every": "3"}


@pytest.mark.parametrize(("engine", "parts"), [(Brought, 1), (BroughtInParts, 4), (BroughtFlink, 1)])
def test_settings_of_its_own_need_not_be_those_of_the_engine_that_it_derives_from(engine: type[Engine], parts: int, tmp_path: Path) -> None:
    given = {"every": "3"} | ({"parts": "4"} if parts > 1 else {})
    assert engine(EngineOptions("x", tmp_path, given=given)).parts(8) == parts
    with pytest.raises(ConfigError, match=r"^engine option 'every': Input should be a valid integer"):
        engine(EngineOptions("x", tmp_path, given={**given, "every": "often"}))


def test_a_package_brings_an_engine_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("brought", f"{__name__}:Brought", "tandem.engines"),
        EntryPoint("broken", "no.such.module:Engine", "tandem.engines"),
    ]
    monkeypatch.setattr(extensions, "entry_points", lambda group: points if group == "tandem.engines" else [])
    assert StreamOptions(runner="brought", until="latest", given={"every": "3"}).engine() is Brought
    with pytest.raises(ConfigError, match=r"^engine option 'every': Field required; the options of --runner brought are: every; corr"):
        StreamOptions(runner="brought", until="latest")
    with pytest.raises(ConfigError, match=r"^engine option 'every': Input should be a valid integer"):
        StreamOptions(runner="brought", until="latest", given={"every": "often"})
    with pytest.raises(ConfigError, match=r"--runner broken: engine 'broken' of .* cannot be loaded: No module named 'no'; install"):
        StreamOptions(runner="broken")
    known = "broken, brought, direct, flink, flink-cluster"
    with pytest.raises(ConfigError, match=f"--runner spark: 'spark' is not a known engine; known: {known}"):
        StreamOptions(runner="spark")
