"""Run as a file: becomes a command that the kernel kills when the parent dies. ``python die_with_parent.py PARENT_PID COMMAND...`` (Linux).

A process of its own rather than a hook between fork and exec: such a hook may hang in a parent that has threads.
Where there is no prctl the command runs all the same; then only an orderly end of the parent ends it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Tie this process to ``parent`` and become ``command``."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie was made
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
