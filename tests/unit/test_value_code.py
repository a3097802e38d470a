"""Two hashes of the code: what can change a value decides whether a batch run is stale, all else informs."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from pipelines.lake import kept_meanings, provenance, value_code
from pipelines.lineage.diff import diff
from tests.check_floors import imports, module_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of the engine, and a repository."""
    for name in ("transforms", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "engine_version", cache(provenance.engine_version.__wrapped__))  # what is kept of here stays here
    monkeypatch.setattr(provenance, "engine_root", lambda: tmp_path)
    repo = tmp_path / "shop"
    repo.mkdir()
    (repo / "features.py").write_text("from prices import cents\nGROUPS = dict(preprocessing_fn='scaling:fares', one=cents)\n")
    (repo / "prices.py").write_text("cents = 100\n")
    (repo / "scaling.py").write_text("import helpers.maths\ndef fares(x):\n    return x\n")
    (repo / "helpers").mkdir()
    (repo / "helpers" / "__init__.py").write_text("")
    (repo / "helpers" / "maths.py").write_text("half = 0.5\n")
    (repo / "model.py").write_text("units = 32\n")
    return tmp_path


def hashes(place: Path) -> tuple[str, str]:
    code = provenance.code_version(place / "shop")
    return code["values"], code["sha256"]


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replaced(p / "transforms/windows.py", "(1 + over // hop", "(2 + over // hop"),
        lambda p: replaced(p / "pipelines/batch/steps.py", "row_group_size=65_536", "row_group_size=65_537"),
        lambda p: (p / "transforms/new.py").write_text("x = 1\n"),
        lambda p: replaced(p / "shop/features.py", "cents)", "cents, two=2)"),
        lambda p: replaced(p / "shop/prices.py", "100", "101"),
        lambda p: replaced(p / "shop/scaling.py", "return x", "return x + 1"),
        lambda p: replaced(p / "shop/helpers/maths.py", "0.5", "0.6"),
        lambda p: (p / "shop/helpers/__init__.py").write_text("import decimal\n"),
    ],
)  # fmt: skip
def test_what_can_change_a_value_makes_stale(place, change):
    before = hashes(place)
    change(place)
    after = hashes(place)
    assert after[0] != before[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replaced(p / "pipelines/reports/charts.py", "def ", "LIMIT = 7\n\n\ndef "),
        lambda p: replaced(p / "pipelines/cli/batch.py", "import", "import json\nimport"),
        lambda p: replaced(p / "pipelines/lake/runs.py", "2.0", "3.0"),
        lambda p: replaced(p / "pipelines/batch/steps.py", "def ", "# a comment\ndef "),
        lambda p: replaced(p / "transforms/windows.py", '"""', '"""Said otherwise. '),
        lambda p: replaced(p / "shop/model.py", "32", "64"),
        lambda p: replaced(p / "shop/scaling.py", "def fares(x):", 'def fares(\n    x,\n):\n    """Fares."""'),
    ],
)
def test_what_cannot_change_a_value_makes_nothing_stale(place, change):
    before = hashes(place)
    change(place)
    after = hashes(place)
    assert after[0] == before[0] and after[1] != before[1]  # it is recorded all the same


def test_what_cannot_be_told_counts_whole(place):
    repo = place / "shop"
    assert [p.name for p in value_code.repo_files(repo, "features")] == [
        "features.py",
        "__init__.py",
        "maths.py",
        "prices.py",
        "scaling.py",
    ]
    assert "model.py" in [p.name for p in value_code.repo_files(repo, "another")]
    replaced(repo / "prices.py", "cents", "import importlib\ncents")
    assert "model.py" in [p.name for p in value_code.repo_files(repo, "features")]


def test_the_engines_part_is_closed():
    """What the steps of a batch import is in it too, or stands in rooms that only move files, settings and records about."""
    files = value_code.value_files(ROOT, ROOT / "feature_repo").values()
    inside = {module_name(f, ROOT) for f in files if not f.is_relative_to(ROOT / "feature_repo")}
    outside = {
        name for f in files if not f.is_relative_to(ROOT / "feature_repo")
        for _, name in imports(f, ROOT) if name.startswith(("pipelines.", "serving.", "transforms.")) and name not in inside
    }  # fmt: skip
    assert all(name.startswith(("pipelines.lake.", "pipelines.project.", "serving.object_store.")) for name in outside), outside


def test_the_difference_of_two_runs_tells_which_change_weighs(place):
    before = provenance.code_version(place / "shop")
    replaced(place / "transforms/windows.py", '"""', '"""Said otherwise. ')
    replaced(place / "pipelines/batch/steps.py", "row_group_size=65_536", "row_group_size=65_537")
    replaced(place / "pipelines/reports/charts.py", "def ", "LIMIT = 7\n\n\ndef ")
    replaced(place / "shop/prices.py", "100", "101")
    told = [str(d) for d in diff({"code": before}, {"code": provenance.code_version(place / "shop")})]
    lines = "\n".join(told)
    for file in ("repo/prices.py", "pipelines/batch/steps.py", "transforms/windows.py", "pipelines/reports/charts.py"):
        assert f"{file} changed" in lines
    assert "can change feature values: pipelines/batch/steps.py, repo/prices.py" in told
    before = provenance.code_version(place / "shop")
    replaced(place / "pipelines/reports/charts.py", "LIMIT = 7", "LIMIT = 8")
    assert "can change feature values: none of this" in [
        str(d) for d in diff({"code": before}, {"code": provenance.code_version(place / "shop")})
    ]


def test_what_a_file_means_is_kept_between_processes_and_is_what_it_would_be(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "one.py"
    file.write_text('"""Said."""\nx = 1\n')
    asked = {"one": file}

    def found() -> tuple[dict[str, str], int]:
        """As another process finds it, and how many files it had to parse."""
        value_code._meaning.cache_clear()
        value_code._kept.cache_clear()
        parsed: list[ast.AST] = []

        def dump(tree: ast.AST, real: Callable[[ast.AST], str] = ast.dump) -> str:
            parsed.append(tree)
            return real(tree)

        with monkeypatch.context() as patched:
            patched.setattr(ast, "dump", dump)
            return value_code.meanings(asked), len(parsed)

    first = found()
    assert first[1] == 1
    assert found() == (first[0], 0)
    file.write_text('"""Said otherwise."""\nx = 1  # the same\n')  # other bytes, which are parsed; the same meaning
    assert found() == first
    file.write_text("x = 2\n")
    changed = found()
    assert changed[0] != first[0]
    assert changed[1] == 1
    (kept,) = (tmp_path / "cache" / "tandem" / "code").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:-9], whole.replace(b"a", b"b"), b"", b"\xff\n\xff"):  # is not used, and written anew
        kept.write_bytes(damaged)
        assert found() == changed
        assert found() == (changed[0], 0)
    kept.unlink()
    kept.mkdir()  # a place that takes nothing
    assert found() == changed
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert found() == changed


def test_what_is_kept_is_bounded_and_of_one_way_to_find_it(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_meanings, "MOST", 3)
    some = kept_meanings.KeptMeanings(b"way", tmp_path)
    for name in "abc":
        some.keep(name, name.upper())
    assert some.find("a") == "A"  # asked for last
    some.keep("d", "D")
    some.save()
    again = kept_meanings.KeptMeanings(b"way", tmp_path)
    assert [again.find(name) for name in "abcd"] == ["A", None, "C", "D"]
    assert kept_meanings.KeptMeanings(b"another way", tmp_path).find("a") is None
