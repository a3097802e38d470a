"""The clock of a replayed history."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import clock
from serving.clock import Pace, ReplayClock

EVENT, WALL = 1_364_774_400_000_000, 1_795_000_000_000_000
GOOD = {"event_us0": EVENT, "wall_us0": WALL, "speed": 7200.0}


class Wall:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = WALL

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    monkeypatch.setattr(clock, "_LOOK_SECONDS", 0.0)  # every call looks at the file
    return Wall()


def put(path: Path, value: Any) -> None:
    """Write as a replay does: under another name, then renamed."""
    made = path.with_suffix(".tmp")
    made.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    os.rename(made, path)


def made(path: Path, wall: Callable[[], int], otherwise: int = 5) -> ReplayClock:
    return ReplayClock(path, otherwise=lambda: otherwise, wall=wall)


def test_it_ticks_at_its_speed_from_when_the_file_comes(tmp_path: Path, wall: Wall) -> None:
    path = tmp_path / "replay" / "clock.json"
    now = made(path, wall)
    assert now() == 5
    path.parent.mkdir()
    put(path, GOOD)
    assert now() == EVENT
    wall.now += 1_500_000
    assert now() == EVENT + 7200 * 1_500_000
    wall.now = WALL - 1_000_000  # a replay that is about to begin
    assert now() == EVENT - 7200 * 1_000_000


def test_a_later_replay_takes_over_and_the_end_of_the_file_ends_it(tmp_path: Path, wall: Wall) -> None:
    path = tmp_path / "clock.json"
    put(path, GOOD)
    now = made(path, wall)
    wall.now += 10
    assert now() == EVENT + 72_000
    put(path, {**GOOD, "event_us0": 7, "speed": 0})
    assert now() == 7
    path.unlink()
    assert now() == 5


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b'{"event_us0": 13647',
        b"\xff\xfe",
        b"[]",
        b"null",
        json.dumps({**GOOD, "speed": -1}).encode(),
        json.dumps({**GOOD, "speed": True}).encode(),
        json.dumps({**GOOD, "speed": "fast"}).encode(),
        b'{"event_us0": 1, "wall_us0": 1, "speed": NaN}',
        b'{"event_us0": 1, "wall_us0": 1, "speed": 1e999}',
        json.dumps({**GOOD, "event_us0": 1.5}).encode(),
        json.dumps({**GOOD, "event_us0": 10**30}).encode(),
        json.dumps({"event_us0": 1, "speed": 1}).encode(),
    ],
)
def test_a_torn_file_leaves_the_last_good_clock_and_is_said_once(
    tmp_path: Path, wall: Wall, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clock.json"
    put(path, GOOD)
    now = made(path, wall)
    assert now() == EVENT
    put(path, torn)
    with caplog.at_level(logging.WARNING, "tandem.serving"):
        assert [now() for _ in range(5)] == [EVENT] * 5
    (record,) = caplog.records
    assert "the last valid one is used" in record.getMessage() and "\n" not in record.getMessage()
    put(path, {**GOOD, "event_us0": 9})
    assert now() == 9


def test_a_torn_file_at_the_start_leaves_the_other_clock(tmp_path: Path, wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clock.json"
    put(path, b"{")
    now = made(path, wall)
    with caplog.at_level(logging.WARNING, "tandem.serving"):
        assert (now(), now()) == (5, 5)
    assert len(caplog.records) == 1


def test_a_folder_in_its_place_is_said_and_not_raised(tmp_path: Path, wall: Wall) -> None:
    assert made(tmp_path, wall)() == 5


def test_the_file_is_looked_at_ten_times_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = os.stat

    def stat(path: Path) -> os.stat_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr("serving.clock.os.stat", stat)
    monkeypatch.setattr("serving.clock.time.monotonic", lambda: 100.0)
    now = ReplayClock(tmp_path / "none.json", otherwise=lambda: 5)
    assert {now() for _ in range(1000)} == {5}
    assert len(looks) == 1


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e9))
def test_it_never_goes_back_while_the_wall_clock_does_not(first: int, step: int, speed: float) -> None:
    pace = Pace(EVENT, WALL, speed)
    assert pace.at(WALL + first) <= pace.at(WALL + first + step)


@given(st.integers(-(2**62), 2**62), st.floats(0, 1e300))
def test_every_now_is_a_date(wall: int, speed: float) -> None:
    from datetime import UTC, datetime, timedelta

    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=Pace(EVENT, WALL, speed).at(wall))
