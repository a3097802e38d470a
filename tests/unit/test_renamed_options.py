"""Commands and options that had another name: the old spelling does what the new one does, and says so in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli.renamed import MOVED, RENAMED
from pipelines.cli.root import app

GROUP: Any = typer.main.get_command(app)
CASES = [(command, old, new) for command, names in RENAMED.items() for old, new in names.items()]
NEEDED = {"infer": ["events.csv"], "reproduce": ["latest"], "vacuum": ["--older-than", "30d"]}


def found(command: str) -> Any:
    at = GROUP
    for word in command.split():
        at = at.commands[word]
    return at


def parsed(command: str, words: list[str]) -> dict[str, Any]:
    """The values that a command would be called with."""
    at, context = GROUP, typer.Context(GROUP, info_name="tandem")
    for word in command.split():
        at = at.commands[word]
        if word != command.split()[-1]:
            context = typer.Context(at, info_name=word, parent=context)
    return dict(at.make_context(command.split()[-1], [*words, *NEEDED.get(command, [])], parent=context).params)


def options(at: Any) -> Iterator[str]:
    for parameter in at.params:
        yield from (*parameter.opts, *parameter.secondary_opts)


def words(command: str, name: str) -> list[str]:
    flag = any(name in (*p.opts, *p.secondary_opts) and getattr(p, "is_flag", False) for p in found(command).params)
    return [name] if flag else [name, "3"]


@pytest.mark.parametrize(("command", "old", "new"), CASES)
def test_the_old_name_does_what_the_new_one_does(command: str, old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert new in options(found(command)) and old not in options(found(command))
    now = parsed(command, words(command, new))
    assert capsys.readouterr().err == ""
    assert parsed(command, [old, *words(command, new)[1:]]) == now and (now != parsed(command, []) or new == "--train")
    assert capsys.readouterr().err == f"warning: {old} is now called {new}\n"
    if len(words(command, new)) > 1:
        assert parsed(command, [f"{old}=3"]) == now


def test_a_value_and_another_commands_option_keep_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("stream", ["--name", "--anew", "--runner", "direct"])["name"] == "--anew"
    context = typer.Context(GROUP, info_name="tandem")
    at = GROUP.commands["stream"].make_context("stream", ["--name", "stop", "stop", "--savepoint"], parent=context)
    assert at.params["name"] == "stop" and at.params["from_savepoint"] is None
    assert parsed("stream stop", ["--savepoint"])["savepoint"] is True
    assert capsys.readouterr().err == ""


def test_a_file_of_parameters_may_say_the_old_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text("once: abc\n")
    assert parsed("train", ["--params", str(tmp_path / "p.yaml")])["idempotency_key"] == "abc"
    assert capsys.readouterr().err == f"warning: once in --params {tmp_path / 'p.yaml'} is now called idempotency-key\n"


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_the_old_place_of_a_command_does_what_the_new_one_does(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(old).hidden and not found(new).hidden
    for words in ([], ["--overwrite", "--since", "2024-03-04"]):
        assert parsed(old, words) == parsed(new, words)
        assert capsys.readouterr().err == f"warning: tandem {old} is now called tandem {new}\n"
    assert parsed(old, ["--anew"])["overwrite"] is True
    assert capsys.readouterr().err == f"warning: tandem {old} is now called tandem {new}\nwarning: --anew is now called --overwrite\n"


@pytest.mark.parametrize("folder", ["docker", "examples", "docs", ".github"])
def test_no_file_names_a_command_by_its_old_name(folder: str) -> None:
    """docker/terraform's description had one."""
    files = [file for file in (Path(__file__).parents[2] / folder).rglob("*") if file.is_file()]
    named = [file.name for file in files for old in MOVED if f"tandem {old}" in file.read_text("utf-8", errors="replace")]
    assert named == []
