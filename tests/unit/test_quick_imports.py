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
SERVERS = """
import sys
{settle}
import feast, feast.feature_store as store, feast.errors
servers = "fastapi", "sqlalchemy", "feast.feature_server", "feast.ui_server", "fastapi.concurrency"
print(*(name in sys.modules for name in servers))
print(feast.errors.FeastError().http_status_code())
import asyncio
print(asyncio.run(store.run_in_threadpool(abs, -3)))
import feast.feature_server, feast.ui_server
print(store.feature_server.start_server is feast.feature_server.start_server)
print(store.ui_server.start_server is feast.ui_server.start_server)
import fastapi.concurrency
from fastapi import FastAPI, status
print(fastapi.concurrency.run_in_threadpool is store.run_in_threadpool, feast.errors.HttpStatusCode is status)
settings = feast.RepoConfig(
    project="p", provider="local", registry=dict(registry_type="sql", path="sqlite:///registry.db"), online_store=None,
    entity_key_serialization_version=3,
)
found = feast.FeatureStore(config=settings)
from feast.infra.registry.sql import SqlRegistry
print(isinstance(found.registry, SqlRegistry), found.list_entities())
print({{type(module).__name__ for module in sys.modules.values()}} & {{"_Later"}} or "none")
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
        cwd=folder,
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


def test_feast_comes_without_its_servers_which_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    loaded = run(tmp_path, SERVERS.format(settle=""))
    (tmp_path / "registry.db").unlink()
    now = run(tmp_path, SERVERS.format(settle=SETTLE))
    assert loaded[:5] == ["True"] * 5
    assert now[:5] == ["False"] * 5
    assert now[5:] == loaded[5:] == ["500", "3", "True", "True", "True", "True", "True", "[]", "none"]


STANDING = """
import sys, threading
sys.path.insert(0, {folder!r})
{settle}
from tandem import quick_imports
quick_imports._STANDING_IN = {{"feast": {{"server": {{}}, "away": {{"gone": "no_such_module"}}, "there": {{}}}}}}
import there
import feast
print(feast.early, feast.late(), feast.caught, feast.there is there, "server" in sys.modules)
"""


def test_what_stands_in_gives_way_to_whoever_needs_the_module_meanwhile(tmp_path: Path) -> None:
    """Also another thread; and what was imported before, or is not there as expected, is what it is."""
    code = """
import sys, threading
import server, away, there
kept = server
def asks():
    from server import start
    found.append(start())
found = []
if {threads}:
    thread = threading.Thread(target=asks)
    thread.start()
    thread.join()
early = found
def late():
    return kept.start()
try:
    server.nothing
    caught = "no"
except AttributeError:
    caught = "yes"
"""
    for threads in (True, False):
        folder = tmp_path / f"found-{threads}"
        (folder / "feast").mkdir(parents=True)
        (folder / "feast" / "__init__.py").write_text(code.replace("{threads}", str(threads)))
        (folder / "server.py").write_text("def start():\n    return 'up'")
        for name in ("away", "there"):
            (folder / f"{name}.py").write_text("")
        found = run(tmp_path, STANDING.format(folder=str(folder), settle=SETTLE))
        assert found == [*(["['up']"] if threads else ["[]"]), "up", "yes", "True", "True"]


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
