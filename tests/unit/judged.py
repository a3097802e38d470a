"""The verdicts of one contract on the same records in every way that these may come."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.contract import Checked, Origin, check, check_json, check_records
from transforms.definitions import EventSource

__all__ = ["NOW", "arrow_rows", "as_rows", "judged", "verdicts"]

NOW = 1_800_000_000_000_000


def verdicts(checked: Checked) -> Any:
    """All that is said of some records."""
    return (
        checked.valid.to_pylist(), checked.accepted.tolist(), checked.reasons.to_pylist(), checked.details.to_pylist(),
        checked.times.to_pylist(), checked.empty, checked.passed_over,
    )  # fmt: skip


def judged(records: list[Any], source: EventSource, origin: Origin | None = None) -> Checked:
    """The verdicts, which are the same for each record alone, for all at once, and by columns among others."""
    payloads = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    together = check_json(payloads, source, NOW, 0, origin)
    many = pa.array(payloads * 20, pa.binary())
    rows = np.tile(np.arange(len(payloads)), 20)
    columnar = check_json(many, source, NOW, 0, None if origin is None else origin.take(rows))
    n, m = len(payloads), together.valid.num_rows
    assert columnar.reasons.to_pylist() == together.reasons.to_pylist() * 20
    assert columnar.details.to_pylist() == together.details.to_pylist() * 20
    assert columnar.times.to_pylist() == together.times.to_pylist() * 20
    assert columnar.valid.to_pylist() == together.valid.to_pylist() * 20
    assert columnar.accepted.tolist() == [k * n + a for k in range(20) for a in together.accepted.tolist()]
    assert columnar.empty == together.empty * 20 and len(columnar.accepted) == 20 * m
    for row, payload in enumerate(payloads):
        alone = check_json([payload], source, NOW, 0, None if origin is None else origin.take(np.array([row])))
        assert alone.reasons[0].as_py() == together.reasons[row].as_py() and alone.details[0].as_py() == together.details[row].as_py()
        assert alone.valid.to_pylist() == together.valid.filter(pa.array(together.accepted == row)).to_pylist()
    return together


def arrow_rows(records: list[dict[str, Any]]) -> pa.RecordBatch | None:
    names = list(dict.fromkeys(name for r in records for name in r))
    try:
        return pa.RecordBatch.from_arrays([pa.array([r.get(name) for r in records]) for name in names], names)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None  # of no one type


def as_rows(records: list[dict[str, Any]], source: EventSource) -> None:
    """The same verdicts on the records as columns of Arrow and as its rows, where it has a type for each column."""
    rows = arrow_rows(records)
    if rows is not None:
        checked, plain = check(rows, source, NOW, 0), check_records(rows.to_pylist(), {}, source, NOW, 0)
        assert checked.reasons.to_pylist() == plain.reasons.to_pylist()
        assert checked.valid.to_pylist() == plain.valid.to_pylist() and checked.empty == plain.empty
        if "nan" not in str(checked.details):
            assert checked.details.to_pylist() == plain.details.to_pylist()
