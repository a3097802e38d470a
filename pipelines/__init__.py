"""Moves data: the Beam graph, its sources and sinks, batch and stream jobs, training, and the command line."""

import tandem  # noqa: F401  # its names of today and of before, pinned to this installation
