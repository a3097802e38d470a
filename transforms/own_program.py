"""How processes of our own are started: by the path of ``tandem/__main__.py`` with ``-P``.

So it is this installation's code that they run, from any folder: a ``serving/`` or ``transforms.py`` that lies there is not ours.
How they end, and on which boot of which machine they run. Standard library only.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

__all__ = ["boot_id", "interrupts_as_usual", "interrupts_end_at_once", "is_interrupt", "leave", "module_command", "tandem_command"]

_HOME = Path(__file__).resolve().parents[1]
_EXIT_SECONDS = 5.0


@cache
def boot_id() -> str:
    """Which boot of which machine this is; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def tandem_command(*words: str) -> list[str]:
    """The command line that runs ``tandem WORDS`` with this installation's code."""
    return _program(_HOME, *words)


def module_command(module: str, *arguments: str, home: Path = _HOME) -> list[str]:
    """The command line that runs a module of ours, as ``python -m MODULE ARGUMENTS`` would: of this installation, or of the Tandem whose
    packages lie in ``home``."""
    return _program(home, "-m", module, *arguments)


def _program(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-P", str(home / "tandem" / "__main__.py"), *words]


def interrupts_end_at_once() -> None:
    """While a command is only imported, Ctrl-C ends the process at once: an exception in the midst of an import comes out as whatever the
    library makes of it (pydantic's code in Rust prints a trace of its own)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def interrupts_as_usual() -> None:
    """From here on there is something to end in order: Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C caused it: also where code in Rust (pydantic's, while a class is made) was interrupted, and panics with its text."""
    return isinstance(error, KeyboardInterrupt) or (type(error).__name__ == "PanicException" and "KeyboardInterrupt" in str(error))


def leave(code: int) -> NoReturn:
    """End this process after its exit functions (libraries remove their temporary files there) and with all that it printed; those that
    do not end within five seconds are left.

    For those that have TensorFlow or gRPC: while the interpreter goes down, the one prints errors and threads of the other hold it back.
    """
    _flush()  # before patience begins: who reads what was printed may take his time
    patience = threading.Timer(_EXIT_SECONDS, os._exit, (code,))
    patience.daemon = True
    patience.start()
    atexit._run_exitfuncs()
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
