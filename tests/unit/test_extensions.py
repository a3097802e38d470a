"""What a package brings under a name: a class that lacks something is one line that says what, of every kind, before it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from pipelines.project import extensions
from pipelines.project.extensions import ALERT_RECEIVERS, BROKERS, ENGINES, FILE_FORMATS, FORMATS, TABLES, TRACKERS, Extensions
from pipelines.streaming.stream_options import StreamOptions
from transforms.errors import ConfigError

LACKS: Mapping[str, tuple[Extensions, str]] = {
    "alert receiver": (ALERT_RECEIVERS, "name, send()"),
    "broker": (BROKERS, "from_settings(), open_dead_letters(), open_reader()"),
    "engine": (ENGINES, "name, new_job()"),
    "file format": (FILE_FORMATS, "read()"),
    "record format": (FORMATS, "decode(), encode()"),
    "table": (TABLES, "open()"),
    "tracker": (TRACKERS, "deliver()"),
}
"""Kind -> what a class must have, as the documentation of each says it."""


def bring(monkeypatch: pytest.MonkeyPatch, kind: Extensions, made: object) -> None:
    """A package that brings ``made`` as ``mine``."""
    monkeypatch.setitem(sys.modules, "my_package", ModuleType("my_package"))
    monkeypatch.setattr(sys.modules["my_package"], "Mine", made, raising=False)
    points = [EntryPoint("mine", "my_package:Mine", kind.group)]
    monkeypatch.setattr(extensions, "entry_points", lambda group: points if group == kind.group else [])


def base_of(kind: Extensions) -> type:
    module, _, name = kind.base.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


@pytest.mark.parametrize("what", LACKS)
def test_what_a_class_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    kind, lacks = LACKS[what]
    base = base_of(kind)
    bring(monkeypatch, kind, type("Mine", (base,), {"__module__": "my_package"}))
    with pytest.raises(ConfigError) as refused:
        kind.load("mine")
    assert str(refused.value) == (
        f"{what} 'mine' of my_package:Mine: my_package.Mine lacks {lacks}, which every {base.__name__} has; add what is missing"
    )


@pytest.mark.parametrize("what", LACKS)
def test_what_is_no_class_of_the_kind_is_one_line(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    kind, _ = LACKS[what]
    for other in (len, dict):
        bring(monkeypatch, kind, other)
        with pytest.raises(ConfigError, match=f"^{what} 'mine': .* is not a subclass of {base_of(kind).__name__}; fix the package"):
            kind.load("mine")


@pytest.mark.parametrize("kind", [k for k, _ in LACKS.values()], ids=list(LACKS))
def test_ours_lack_nothing(kind: Extensions) -> None:
    for name in kind.own:
        assert issubclass(kind.load(name), base_of(kind))


def test_a_stream_says_it_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, ENGINES, type("Mine", (base_of(ENGINES),), {"__module__": "my_package", "new_job": len}))
    with pytest.raises(ConfigError, match=r"^--runner mine: engine 'mine' of .* my_package\.Mine lacks name, which every Engine has"):
        StreamOptions(runner="mine", until="latest")
