"""What ``tandem stream stop`` asks of a stream that has not begun yet: it waits for a lock, and its engine is not told."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines.streaming.driver import Driver, running, stream_folder
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.stream_control import stop_stream
from transforms.errors import ConfigError


@pytest.mark.parametrize("engine", ["ends", "has savepoints", "has none"])
def test_a_savepoint_is_asked_of_a_stream_whose_engine_is_not_known_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    folder = stream_folder(tmp_path, "main")
    driver, looks = Driver(folder), list[bool]()
    with ExitStack() as held:
        held.enter_context(driver.held())

        def look(seconds: float) -> None:
            looks.append(JobState(folder).requested("savepoint"))
            if engine == "ends" or len(looks) == 3:
                held.close()
            else:
                driver.publish(engine="any", savepoints=engine == "has savepoints")

        monkeypatch.setattr("pipelines.streaming.stream_control.time.sleep", look)
        if engine == "has none":
            with pytest.raises(ConfigError, match="engine 'any' has none"):
                stop_stream(tmp_path, "main", savepoint=True)
            assert not JobState(folder).requested("savepoint"), "the stream goes on"
        else:
            assert stop_stream(tmp_path, "main", savepoint=True) == {}
    assert looks == [True] * (3 if engine == "has savepoints" else 1)


def test_a_savepoint_is_not_asked_of_an_engine_that_has_none(tmp_path: Path) -> None:
    driver = Driver(stream_folder(tmp_path, "main"))
    with driver.held():
        driver.publish(engine="any", savepoints=False)
        with pytest.raises(ConfigError, match="engine 'any' has none"):
            stop_stream(tmp_path, "main", savepoint=True)
        assert not JobState(driver.folder).requested("savepoint")


def test_what_a_driver_that_was_killed_left_says_nothing_of_the_next(tmp_path: Path) -> None:
    """Its engine had no savepoints, and its run failed; the new driver's engine is not known yet."""
    folder = stream_folder(tmp_path, "main")
    folder.mkdir(parents=True)
    (folder / "driver.json").write_text('{"pid": 1, "run": "stream-old", "engine": "old", "savepoints": false}')
    with Driver(folder).held():
        assert running(folder) == {"pid": os.getpid()}


def test_what_is_asked_of_a_driver_that_begins_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets what was asked of the one before, and only then is anything asked of it."""
    folder = stream_folder(tmp_path, "main")
    job_state = JobState(folder)
    job_state.request("stop")
    seen = list[bool]()
    with ExitStack() as held:

        def look(seconds: float) -> None:
            assert not seen, "asked, and it has ended"
            seen.append(job_state.requested("stop"))
            held.close()

        def begin() -> None:
            assert running(folder) == {}, "held, and nothing of it is known"
            job_state.begin()

        held.enter_context(Driver(folder).held(begin=begin))
        assert not job_state.requested("stop")
        monkeypatch.setattr("pipelines.streaming.stream_control.time.sleep", look)
        assert stop_stream(tmp_path, "main") == {} and seen == [True]
