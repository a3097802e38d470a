"""The contract on typed columns, as event files have them: a verdict for each row, whatever the columns' types."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.unit.contract_records import AHEAD, ARROW_CASES, NAMES, NOW, SOURCE, arrow, verdicts
from transforms.contract import check, check_json, encode_json


@pytest.mark.parametrize(("name", "column", "expected"), ARROW_CASES)
def test_arrow_columns(name: str, column: pa.Array, expected: list[str | None]) -> None:
    batch = arrow(**{name: column})
    checked = check(batch, SOURCE, NOW, AHEAD)
    assert verdicts(checked) == expected
    assert all(name in d for d in checked.details.to_pylist() if d)
    for row, reason in enumerate(expected):
        assert verdicts(check(batch.slice(row, 1), SOURCE, NOW, AHEAD)) == [reason]
    # What a dead letter keeps of the row, replayed as JSON, is refused again, and for the same reason where JSON can tell.
    again = verdicts(check_json(encode_json(batch), SOURCE, NOW, AHEAD))
    for before, after in zip(expected, again, strict=True):
        if name not in ("real", "diverted") and not pa.types.is_decimal(column.type):
            assert (
                after == before
                or (column.type == pa.float64() and name == "departed_at")
                or pa.types.is_date(column.type)
                or column.type in (pa.float16(), pa.float32())
            )
    # With the source it is refused whatever JSON can tell (and a replayed event log gives the stream what the batch run had).
    again = verdicts(check_json(encode_json(batch, SOURCE), SOURCE, NOW, AHEAD))
    assert [after is None for after in again] == [before is None for before in expected]


def test_units_of_time_and_conversions_keep_the_value() -> None:
    for unit, factor in (("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)):
        column = pa.array([1_600_000_000 * factor], pa.int64()).cast(pa.timestamp(unit))
        checked = check(arrow(departed_at=column, landed_at=column), SOURCE, NOW, AHEAD)
        for name in ("departed_at", "landed_at"):
            assert checked.valid.column(NAMES.index(name)).cast(pa.int64()).to_pylist() == [1_600_000_000 * 10**6]
    nanos = pa.array([-1, 1999], pa.int64()).cast(pa.timestamp("ns"))
    landed = check(arrow(landed_at=nanos), SOURCE, NOW, AHEAD).valid.column(NAMES.index("landed_at"))
    assert landed.cast(pa.int64()).to_pylist() == [-1, 1]  # floored, before 1970 too


def test_missing_and_extra_and_repeated_columns() -> None:
    whole = arrow(flight_id=pa.array(["a", "b"]))
    few = pa.RecordBatch.from_arrays([whole.column(i) for i in range(3)], names=whole.schema.names[:3])
    checked = check(few, SOURCE, NOW, AHEAD)
    assert verdicts(checked) == [None, None]
    assert checked.valid.column(NAMES.index("delay")).null_count == 2
    assert verdicts(check(few.slice(0, 0), SOURCE, NOW, AHEAD)) == []
    twice = pa.RecordBatch.from_arrays([*whole.columns, whole.column(1)], names=[*whole.schema.names, "flight_id"])
    assert verdicts(check(twice, SOURCE, NOW, AHEAD)) == ["malformed"] * 2
