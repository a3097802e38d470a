"""What is left out at import: Feast's instrumented sources, notebooks' IPython, the packages' metadata; and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FEAST = """
import sys
{settle}
import feast, typeguard
from importlib import metadata
print(len([n for n, f in vars(feast.FeatureView).items() if "TypeCheckMemo" in str(getattr(getattr(f, "__code__", f), "co_consts", ""))]))
@typeguard.typechecked
def half(n: int) -> float:
    return n / 2
for work in (lambda: half("two"), lambda: feast.FeatureService(name=5, features=[]), lambda: feast.Entity(name="a", join_keys="ab")):
    try:
        work()
    except typeguard.TypeCheckError:
        print("checked")
print(len(metadata.packages_distributions()) > 10)
"""
BEAM = """
import sys
{settle}
import apache_beam.io
print("IPython" in sys.modules)
from tqdm.auto import tqdm
print(sum(tqdm([1], disable=True)))
"""
SETTLE = "from tandem.quick_imports import quicken_imports; quicken_imports(); quicken_imports()"


def run(folder: Path, code: str) -> list[str]:
    (file := folder / "probe.py").write_text(code)  # a file: typeguard reads the source of what it checks
    done = subprocess.run(
        [sys.executable, "-W", "ignore", file],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_feast_checks_what_people_write_and_their_own_code_is_checked_as_before(tmp_path: Path) -> None:
    many, *checks = run(tmp_path, FEAST.format(settle=""))
    few, *same = run(tmp_path, FEAST.format(settle=SETTLE))
    assert same == checks == ["checked", "checked", "checked", "True"]
    assert int(few) <= 1 < int(many)


def test_beam_comes_without_notebooks(tmp_path: Path) -> None:
    assert run(tmp_path, BEAM.format(settle=SETTLE)) == ["False", "1"]


COLLECTOR = """
import gc, sys
sys.path.insert(0, {folder!r})
{settle}
before = gc.isenabled()
import pandas
print(pandas.during, pandas.__file__.endswith("__init__.py"), before, gc.isenabled(), gc.get_freeze_count() > 1000)
gc.disable()
try:
    import feast
except ValueError:
    print(gc.isenabled())
gc.enable()
try:
    import tensorflow
except ValueError:
    print(gc.isenabled())
import wide
print(wide.during)
"""


def test_no_collection_while_a_large_package_is_imported_and_as_before_afterwards(tmp_path: Path) -> None:
    for name, text in {
        "pandas": "import gc, pandas.core\nduring = (gc.isenabled(), pandas.core.during)",
        "feast": "raise ValueError",
        "tensorflow": "raise ValueError",
        "wide": "import gc\nduring = gc.isenabled()",
    }.items():
        (tmp_path / "found" / name).mkdir(parents=True)
        (tmp_path / "found" / name / "__init__.py").write_text(text)
    (tmp_path / "found" / "pandas" / "core.py").write_text("import gc\nduring = gc.isenabled()")
    found = run(tmp_path, COLLECTOR.format(folder=str(tmp_path / "found"), settle=SETTLE))
    assert found == ["(False,", "False)", "True", "True", "True", "True", "False", "True", "True"]


def test_every_process_of_ours_begins_with_it(tmp_path: Path) -> None:
    """The command and the modules that its children run; both through one file."""
    code = "import typeguard; print(hasattr(typeguard.typechecked, 'quick'))"
    (tmp_path / "quick_probe.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "tandem" / "__main__.py"), "-m", "quick_probe"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True"]
