"""``--params FILE``: what a file says is what flags would have said, and flags go over it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipelines.cli.root import app
from transforms.errors import ConfigError

GROUP: Any = typer.main.get_command(app)


def parsed(words: list[str]) -> dict[str, Any]:
    """The values that a command would be called with."""
    command, context = GROUP, None
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context("tandem", list(words))
    return {name: value for name, value in context.params.items() if value not in (None, (), [])}


CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("batch", {"start": "2024-03-04", "end": "2024-03-05T06:00", "pinned": True, "group": ["a", "b"]},
     ["--start", "2024-03-04", "--end", "2024-03-05T06:00", "--pinned", "--group", "a", "--group", "b"]),
    ("train", {"set": {"units": 8, "rate": 0.5, "wide": True}, "push": False, "seed": 7, "idempotency-key": "x"},
     ["--set", "units=8", "--set", "rate=0.5", "--set", "wide=true", "--no-push", "--seed", "7", "--idempotency-key", "x"]),
    ("train", {"set": ["units=8,16"], "push-best": True, "grid": None}, ["--set", "units=8,16", "--push-best"]),
    ("serve", {"port": 0, "tls_cert": "c.pem", "tls-key": "k.pem"}, ["--port", "0", "--tls-cert", "c.pem", "--tls-key", "k.pem"]),
    ("stream", {"from_run": "latest", "metrics_port": 9108}, ["--from-run", "latest", "--metrics-port", "9108"]),
    ("runs list", {"kind": "train", "limit": 3}, ["--kind", "train", "--limit", "3"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "values", "flags"), CASES)
@pytest.mark.parametrize("write", [json.dumps, partial(yaml.safe_dump, sort_keys=False)], ids=["json", "yaml"])
def test_a_file_says_what_flags_say(command: str, values: dict[str, Any], flags: list[str], write: Any, tmp_path: Path) -> None:
    (tmp_path / "params").write_text(write(values))
    assert parsed([*command.split(), "--params", str(tmp_path / "params")]) == parsed([*command.split(), *flags])


def test_names_of_settings_that_are_numbers(tmp_path: Path) -> None:
    """Options are names, what they are given need not be."""
    (tmp_path / "p.yaml").write_text("set: {0: 1, 5: 2.5}\n")
    assert parsed(["train", "--params", str(tmp_path / "p.yaml")]) == parsed(["train", "--set", "0=1", "--set", "5=2.5"])
    (tmp_path / "p.yaml").write_text("1: x\n")
    with pytest.raises(ConfigError, match="line 1: the key '1' is read as int"):
        parsed(["train", "--params", str(tmp_path / "p.yaml")])


def test_a_date_of_yaml_is_its_text_and_flags_go_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("start: 2024-03-04\nend: 2024-03-05\npinned: false\n")
    found = parsed(["batch", "--end", "2024-03-09", "--params", str(tmp_path / "p.yaml")])
    assert (found["start"], found["end"], found["pinned"]) == ("2024-03-04", "2024-03-09", False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strat: 2024-03-04", "'strat' is not an option of this command; its options are data, end, from-run"),
        ("pinned: 3", "pinned is 3; write true or false"),
        ("start: [a, b]", "start takes one value, not 2"),
        ("start: a\nstart: b", "start"),
        ("- start", "write options by name"),
        ("{", "line 1: expected the node content"),
        ("params: x", "'params' is not an option"),
    ],
)
def test_what_a_file_cannot_say_is_told_in_a_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"^--params ") as error:
        parsed(["batch", "--params", str(tmp_path / "p.yaml")])
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        parsed(["batch", "--params", str(tmp_path / "none.yaml")])


def test_every_command_takes_it() -> None:
    def below(command: Any, name: str) -> None:
        for word, one in getattr(command, "commands", {}).items():
            below(one, f"{name} {word}")
        if command.params:
            assert [p.name for p in command.params].count("params") == 1, name

    for word, command in GROUP.commands.items():  # `tandem` alone shows its version and its help
        below(command, f"tandem {word}")
