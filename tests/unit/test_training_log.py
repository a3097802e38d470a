"""The log of a TFX pipeline: a disk that is full is told by the command's one line, not by a traceback per log line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipelines.training import tfx_pipeline


def log_to(path: Path) -> None:
    with vars(tfx_pipeline)["_quiet"](path):
        for n in range(3):
            logging.getLogger("absl").error("line %d", n)


def test_a_full_disk_is_no_traceback_per_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Linux's /dev/full takes nothing. What is at fault is told by whoever fails for it, here when the file is closed."""
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(OSError, match="No space left on device"):
        log_to(Path("/dev/full"))
    said = capfd.readouterr()
    assert said.out == "" and said.err == "" and logging.getLogger().handlers == handlers


def test_lines_are_in_the_file(tmp_path: Path) -> None:
    log_to(tmp_path / "log")
    assert "ERROR absl: line 2" in (tmp_path / "log").read_text()
