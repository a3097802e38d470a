"""A repository's definitions have Feast when they use it, and it is Feast's own: nothing of it is there twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
