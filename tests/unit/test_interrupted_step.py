"""Ctrl-C and SIGTERM while a step of a pipeline works: what comes out is the interruption, and no error of the step."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import apache_beam as beam
import pytest

from pipelines.lake.runs import find
from pipelines.project.recording import recorded
from tandem.testing.tracker import home


def send(number: int) -> int:
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # the handler runs between two steps of the interpreter
    return number


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGINT, "interrupted (Ctrl-C)"), (signal.SIGTERM, "SIGTERM: stopped before it was finished")]
)
def test_a_step_that_is_interrupted(tmp_path: Path, number: int, why: str, caplog: pytest.LogCaptureFixture) -> None:
    place = home(tmp_path, trackers=[])
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), recorded(place, "batch") as run, beam.Pipeline("FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([int(number)]) | beam.Map(send)
    ended = find(place.data, run.id).manifest
    assert (ended["status"], ended["error"]) == ("killed", why)
    assert not caplog.records and signal.getsignal(number) is before
