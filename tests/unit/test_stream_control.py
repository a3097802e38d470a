"""What ``tandem stream stop`` asks of a stream that has not begun yet: it waits for a lock, and its engine is not told."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines.streaming.driver import Driver, stream_folder
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
