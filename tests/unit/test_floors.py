"""The script that keeps the import floors: a planted breach is found. Our own tree is looked at by ``make check``."""

import re
from pathlib import Path

import pytest

from tests.check_floors import FLOOR0, FLOOR1, NAMED_LATER, PIPELINES, breaches, circles, imports, late, main, twice

ROOT = Path(__file__).resolve().parents[2]


def plant(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("transforms/windows.py", "import tensorflow as tf", "tensorflow"),
        ("transforms/windows.py", "from transforms.graph import TransformGraph", "transforms.graph"),
        ("transforms/windows.py", "from transforms import graph", "transforms.graph"),
        ("transforms/windows.py", "from . import graph", "transforms.graph"),
        ("transforms/windows.py", "from .graph import TransformGraph", "transforms.graph"),
        ("transforms/contract.py", "import pandas", "pandas"),
        ("transforms/schemas.py", "def f():\n    import tensorflow", "tensorflow"),
        ("transforms/__init__.py", "import feast", "feast"),
        ("serving/online_store/redis.py", "import apache_beam", "apache_beam"),
        ("serving/online_store/redis.py", "from serving.app import create", "serving.app"),
        ("serving/app.py", "from apache_beam.io import filesystems", "apache_beam.io.filesystems"),
        ("serving/app.py", "from pipelines.lake import runs", "pipelines.lake.runs"),
        ("pipelines/cli/root.py", "from serving import app", "serving.app"),
        ("pipelines/training/model.py", "import feature_repo.features", "feature_repo.features"),
        ("pipelines/lake/runs.py", "def f():\n    from pipelines.cli import root", "pipelines.cli.root"),
        ("pipelines/batch/steps.py", "from pipelines.workflow import batch", "pipelines.workflow"),
        ("pipelines/training/model.py", "from tests.oracle import features", "tests.oracle"),
        ("pipelines/lake/x.py", "from tandem.pipelines.cli import root", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "import tandem.pipelines.cli.root as r", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "from tandem.pipelines.cli.root import main", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "from tandem.testing import broker", "tandem.testing"),
        ("pipelines/lake/x.py", "from tandem.quick_imports import quicken_imports", "tandem.quick_imports"),
        ("pipelines/lake/x.py", "import importlib; importlib.import_module('pipelines.cli.root')", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "from importlib import import_module as load; load('tandem.pipelines.cli.root')", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "from importlib import import_module; import_module(name='pipelines.cli.root')", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "import importlib; importlib.import_module('..cli.root', __package__)", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "__import__('pipelines.cli.root')", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "import runpy; runpy.run_module('pipelines.cli.root')", "pipelines.cli.root"),
        ("pipelines/lake/x.py", "import pkgutil; pkgutil.resolve_name('pipelines.cli.root:main')", "pipelines.cli.root"),
        ("serving/app.py", "from tandem.pipelines.lake import runs", "pipelines.lake.runs"),
        ("transforms/windows.py", "from tandem.transforms import graph", "transforms.graph"),
        ("tandem/__init__.py", "from transforms import errors", "transforms"),
        ("tandem/testing/broker.py", "from tandem.pipelines.cli import root", "pipelines.cli.root"),
    ],
)
def test_a_planted_breach_is_found(tmp_path, file, text, wrong):
    for module in ("transforms/graph.py", "serving/app.py", "pipelines/lake/runs.py", "pipelines/cli/root.py", "pipelines/workflow.py"):
        plant(tmp_path, module, "")
    plant(tmp_path, file, "import json\n" + text)
    found = breaches(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{file}:{text.count(chr(10)) + 2}: ")
    assert f"may not import {wrong}" in found[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "transforms/windows.py",
            "import numpy\nfrom pyarrow import compute\nfrom transforms.errors import DataError\nfrom transforms import exact",
        ),
        ("transforms/graph.py", "import tensorflow_transform as tft\nfrom transforms.schemas import x"),
        ("transforms/schemas.py", "from tensorflow_metadata.proto.v0 import schema_pb2"),
        (
            "serving/online_store/redis.py",
            "import redis\nfrom feast.infra.key_encoding_utils import serialize_entity_key\nfrom google.protobuf import message",
        ),
        ("serving/app.py", "from fastapi import FastAPI\nfrom serving import online_store\nfrom transforms.graph import TransformGraph"),
        ("pipelines/batch/batch_job.py", "import apache_beam as beam\nfrom serving.online_store import sqlite\nimport tfx"),
    ],
)
def test_what_a_floor_offers_may_be_used(tmp_path, file, text):
    for module in ("transforms/exact.py", "serving/online_store/sqlite.py"):
        plant(tmp_path, module, "")
    plant(tmp_path, file, text)
    assert breaches(tmp_path) == []


def test_what_no_literal_names_is_imported_in_few_places(tmp_path):
    plant(tmp_path, "pipelines/lake/x.py", "import importlib\nimportlib.import_module('pipelines.' + 'cli.root')")
    plant(tmp_path, "pipelines/cli/root.py", "from importlib import import_module\nimport_module(name)")
    assert breaches(tmp_path) == ["pipelines/lake/x.py:2: pipelines.lake.x imports what no literal names; see NAMED_LATER"]
    used = {module for module in NAMED_LATER if "?" in {name for _, name in imports(path_of(ROOT, module), ROOT)}}
    assert used == set(NAMED_LATER), "those that are named need it"


def path_of(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_a_circle_through_the_second_name_is_found(tmp_path):
    plant(tmp_path, "tandem/testing/one.py", "from tandem.pipelines.lake import two")
    plant(tmp_path, "pipelines/lake/two.py", "def f():\n    __import__('tandem.testing.one')")
    assert circles(tmp_path) == ["circle of imports: pipelines.lake.two, tandem.testing.one"]


def test_a_room_without_a_floor_is_a_breach(tmp_path, capsys):
    plant(tmp_path, "transforms/novelty.py", "import json")
    assert main([str(tmp_path)]) == 1
    assert "transforms.novelty stands on no floor" in capsys.readouterr().out


def test_a_circle_is_found_though_its_imports_stand_inside_functions(tmp_path):
    plant(tmp_path, "pipelines/lake/one.py", "def f():\n    from pipelines.lake import two")
    plant(tmp_path, "pipelines/lake/two.py", "from pipelines.lake.three import x")
    plant(tmp_path, "pipelines/lake/three.py", "if True:\n    import pipelines.lake.one")
    plant(tmp_path, "pipelines/lake/four.py", "from pipelines.lake import one")
    assert circles(tmp_path) == ["circle of imports: pipelines.lake.one, pipelines.lake.three, pipelines.lake.two"]


def test_an_import_in_a_function_that_buys_nothing_is_found(tmp_path):
    plant(tmp_path, "pipelines/lake/head.py", "import numpy\nfrom pipelines.lake import light")
    plant(tmp_path, "pipelines/lake/light.py", "import json")
    plant(tmp_path, "pipelines/lake/other.py", "import numpy.linalg")
    plant(tmp_path, "pipelines/lake/heavy.py", "import pandas")
    plant(tmp_path, "pipelines/cli/command.py", "def f():\n    from pipelines.lake import light")
    plant(
        tmp_path,
        "pipelines/lake/here.py",
        "import pipelines.lake.head\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
        "def f():\n    import numpy\n    import pandas\n    from pipelines.lake import heavy\n"
        "    from tandem.pipelines.lake import light\n    from pipelines.lake import other\n"
        "    try:\n        from pipelines.lake import light\n    except ImportError:\n        pass",
    )
    assert late(tmp_path) == [
        "pipelines/lake/here.py:6: numpy is loaded with pipelines.lake.here; import it at the head of the file",
        "pipelines/lake/here.py:9: pipelines.lake.light is loaded with pipelines.lake.here; import it at the head of the file",
        "pipelines/lake/here.py:10: pipelines.lake.other brings no library with it; import it at the head of the file,"
        " or name the reason in LATE",
    ]


def test_a_file_name_that_stands_twice_is_found(tmp_path):
    for file in ("pipelines/batch/job.py", "pipelines/streaming/job.py", "pipelines/batch/__init__.py", "pipelines/streaming/__init__.py"):
        plant(tmp_path, file, "")
    assert twice(tmp_path) == ["job.py stands 2 times: pipelines/batch/job.py, pipelines/streaming/job.py; a name stands once"]


def test_the_page_says_the_floors_and_rooms_that_are_checked() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for number, floor in enumerate((FLOOR0, FLOOR1)):
        (named,) = re.findall(rf"^\| {number} \| ([^|]*) \|", page, re.MULTILINE)
        assert {f"transforms.{name.removeprefix('transforms.')}" for name in re.findall(r"`([\w.]+)`", named)} == set(floor)
    table = page[page.index("| package | what is in it |") : page.index("## Folders")]
    rooms = [name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)(?:/|\.py)`", row)]
    assert rooms == list(PIPELINES), "from the ground up"
