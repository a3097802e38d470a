"""An edit of a module is one of those of its functions that could notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.training.function_text import function_meaning

MODULE = '''"""Of busy and late."""
from __future__ import annotations
import tensorflow as tf
BUCKETS = 8
KNOWN = {}

def known(function):
    KNOWN[function.__name__] = function
    return function

def _log(x):
    """Of one and x."""
    return tf.math.log1p(x)

def _scaled(x):
    return _log(x) * 2

class Layer:
    width = 3

def made(x=dict(a=1)):
    return x

@known
def kept(x):
    return x

def _within(x):
    return x

def busy(inputs):
    """How busy; late is another."""
    return {"busy": _scaled(inputs["count"])}

def late(inputs):
    return {"late": inputs["delay"] / BUCKETS}
'''


def repository(folder: Path, module: str = MODULE, definitions: str = 'GROUPS = ["flights:busy", "flights:late"]\n') -> list[Path]:
    """Its files: definitions that name two functions of one module."""
    folder.mkdir(exist_ok=True)
    files = {folder / "features.py": definitions, folder / "flights.py": module}
    for file, text in files.items():
        file.write_text(text)
    return [*files]


def meaning(folder: Path, module: str, function: str) -> str:
    found = function_meaning(folder, f"flights:{function}", repository(folder, module))
    assert found is not None and found[0] == folder / "flights.py"
    return found[1]


@pytest.mark.parametrize(
    ("old", "new", "busy", "late"),
    [
        ('inputs["count"]', 'inputs["legs"]', True, False),
        ('inputs["delay"]', 'inputs["wait"]', False, True),
        ("_log(x) * 2", "_log(x) * 3", True, False),
        ("log1p(x)", "log(x)", True, False),
        ("BUCKETS = 8", "BUCKETS = 9", True, True),
        ("width = 3", "width = 4", True, True),
        ("KNOWN[function", "KNOWN['a' + function", True, True),
        ("def kept(x):\n    return x", "def kept(x):\n    return -x", True, True),
        ("def made(x=dict(a=1))", "def made(x=dict(a=2))", True, True),
        ("def _within(x):\n    return x", "def _within(x):\n    return -x", False, False),
        ("def late(", "def _scaled(x):\n    return x\n\ndef late(", True, False),
        ("def late(", "def tf(x):\n    return x\n\ndef late(", True, True),
        ("import tensorflow as tf", "import tensorflow as tf\n\n# A word.", False, False),
        ('"""Of one and x."""', '"""Of 1 + x."""', False, False),
    ],
)
def test_an_edit_is_of_the_functions_that_it_can_change(tmp_path: Path, old: str, new: str, busy: bool, late: bool) -> None:
    assert MODULE.count(old) == 1
    changed = MODULE.replace(old, new)
    assert (meaning(tmp_path, MODULE, "busy") != meaning(tmp_path, changed, "busy")) is busy
    assert (meaning(tmp_path, MODULE, "late") != meaning(tmp_path, changed, "late")) is late


def test_a_function_named_in_a_text_counts(tmp_path: Path) -> None:
    """As a word anywhere: in a string as well, by which it might be called."""
    calling = MODULE.replace('{"late":', '{"late of _within":')
    other = calling.replace("def _within(x):\n    return x", "def _within(x):\n    return -x")
    assert meaning(tmp_path, calling, "late") != meaning(tmp_path, other, "late")


@pytest.mark.parametrize(
    "definitions",
    [
        "import flights\nflights.known(print)\n",
        "from flights import busy\n",
        "def later():\n    from flights import Layer\n",
        "import importlib\n",
        "__import__('fli' + 'ghts')\n",
    ],
)
def test_all_of_a_module_counts_where_its_functions_might_be_called_at_import(tmp_path: Path, definitions: str) -> None:
    assert function_meaning(tmp_path, "flights:busy", repository(tmp_path, definitions=definitions)) is None


@pytest.mark.parametrize(
    "extra",
    [
        "def extra(x, k=DEFAULT_K):\n    return x\n",
        "def extra(x, *, k=[1][0]):\n    return x\n",
        "def extra(x):\n    KNOWN['a'] = x\n",
        "def extra(x):\n    KNOWN.clear()\n",
        "def extra(x):\n    global BUCKETS\n    BUCKETS = x\n",
        "def extra(x):\n    tf.float32 = x\n",
        "def extra(x):\n    other.set(x)\n",
        "def extra(x):\n    x['a'] = _within(x)\n    _within.seen = x\n",
    ],
)
def test_a_function_that_others_may_notice_counts_though_nobody_names_it(tmp_path: Path, extra: str) -> None:
    """When it is defined, or when it is called."""
    (tmp_path / "other.py").write_text("")
    module = MODULE.replace("BUCKETS = 8", "import other\nBUCKETS = 8")
    assert meaning(tmp_path, module, "busy") != meaning(tmp_path, f"{module}\n{extra}", "busy")


def test_annotations_count_where_they_are_evaluated(tmp_path: Path) -> None:
    extra = "\ndef extra(x: Tensor):\n    return x\n"
    at_once = MODULE.replace("from __future__ import annotations\n", "")
    assert meaning(tmp_path, MODULE, "busy") == meaning(tmp_path, MODULE + extra, "busy")
    assert meaning(tmp_path, at_once, "busy") != meaning(tmp_path, at_once + extra, "busy")


@pytest.mark.parametrize(
    "extra",
    [
        "def extra(x, x):\n    return x\n",
        "def extra(x):\n    continue\n",
        "def extra(x):\n    nonlocal y\n",
        "def extra(x):\n    return _log.__globals__['_with' + 'in'](x)\n",
        "def extra(x):\n    return x[busy.__doc__]\n",
    ],
)
def test_all_of_a_module_counts_that_is_not_imported_or_looks_at_itself(tmp_path: Path, extra: str) -> None:
    assert function_meaning(tmp_path, "flights:busy", repository(tmp_path, f"{MODULE}\n{extra}")) is None


def test_there_is_no_meaning_of_what_cannot_be_read(tmp_path: Path) -> None:
    files = repository(tmp_path, "def busy(:\n")
    assert function_meaning(tmp_path, "flights:busy", files) is None
    assert function_meaning(tmp_path, "elsewhere:busy", files) is None


def test_a_package_has_its_functions_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "flights").mkdir()
    (tmp_path / "flights" / "__init__.py").write_text(MODULE)
    found = function_meaning(tmp_path, "flights:busy", [])
    assert found is not None and found[0] == tmp_path / "flights" / "__init__.py"
