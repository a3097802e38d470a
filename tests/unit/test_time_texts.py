"""FAULTS 6: times as RFC 3339 has them, with what Go, Java and Python write of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.contract import check_json
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
