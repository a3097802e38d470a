"""Feast is imported when definitions use it: a mistake before that is told without it; all else is as if it had been there, and nothing of
it is there twice."""

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
LOADED = """
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
PROBE = """
import sys
from pathlib import Path
from tandem.quick_imports import quicken_imports
from pipelines.project.late_feast import feast_when_used
quicken_imports()
repo = Path(__file__).parent
with feast_when_used(repo):
    import features
    print("feast.entity" in sys.modules)
import feast
from feast import entity
print(features.Entity is feast.Entity, features.Service is feast.FeatureService)
print(feast.Entity is entity.Entity, isinstance(features.Entity(name="a"), feast.Entity))
print(entity.__spec__.name, type(entity.__spec__.loader).__name__)
"""


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("from feast import Entity, FeatureService as Service", False),
        ("from feast.entity import Entity\nfrom feast import FeatureService as Service", True),
        ("import feast.entity\nfrom feast.feature_service import FeatureService as Service\nEntity = feast.entity.Entity", True),
    ],
)
def test_a_module_of_feast_is_executed_once_however_it_is_asked_for(tmp_path: Path, text: str, used: bool) -> None:
    """The first of Feast's modules that a definition named was executed once more: its classes were others than Feast's."""
    (tmp_path / "features.py").write_text(text)
    (tmp_path / "probe.py").write_text(PROBE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "probe.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [*[str(used)] * 3, "True", "True", "feast.entity", "SourceFileLoader"]


def run(folder: Path, imports: str, hop: int, uses: str = "") -> list[str]:
    (folder / "repo").mkdir()
    (folder / "repo" / "tandem.yaml").write_text("data: ../data\n")
    (folder / "repo" / "features.py").write_text(imports + GROUP.replace("HOP", str(hop)) + uses)
    command = [sys.executable, "-c", LOADED, str(folder / "repo")]
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
