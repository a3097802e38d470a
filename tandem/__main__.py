"""``python -m tandem`` is the command ``tandem``; started as a file, with ``python -P``, it needs no installation.

``-m MODULE ARGUMENTS`` runs a module of this installation instead: so are our own child processes started, see ``lake.processes``.
"""

import os
import runpy
import sys
from importlib import import_module
from pathlib import Path

if __package__ in (None, ""):
    # First while our own package is found, last for all else: another tandem on the path is not ours, and we hide nobody's modules.
    _HOME = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, _HOME)
    import_module("tandem")  # pins transforms, pipelines and serving to this installation
    sys.path.remove(_HOME)
    if _HOME not in sys.path:
        sys.path.append(_HOME)


def main() -> None:
    """The command, or the module that ``-m`` names. Imports take seconds: an interrupt in the midst of them is one line, too."""
    _have_streams()
    try:
        _main()
    except BaseException as error:
        from transforms.own_program import is_interrupt

        if not is_interrupt(error):
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _have_streams() -> None:
    """Whoever started us may have closed a standard stream: the next file that is opened would get its number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # the lowest number that is free is this one
                setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
                os.set_inheritable(number, True)  # our children's, too


def _main() -> None:
    from tandem.quick_imports import quicken_imports

    quicken_imports()
    _set_up_logs()
    if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2:
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    from transforms.own_program import interrupts_end_at_once

    interrupts_end_at_once()
    from pipelines.cli.root import main as command

    command()


def _set_up_logs() -> None:
    """As the environment says; a process that has nothing to do with it imports nothing for it."""
    if not any(name.startswith("OTEL_") or name == "TANDEM_LOG_FORMAT" for name in os.environ):
        return
    from serving import json_logs
    from transforms.errors import TandemError

    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    try:
        json_logs.set_up(" ".join(["tandem", *words[:1]]))
    except TandemError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
