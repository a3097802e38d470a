"""Ctrl-C while a command is imported, and afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = """
import os, signal
from transforms.own_program import interrupts_as_usual, interrupts_end_at_once

signal.signal(signal.SIGINT, signal.{before})
interrupts_end_at_once()
{then}
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException as error:
    print(type(error).__name__)
else:
    print("goes on")
"""


@pytest.mark.parametrize(
    ("before", "then", "code", "out", "err"),
    [
        ("default_int_handler", "", 130, "", "interrupted\n"),
        ("default_int_handler", "interrupts_as_usual()", 0, "KeyboardInterrupt\n", ""),
        ("SIG_IGN", "", 0, "goes on\n", ""),
        ("SIG_IGN", "interrupts_as_usual()", 0, "goes on\n", ""),
    ],
)
def test_an_import_ends_at_once_and_what_is_ignored_stays_so(before: str, then: str, code: int, out: str, err: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED.format(before=before, then=then)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_a_command_that_is_imported_takes_it_as_usual(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: x\n")
    (tmp_path / "features.py").write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGINT)\n")

    def as_a_shell_starts_it() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    command = [sys.executable, str(ROOT / "tandem" / "__main__.py"), "check", "--repo", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=as_a_shell_starts_it)
    assert (done.returncode, done.stderr) == (130, "error: interrupted; run the same command again to resume\n")
