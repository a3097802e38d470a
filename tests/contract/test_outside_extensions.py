"""What the outside package brings, each held to the contract suite of its kind and found by its entry point alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.project.config import KafkaSettings, load_settings
from pipelines.project.extensions import FORMATS
from pipelines.sources.formats.record_format import record_format
from tandem.testing.formats import NOW, SOURCES, RecordFormatContract, events
from tandem.testing.online_store import OnlineStoreContract
from tandem.testing.tracker import ReadBack, Told, TrackerContract
from transforms.errors import ConfigError

ROOT = Path(__file__).parents[2]
STORE = "tandem_outside.store.OneTableOnlineStore"
pytestmark = pytest.mark.usefixtures("outside_package")


class TestStore(OnlineStoreContract):
    @pytest.fixture
    def store_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"type": STORE, "path": str(tmp_path / "rows.db")}

    @pytest.fixture
    def unusable_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        (tmp_path / "file").write_text("")
        return {"type": STORE, "path": str(tmp_path / "file" / "rows.db")}


class TestFormat(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "outside_csv"

    @pytest.fixture(params=[",", ";"])
    def kafka_settings(self, request: pytest.FixtureRequest) -> KafkaSettings:
        return KafkaSettings(format_options={s.name: {"delimiter": request.param} for s in SOURCES.values()})


class TestTracker(TrackerContract):
    draws = False

    @pytest.fixture
    def tracker_name(self) -> str:
        return "outside"

    @pytest.fixture
    def read_back(self) -> ReadBack:
        from tandem_outside.tracker import runs

        states = {"running": "RUNNING", "complete": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

        def read(data: Path) -> dict[str, Told]:
            return {
                name: Told(
                    status=states[line["status"]],
                    parent=line["parent"],
                    params=line["params"],
                    metrics=line["metrics"],
                    steps={metric: dict(points) for metric, points in line["series"].items()},
                    tags=line["tags"],
                    files=set(line["files"]),
                    bundles={n: (kind, aliases) for n, (kind, aliases) in line["made"].items()},
                )
                for name, line in runs(data).items()
            }

        return read


def test_tandem_yaml_may_name_what_it_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_TRACKING__TRACKERS", raising=False)
    text = "kafka: {formats: {few: outside_csv}, format_options: {few: {delimiter: '|'}}}\ntracking: {trackers: [outside]}\n"
    (tmp_path / "tandem.yaml").write_text(text)
    settings = load_settings(tmp_path)
    assert settings.tracking.trackers == ["outside"]
    few = SOURCES["a number identifies"]
    form = record_format(few, settings.kafka)
    sent = events(few, 2)
    assert all(p.count(b"|") == 1 for p in form.encode(sent).to_pylist())
    assert form.decode(form.encode(sent), NOW, 0).valid.equals(sent)
    with pytest.raises(ConfigError, match=r"format_options\.few\.limit.*known keys: delimiter"):
        record_format(few, KafkaSettings(formats={"few": "outside_csv"}, format_options={"few": {"limit": 3}}))
    with pytest.raises(ConfigError, match="known: avro, csv, json, json_schema, outside_csv, protobuf"):
        FORMATS.find("xml")


def test_its_command_is_one_of_tandem(tmp_path: Path, outside_package: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(outside_package)]), "COLUMNS": "200"}

    def tandem(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "tandem", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    listed = tandem("--help")
    assert listed.returncode == 0
    assert "outside-groups" in listed.stdout and "List the feature groups of a repository." in listed.stdout
    assert "outside-broken" not in listed.stdout
    said = [line for line in listed.stderr.splitlines() if "left out" in line]
    assert len(said) == 2 and all("of tandem-outside is left out" in line for line in said)
    assert "tandem has a command of that name" in said[0] and "no_such_module" in said[1]
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "features.py").write_text(
        "from tandem.transforms.definitions import *\n"
        "e = EventSource(name='e', event_time='at', tie_breaker='i', fields=[Field('i', 'string', required=True)], files='events/e')\n"
        "seen = FeatureGroup(name='seen', source=e, entity=Entity('i'), hop=minutes(5), ttl=hours(1), aggregates=[Count(over=hours(1))])\n"
    )
    done = tandem("outside-groups")
    assert (done.returncode, done.stdout) == (0, "seen\n"), done.stderr
