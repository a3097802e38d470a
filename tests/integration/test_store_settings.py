"""A ``feature_store.yaml`` that cannot be used is told by every command that reads it, in one line that says what is wrong and repeats no
value; what needs no store goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from tests.integration.orders_world import Orders, order
from transforms.errors import TandemError

DAY = ("--start", "2024-05-01", "--end", "2024-05-02")
READ_IT = {
    "plan": ("plan",),
    "check": ("check",),
    "apply": ("apply",),
    "materialize": ("materialize", *DAY),
    "verify": ("verify", "--stores"),
    "erase": ("erase", "--entity", "shop=1"),
    "erase --dry-run": ("erase", "--entity", "shop=1", "--dry-run"),
}
DO_NOT = {"batch": ("batch", *DAY), "runs": ("runs",), "vacuum": ("vacuum", "--older-than", "90d", "--dry-run"), "audit": ("audit",)}


def changed(good: bytes, name: str, value: object) -> bytes:
    """The settings with another value of one."""
    return json.dumps({**json.loads(good), name: value}).encode()


DAMAGE = {
    "no text": lambda good: b"\xff\xfe\x00" + good,
    "another quote": lambda good: b"project: 'hunter2\n",
    "a list": lambda good: b"- hunter2\n",
    "nothing": lambda good: b"",
    "a setting that is none": lambda good: changed(good, "online_store", {**json.loads(good)["online_store"], "no_such": "hunter2"}),
    "a store that is none": lambda good: changed(good, "online_store", {"type": "no.such.Store"}),
    "an offline store that is none": lambda good: changed(good, "offline_store", {"type": "no.such.OfflineStore"}),
    "a folder": lambda good: None,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Orders:
    made = Orders(tmp_path_factory.mktemp("settings"))
    made.log([order("o1", "10:02"), order("o2", "11:02", shop=2)])
    made.round()
    return made


def run(world: Orders, words: tuple[str, ...]) -> tuple[int, str]:
    """(exit code, what was said)."""
    sys.modules.pop("features", None)
    done = CliRunner().invoke(app, [*words, "--repo", str(world.repo_path)])
    assert done.exception is None or isinstance(done.exception, SystemExit | TandemError), repr(done.exception)
    return done.exit_code, done.output + (str(done.exception) if isinstance(done.exception, TandemError) else "")


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_command_that_reads_it_tells_it(world: Orders, damage: str) -> None:
    file = world.repo_path / "feature_store.yaml"
    good = file.read_bytes()
    made = DAMAGE[damage](good)
    file.unlink()
    file.mkdir() if made is None else file.write_bytes(made)
    try:
        said = {name: run(world, words) for name, words in READ_IT.items()}
        wrong = {name: told for name, told in said.items() if told[0] != 1 or "feature_store.yaml" not in told[1] or "hunter2" in told[1]}
        assert not wrong
        assert damage != "no text" or {name: told for name, words in DO_NOT.items() if (told := run(world, words))[0] != 0} == {}
    finally:
        file.rmdir() if made is None else file.unlink()
        file.write_bytes(good)


def test_a_project_without_a_store_can_be_planned(tmp_path: Path) -> None:
    made = Orders(tmp_path / "w")
    made.log([order("o1", "10:02")])
    (made.repo_path / "feature_store.yaml").unlink()
    assert run(made, ("plan",))[0] == 0
