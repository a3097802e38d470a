"""Training: labelled requests + point-in-time features -> a versioned training set -> a TFX pipeline -> a pushed model.

Importing this package is cheap: TensorFlow, TFX, Beam and Feast are imported when :func:`train` runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.training.definition import Column, Model, Threshold

if TYPE_CHECKING:
    from pipelines.training.train_job import Trained, train

__all__ = ["Column", "Model", "Threshold", "Trained", "train"]


def __getattr__(name: str) -> Any:
    """What a training needs is imported when somebody trains: whoever defines a model or checks one does not."""
    if name in ("Trained", "train"):
        from pipelines.training import train_job

        return getattr(train_job, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
