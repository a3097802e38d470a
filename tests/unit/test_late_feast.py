"""Feast is imported when definitions use it: a mistake before that is told without it; all else is as if it had been there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUP = """
from tandem.transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes

trips = EventSource(name="trips", fields=[Field("zone", "string", required=True)], event_time="at", tie_breaker="zone")
fares = FeatureGroup(name="fares", source=trips, entity=Entity("zone"), hop=minutes(HOP), ttl=hours(6), aggregates=[Count(over=hours(1))])
"""
USES = """
class Own(FeatureService):
    pass


late = isinstance(fares, FeatureService)
service = FeatureService(name="fares", features=[])
"""
PROBE = """
import sys
from pathlib import Path
from pipelines.project.repository import load_repo
try:
    load_repo(Path(sys.argv[1]))
except Exception as error:
    print(error)
print("feast.feature_store" in sys.modules)
if (module := sys.modules.get("features")) is not None:
    import feast, feast.types
    print(feast.types is sys.modules["feast.types"], feast.types.String is sys.modules["feast"].types.String)
    print(isinstance(module.service, feast.FeatureService), module.FeatureService is feast.FeatureService)
    print(module.Own.__bases__ == (feast.FeatureService,), module.late)
"""


def run(folder: Path, imports: str, hop: int, uses: str = "") -> list[str]:
    (folder / "repo").mkdir()
    (folder / "repo" / "tandem.yaml").write_text("data: ../data\n")
    (folder / "repo" / "features.py").write_text(imports + GROUP.replace("HOP", str(hop)) + uses)
    command = [sys.executable, "-c", PROBE, str(folder / "repo")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": "ignore"}, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("imports", ["from feast import Entity as E, FeatureService", "import feast"])
def test_a_mistake_in_a_definition_is_told_without_feast(tmp_path, imports):
    told, loaded = run(tmp_path, imports, -5)
    assert "hop" in told
    assert loaded == "False"


@pytest.mark.parametrize(
    "imports", ["from feast import FeatureService", "from feast import *", "import feast.types\nfrom feast import FeatureService"]
)
def test_what_uses_feast_gets_feast(tmp_path, imports):
    assert run(tmp_path, imports, 5, USES) == ["True", "True True", "True True", "True False"]
