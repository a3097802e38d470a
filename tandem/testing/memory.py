"""How much memory something takes at its peak, as the system sees it: Python's, Arrow's and any library's.

Not by tracemalloc: it replaces the allocators of the whole process, and to stop it while another library's thread allocates is a race that
crashes the interpreter (fixed in Python 3.12.9 and 3.13.2).
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["grown"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def grown() -> Iterator[Callable[[], int]]:
    """Gives a function that says by how many bytes this process's peak of resident memory has grown over what it held at the beginning.

    The peak of before counts too where the system cannot forget it (what is not Linux, or a /proc that may only be read): what it says is
    then at least the truth less that peak, never more. Memory that the allocator kept from before and gives out again is not seen: ask for
    what is well above the noise of some MB.
    """
    with suppress(OSError):
        _CLEAR.write_text("5")  # of the kernel: the peak begins anew at what is resident now
    before = _peak()
    yield lambda: max(0, _peak() - before)


def _peak() -> int:
    """The largest resident size of this process since the peak was last set, in bytes."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
