"""What a module's text says about its names, before anything is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines.project.repository import load_module
from pipelines.project.written_names import surely_lacks, told_at_once
from pipelines.training.user_code import load_function
from transforms.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        "def wanted(): pass",
        "async def wanted(): pass",
        "class wanted: pass",
        "wanted = 1",
        "wanted: int = 1",
        "a, (*wanted, b) = 1, (2, 3)",
        "from x import wanted",
        "from x import other as wanted",
        "import wanted",
        "import wanted.of_it",
        "from .wanted import x",
        "from x import *",
        "if True:\n    for wanted in (): pass",
        "with open('x') as wanted: pass",
        "(wanted := 1)",
        "try: pass\nexcept ValueError as wanted: pass",
        "match 1:\n    case wanted: pass",
        "match []:\n    case [*wanted]: pass",
        "match {}:\n    case {**wanted}: pass",
        "def f():\n    global wanted\n    import x as y",
        "globals()['wanted'] = 1",
        "import sys\nsetattr(sys.modules[__name__], 'wan' + 'ted', 1)",
        "def __getattr__(name): return 1",
        "exec('wanted = 1')",
        "from helpers import register\nregister(__name__)",
        "import helpers as h\n@h.registered('wanted')\ndef f(): pass",
        "import helpers\nx = [helpers.register(n) for n in __name__]",
        "def give():\n    from helpers import register\n    register(__name__)\ngive()",
        "import inspect\ninspect.currentframe()",
    ],
)
def test_what_could_have_a_name_is_imported(tmp_path: Path, text: str) -> None:
    (tmp_path / "helpers.py").write_text("")
    (tmp_path / "written.py").write_text(text)
    assert not surely_lacks(tmp_path, "written", "wanted")
    assert not told_at_once(tmp_path, "written", "wanted")


def test_a_name_that_is_nowhere_is_told_without_an_import(tmp_path: Path) -> None:
    """Issue 10.7: its module would load TensorFlow for seconds before it said the same. Of packages and modules in packages alike."""
    calls = "@functools.cache\ndef wanted():\n    return wanted()\nx = sorted([])"  # of libraries alone
    (tmp_path / "heavy_one.py").write_text(f"import functools\nraise RuntimeError('it was imported')\n{calls}")
    (tmp_path / "heavy_package").mkdir()
    (tmp_path / "heavy_package" / "__init__.py").write_text("raise RuntimeError('it was imported')")
    (tmp_path / "heavy_package" / "part.py").write_text("def wanted(): pass")
    for module in ("heavy_one", "heavy_package", "heavy_package.part"):
        assert surely_lacks(tmp_path, module, "wantd") and told_at_once(tmp_path, module, "wantd")
        with pytest.raises(ConfigError, match=f"^'{module}:wantd': module '{module}' of .* has no function 'wantd'; fix the name$"):
            load_function(tmp_path, f"{module}:wantd")
    assert not told_at_once(tmp_path, "heavy_package.part", "wanted")


def test_a_file_that_is_missing_or_does_not_parse_is_asked_at_once(tmp_path: Path) -> None:
    (tmp_path / "torn_one.py").write_text("def wanted(:")
    (tmp_path / "latin_one.py").write_bytes(b"wanted = '\xe9'")
    for module in ("torn_one", "latin_one", "no_such_one"):
        assert told_at_once(tmp_path, module, "wanted")
        assert not surely_lacks(tmp_path, module, "wanted")  # why it has none, the import says


def test_a_module_that_is_there_answers_itself(tmp_path: Path) -> None:
    """Other modules may have given it names."""
    (tmp_path / "given_one.py").write_text("x = 1")
    assert surely_lacks(tmp_path, "given_one", "wanted")
    load_module(tmp_path, "given_one").__dict__["wanted"] = print
    try:
        assert not surely_lacks(tmp_path, "given_one", "wanted") and not told_at_once(tmp_path, "given_one", "wanted")
        assert load_function(tmp_path, "given_one:wanted") is print
    finally:
        del sys.modules["given_one"]
