"""Fields that no event has: their paths may lead to nothing, which is null in silence. Looked for in a source's first events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pipelines.inference.sampling import Sample, Steps, sample_files
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.places import path_text

__all__ = ["LEAST_EVENTS", "RECORDS", "unseen_fields", "unseen_in"]

LEAST_EVENTS, RECORDS = 20, 400
"""Of fewer events nothing is said; so many records are looked into for what may be meant."""


def unseen_fields(data: Path, source: EventSource, taken: pa.Table) -> list[str]:
    """One line for each field that is null in all of the events ``taken`` and stands nowhere in the first records of the source's files:
    field, path, and what may be meant."""
    if taken.num_rows < LEAST_EVENTS:
        return []
    empty = [f.name for f in source.fields if f.value is None and taken.column(f.name).null_count == len(taken)]
    if not empty:
        return []
    explode = source.explode_path or None
    try:
        sample = sample_files(data / source.files, RECORDS, explode, source.file_format.encoding if source.file_format else None)
    except DataError:
        return []
    return unseen_in(source, empty, sample)


def unseen_in(source: EventSource, names: Iterable[str], sample: Sample) -> list[str]:
    """One line for each of these fields that stands nowhere in a sample of the source's records: field, path, and what may be meant. Those
    that stand beside records, or at a place in a list, are not looked for."""
    known = [*sample.columns, *sample.lists]
    whole = {steps[:n] for steps in known for n in range(1, len(steps) + 1)}
    lines = []
    for f in map(source.field, names):
        steps = f.place if isinstance(f.place, tuple) else ()
        if steps and not any(isinstance(step, int) for step in steps) and steps not in whole:
            meant = _meant(steps, known)
            said = f"; write path={path_text(meant)!r}, where something does" if meant else ""
            lines.append(f"source {source.name}: field {f.name} is null in all events: there is nothing at {path_text(steps)!r}{said}")
    return lines


def _meant(steps: Steps, known: Iterable[Steps]) -> Steps:
    """Where something stands whose names are these but for case, separators, and where a dot is a part of one; () for nowhere."""
    return next((other for other in known if _letters(other) == _letters(steps)), ())


def _letters(steps: Steps) -> str:
    return "".join(c for step in steps for c in str(step).lower() if c.isalnum())
