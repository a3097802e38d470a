"""What a module's text says about its names, before anything is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.project.repository import load_module
from pipelines.project.written_names import surely_lacks, told_at_once
from pipelines.training.user_code import load_function
from transforms.source_imports import search_first

HELPERS = """
import sys

def make(module):
    sys.modules[module].wanted = print

def registered(name):
    return lambda f: f.__globals__.__setitem__(name, f) or f
"""
MAKE = "'wan' + 'ted'"


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Path]:
    """A repository that is searched first, as one that was loaded; its modules are forgotten afterwards."""
    (tmp_path / "helpers_of_it.py").write_text(HELPERS)
    before = set(sys.modules)
    search_first(str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def lacks(repo: Path, text: str) -> bool:
    """Whether a module of this text surely lacks ``wanted``."""
    (repo / "written.py").write_text(text)
    assert not told_at_once(repo, "written")
    return surely_lacks(repo, "written", "wanted")


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
    ],
)
def test_what_is_written_anywhere_is_not_surely_lacking(repo: Path, text: str) -> None:
    assert not lacks(repo, text)


@pytest.mark.parametrize(
    "text",
    [
        "import helpers_of_it\nhelpers_of_it.make(__name__)",
        "from helpers_of_it import make as give\ngive(__name__)",
        "import helpers_of_it\ngive = helpers_of_it.make\ngive(__name__)",
        "import helpers_of_it\n[helpers_of_it.make(n) for n in [__name__]]",
        "import helpers_of_it\ndef f(x=helpers_of_it.make(__name__)): pass",
        "import helpers_of_it\ndef f(x: helpers_of_it.make(__name__)): pass",
        "import helpers_of_it\nclass A:\n    x = helpers_of_it.make(__name__)",
        "import helpers_of_it\nlist(map(helpers_of_it.make, [__name__]))",
        f"import helpers_of_it\n@helpers_of_it.registered({MAKE})\ndef f(): pass",
        f"def give(f):\n    f.__globals__[{MAKE}] = f\n    return f\n@give\ndef f(): pass",
        f"@lambda f: f.__globals__.__setitem__({MAKE}, f)\ndef f(): pass",
        f"import builtins\ngetattr(builtins, 'gl' + 'obals')()[{MAKE}] = print",
        f"__builtins__['gl' + 'obals']()[{MAKE}] = print",
        f"import logging\nlogging.sys.modules[__name__].__dict__[{MAKE}] = print",
        f"import inspect\ninspect.currentframe().f_globals[{MAKE}] = print",
        f"import sys\nsetattr(sys.modules[__name__], {MAKE}, print)",
        f"globals()[{MAKE}] = print",
        f"exec({MAKE} + ' = print')",
        "def __getattr__(name): return print",
        f"class A:\n    def __init_subclass__(cls):\n        cls.__init__.__globals__[{MAKE}] = print\n    def __init__(self): 0\n"
        "class B(A): 0",
        "import helper_that_acts",
    ],
)
def test_a_name_that_an_import_makes_is_there(repo: Path, text: str) -> None:
    """However it comes into a module, the text does not deny it, and all commands find it."""
    (repo / "helper_that_acts.py").write_text("from helpers_of_it import make\nmake('written')")
    assert not lacks(repo, text)
    assert callable(load_function(repo, "written:wanted"))


@pytest.mark.parametrize(
    "text", ["import mylib_of_one", "import mylib_of_one\nmylib_of_one.register(__name__)", "from .x import y", "import x.y"]
)
def test_what_an_unknown_package_does_is_not_known(repo: Path, text: str) -> None:
    assert not lacks(repo, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "import tensorflow as tf\nN = 3\ndef f(x): return tf.stack([x] * N)",
        "from __future__ import annotations\nimport logging\nlog = logging.getLogger(__name__)\nclass A: 0\ndef f(a: A): return helper()",
        "import functools\n@functools.cache\ndef f(): return f()\nx = sorted([2, 1])[0]",
        "import helper_that_does_nothing as h\nfrom helper_that_does_nothing import double\ndef f(x): return double(h.N)",
        "import re\nPATTERN = re.compile('\\d')",
    ],
)
def test_a_name_that_is_nowhere_is_told_without_an_import(repo: Path, text: str) -> None:
    """Issue 10.7: its module would load TensorFlow for seconds before it said the same."""
    (repo / "helper_that_does_nothing.py").write_text("N = 2\ndef double(x): return 2 * x")
    assert lacks(repo, text)
    assert not {"written", "helper_that_does_nothing"} & set(sys.modules)


def test_packages_and_their_modules(repo: Path) -> None:
    (repo / "a_package").mkdir()
    (repo / "a_package" / "__init__.py").write_text("x = 1")
    (repo / "a_package" / "part.py").write_text("def wanted(): pass")
    assert surely_lacks(repo, "a_package", "wantd") and surely_lacks(repo, "a_package.part", "wantd")
    assert not surely_lacks(repo, "a_package.part", "wanted")
    (repo / "a_package" / "__init__.py").write_text("import mylib_of_one")
    assert not surely_lacks(repo, "a_package.part", "wantd")


def test_modules_that_import_each_other_are_not_decided(repo: Path) -> None:
    (repo / "written.py").write_text("import the_other")
    (repo / "the_other.py").write_text("import written as w\nw.x = 1")
    assert not surely_lacks(repo, "written", "wanted") and not told_at_once(repo, "written")


def test_a_file_that_is_not_the_module_says_nothing(repo: Path) -> None:
    """Python's own module comes first, an installed one does where the folder is not searched."""
    (repo / "_tokenize.py").write_text("x = 1")
    sys.modules.pop("_tokenize", None)
    assert not surely_lacks(repo, "_tokenize", "wanted")


def test_a_file_that_is_missing_or_does_not_parse_is_asked_at_once(repo: Path) -> None:
    (repo / "torn_one.py").write_text("def wanted(:")
    (repo / "latin_one.py").write_bytes(b"wanted = '\xe9'")
    for module in ("torn_one", "latin_one", "no_such_one"):
        assert told_at_once(repo, module)
        assert not surely_lacks(repo, module, "wanted")  # why it has none, the import says


def test_a_module_that_is_there_answers_itself(repo: Path) -> None:
    """Other modules may have given it names."""
    (repo / "given_one.py").write_text("x = 1")
    assert surely_lacks(repo, "given_one", "wanted") and not told_at_once(repo, "given_one")
    load_module(repo, "given_one").__dict__["wanted"] = print
    assert not surely_lacks(repo, "given_one", "wanted") and told_at_once(repo, "given_one")
    assert load_function(repo, "given_one:wanted") is print


@pytest.mark.filterwarnings("error")
def test_reading_a_text_warns_of_nothing(repo: Path) -> None:
    """What Python warns of (an escape that is none) is said once, by the import."""
    assert lacks(repo, "PATTERN = '\\d'\nx = 1 is 1")
