"""SavedModels that a training calls again and again: evaluated against two baselines, then scored in the report, and loaded once.

TensorFlow is imported inside functions.
"""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from transforms.plain_paths import plain_path

__all__ = ["signature"]

MOST = 3
"""Models that stay loaded: what was trained, with and without stored features, and the one that it is held against."""

_loaded: dict[tuple[Any, ...], Any] = {}
atexit.register(_loaded.clear)  # TensorFlow's functions print errors where they are collected later than that


def signature(model: Path, name: str = "serving_default") -> Any:
    """The signature ``name`` of the SavedModel in folder ``model``, a function of tensors by name; loaded unless its files are those of
    before. Raises what TensorFlow raises, and KeyError where it has no such signature."""
    import tensorflow as tf

    folder = plain_path(model)
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    state = (str(folder), *((f.name, s.st_ino, s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()]))
    found = _loaded.pop(state, None)
    _loaded[state] = tf.saved_model.load(str(folder)) if found is None else found
    for old in list(_loaded)[:-MOST]:
        del _loaded[old]
    return _loaded[state].signatures[name]
