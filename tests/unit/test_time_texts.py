"""FAULTS 6: times as RFC 3339 has them, with what Go, Java and Python write of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import contract
from transforms.columns import OK, convert
from transforms.contract import Checked, check_json
from transforms.definitions import EventSource, Field
from transforms.instants import micros_of, micros_of_text

SOURCE = EventSource(name="s", fields=[Field("id", "string", required=True)], event_time="at", tie_breaker="id")
NOW = 1_800_000_000_000_000
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2026, 12, 31))


@given(MOMENTS, st.text("0123456789", min_size=1, max_size=30), st.integers(-23 * 60 - 59, 23 * 60 + 59), st.sampled_from(["", ":"]))
def test_any_digits_and_both_forms_of_an_offset(at: datetime, digits: str, offset: int, colon: str) -> None:
    """FAULTS 6: floored to microseconds, whatever the digits behind them."""
    at = at.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset)))
    hours, minutes = divmod(abs(offset), 60)
    text = f"{at:%Y-%m-%dT%H:%M:%S}.{digits}{'-' if offset < 0 else '+'}{hours:02d}{colon}{minutes:02d}"
    assert micros_of_text(text) == micros_of(at) + int(digits[:6].ljust(6, "0"))
    assert micros_of_text(text.lower()) == micros_of_text(text)


TEXTS = st.one_of(
    st.none(),
    st.tuples(
        MOMENTS, st.sampled_from(["", ".5", ".12", ".000001", ".1234567", "."]), st.sampled_from(["Z", "z", "+01:30", "-0100", "", "ZZ"])
    ).map(lambda p: f"{p[0]:%Y-%m-%dT%H:%M:%S}{p[1]}{p[2]}"),
    st.sampled_from(
        ["2023-02-29T10:00:00Z", "2024-02-29T10:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"]
    ),
    st.sampled_from(
        ["2024-05-01T24:00:00Z", "2024-05-01T10:60:00Z", "2024-05-01T10:00:60Z", "2024-5-1T10:00:00Z", "\uff12024-05-01T10:00:00Z", "Z", ""]
    ),
)


@given(st.lists(TEXTS, max_size=12), st.sampled_from([pa.string(), pa.large_string(), pa.binary()]), st.integers(0, 3))
def test_a_column_of_texts_is_as_each_of_them(texts: list[str | None], kind: pa.DataType, before: int) -> None:
    """Also of a slice, and whatever stands beside."""
    values = [None if t is None or not pa.types.is_binary(kind) else t.encode() for t in texts] if pa.types.is_binary(kind) else texts
    array, codes = convert(pa.array(values[:before] + values, kind).slice(min(before, len(values))), "timestamp")
    assert array.to_pylist() == [None if t is None else micros_of_text(t) for t in texts]
    assert (codes != OK).tolist() == [t is not None and micros_of_text(t) is None for t in texts]


def test_records_with_times_as_text_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was parsed alone, at eight times the cost; those written otherwise are judged alone, as before."""
    alone: list[int] = []
    one_by_one = contract.check_records

    def counted(records: Sequence[Mapping[str, Any]], *rest: Any) -> Checked:
        alone.append(len(records))
        return one_by_one(records, *rest)

    monkeypatch.setattr(contract, "check_records", counted)
    times: list[object] = ["2024-05-01T10:00:00Z", "2024-05-01T10:00:00.25Z", "2024-05-01T12:00:00+02:00"] * 400
    times[7], times[500], times[0] = 1_714_557_600_000_000, "2024-02-30T10:00:00Z", None
    payloads = pa.array([json.dumps({"id": "a", "at": at}).encode() for at in times], pa.binary())
    checked = check_json(payloads, SOURCE, NOW, 0)
    assert checked.rejected.tolist() == [0, 500]
    assert {at.replace(microsecond=0) for at in checked.valid.column(0).to_pylist()} == {datetime(2024, 5, 1, 10, tzinfo=UTC)}
    assert sum(alone) <= 200


@pytest.mark.parametrize("text", ["2024-05-01T10:00:00.123456789Z", "2024-05-01T10:00:00+0000", "2024-05-01T12:00:00.1+02:00"])
def test_what_was_a_dead_letter_is_an_event(text: str) -> None:
    """FAULTS 6: alone, and among so many that they are read by columns."""
    good = f'{{"id":"a","at":"{text}"}}'.encode()
    for payloads in ([good], [good] * 100):
        checked = check_json(payloads, SOURCE, NOW, 0)
        assert checked.valid.num_rows == len(payloads)
        assert checked.valid.column(0)[0].as_py().replace(microsecond=0) == datetime(2024, 5, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["2024-05-01T10:00:00", "2024-05-01 10:00:00Z", "2024-05-01T10:00:00.Z", "2024-05-01T10:00:00+2", "2024-02-30T10:00:00Z", "now", ""],
)
def test_a_refusal_says_what_is_taken(text: str) -> None:
    """FAULTS 6."""
    assert micros_of_text(text) is None
    [detail] = check_json([f'{{"id":"a","at":"{text}"}}'.encode()], SOURCE, NOW, 0).details.to_pylist()
    assert detail.startswith(f"at={text!r} is no timestamp; ")
    assert detail.endswith("send whole microseconds since 1970, or text with a zone such as 2024-05-01T10:00:00.123456Z or ...+02:00")
