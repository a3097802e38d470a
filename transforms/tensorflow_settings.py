"""What TensorFlow reads from the environment, the same for whatever loads it: batch, training, stream, server. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["settle_tensorflow"]

SETTINGS = {
    "TF_USE_LEGACY_KERAS": "1",  # TF-Transform and TFX are written for Keras 2 (tf_keras); else tf.keras is Keras 3
    "TF_ENABLE_ONEDNN_OPTS": "0",  # the order of its sums is not always the same: the last bits of two runs would differ
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def settle_tensorflow() -> None:
    """Set what TensorFlow is to find in the environment of this process and of its children; what is set there already stays.

    Call it before the first import of TensorFlow, which reads these once: whatever loads a repository, a graph, a model or TFX does. Where
    somebody else's code imported TensorFlow before, it came too late for this process.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if (folder := _keras_home()) is not None:
        os.environ.setdefault("KERAS_HOME", folder)


def _keras_home() -> str | None:
    """The folder of the ``keras.json`` that Keras reads at import, and creates if it is missing: ``$XDG_CACHE_HOME/tandem/keras``, by
    default below ``~/.cache``. Not ``~/.keras``: a ``floatx`` set there for other work would change every graph and model, and a command
    would leave a file in the user's home. None without a home folder; Keras ignores a folder that cannot be written."""
    configured = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(configured).absolute() if configured else Path.home() / ".cache"
    except RuntimeError:
        return None
    return str(base / "tandem" / "keras")
