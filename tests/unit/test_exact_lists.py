"""Sums that keep only their own limbs, and windows over them, against the matrices of exact limbs: equal to the bit, whatever is beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle import strategies as _profile  # noqa: F401  (the Hypothesis profile)
from transforms import exact, exact_lists, exact_windows
from transforms.exact_lists import Lists, Values, bulk_of
from transforms.exact_windows import Prefix, WindowSums, variance

KINDS = {
    "whole": lambda r, n: r.integers(-5, 1000, n).astype(float),
    "cents": lambda r, n: np.round(r.lognormal(3, 1.5, n), 2),
    "constant": lambda r, n: np.full(n, 10.99),
    "wide": lambda r, n: r.normal(size=n) * 10.0 ** r.uniform(-30, 30, n),
    "widest": lambda r, n: r.normal(size=n) * 10.0 ** r.uniform(-300, 300, n),
    "int64": lambda r, n: r.integers(-(2**62), 2**62, n),
    "subnormal": lambda r, n: np.ldexp(r.integers(0, 2**53, n).astype(float), -1074),
    "cancelling": lambda r, n: r.choice([0.1, -0.1, 1e308, -1e308, 5e-324, 0.0, 2.0**53 + 2, 1.0, 2.0**-53], n),
    "ties": lambda r, n: r.choice([1.0, 2.0**-53, -(2.0**-53), 2.0**-54, 3.0], n),
}
EXTREMES = [1.7e308, -1.7e308, 5e-324, 1e100, -1e-200]


@pytest.mark.parametrize("extreme", [False, True], ids=["alike", "with extremes"])
@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**32),
    chunk=st.sampled_from([5, 50, 16_384]),
    narrow=st.sampled_from([2, 8]),
    wide=st.sampled_from([0, exact_windows.WIDE, 200]),
    few=st.sampled_from([0, exact_windows.FEW]),
)
@settings(max_examples=examples(6))
def test_folds_and_windows_are_those_of_the_matrices(
    kind: str, extreme: bool, seed: int, chunk: int, narrow: int, wide: int, few: int
) -> None:
    r = np.random.default_rng(seed)
    n = int(r.integers(1, 300))
    values: Any = KINDS[kind](r, n)
    if extreme and values.dtype == np.float64:
        values[r.integers(0, n, 2)] = r.choice(EXTREMES, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_lists, "CHUNK", chunk)
        patch.setattr(exact_windows, "CHUNK", chunk)
        patch.setattr(exact_windows, "PART", chunk)
        patch.setattr(exact_lists, "NARROW", narrow)
        patch.setattr(exact_windows, "WIDE", wide)
        patch.setattr(exact_windows, "FEW", few)
        lo = np.unique(np.append(0, r.integers(0, n, r.integers(0, n))))
        hi = np.append(lo[1:], n)
        sums, squares = Values(values).fold(lo, hi), Values(values, squares=True).fold(lo, hi)
        whole_sums, whole_squares = exact.from_values(values).fold(lo, hi), exact.from_squares(values).fold(lo, hi)
        same(sums, whole_sums)
        same(squares, whole_squares)
        first = np.sort(r.integers(0, len(lo) + 1, 80))
        last = np.maximum.accumulate(np.minimum(len(lo), first + r.integers(0, len(lo) + 1, 80)))
        same(sums.fold(first, last), whole_sums.fold(first, last))
        count = np.append(0, np.cumsum(hi - lo))
        count = count[last] - count[first]
        s1 = WindowSums(Prefix(sums, exact.ORIGIN), first, last)
        s2 = WindowSums(Prefix(squares, exact.SQUARE_ORIGIN), first, last)
        right = exact.to_float(whole_sums.fold(first, last))
        assert bits(exact.to_float(s1)) == bits(right)
        assert bits(s2.rounded()) == bits(exact.to_float(whole_squares.fold(first, last), exact.SQUARE_ORIGIN))
        numerator = exact.variance_numerator(count, whole_sums.fold(first, last), whole_squares.fold(first, last))
        assert bits(variance(count, s1, s2)) == bits(exact.to_float(numerator, exact.SQUARE_ORIGIN))


def bits(values: Any) -> list[int]:
    return values.view(np.int64).tolist()


def same(got: Lists, want: exact.Limbs) -> None:
    """Equal canonical lists."""
    of = Lists.of(want)
    assert got.offsets.tolist() == of.offsets.tolist() and got.flat.tolist() == of.flat.tolist()


def test_one_extreme_value_widens_its_own_range_alone() -> None:
    """Of 10,000 sums of cents the matrix stays as narrow as that of cents but for the one range with 1.7e308."""
    r = np.random.default_rng(1)
    values = np.round(r.lognormal(3, 1.5, 20_000), 2)
    every = np.arange(0, 20_000, 2)
    plain = Values(values).fold(every, every + 2)
    values[7_001] = 1.7e308
    sums = Values(values).fold(every, every + 2)
    off = bulk_of(*sums.reach(slice(None)))
    assert off is not None and np.flatnonzero(off).tolist() == [3_500]
    prefix = Prefix(sums, exact.ORIGIN)
    assert prefix.far is not None and prefix.far.digits.shape[1] == 2 and len(prefix.sums) == len(Prefix(plain, exact.ORIGIN).sums)


def test_windows_are_mostly_settled_in_floats() -> None:
    """The exact way is for the rare ones: of ordinary numbers hardly any."""
    r = np.random.default_rng(2)
    at = np.arange(5_000)
    for kind in ("whole", "cents", "wide", "widest"):
        sums = Values(KINDS[kind](r, 5_000)).fold(at, at + 1)
        windows = WindowSums(Prefix(sums, exact.ORIGIN), np.maximum(at - 30, 0), at)
        assert windows.near.rounded()[1].mean() > 0.99, kind
