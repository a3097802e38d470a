"""How a process of ours ends: exit functions run, what was printed is there, and nothing that hangs holds it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def ended(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", f"from transforms import own_program\n{code}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONUNBUFFERED": ""})


@pytest.mark.parametrize("code", [0, 3])
def test_exit_functions_run_and_the_code_is_the_exit_code(code: int) -> None:
    done = ended(f"import atexit\natexit.register(print, 'last')\nprint('first', end=' ')\nown_program.leave({code})")
    assert (done.stdout, done.stderr, done.returncode) == ("first last\n", "", code)


def test_one_that_fails_is_no_other_exit_code() -> None:
    done = ended("import atexit\natexit.register(lambda: 1 / 0)\nown_program.leave(0)")
    assert done.returncode == 0 and "ZeroDivisionError" in done.stderr


def test_one_that_hangs_does_not_hold_it() -> None:
    hang = "import atexit, threading\nown_program._EXIT_SECONDS = 0.05\natexit.register(threading.Event().wait)\n"
    done = ended(hang + "print('all')\nown_program.leave(4)")
    assert (done.stdout, done.returncode) == ("all\n", 4)


def test_a_reader_that_went_is_no_error() -> None:
    done = ended("import os, sys\nos.close(1)\nprint('x')\nown_program.leave(5)")
    assert (done.stderr, done.returncode) == ("", 5)


def test_threads_that_never_end_do_not_hold_it() -> None:
    assert ended("import threading\nthreading.Thread(target=threading.Event().wait).start()\nown_program.leave(0)").returncode == 0
