"""TensorFlow in the workers of an engine, as in our own processes: imported whole, by one thread, and with our settings.

Threads of a worker that import parts of it at once find modules that are half there; and a worker that somebody else's machine or container
started was told nothing of :mod:`transforms.tensorflow_settings`, without which the last bits of its sums may be others.
"""

from __future__ import annotations

import threading

from transforms.tensorflow_settings import settle_tensorflow

__all__ = ["first_tensorflow"]

_ALONE = threading.Lock()


def first_tensorflow() -> None:
    """Have TensorFlow in this process; the thread that comes first imports it, and the others wait. In ``setup`` of a step that uses it."""
    settle_tensorflow()
    with _ALONE:
        import tensorflow  # noqa: F401
