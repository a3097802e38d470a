"""Where everything stands in the data folder: each path and file name, once."""

from __future__ import annotations

REPORT = "report"
"""The folder of a training run that holds what people look at; see the names below."""
EPOCHS = "epochs.json"
TFMA = "tfma.json"
CURVES = "curves.json"
