"""How processes of our own are started: by the path of ``tandem/__main__.py`` with ``-P``.

So it is this installation's code that they run, from any folder: a ``serving/`` or ``transforms.py`` that lies there is not ours.
Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["module_command", "tandem_command"]

_PROGRAM = str(Path(__file__).resolve().parents[1] / "tandem" / "__main__.py")


def tandem_command(*words: str) -> list[str]:
    """The command line that runs ``tandem WORDS`` with this installation's code."""
    return [sys.executable, "-P", _PROGRAM, *words]


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this installation, as ``python -m MODULE ARGUMENTS`` would."""
    return tandem_command("-m", module, *arguments)
