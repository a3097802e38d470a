"""Exact limbs against whole-number arithmetic of Python."""

from __future__ import annotations

import math
import random
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.oracle.features import nearest
from tests.oracle.strategies import FLOATS, INTS, values
from transforms.exact import ORIGIN, SQUARE_ORIGIN, Limbs, from_squares, from_values, to_float, variance_numerator

MAX = 1.7976931348623157e308
NUMBERS = st.lists(values("float64"), max_size=30) | st.lists(values("int64"), max_size=30)
NUMBERS_1 = st.lists(values("float64"), min_size=1, max_size=30) | st.lists(values("int64"), min_size=1, max_size=30)


def array(numbers: list[Any]) -> Any:
    return np.array(numbers, np.int64 if numbers and isinstance(numbers[0], int) else np.float64)


def numbers_of(x: Limbs, origin: int = ORIGIN) -> list[Fraction]:
    """What the digits mean, in Python's own numbers."""
    scale = Fraction(2) ** (32 * x.base + origin)
    return [scale * sum(int(d) << (32 * k) for k, d in enumerate(row)) for row in x.digits]


def same_floats(got: Any, want: list[float]) -> None:
    assert [struct.pack(">d", g).hex() for g in got] == [struct.pack(">d", w).hex() for w in want], (list(got), want)


@given(NUMBERS)
@example(list(FLOATS))
@example(list(INTS))
def test_values_and_squares_are_exact(numbers: list[Any]) -> None:
    want = [Fraction(v) for v in numbers]
    assert numbers_of(from_values(array(numbers))) == want
    assert numbers_of(from_squares(array(numbers)), SQUARE_ORIGIN) == [v * v for v in want]


@given(NUMBERS_1)
@example(list(FLOATS))
@example(list(INTS))
def test_a_value_comes_back_as_itself(numbers: list[Any]) -> None:
    same_floats(to_float(from_values(array(numbers))), [float(v) + 0.0 for v in numbers])
    same_floats(to_float(from_squares(array(numbers)), SQUARE_ORIGIN), [nearest(Fraction(v) ** 2) for v in numbers])


@given(NUMBERS_1, st.data())
@example([1.0, 2.0**-53, 5e-324], None)
@example([MAX, MAX, -MAX], None)
@example([MAX, 2.0**969, 2.0**969], None)
@example([MAX, 2.0**970, -5e-324], None)
@example([2.0**-1074] * 3, None)
def test_folds_are_exact_and_rounded_once(numbers: list[Any], data: Any) -> None:
    n = len(numbers)
    ranges = [(0, n), (0, 0), (n, n)]
    if data is not None:
        ranges += [tuple(sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for _ in range(4)]
    lo, hi = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
    folded = from_values(array(numbers)).fold(lo, hi)
    want = [sum((Fraction(v) for v in numbers[a:b]), Fraction(0)) for a, b in ranges]
    assert numbers_of(folded) == want
    same_floats(to_float(folded), [nearest(w) for w in want])
    squares = from_squares(array(numbers)).fold(lo, hi)
    assert numbers_of(squares, SQUARE_ORIGIN) == [sum((Fraction(v) ** 2 for v in numbers[a:b]), Fraction(0)) for a, b in ranges]
    same_floats(to_float(squares, SQUARE_ORIGIN), [nearest(w) for w in numbers_of(squares, SQUARE_ORIGIN)])


@given(NUMBERS_1, st.integers(0, 30))
def test_a_fold_of_folds_is_the_fold_of_all(numbers: list[Any], cut: int) -> None:
    cut = min(cut, len(numbers))
    lo, hi = np.array([0, cut]), np.array([cut, len(numbers)])
    parts = from_values(array(numbers)).fold(lo, hi)
    whole = parts.fold(np.array([0]), np.array([2]))
    assert numbers_of(whole) == [sum((Fraction(v) for v in numbers), Fraction(0))]
    assert numbers_of(whole.fold(np.array([0]), np.array([1]))) == numbers_of(whole)


@given(NUMBERS_1)
@example([5e-324, 0.0])
@example([MAX, -MAX])
@example([1e16, 1e16 + 2.0])
@example([2**63 - 1, -(2**63)])
@example([-(2**63)] * 5)
def test_variance_numerator(numbers: list[Any]) -> None:
    n = len(numbers)
    ranges = [(0, n), (0, 1), (n - 1, n), (0, n // 2), (0, 0)]
    lo, hi = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
    total, squares = from_values(array(numbers)).fold(lo, hi), from_squares(array(numbers)).fold(lo, hi)
    got = variance_numerator(hi - lo, total, squares)
    want = []
    for a, b in ranges:
        part = [Fraction(v) for v in numbers[a:b]]
        want.append((b - a) * sum((v * v for v in part), Fraction(0)) - sum(part, Fraction(0)) ** 2)
    assert numbers_of(got, SQUARE_ORIGIN) == want
    same_floats(to_float(got, SQUARE_ORIGIN), [nearest(w) for w in want])


def limbs_of(wholes: list[int], base: int) -> Limbs:
    """These whole numbers, in units of the limb ``base``, with digits of either sign."""
    width = max(1, *(-(-abs(w).bit_length() // 32) for w in wholes))
    digits = [[(1 if w >= 0 else -1) * (abs(w) >> (32 * k) & 0xFFFFFFFF) for k in range(width)] for w in wholes]
    return Limbs(base, np.array(digits, np.int64))


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=20), st.integers(0, 70))
def test_rounding_of_any_number(wholes: list[int], base: int) -> None:
    x = limbs_of(wholes, base)
    same_floats(to_float(x), [nearest(n) for n in numbers_of(x)])


@pytest.mark.parametrize("exponent", [-1076, -1075, -1074, -1073, -1060, -1023, -1022, -1021, -100, 0, 52, 53, 64, 900, 969, 970, 971])
def test_rounding_at_and_beside_every_kind_of_tie(exponent: int) -> None:
    """Mantissas of 53 bits and a half, a hair less, a hair more; around the subnormal and the overflow borders."""
    rng = random.Random(exponent)
    wholes = []
    for _ in range(200):
        mantissa = rng.choice([1, 2, 3, 2**53 - 1, 2**53 - 2, 2**52, rng.getrandbits(53), rng.getrandbits(52), rng.getrandbits(8)])
        half = (2 * mantissa + 1) << 40
        wholes += [sign * (half + hair) for hair in (-1, 0, 1) for sign in (1, -1)]
    unit = exponent - 41 - ORIGIN  # the half bit stands at 2^(exponent - 1)
    if unit < 0:
        wholes = [w >> -unit for w in wholes]
        unit = 0
    base, shift = divmod(unit, 32)
    x = limbs_of([w << shift for w in wholes], base)
    same_floats(to_float(x), [nearest(n) for n in numbers_of(x)])


def test_the_border_of_overflow() -> None:
    edge = int(Fraction(2) ** (1024 - ORIGIN) - Fraction(2) ** (970 - ORIGIN))
    same_floats(to_float(limbs_of([edge - 1, edge, 1 - edge, -edge], 0)), [MAX, math.inf, -MAX, -math.inf])


def test_sums_of_many_numbers_that_cancel() -> None:
    rng = random.Random(7)
    numbers = [rng.uniform(-1, 1) * 10.0 ** rng.randint(-320, 300) for _ in range(3000)]
    numbers += [-v for v in numbers[:2990]] + [0.1] * 1000
    rng.shuffle(numbers)
    n = len(numbers)
    same_floats(
        to_float(from_values(array(numbers)).fold(np.array([0]), np.array([n]))), [nearest(sum(map(Fraction, numbers), Fraction()))]
    )
    prefix = np.arange(0, n, 500)
    want = [nearest(sum((Fraction(v) for v in numbers[:k]), Fraction(0))) for k in prefix]
    same_floats(to_float(from_values(array(numbers)).fold(np.zeros(len(prefix), np.int64), prefix)), want)


def test_many_extreme_digits_add_without_overflow() -> None:
    n = 200_000
    full = np.full(n, 2**63 - 1, np.int64)
    same_floats(to_float(from_values(full).fold(np.array([0]), np.array([n]))), [nearest(Fraction(n * (2**63 - 1)))])
    same_floats(to_float(from_values(-full).fold(np.array([0]), np.array([n]))), [nearest(Fraction(-n * (2**63 - 1)))])
    squares = from_squares(full).fold(np.array([0]), np.array([n]))
    assert numbers_of(squares, SQUARE_ORIGIN) == [Fraction(n * (2**63 - 1) ** 2)]
    total = from_values(full).fold(np.array([0]), np.array([n]))
    assert numbers_of(variance_numerator(np.array([n]), total, squares), SQUARE_ORIGIN) == [0]


def test_no_numbers() -> None:
    assert to_float(from_values(np.zeros(0))).shape == (0,)
    assert len(from_squares(np.zeros(0, np.int64)).digits) == 0
    empty = from_values(np.zeros(0)).fold(np.array([0, 0]), np.array([0, 0]))
    same_floats(to_float(empty), [0.0, 0.0])
