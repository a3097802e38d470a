"""Runs: every job has an id, a manifest and a status, in ``data/runs/<id>/manifest.json``.

``recorded`` is what a job wraps its work in; ``list_runs`` and ``find`` are for those who look. Light at import.
"""

from pipelines.runs.facts import code_version, engine_root, facts, hashed, library_versions, lock_hash, masked
from pipelines.runs.manifest import Run, begin, damaged, find, list_runs, write_json
from pipelines.runs.record import Home, Stopped, hand_over, recorded, recording

__all__ = [
    "Home", "Run", "Stopped", "begin", "code_version", "damaged", "engine_root", "facts", "find", "hand_over", "hashed",
    "library_versions",
    "list_runs", "lock_hash", "masked", "recorded", "recording", "write_json",
]  # fmt: skip
