"""Verdicts on parts of a batch as one: for formats whose records are read in groups, by the schema that each was written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.contract import Checked, Now, check_records
from transforms.definitions import EventSource

__all__ = ["Refusals", "merged", "now_of", "refusals"]

Refusals = Mapping[int, tuple[str, str]]
"""Position of a record -> (reason, detail)."""
Rows = npt.NDArray[np.int64]


def now_of(now_us: Now, rows: Rows) -> Now:
    """The instants at which these rows are judged."""
    return now_us if isinstance(now_us, int) else now_us[rows]


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
    by_row = pa.array(np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable"))
    records = np.concatenate([rows[checked.accepted] for rows, checked in parts])
    order = np.argsort(records, kind="stable")
    valid = (
        pa.Table.from_batches([checked.valid for _, checked in parts], source.arrow_schema)
        .combine_chunks()
        .take(pa.array(order))
        .combine_chunks()
    )
    reasons, details, times = (
        pa.concat_arrays([getattr(checked, name) for _, checked in parts]).take(by_row) for name in ("reasons", "details", "times")
    )
    batches = valid.to_batches()
    return Checked(
        batches[0] if batches else pa.RecordBatch.from_arrays([pa.array([], f.type) for f in valid.schema], schema=valid.schema),
        reasons, details, times,
        records=records[order] if any(checked.records is not None for _, checked in parts) else None,
        passed_over=sum(checked.passed_over for _, checked in parts),
        empty=sum(checked.empty for _, checked in parts),
    )  # fmt: skip
