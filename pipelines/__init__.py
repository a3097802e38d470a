"""Moves data: the Beam graph, its sources and sinks, batch and stream jobs, training, and the command line."""
