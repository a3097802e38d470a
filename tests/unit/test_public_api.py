"""The public interface is the names in ``__all__`` of the modules that the reference lists; examples and templates keep to it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PUBLIC: tuple[str, ...] = runpy.run_path(str(ROOT / "docs" / "reference.py"))["PUBLIC"]
EXAMPLES = [*sorted((ROOT / "feature_repo").glob("*.py")), *sorted((ROOT / "pipelines/demo/templates/repo").glob("*.py.txt"))]


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


def test_the_readme_uses_public_names_alone() -> None:
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    for block in found:
        check(block)


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
    assert all(name in (tmp_path / "search.js").read_text("utf-8") for name in PUBLIC)
