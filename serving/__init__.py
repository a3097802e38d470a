"""Answers requests: the online store, the model, HTTP. Never imports Beam."""

import tandem  # noqa: F401  # its names of today and of before, pinned to this installation
