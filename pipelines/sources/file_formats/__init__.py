"""Formats of event files: one module each, found by the suffix of a file's name."""
