"""Verdicts on parts of a batch as one: for formats whose records are read in groups, by the schema that each was written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from transforms.contract import Checked, Now, check_records, joined
from transforms.definitions import EventSource
from transforms.rules import now_of

__all__ = ["Refusals", "merged", "refusals"]

Refusals = Mapping[int, tuple[str, str]]
"""Position of a record -> (reason, detail)."""
Rows = npt.NDArray[np.int64]


def refusals(refused: Refusals, source: EventSource, now_us: Now, max_future_us: int) -> tuple[Rows, Checked]:
    """The verdicts on records that could not be decoded, and where they stand."""
    rows = np.array(sorted(refused), np.int64)
    told = {n: refused[row] for n, row in enumerate(rows.tolist())}
    return rows, check_records([{}] * len(rows), told, source, now_of(now_us, rows), max_future_us)


def merged(parts: Sequence[tuple[Rows, Checked]], source: EventSource) -> Checked:
    """The verdict on N records from verdicts on parts of them, each with the places (int64, ascending) of its records."""
    parts = [part for part in parts if len(part[0])]
    if len(parts) == 1:
        return parts[0][1]
    if not parts:
        return check_records([], {}, source, 0, 0)
    return joined(parts, source)
