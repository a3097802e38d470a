"""What crosses to a worker is the very function, or class, that the definition names, whatever it says of its own name."""

from __future__ import annotations

import base64
import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from apache_beam.internal import pickler

import transforms
from transforms.functions.travel import Travelling

CODE = """
import functools
from transforms.definitions import Count, hours


def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(x):
            return factor * function(x)
        return wrapper
    return decorate


def plain(x):
    return x + 1


@times(10)
def decorated(x):
    return x + 2


scaled = times(1000)(plain)
twice = times(2)(scaled)
partial = functools.partial(pow, 3)
fixed = lambda x: -x
also = fixed


class Shift:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x + self.by

    def method(self, x):
        return x - self.by

    @classmethod
    def made(cls, x):
        return cls(x).by * 7

    @staticmethod
    def static(x):
        return x * 11


shift = functools.wraps(plain)(Shift(5))
method, made, static = shift.method, Shift.made, Shift.static


def renamed(cls):
    class Other(cls):
        kind = "other"

        def canonical(self):
            return super().canonical() | {"other": 1}

    return functools.wraps(cls, updated=())(Other)


class Mine(Count):
    kind = "mine"


Theirs = renamed(Mine)
Nested = type("Nested", (), {"Deep": type("Deep", (Mine,), {"__qualname__": "Mine", "kind": "deep"})})
aggregates = [c(over=hours(1)) for c in (Mine, Theirs, Nested.Deep)]
"""
GIVE = {
    "plain": 4, "decorated": 50, "scaled": 4000, "twice": 8000, "partial": 27, "fixed": -3, "also": -3, "shift": 8, "method": -2,
    "made": 21, "static": 33,
}  # fmt: skip


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "travel_given.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    found: ModuleType = importlib.import_module("travel_given")
    yield found
    del sys.modules["travel_given"]


def elsewhere(code: str, given: Any, *path: Path) -> str:
    """What a process prints that knows nothing but Tandem (and these folders)."""
    start = f"import base64, pickle, sys; sys.path[:0] = {[str(Path(transforms.__file__).parents[1]), *map(str, path)]}"
    start += "; made = pickle.loads(base64.b64decode(sys.stdin.read())); "
    data = base64.b64encode(given).decode()
    done = subprocess.run([sys.executable, "-c", start + code], input=data, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_by_what_a_definition_names(module: Any) -> None:
    """Any of them, by a pickler that knows names alone, to a process that never loaded the repository."""
    functions = {name: getattr(module, name) for name in GIVE}
    assert {name: f(3) for name, f in functions.items()} == GIVE
    held = pickle.dumps({name: Travelling(f, f"travel_given:{name}") for name, f in functions.items()})
    assert elsewhere("print({n: f(3) for n, f in made.items()})", held) == str(GIVE)
    again = pickle.loads(held)
    assert all(again[name].function is f for name, f in functions.items())
    assert pickle.loads(pickle.dumps(again["scaled"])).function is module.scaled


@pytest.mark.parametrize("reference", ["", "travel_given:plain", "travel_given:nothing", "no_module:plain", "plain"])
def test_what_no_name_leads_to_crosses_as_it_is(module: Any, reference: str) -> None:
    for name, value in GIVE.items():
        assert pickler.loads(pickler.dumps(Travelling(getattr(module, name), reference)))(3) == value, name


def test_a_function_that_gave_way_is_not_its_successor(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    function = module.plain
    monkeypatch.setattr(module, "plain", lambda x: 0)
    assert pickler.loads(pickler.dumps(Travelling(function, "travel_given:plain")))(3) == 4


def test_an_aggregate_of_a_class_that_has_the_name_of_another(module: Any, tmp_path: Path) -> None:
    wanted = [a.canonical() for a in module.aggregates]
    again = pickler.loads(pickler.dumps(module.aggregates))
    assert [a.canonical() for a in again] == wanted and "other" in wanted[1]
    assert type(again[0]) is module.Mine and issubclass(type(again[1]), module.Mine) and type(again[1]) is not module.Mine
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(module.aggregates[1])
    assert elsewhere("print(type(made).__name__)", pickle.dumps(module.aggregates[0])) == "Mine"
