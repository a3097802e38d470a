"""The oracle itself, against values worked out by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from tests.oracle import newest, point_in_time_join, rows
from tests.oracle.features import bucket_middle, count_distinct, hash64, hyperloglog, mix, nearest, quantile, sigma, tau
from tests.oracle.strategies import HOUR, make_group, make_source
from transforms.definitions import (
    Age,
    Aggregate,
    Count,
    CountDistinct,
    Field,
    First,
    Last,
    LastN,
    Max,
    Mean,
    Min,
    Quantile,
    Std,
    Sum,
    Variance,
    hours,
)

BASE = 400_000 * HOUR
ONE = hours(1)


def event(minute: float, flight: str = "f", origin: str = "EWR", **fields: Any) -> dict[str, Any]:
    return {"departed_at": BASE + round(minute * 60_000_000), "origin": origin, "gate": 1, "flight": flight, "serial": 0, **fields}


def first_row(aggregate: Aggregate, events: list[dict[str, Any]]) -> Any:
    """The aggregate's value in the first row, of the hour in which the events lie."""
    return value_at(aggregate, events, BASE + HOUR)


def value_at(aggregate: Aggregate, events: list[dict[str, Any]], boundary: int) -> Any:
    group = make_group([aggregate])
    (row,) = rows(events, group, boundary - 1, boundary)
    return row[group.features[0].name]


def xs(*values: float | None) -> list[dict[str, Any]]:
    return [event(i, x=x) for i, x in enumerate(values)]


def test_rows_stand_where_an_event_enters_or_falls_out() -> None:
    group = make_group([Count(over=[hours(1), hours(3)])])
    out = rows([event(0), event(70)], group, 0, 2 * BASE)
    assert [(r["event_timestamp"] - BASE) // HOUR for r in out] == [1, 2, 3, 4, 5]
    assert [r["count_1h"] for r in out] == [1, 1, 0, 0, 0]
    assert [r["count_3h"] for r in out] == [1, 2, 2, 1, 0]
    assert [r["tandem_revision"] for r in out] == [1, 2, 2, 1, 0]
    assert list(out[0]) == ["origin", "event_timestamp", "count_1h", "count_3h", "tandem_revision"]


def test_a_window_without_any_change_gives_no_row() -> None:
    group = make_group([Count(over=hours(3))])
    assert [(r["event_timestamp"] - BASE) // HOUR for r in rows([event(0)], group, 0, 2 * BASE)] == [1, 4]


def test_windows_are_half_open() -> None:
    group = make_group([Count(over=hours(1))])
    at_border = {**event(0), "departed_at": BASE + HOUR}
    just_before = {**event(0), "departed_at": BASE + HOUR - 1}
    assert [r["event_timestamp"] - BASE for r in rows([at_border], group, 0, 2 * BASE)] == [2 * HOUR, 3 * HOUR]
    assert [r["event_timestamp"] - BASE for r in rows([just_before], group, 0, 2 * BASE)] == [HOUR, 2 * HOUR]


def test_the_range_of_boundaries_is_open_below_and_closed_above() -> None:
    group = make_group([Count(over=hours(1))])
    assert [r["count_1h"] for r in rows([event(0)], group, BASE + HOUR, BASE + 2 * HOUR)] == [0]
    assert [r["count_1h"] for r in rows([event(0)], group, BASE, BASE + HOUR)] == [1]
    assert rows([event(0)], group, BASE + 2 * HOUR, 2 * BASE) == []
    assert rows([], group, 0, 2 * BASE) == []


def test_the_delay_is_added_to_the_timestamp_alone() -> None:
    group = make_group([Count(over=hours(1)), Age(over=hours(1))], source=make_source(delay_us=60_000_000))
    (row,) = rows([event(0)], group, BASE, BASE + HOUR)
    assert row["event_timestamp"] == BASE + HOUR + 60_000_000
    assert row["age_1h"] == 3600.0


def test_the_filter_does_not_decide_where_rows_stand() -> None:
    group = make_group([Count(over=hours(1), where=Field("x") > 15)])
    out = rows([event(0, x=1.0)], group, 0, 2 * BASE)
    assert [(r["count_1h"], r["tandem_revision"]) for r in out] == [(0, 1), (0, 0)]


def test_rows_are_sorted_by_key_bytes_then_time() -> None:
    group = make_group([Count(over=hours(1))])
    out = rows([event(0, origin=o) for o in ("\U00010000", "\uffff", "b", "a\0", "a", "")], group, 0, BASE + HOUR)
    assert [r["origin"] for r in out] == ["", "a", "a\0", "b", "\uffff", "\U00010000"]
    composite = make_group([Count(over=hours(1))], keys=("gate", "origin"))
    out = rows([{**event(0), "gate": g} for g in (10, 9, -1)], composite, 0, 2 * BASE)
    assert [r["gate"] for r in out] == [-1, -1, 9, 9, 10, 10]


def test_duplicates_count_twice() -> None:
    assert first_row(Count(over=ONE), [event(0), event(0)]) == 2


def test_sum_is_exact_and_rounded_once() -> None:
    assert first_row(Sum("x", over=ONE), xs(1e16, 1.0, -1e16)) == 1.0
    assert first_row(Sum("x", over=ONE), xs(1e308, 1e308, -1e308)) == 1e308
    assert first_row(Sum("x", over=ONE), xs(*[0.1] * 10)) == 1.0
    assert first_row(Sum("x", over=ONE), xs(1.7976931348623157e308, 1e308)) == math.inf
    assert first_row(Sum("x", over=ONE), xs(-1.7976931348623157e308, -1e308)) == -math.inf
    assert first_row(Sum("x", over=ONE), xs(5e-324, 5e-324)) == 1e-323
    assert math.copysign(1.0, first_row(Sum("x", over=ONE), xs(-0.0))) == 1.0
    assert math.copysign(1.0, first_row(Sum("x", over=ONE), xs(-5.0, 5.0))) == 1.0
    assert first_row(Sum("x", over=ONE), xs(None, None)) is None
    assert first_row(Sum("x", over=ONE), xs(None, 2.5)) == 2.5


def test_sum_rounds_ties_to_even() -> None:
    assert first_row(Sum("x", over=ONE), xs(1.0, 2.0**-53)) == 1.0
    assert first_row(Sum("x", over=ONE), xs(1.0, 2.0**-53, 5e-324)) == 1.0 + 2.0**-52
    assert first_row(Sum("x", over=ONE), xs(1.0 + 2.0**-52, 2.0**-53)) == 1.0 + 2.0**-51


def test_sum_of_whole_numbers_is_a_float() -> None:
    value = first_row(Sum("n", over=ONE), [event(0, n=2**53), event(1, n=1)])
    assert isinstance(value, float) and value == 2.0**53
    assert first_row(Sum("n", over=ONE), [event(i, n=2**63 - 1) for i in range(3)]) == 3 * 2.0**63


def test_nearest_overflows_where_ieee_754_does() -> None:
    edge = Fraction(2) ** 1024 - Fraction(2) ** 970
    assert nearest(edge) == math.inf and nearest(-edge) == -math.inf
    assert nearest(edge - 1) == 1.7976931348623157e308
    assert nearest(Fraction(1, 2**1075)) == 0.0
    assert nearest(Fraction(3, 2**1076)) == 5e-324


def test_mean() -> None:
    assert first_row(Mean("x", over=ONE), xs(1.0, 2.0, 4.0)) == 7.0 / 3.0
    assert first_row(Mean("x", over=ONE), xs(1e308, 1e308)) == math.inf
    assert first_row(Mean("x", over=ONE), xs(None)) is None
    assert first_row(Mean("n", over=ONE), [event(0, n=1), event(1, n=2), event(2, n=None)]) == 1.5


def test_variance_and_std() -> None:
    values = xs(2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)
    assert first_row(Variance("x", over=ONE), values) == 4.0
    assert first_row(Std("x", over=ONE), values) == 2.0
    assert first_row(Variance("x", over=ONE), xs(3.0)) == 0.0
    assert first_row(Variance("x", over=ONE), xs(1e16, 1e16 + 2.0)) == 1.0
    assert first_row(Variance("x", over=ONE), xs(1e200, -1e200)) == math.inf
    assert first_row(Variance("x", over=ONE), xs(5e-324, 0.0)) == 0.0
    assert first_row(Std("x", over=ONE), xs(None)) is None
    assert first_row(Variance("n", over=ONE), [event(0, n=2**62), event(1, n=2**62 + 1)]) == 0.25


def test_min_and_max() -> None:
    assert first_row(Min("x", over=ONE), xs(3.0, -2.0, None)) == -2.0
    assert first_row(Max("x", over=ONE), xs(3.0, -2.0, None)) == 3.0
    assert math.copysign(1.0, first_row(Min("x", over=ONE), xs(-0.0, 0.0))) == 1.0
    top = first_row(Max("n", over=ONE), [event(0, n=2**53 + 1), event(1, n=2**53)])
    assert top == 2**53 + 1 and isinstance(top, int)
    assert first_row(Min("n", over=ONE), [event(0)]) is None


def test_first_and_last_by_time_tie_breaker_and_value() -> None:
    events = [event(5, "b", x=1.0), event(5, "a", x=9.0), event(5, "b", x=2.0), event(6, x=None), event(4, x=None)]
    assert first_row(First("x", over=ONE), events) == 9.0
    assert first_row(Last("x", over=ONE), events) == 2.0
    assert first_row(Last("s", over=ONE), [event(0, s="\uffff"), event(0, s="\U00010000")]) == "\U00010000"
    assert first_row(First("b", over=ONE), [event(0, b=True), event(0, b=False)]) is False
    assert first_row(Last("b", over=ONE), [event(0)]) is None
    assert math.copysign(1.0, first_row(Last("x", over=ONE), xs(-0.0))) == 1.0


def test_last_n() -> None:
    events = xs(1.0, None, 2.0, 3.0)
    assert first_row(LastN("x", n=2, over=ONE), events) == [3.0, 2.0]
    assert first_row(LastN("x", n=9, over=ONE), events) == [3.0, 2.0, 1.0]
    assert first_row(LastN("x", n=9, over=ONE), xs(None)) == []


def test_age() -> None:
    assert first_row(Age(over=ONE), [event(10), event(45)]) == 900.0
    assert first_row(Age(over=ONE, where=Field("x") > 0), [event(10, x=1.0), event(45, x=-1.0)]) == 3000.0
    assert first_row(Age(over=ONE, where=Field("x") > 0), [event(45)]) is None
    assert value_at(Age(over=hours(3)), [event(0), event(61)], BASE + 2 * HOUR) == 59 * 60.0


@pytest.mark.parametrize(
    ("where", "passing"),
    [
        (Field("x") > 15, [20.0]),
        (Field("x") >= 15, [15.0, 20.0]),
        (Field("x") < 15, [0.0]),
        (Field("x") <= 15, [0.0, 15.0]),
        (Field("x").eq(15), [15.0]),
        (Field("x").ne(15), [0.0, 20.0]),
        (Field("x").isin([0.0, 20.0]), [0.0, 20.0]),
        (Field("x").isin([-0.0]), [0.0]),
        (Field("x").is_null(), [None]),
        (Field("x").not_null(), [0.0, 15.0, 20.0]),
        (~(Field("x") > 15), [0.0, 15.0, None]),
        ((Field("x") > 1) & (Field("x") < 20), [15.0]),
        ((Field("x") > 15) | Field("x").is_null(), [20.0, None]),
        (~Field("x").isin([0.0]), [15.0, 20.0, None]),
    ],
)
def test_filters(where: Any, passing: list[float | None]) -> None:
    assert first_row(Count(over=ONE, where=where), xs(0.0, 15.0, 20.0, None)) == len(passing)
    numbers = [x for x in passing if x is not None]
    assert first_row(Sum("x", over=ONE, where=where), xs(0.0, 15.0, 20.0, None)) == (sum(numbers) if numbers else None)


def test_filters_on_timestamps() -> None:
    noon = datetime(2013, 1, 1, 12, tzinfo=UTC)
    events = [event(0, at=round((noon + timedelta(hours=h)).timestamp()) * 1_000_000) for h in (-1, 0, 1)]
    assert first_row(Count(over=ONE, where=Field("at") >= noon), events) == 2


def test_mix_is_splitmix64() -> None:
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(1234567) == 6457827717110365317
    assert mix((1234567 + 0x9E3779B97F4A7C15) % 2**64) == 3203168211198807973


def test_hash_of_values() -> None:
    assert hash64("") == mix(0)
    assert hash64("a") == mix(mix(1) ^ 0x61)
    assert hash64("a\0") == mix(mix(2) ^ 0x61)
    assert hash64("123456789") == mix(mix(mix(9) ^ 0x3837363534333231) ^ 0x39)
    assert hash64(1) == mix(mix(8) ^ 1)
    assert hash64(-1) == mix(mix(8) ^ (2**64 - 1))
    assert hash64(1.0) == mix(mix(8) ^ 0x3FF0000000000000)


def test_sigma_and_tau_are_their_series() -> None:
    assert sigma(0.0) == 0.0 and sigma(1) == math.inf
    assert sigma(0.5) == pytest.approx(0.5 + sum(0.5 ** (2**k) * 2 ** (k - 1) for k in range(1, 8)), rel=1e-15)
    assert tau(0.0) == 0.0 and tau(1) == 0.0
    assert tau(0.25) == pytest.approx((0.75 - sum((1 - 0.25 ** (2**-k)) ** 2 / 2**k for k in range(1, 60))) / 3, rel=1e-14)


def test_count_distinct() -> None:
    assert count_distinct([], 11) == 0
    assert count_distinct(["a"] * 50, 11) == 1
    assert count_distinct(["a", "b", "a"], 11) == 2
    assert count_distinct([0.0, 1.0], 4) == 2
    assert hyperloglog(["a", "b", "a"], 11) == 2
    assert hyperloglog(list(range(100)), 11) == pytest.approx(100, rel=0.03)
    assert [count_distinct(list(range(n)), 4) for n in (16, 100, 256)] == [16, 100, 256]
    assert count_distinct(list(range(50_000)), 11) == pytest.approx(50_000, rel=0.07)
    assert count_distinct(list(range(5_000)), 4) == pytest.approx(5_000, rel=0.8)
    assert first_row(CountDistinct("x", over=ONE), xs(0.0, -0.0, None)) == 1
    assert first_row(CountDistinct("s", over=ONE), [event(0, s=None)]) == 0


def test_count_distinct_of_one_value_by_hand() -> None:
    # One register of 16 is set, to k = rho: C[0] = 15, C[k] = 1. For any k the sum of the registers is
    # z = 2^-k + m * sigma(15/16), of which the second term rules: the estimate is 16^2 / (2 ln 2 z).
    p, value = 4, "x"
    h = hash64(value)
    rho = 1
    while not h >> (60 - rho) & 1:
        rho += 1
    z = 2.0**-rho + 16 * sigma(15 / 16)
    assert hyperloglog([value], p) == math.floor(16 * 16 / (2 * math.log(2)) / z + 0.5) == 1


def test_quantile_by_nearest_rank() -> None:
    values = [float(v) for v in range(1, 11)]
    assert quantile(values, 0.5) == bucket_middle(5.0)
    assert quantile(values, 0.9) == bucket_middle(9.0)
    assert quantile(values, 0.91) == bucket_middle(10.0)
    assert quantile(values, 0.01) == bucket_middle(1.0)
    assert quantile([-3.0, 0.0, 3.0], 0.5) == 0.0
    assert quantile([-3.0, -2.0], 0.5) == bucket_middle(-3.0) < bucket_middle(-2.0)
    assert first_row(Quantile("x", over=ONE), xs(None)) is None
    assert first_row(Quantile("n", over=ONE, q=0.9), [event(0, n=10), event(1, n=-10)]) == bucket_middle(10.0)


def test_bucket_middle() -> None:
    assert bucket_middle(1.0) == 1.0 + 2.0**-8
    assert bucket_middle(1.0 + 2.0**-8) == 1.0 + 2.0**-8
    assert bucket_middle(1.0 + 2.0**-7) == 1.0 + 2.0**-7 + 2.0**-8
    assert bucket_middle(-1.0) == -1.0 - 2.0**-8
    assert bucket_middle(0.0) == 0.0 and bucket_middle(5e-324) == 0.0
    assert bucket_middle(-5e-324) == -(2.0**44) * 5e-324
    assert math.copysign(1.0, bucket_middle(-0.0)) == 1.0
    assert math.isfinite(bucket_middle(1.7976931348623157e308))
    assert bucket_middle(200.0) == pytest.approx(200.0, rel=2.0**-8)


def test_point_in_time_join() -> None:
    features = [
        {"origin": "EWR", "event_timestamp": 10, "created_timestamp": 1, "v": "old"},
        {"origin": "EWR", "event_timestamp": 20, "created_timestamp": 9, "v": "corrected"},
        {"origin": "EWR", "event_timestamp": 20, "created_timestamp": 2, "v": "first"},
        {"origin": "JFK", "event_timestamp": 15, "created_timestamp": 1, "v": "other"},
    ]
    asked = [("EWR", 20), ("EWR", 19), ("EWR", 9), ("EWR", 25), ("EWR", 26), ("JFK", 20), ("LGA", 20), ("EWR", 20)]
    spine = [{"origin": o, "event_timestamp": t} for o, t in asked]
    got = [None if r is None else r["v"] for r in point_in_time_join(spine, features, 5, ["origin"])]
    assert got == ["corrected", None, None, "corrected", None, "other", None, "corrected"]
    got = [None if r is None else r["v"] for r in point_in_time_join(spine, features, 9, ["origin"])]
    assert got == ["corrected", "old", None, "corrected", "corrected", "other", None, "corrected"]
    assert point_in_time_join([{"origin": "EWR", "event_timestamp": 10**18}], features, None, ["origin"]) == [features[1]]
    assert point_in_time_join([], features, 5, ["origin"]) == []


def test_newest() -> None:
    held = [
        {"origin": "EWR", "event_timestamp": 20, "tandem_revision": 3},
        {"origin": "EWR", "event_timestamp": 20, "tandem_revision": 4},
        {"origin": "EWR", "event_timestamp": 10, "tandem_revision": 9},
        {"origin": "EWR", "event_timestamp": 99, "tandem_revision": 1},
        {"origin": "JFK", "event_timestamp": 50, "tandem_revision": 1},
    ]
    assert newest(held, 40, ["origin"]) == {("EWR",): held[1]}
    assert newest(held, 99, ["origin"]) == {("EWR",): held[3], ("JFK",): held[4]}
