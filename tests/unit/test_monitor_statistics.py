"""Distances by TFDV against distances by hand; units; windows; what is said of quality."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.monitoring.checks import Check, above, distance_check, skipped, verdict
from pipelines.monitoring.log_windows import DAY_US, Window, blocks, choose, duration, moments
from pipelines.monitoring.quality import allowance, quality, reliability
from pipelines.monitoring.statistics import BUCKETS, distances, numbers, ranges, statistics, thinned
from pipelines.monitoring.units import FACTORS, KINDS, conversions, distance, suspect_unit
from tests.examples import examples
from transforms.errors import ConfigError

RNG = np.random.default_rng(5)


def measured(trained: pa.Table, served: pa.Table) -> dict[str, float]:
    names = trained.schema.names
    held = ranges(trained, names)
    return distances(statistics(trained, names, held), statistics(served, names, held), names, held)


# ------------------------------------------------------------------------------------------------ the oracle: by hand


def l_infinity(one: list[str], other: list[str]) -> float:
    a, b = Counter(one), Counter(other)
    return max(abs(a[v] / len(one) - b[v] / len(other)) for v in {*one, *other})


def jensen_shannon(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Of ten equal steps over the range of ``one`` but for its outermost half per cent; both ends are in both."""
    low, high = np.quantile(one, (0.005, 0.995))
    p, q = (np.histogram(np.append(np.clip(x, low, high), [low, high]), BUCKETS, (low, high))[0] / (len(x) + 2) for x in (one, other))
    middle = (p + q) / 2

    def kl(x: np.ndarray[Any, Any]) -> float:
        there = x > 0
        return float((x[there] * np.log2(x[there] / middle[there])).sum())

    return (kl(p) + kl(q)) / 2


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 3.0, 40.0])
def test_numbers_are_compared_by_jensen_shannon_of_their_histograms(shift: float) -> None:
    one, other = RNG.normal(5, 2, 4000), RNG.normal(5 + shift, 2 + shift / 3, 1500)
    found = measured(pa.table({"x": one}), pa.table({"x": other}))
    assert found["x"] == pytest.approx(jensen_shannon(one, other), abs=5e-3)


def test_text_is_compared_by_l_infinity() -> None:
    one, other = (list(RNG.choice(list("abcdefgh"), n, p=p)) for n, p in ((3000, [1 / 8] * 8), (700, [0.3, *[0.1] * 7])))
    found = measured(pa.table({"x": one}), pa.table({"x": other}))
    assert found["x"] == pytest.approx(l_infinity(one, other), abs=1e-6)


def test_one_outlier_hides_nothing_and_means_nothing() -> None:
    one = RNG.normal(0, 1, 5000)
    quiet = np.append(RNG.normal(0, 1, 1500), 1e9)
    moved = np.append(RNG.normal(2, 1, 1500), 1e9)
    found = [measured(pa.table({"x": one}), pa.table({"x": x}))["x"] for x in (quiet, moved)]
    assert found[0] < 0.02 and found[1] > 0.3


def test_nulls_nans_and_truth_values() -> None:
    one = pa.table({"x": pa.array([1.0, None, 2.0, float("nan")] * 200), "b": [True, False] * 400, "n": pa.array([3] * 800, pa.int64())})
    other = pa.table({"x": pa.array([1.0, 2.0, None, None] * 200), "b": [True] * 800, "n": pa.array([3] * 800, pa.int64())})
    found = measured(one, other)
    assert found["x"] == pytest.approx(0.0, abs=1e-6) and found["b"] == pytest.approx(0.5) and found["n"] == 0.0


def test_a_column_without_values_has_no_distance() -> None:
    one, other = pa.table({"x": pa.array([1.0, 2.0] * 100)}), pa.table({"x": pa.nulls(50, pa.float64())})
    assert measured(one, other) == {}
    assert numbers(pa.table({"x": pa.nulls(3)}), "x").tolist() == []


def test_a_constant_that_moves_is_seen() -> None:
    assert measured(pa.table({"x": [5.0] * 300}), pa.table({"x": [5.0] * 200 + [6.0] * 100}))["x"] > 0.1
    assert measured(pa.table({"x": [0] * 300}), pa.table({"x": [0] * 200}))["x"] < 0.01


def test_whole_numbers_of_one_distribution_are_near_whatever_their_greatest() -> None:
    one, other = RNG.poisson(1.5, 4000), np.minimum(RNG.poisson(1.5, 400), 4)  # a day without the rare greatest ones
    assert measured(pa.table({"x": one}), pa.table({"x": other}))["x"] < 0.03
    assert measured(pa.table({"x": one}), pa.table({"x": RNG.poisson(4, 400)}))["x"] > 0.3


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.2, 4))
@settings(max_examples=examples(25))
def test_distance_is_symmetric_enough_and_within_0_and_1(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(0, 1, 400), rng.normal(shift, scale, 300)
    value = measured(pa.table({"x": one}), pa.table({"x": other}))["x"]
    assert 0.0 <= value <= 1.0 + 1e-9
    assert value == pytest.approx(jensen_shannon(one, other), abs=5e-3)


def test_thinned_is_even_and_the_same_each_time() -> None:
    table = pa.table({"i": np.arange(1000)})
    assert thinned(table, 10).column("i").to_pylist() == thinned(table, 10).column("i").to_pylist()
    assert thinned(table, 10).column("i").to_pylist()[::9] == [0, 999] and thinned(table, 2000) is table


# ------------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("unit", "factor", "offset", "words"),
    [
        ("min", 60, 0, "seconds for minutes"),
        ("min", 1 / 60, 0, "hours for minutes"),
        ("s", 1000, 0, "milliseconds for seconds"),
        ("miles", 1.609344, 0, "kilometres for miles"),
        ("m", 1 / 0.3048, 0, "feet for metres"),
        ("F", 5 / 9, -160 / 9, "Celsius for Fahrenheit"),
        ("C", 9 / 5, 32, "Fahrenheit for Celsius"),
        ("hPa", 100, 0, "Pa for hPa"),
        ("%", 0.01, 0, "shares of 1 for per cent"),
        ("kg", 1 / 0.45359237, 0, "pounds for kilograms"),
        ("parsnips", 1000, 0, "1000 times"),
        ("", 3600, 0, "3600 times"),
    ],
)
def test_a_unit_is_named(unit: str, factor: float, offset: float, words: str) -> None:
    trained = RNG.gamma(3, 20, 6000) - 15  # delays: some below zero
    served = (RNG.gamma(3, 20, 700) - 15) * factor + offset
    found = suspect_unit(trained, served, unit)
    assert found is not None and words in found.text, found
    assert found.factor == pytest.approx(factor, rel=1e-3) and found.after < 0.1 < found.before


def test_seconds_cut_off_by_the_contract_are_still_named() -> None:
    trained = RNG.gamma(2, 20, 6000) - 15
    served = np.minimum((RNG.gamma(2, 20, 700) - 15) * 60, 3000)
    assert "seconds for minutes" in (suspect_unit(trained, served, "min") or pytest.fail("not found")).text


def test_drift_that_is_no_unit_is_not_called_one() -> None:
    trained = RNG.normal(77, 8, 5000)
    assert suspect_unit(trained, RNG.normal(44, 7, 500), "F") is None  # winter
    assert suspect_unit(trained, RNG.normal(78, 8, 500), "F") is None  # the same
    assert suspect_unit(trained, RNG.normal(77 * 60, 8 * 60, 10), "F") is None  # too few


@given(st.sampled_from([u for units in KINDS.values() for u in units]), st.floats(-1e3, 1e3))
def test_conversions_go_there_and_back(unit: str, value: float) -> None:
    for factor, offset, words in conversions(unit):
        other = words.removesuffix(f" for {unit}")
        back = next((f, o) for f, o, w in conversions(other) if w == f"{unit} for {other}")
        assert (value * factor + offset) * back[0] + back[1] == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert len(conversions("unknown")) == 2 * len(FACTORS)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_kolmogorov_smirnov_by_hand(one: list[float], other: list[float]) -> None:
    by_hand = max(abs(sum(v <= x for v in one) / len(one) - sum(v <= x for v in other) / len(other)) for x in [*one, *other])
    assert distance(np.array(one), np.array(other)) == pytest.approx(by_hand)


# ----------------------------------------------------------------------------------------------------------- windows

T0 = datetime(2024, 5, 6, tzinfo=UTC)


def at(*hours: float) -> np.ndarray[Any, Any]:
    return np.array([round((T0 + timedelta(hours=h)).timestamp() * 1e6) for h in hours], np.int64)


def test_the_last_day_with_rows_is_the_window() -> None:
    window = choose(at(1, 30, 50.5), None, None, None)
    assert window is not None and window.texts() == ("2024-05-08T00:00:00+00:00", "2024-05-09T00:00:00+00:00")
    assert window.before.texts()[0] == "2024-05-07T00:00:00+00:00"
    week = choose(at(50.5), None, None, duration("7d"))
    assert week is not None and week.texts() == ("2024-05-02T00:00:00+00:00", "2024-05-09T00:00:00+00:00")
    assert choose(at(), None, None, None) is None


def test_a_window_as_asked_for() -> None:
    window = choose(at(1, 30, 50.5), T0, T0 + timedelta(hours=12), None)
    assert window is not None and window.mask(at(0, 11.9, 12)).tolist() == [True, True, False]
    until = choose(at(1, 30, 50.5), None, T0 + timedelta(hours=36), duration("12h"))
    assert until is not None and until.texts()[0] == "2024-05-07T00:00:00+00:00"
    with pytest.raises(ConfigError, match="is not before --until"):
        choose(at(1), T0, T0, None)
    assert choose(at(1), T0 + timedelta(days=9), T0 + timedelta(days=10), None) is not None


def test_answers_of_one_minute_are_one_moment() -> None:
    assert moments(at()) == 0.0 and moments(at(*[1.0] * 50)) == pytest.approx(1.0)
    assert moments(at(*range(50))) == pytest.approx(50.0)
    assert 1.2 < moments(at(*[1.0] * 300, *range(2, 41))) < 1.4


@pytest.mark.parametrize("text", ["", "d", "7x", "-1d", "0d", "1 2"])
def test_lengths_of_time_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        duration(text)


def test_lengths_of_time() -> None:
    assert [duration(t).total_seconds() / 3600 for t in ("7d", "12h", "90min", "2w", "3", "1.5 d")] == [168, 12, 1.5, 336, 72, 36]


@given(st.integers(1, 10), st.integers(0, 23), st.integers(1, 60), st.integers(1, 12))
def test_blocks_are_apart_as_long_as_the_window_and_at_its_time_of_day(length: int, hour: int, days: int, most: int) -> None:
    rows = at(*np.arange(0, days * 24, 0.5))
    start = int(at(hour)[0]) + 400 * DAY_US
    window = Window(start, start + length * DAY_US)
    found = blocks(rows, window, most, 10)
    assert len(found) <= most and len(found) <= days // length + 1
    for one, mask in found:
        assert one.length == window.length and (one.start - start) % DAY_US == 0
        assert mask.sum() >= 10 and np.array_equal(mask, one.mask(rows))
    for before, after in pairwise(found):
        assert after[0].start >= before[0].end


# ----------------------------------------------------------------------------------------------- quality and verdicts


def test_quality_by_hand() -> None:
    label, prediction = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.2, 0.4, 0.6])
    q = quality(label, prediction)
    assert (q.rows, q.rate, q.auc) == (4, 0.5, 0.75) and q.mean == pytest.approx(0.525) and q.gap == pytest.approx(0.025)
    assert q.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.4, 0.4])))
    assert quality(np.zeros(5), np.full(5, 0.1)).auc is None


def test_reliability_holds_every_row_once() -> None:
    prediction, label = RNG.uniform(0, 1, 5000), RNG.uniform(0, 1, 5000)
    bins = reliability((label < prediction).astype(float), prediction)
    assert sum(b["rows"] for b in bins) == 5000 and len(bins) == 10
    assert all(abs(b["mean"] - b["rate"]) < 0.08 for b in bins)
    assert reliability(np.ones(50), np.full(50, 0.3))[0]["rows"] == 50


def test_chance_is_measured_where_there_are_windows_and_estimated_where_not() -> None:
    def made(n: int, shift: float) -> Any:
        p = RNG.uniform(0.1, 0.9, n)
        return quality((RNG.uniform(0, 1, n) < p + shift).astype(float), p)

    window, report = made(2000, 0.0), made(5000, 0.0)
    few = allowance(window, report, [made(500, 0.0)] * 2)
    many = allowance(window, report, [made(500, s) for s in (-0.08, 0.0, 0.08)])
    assert 0.01 < few["gap"] < 0.04 and many["gap"] > 0.05
    # 2.5 standard errors: a repetition of the same is outside in one of eighty.
    outside = sum(abs(made(2000, 0.0).gap) > few["gap"] for _ in range(200))
    assert outside <= 10


def test_thresholds() -> None:
    def status(value: float, chance: float) -> str:
        return distance_check("skew", "x", value, 0.15, chance, 1.5, "JS").status

    assert [status(0.1, 0.0), status(0.2, 0.0), status(0.2, 0.18), status(0.2, 0.25), status(0.4, 0.25)] == [
        "ok",
        "fail",
        "warn",
        "ok",
        "fail",
    ]
    assert distance_check("skew", "x", 1.0, 0.15, 0.9, 1.5, "JS").threshold == 1.0
    assert distance_check("skew", "x", 0.9, 0.15, 0.0, 1.5, "JS", judged=False).status == "ok"
    assert above("nulls", "x", 0.2, 0.1, "").status == "fail" and above("nulls", "x", 0.1, 0.1, "").status == "ok"


def test_verdicts() -> None:
    ok, bad, hm = above("a", "", 0, 1, ""), above("a", "", 2, 1, ""), Check("a", "", 1, 1, "warn", "")
    none = skipped("a", "why")
    assert [verdict(c) for c in ([ok], [ok, none], [ok, hm], [hm, bad], [none], [])] == ["ok", "ok", "warn", "fail", "warn", "warn"]
