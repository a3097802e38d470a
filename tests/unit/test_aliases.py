"""``ALIASES.json``: who is champion, how that came about, two writers at once, a writer killed in the middle."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.registry import alias_file as writing
from pipelines.registry import register
from pipelines.registry.alias_file import change, current
from pipelines.registry.register import register_forgotten
from serving.aliases import ALIASES_FILE, Aliases, parse_aliases, read_aliases
from serving.request_errors import ModelError
from transforms.errors import DataError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pushed(tmp: Path, *versions: int) -> Path:
    folder = tmp / "models" / "m"
    for version in versions:
        (folder / str(version)).mkdir(parents=True)
    return folder


def repo(tmp: Path) -> Any:
    return SimpleNamespace(data=tmp)


def move(folder: Path, champion: int | None, challenger: int | None = None, action: str = "promote") -> Aliases:
    return change(folder, action, lambda _: (champion, challenger), NOW)


def test_the_first_version_is_champion_and_later_ones_are_challengers(tmp_path: Path) -> None:
    for version, expected in ((1, (1, None)), (2, (1, 2)), (3, (1, 3))):
        folder = pushed(tmp_path, version)
        register(repo(tmp_path), "m", folder / str(version), SimpleNamespace(id=f"train-{version}"))  # type: ignore[arg-type]
        register(repo(tmp_path), "m", folder / str(version))
        now = read_aliases(folder, "m")
        assert now is not None and (now.champion, now.challenger) == expected
    assert now is not None
    assert [e["run"] for e in now.history] == ["train-1", "train-2", "train-3"]
    assert [e["n"] for e in now.history] == [1, 2, 3]
    assert now.history[1]["before"] == {"champion": 1, "challenger": None}
    with pytest.raises(DataError, match="is not a version of model"):
        register(repo(tmp_path), "m", tmp_path)


def test_a_folder_from_before_there_were_aliases_goes_on_with_its_newest(tmp_path: Path) -> None:
    folder = pushed(tmp_path, 1, 2)
    assert current(folder).champion == 2
    assert register_forgotten(repo(tmp_path), "m") == []
    assert not (folder / ALIASES_FILE).exists()
    register(repo(tmp_path), "m", pushed(tmp_path, 3) / "3")
    now = current(folder)
    assert (now.champion, now.challenger, now.champions) == (2, 3, (2,))


def test_a_version_whose_pusher_was_killed_is_registered_later(tmp_path: Path) -> None:
    folder = pushed(tmp_path, 1)
    register(repo(tmp_path), "m", folder / "1")
    pushed(tmp_path, 2, 3)
    assert register_forgotten(repo(tmp_path), "m") == [2, 3]
    assert (current(folder).champion, current(folder).challenger) == (1, 3)
    assert register_forgotten(repo(tmp_path), "m") == []


def test_the_line_of_champions(tmp_path: Path) -> None:
    folder = pushed(tmp_path, 1)
    register(repo(tmp_path), "m", folder / "1")
    assert move(folder, 2).champions == (2, 1)
    assert move(folder, 3).champions == (3, 2, 1)
    assert move(folder, 2, action="rollback").champions == (2, 1)
    assert move(folder, 4).champions == (4, 2, 1)
    assert move(folder, 4, 3, action="register").champions == (4, 2, 1)
    assert move(folder, 1, action="rollback").champions == (1,)
    assert move(folder, 3).champions == (3, 1)


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"champion": "7", "challenger": null, "history": []}',
    b'{"champion": 1, "challenger": null, "history": [1]}',
    b'{"champion": true, "challenger": null, "history": []}',
    b'{"champion": -1, "challenger": null, "history": []}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_one_line_and_can_be_mended(tmp_path: Path, text: bytes) -> None:
    folder = pushed(tmp_path, 1)
    (folder / ALIASES_FILE).write_bytes(text)
    with pytest.raises(ModelError, match=r"^model 'm': ALIASES.json is damaged .*tandem promote") as error:
        move(folder, 1)
    assert "\n" not in str(error.value)
    assert (folder / ALIASES_FILE).read_bytes() == text
    assert change(folder, "promote", lambda _: (1, None), NOW, repair=True).champion == 1
    assert (folder / "ALIASES.json.damaged-20260102T030405").read_bytes() == text
    assert "damaged" in current(folder).history[-1]


def test_nothing_changes_when_the_decision_raises(tmp_path: Path) -> None:
    folder = pushed(tmp_path, 1)
    move(folder, 1)
    text = (folder / ALIASES_FILE).read_bytes()

    def no(_: Aliases) -> None:
        raise DataError("no")

    with pytest.raises(DataError):
        change(folder, "promote", no, NOW)
    assert (folder / ALIASES_FILE).read_bytes() == text


def _many(folder: Path, start: int) -> None:
    for i in range(20):
        move(folder, start + i)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    folder = pushed(tmp_path, 1)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_many, args=(folder, 100 * k)) for k in range(1, 4)]
    for w in writers:
        w.start()
    for w in writers:
        w.join(60)
    history = current(folder).history
    assert [e["n"] for e in history[-60:]] == list(range(history[-60]["n"], history[-60]["n"] + 60))
    for before, after in itertools.pairwise(history):
        assert after["before"]["champion"] == before["champion"]


def _killed(folder: Path, at: str) -> None:
    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "before the file":
        writing._write = die
    elif at == "inside the file":
        os.fsync = die
    else:
        Path.replace = die  # type: ignore[method-assign]
    move(folder, 2)


@pytest.mark.parametrize("at", ["before the file", "inside the file", "before the rename"])
def test_a_kill_leaves_the_old_file_and_the_next_change_is_clean(tmp_path: Path, at: str) -> None:
    folder = pushed(tmp_path, 1, 2)
    move(folder, 1)
    text = (folder / ALIASES_FILE).read_bytes()
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(folder, at))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert (folder / ALIASES_FILE).read_bytes() == text
    assert move(folder, 2).champion == 2
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == [writing.LOCK]
    assert parse_aliases((folder / ALIASES_FILE).read_bytes(), "m").history[-1]["before"]["champion"] == 1
    assert json.loads((folder / ALIASES_FILE).read_text())["champion"] == 2
