"""What ``tandem --help`` and the lists of commands below it say: every command, and what it is for, in whole."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import tandem
from pipelines.cli.root import app
from pipelines.lake.counted import counted


def groups(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The groups of commands with how they are called, this one first."""
    below = getattr(command, "commands", None)
    if below:
        yield path, command
        for name, one in below.items():
            yield from groups(one, (*path, name))


GROUPS = dict(groups(typer.main.get_command(app)))


@pytest.mark.parametrize("width", ["40", "80", "200"])
@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_a_list_says_what_each_command_is_for_in_whole(path: tuple[str, ...], width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERMINAL_WIDTH", width)
    said = " ".join(CliRunner().invoke(app, [*path, "--help"]).output.split())
    for name, command in GROUPS[path].commands.items():
        purpose = (command.help or "").split("\n\n")[0]
        assert purpose, f"tandem {' '.join((*path, name))} says nothing"
        assert f"{name} {' '.join(purpose.split())}" in said
    assert not path or GROUPS[path].help


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"tandem {tandem.__version__}, Python {platform.python_version()}\n")


@pytest.mark.parametrize(
    ("things", "said"), [(0, "0 files"), (1, "1 file"), (1204, "1,204 files"), ([], "0 files"), ({"a": 1}, "1 file"), ("ab", "2 files")]
)
def test_a_number_of_things(things: Any, said: str) -> None:
    assert counted(things, "file") == said
