"""Training: labelled requests + point-in-time features -> a versioned training set -> a TFX pipeline -> a pushed model.

Importing this package is cheap: TensorFlow, TFX, Beam and Feast are imported when :func:`train` runs.
"""

from __future__ import annotations

from pipelines.training.definition import Column, Model, Threshold
from pipelines.training.train_job import Trained, train

__all__ = ["Column", "Model", "Threshold", "Trained", "train"]
