"""What ``tandem --help`` and the lists of commands below it say: every command, and what it is for, in whole."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import tandem
from pipelines.cli import root
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
        if command.hidden:  # an old place of a command
            continue
        purpose = (command.help or "").split("\n\n")[0]
        assert purpose, f"tandem {' '.join((*path, name))} says nothing"
        assert f"{name} {' '.join(purpose.split())}" in said
    assert not path or GROUPS[path].help


def options(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All options of all commands with how they are written."""
    for option in command.params:
        yield " ".join((*path, *option.opts)), option
    for name, one in (getattr(command, "commands", None) or {}).items():
        yield from options(one, (*path, name))


def test_a_start_and_an_end_say_what_is_taken_without_them() -> None:
    ranges = {words: option.help for words, option in options(typer.main.get_command(app)) if words.endswith((" --start", " --end"))}
    assert len(ranges) > 10
    assert [words for words, said in ranges.items() if "(default: " not in said and "; needs --" not in said] == []


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"tandem {tandem.__version__}, Python {platform.python_version()}\n")


def test_a_fault_in_a_commands_module_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyError while one of our commands was imported became "No such command"."""
    (tmp_path / "broken_command.py").write_text("{}['MISSING_SETTING']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(root.COMMANDS, "broken", "broken_command:run")
    done = CliRunner().invoke(app, ["broken"])
    assert isinstance(done.exception, KeyError) and "MISSING_SETTING" in str(done.exception)
    unknown = CliRunner().invoke(app, ["brokenn"])
    assert unknown.exit_code == 2 and "No such command 'brokenn'" in unknown.output


def test_a_command_waits_for_no_other_commands_imports() -> None:
    code = "import sys; from pipelines.cli.root import COMMANDS, app; app(['runs', 'list', '--help'], standalone_mode=False)\n"
    code += "print(*sorted({c.partition(':')[0] for c in COMMANDS.values()} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(tandem.__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stderr == "pipelines.cli.runs_commands\n"


@pytest.mark.parametrize(
    ("things", "said"), [(0, "0 files"), (1, "1 file"), (1204, "1,204 files"), ([], "0 files"), ({"a": 1}, "1 file"), ("ab", "2 files")]
)
def test_a_number_of_things(things: Any, said: str) -> None:
    assert counted(things, "file") == said


def test_ctrl_c_in_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.cli.root.require", interrupted)
    with pytest.raises(SystemExit) as stop:
        app(["runs", "list"])
    assert stop.value.code == 130
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: interrupted; run the same command again to resume\n")


@pytest.mark.parametrize("words", [["runs", "list"], ["-m", "serving"]])
def test_ctrl_c_while_a_command_is_loaded_is_one_line(words: list[str], tmp_path: Path) -> None:
    """Its imports take seconds; the interrupt comes in the midst of them."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('pipelines.cli.params', 'serving.__main__'):\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(Path(tandem.__file__).with_name("__main__.py")), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_keys_are_listed_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tandem.yaml").write_text("data: data\n")
    for words in (["add", "bob"], ["list"]):
        app(["keys", *words, "--repo", str(tmp_path)], standalone_mode=False)
    assert "  bob  model:* view:*  created " in capsys.readouterr().out
