"""The public interface is the names in ``__all__`` of the modules that the reference lists; examples and templates keep to it."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.demo.scaffold import scaffold

ROOT = Path(__file__).resolve().parents[2]
PUBLIC: tuple[str, ...] = runpy.run_path(str(ROOT / "docs" / "reference.py"))["PUBLIC"]
EXAMPLES = [
    *sorted((ROOT / "feature_repo").glob("*.py")),
    *sorted((ROOT / "pipelines/demo/templates/repo").glob("*.py.txt")),
    *sorted((ROOT / "tests/outside_package/src").rglob("*.py")),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    module = importlib.import_module(name)
    assert name.startswith("tandem.") or module is importlib.import_module(f"tandem.{name}")
    names = module.__all__
    assert len(names) == len(set(names)) and not [n for n in names if n.startswith("_")]
    assert module.__doc__
    for public in (getattr(module, n) for n in names):
        if inspect.isclass(public) or inspect.isfunction(public):
            assert inspect.getdoc(public), f"{name}.{public.__name__} has no docstring"


def imported(text: str) -> list[tuple[str, str]]:
    """(module, name) of what a text imports of ours."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.split(".")[0] in ("tandem", "transforms", "pipelines", "serving")
        for alias in node.names
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_repositories_use_public_names_alone(path: Path) -> None:
    check(path.read_text("utf-8"))


@pytest.mark.parametrize("page", ["README.md", "docs/repository.md", "docs/extending.md"])
def test_documents_use_public_names_alone(page: str) -> None:
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    for block in found:
        check(block)


def test_type_checkers_see_the_public_modules_under_tandem_s_name() -> None:
    """At run time ``tandem.transforms`` and its like are made by an import hook, which no type checker runs: each public module has a stub
    that gives its names, each package on the way one without names."""
    public = [n for n in PUBLIC if not n.startswith("tandem.")]
    packages = {name.rpartition(".")[0] for name in public} | {name.partition(".")[0] for name in public}
    packages |= {".".join(name.split(".")[:2]) for name in public if name.count(".") > 2}
    wanted = {}
    for name in {*public, *packages}:
        place = Path("tandem", *name.split("."))
        stub = place / "__init__.pyi" if (ROOT / Path(*name.split("."))).is_dir() else place.with_suffix(".pyi")
        wanted[stub.as_posix()] = f"from {name} import *\n" if name in public else ""
    found = {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in (ROOT / "tandem").rglob("*.pyi")}
    assert found == wanted


@pytest.mark.slow
def test_a_type_checker_checks_what_users_write(tmp_path: Path) -> None:
    """What ``tandem init`` makes and a package of extensions have no error; a wrong definition has one, where it is wrong."""
    scaffold(tmp_path / "shop")
    (tmp_path / "shop/wrong.py").write_text("from tandem.transforms.definitions import Count\n\nCount(over=3)\n")
    files = [*sorted((tmp_path / "shop").glob("*.py")), *sorted((ROOT / "tests/outside_package/src").rglob("*.py"))]
    options = ["--config-file=", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", "--ignore-missing-imports"]
    path = os.pathsep.join(map(str, (ROOT, tmp_path / "shop", ROOT / "tests/outside_package/src")))
    command = [sys.executable, "-m", "mypy", *options, *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MYPYPATH": path}, capture_output=True, text=True)
    assert 'wrong.py:3: error: Argument "over" to "Count" has incompatible type "int"' in done.stdout
    assert "Found 1 error in 1 file" in done.stdout, done.stdout


def check(text: str) -> None:
    for module, name in imported(text):
        assert module.startswith("tandem."), f"from {module} import {name}: examples use tandem.*"
        public = module if module in PUBLIC else module.removeprefix("tandem.")
        assert public in PUBLIC and name in importlib.import_module(public).__all__, f"{module}.{name} is not public"


@pytest.mark.slow
def test_the_reference_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs/reference.py"), str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in PUBLIC:
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text("utf-8")
        assert all(f'id="{n}"' in page for n in importlib.import_module(name).__all__)
        assert not re.search(r":[a-z]+:(<code>|`)|(<code>|`)~", page), f"{name}: a reference in Sphinx's signs, which nobody can read"
        assert "https://pdoc.dev" not in (tmp_path / "index.html").read_text("utf-8")
    assert all(name in (tmp_path / "search.js").read_text("utf-8") for name in PUBLIC)
