"""Float arithmetic as TensorFlow's threads do it: denormal numbers count as zero, going in and coming out.

TensorFlow sets these two bits of the processor in each of its threads. numpy computes with the same instructions, so setting them
around a stretch of numpy calls gives the same bits. Only for x86-64 with a C library that keeps the control word in ``fenv_t`` (glibc,
musl); elsewhere :func:`can_flush` is False.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from types import TracebackType

import numpy as np

__all__ = ["Flushed", "can_flush"]

_SIZE, _CONTROL = 32, 28
"""Bytes of ``fenv_t``, and where the control word of the vector unit (MXCSR) lies in it (System V ABI for x86-64)."""
_FLUSH = 0x8040
"""Flush to zero (bit 15) and denormals are zero (bit 6)."""


class Flushed:
    """A context in which this thread's denormal floats count as zero. May be nested; must not be shared by threads."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = ctypes.create_string_buffer(_SIZE)
        _c().fegetenv(self._before)
        now = self._before.raw
        word = int.from_bytes(now[_CONTROL:], "little") | _FLUSH
        _c().fesetenv(ctypes.create_string_buffer(now[:_CONTROL] + word.to_bytes(_SIZE - _CONTROL, "little"), _SIZE))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _c().fesetenv(self._before)


@cache
def _c() -> ctypes.PyDLL:
    return ctypes.PyDLL(None)


@cache
def can_flush() -> bool:
    """Whether :class:`Flushed` works on this machine; found out by trying."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    tiny = np.array([1e-40] * 16, np.float32)
    try:
        with Flushed():
            inside = bool((tiny * np.float32(1)).any() or (tiny > 0).any())
    except (AttributeError, OSError):
        return False
    return not inside and bool((tiny * np.float32(1)).all())
