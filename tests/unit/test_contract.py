"""The contract: every kind of bad record gets its exact code, and its neighbours get theirs."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.contract_records import AHEAD, BAD_JSON, GOOD, NAMES, NOW, SIXTY_DAYS, SOURCE, T, arrow, bad_bytes, judge, payload, verdicts
from transforms.contract import DEAD_LETTER_SCHEMA, check, check_json, dead_letters, encode_json, field_of
from transforms.definitions import EventSource, Field
from transforms.reasons import REASONS


@pytest.mark.parametrize(("reason", "bad", "says"), BAD_JSON)
def test_bad_payload_has_its_code_and_harms_no_neighbour(reason: str, bad: bytes | None, says: str) -> None:
    checked = judge(payload(), bad, payload(legs=4), bad)
    assert verdicts(checked) == [None, reason, None, reason]
    detail = checked.details[1].as_py()
    assert says in detail
    assert "\n" not in detail
    assert len(detail) < 250
    assert checked.valid.to_pylist() == judge(payload(), payload(legs=4)).valid.to_pylist()
    assert verdicts(judge(bad)) == [reason]
    assert checked.accepted.tolist() == [0, 2]
    assert checked.rejected.tolist() == [1, 3]


def test_every_reason_that_json_can_have_has_a_case() -> None:
    assert {case[0] for case in BAD_JSON} == set(REASONS) - {"unreadable_file", "unknown_schema"}


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"delay": ...}, "delay", None),
        ({"delay": None}, "delay", None),
        ({"unknown": {"deep": [1, math.nan, "x" * 1000]}}, "legs", 3),
        ({"delay": 5}, "delay", 5.0),
        ({"delay": 3000}, "delay", 3000.0),
        ({"delay": -120.0}, "delay", -120.0),
        ({"real": 2**53}, "real", 2.0**53),
        ({"real": 5e-324}, "real", 5e-324),
        ({"legs": 5.0}, "legs", 5),
        ({"legs": 40}, "legs", 40),
        ({"legs": -5}, "legs", -5),
        ({"big": -(2**63)}, "big", -(2**63)),
        ({"big": 1 - 2.0**53}, "big", 1 - 2**53),
        ({"flight_id": ""}, "flight_id", ""),
        ({"flight_id": "a\u0000\U0001f6eb"}, "flight_id", "a\u0000\U0001f6eb"),
        ({"departed_at": NOW + AHEAD}, "departed_at", NOW + AHEAD),
        ({"departed_at": SIXTY_DAYS}, "departed_at", SIXTY_DAYS),
        ({"flight_id": "é" * 32_768}, "flight_id", "é" * 32_768),
        ({"departed_at": "2023-11-14T22:13:19Z"}, "departed_at", T),
        ({"departed_at": "2023-11-15T03:43:19.5+05:30"}, "departed_at", T + 500_000),
        ({"landed_at": "0001-01-01T00:00:00.000001Z"}, "landed_at", -62_135_596_799_999_999),
        ({"departed_at": "2023-11-14T22:13:19.123456789Z"}, "departed_at", T + 123_456),  # FAULTS 6
        ({"departed_at": "2023-11-14T22:13:19.9999999999999Z"}, "departed_at", T + 999_999),
        ({"departed_at": "2023-11-14T22:13:19.1234567+0000"}, "departed_at", T + 123_456),
        ({"departed_at": "2023-11-15T03:43:19+0530"}, "departed_at", T),
        ({"departed_at": "2023-11-14T22:13:19.000-00:00"}, "departed_at", T),
        ({"departed_at": "2023-11-14t22:13:19.5z"}, "departed_at", T + 500_000),
        ({"landed_at": "1969-12-31T23:59:59.9999999Z"}, "landed_at", -1),
        ({"landed_at": -1}, "landed_at", -1),
    ],
)
def test_accepted_payloads(changes: dict[str, Any], field: str, value: Any) -> None:
    for others in ((), (payload(delay="x", legs="x", flight_id=1, departed_at=[]),)):  # alone, and beside an unclean one
        checked = judge(payload(**changes), *others)
        assert checked.reasons[0].as_py() is None, checked.details[0]
        column = checked.valid.column(NAMES.index(field))
        column = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        got = column.to_pylist()
        assert got == [value]
        assert type(got[0]) is type(value)


def test_64_levels_and_brackets_in_text_are_fine() -> None:
    deep = payload()[:-1] + b',"extra":' + b"[" * 63 + b"]" * 63 + b"}"
    assert verdicts(judge(deep, payload(flight_id="[{" * 500 + '"\\'), payload(extra=[[]] * 500))) == [None] * 3


def test_negative_zero_becomes_zero_everywhere() -> None:
    for checked in (judge(payload(real=-0.0)), check(arrow(real=pa.array([-0.0])), SOURCE, NOW, AHEAD)):
        assert math.copysign(1, checked.valid.column(NAMES.index("real"))[0].as_py()) == 1


def test_the_first_reason_in_order_wins() -> None:
    everything = {"departed_at": 0, "flight_id": None, "origin": "LGA", "delay": math.nan, "legs": "x", "big": 2**70, "real": math.inf}
    assert verdicts(judge(payload(**everything))) == ["nonpositive_timestamp"]
    steps = [("departed_at", "missing_field"), ("flight_id", "wrong_type"), ("legs", "overflow"), ("big", "nan"), ("delay", "infinite")]
    for name, then in steps:
        everything[name] = GOOD[name]
        assert verdicts(judge(payload(**everything))) == [then]


def test_an_array_of_payloads_with_nulls_and_offsets() -> None:
    payloads = pa.array([b"x", payload(), None, payload()])
    for kind in (pa.binary(), pa.large_binary()):
        assert verdicts(check_json(payloads.cast(kind)[1:], SOURCE, NOW, AHEAD)) == [None, "malformed", None]


def test_nothing_at_all() -> None:
    assert verdicts(judge()) == []
    assert verdicts(check(pa.RecordBatch.from_arrays([], names=[]), SOURCE, NOW, AHEAD)) == []


def test_times_of_rejects_are_kept_where_they_can_be_read() -> None:
    checked = judge(payload(origin="LGA"), payload(departed_at=0), payload(departed_at="x"), b"", payload(departed_at=10**30))
    assert checked.times.cast(pa.int64()).to_pylist() == [T, 0, None, None, None]


def test_dead_letters() -> None:
    payloads = [payload(), b"\xff", payload(legs=99)]
    checked = judge(*payloads)
    letters = dead_letters(
        SOURCE, checked, pa.array([payloads[i] for i in checked.rejected]), topic="t", partition=3, offsets=pa.array([7, 8, 9])
    )
    assert letters.schema.equals(DEAD_LETTER_SCHEMA)
    rows = letters.to_pylist()
    assert [(r["offset"], r["reason"], r["payload"]) for r in rows] == [(8, "invalid_utf8", b"\xff"), (9, "out_of_range", payloads[2])]
    assert all((r["source"], r["topic"], r["partition"], r["file"], r["row"]) == ("departures", "t", 3, None, None) for r in rows)
    assert dead_letters(SOURCE, judge(payload()), pa.array([], pa.binary())).num_rows == 0


def test_bounds_and_domains_of_integers_are_exact() -> None:
    source = EventSource(
        name="s",
        event_time="at",
        tie_breaker="id",
        fields=[
            Field("id", "int64", required=True, domain=[1, 2**62 + 1]),
            Field("none", "int64", min=2**70),
            Field("all", "int64", min=-(2.0**70), max=math.inf),
            Field("high", "int64", max=2**62 + 1),
        ],
    )

    def reason(**values: int) -> str | None:
        code: str | None = check_json([json.dumps({"at": T, "id": 1, **values}).encode()], source, NOW, 0).reasons[0].as_py()
        return code

    assert reason(id=2**62 + 1) is None
    assert reason(id=2**62) == "not_in_domain"
    assert reason(none=2**63 - 1) == "out_of_range"
    assert reason(all=2**63 - 1) is None
    assert reason(all=-(2**63)) is None
    assert reason(high=2**62 + 1) is None
    assert reason(high=2**62 + 2) == "out_of_range"


def test_a_huge_record_is_judged_like_any_other() -> None:
    huge = "x" * 10_000_000
    checked = judge(payload(flight_id=huge), payload(extra=huge), payload(origin=huge), payload()[:-1] + b"," + huge.encode())
    assert verdicts(checked) == ["too_long", None, "too_long", "malformed"]
    assert max(len(d) for d in checked.details.to_pylist() if d) < 250


def test_each_record_may_have_its_own_now() -> None:
    payloads = [payload(), payload(departed_at=T + 2), payload(departed_at=T + 2), b"?"]
    nows = np.array([T, T + 1, T + 2, 2**63 - 1])
    expected = [None, "future_timestamp", None, "malformed"]
    assert verdicts(check_json(payloads, SOURCE, nows, 0)) == expected
    assert expected == [verdicts(check_json([p], SOURCE, int(n), 0))[0] for p, n in zip(payloads, nows, strict=True)]
    rows = arrow(departed_at=pa.array([T, T + 2, T + 2], pa.int64()))
    assert verdicts(check(rows, SOURCE, nows[:3], 0)) == expected[:3]
    assert verdicts(check_json(payloads[:2], SOURCE, np.array([-(2**63), 2**63 - 1]), 2**63)) == [None, None]


def test_the_horizon_saturates() -> None:
    far = check_json([payload(departed_at=2**63 - 1), payload()], SOURCE, NOW, 2**63)
    assert verdicts(far) == ["future_timestamp", None]


def test_the_canonical_payload_is_pinned() -> None:
    """Logs and dead letters hold it: changing it is a change of format."""
    batch = check_json([payload(real=1e22, delay=None)], SOURCE, NOW, AHEAD).valid
    assert encode_json(batch)[0].as_py().decode() == (
        '{"departed_at":1699999999000000,"flight_id":"Fé","origin":"EWR","delay":null,"legs":3,"big":9223372036854775807,'
        '"real":1e+22,"diverted":false,"landed_at":1699999999000005}'
    )


def test_any_row_can_be_encoded() -> None:
    batch = pa.RecordBatch.from_arrays(
        [
            bad_bytes(pa.string(), b"a\xff"),
            pa.array([math.nan]),
            pa.array([Decimal("1.50")]),
            pa.array([2**40], pa.int64()).cast(pa.timestamp("s")),
            pa.array([b"\xfe"]),
            pa.array([[{"x": 1}]]),
            pa.array([timedelta(seconds=1)]),
            pa.array([2**62], pa.int64()).cast(pa.date64()),
        ],
        names=list("abcdefgh"),
    )
    text = encode_json(batch)[0].as_py()
    assert text.startswith(b'{"a":"a\xff","b":NaN,"c":"1.50","d":1099511627776000000,"e":"\xfe","f":[{"x":1}],"g":"0:00:01","h":"')


@pytest.mark.parametrize(("reason", "line", "says"), BAD_JSON)
def test_the_field_of_a_reject_is_told(reason: str, line: bytes | None, says: str) -> None:
    """FAULTS 28: summaries say which field; nothing is named for what concerns the whole record."""
    named = field_of(judge(line).details[0].as_py())
    whole = reason in ("malformed", "unknown_schema") or (reason == "invalid_utf8" and "0xff" in says)
    assert (named is None) == whole
    if named is not None:
        assert named in (SOURCE.event_time, *(f.name for f in SOURCE.fields))
