"""Exact sums of overlapping windows over a row of numbers, rounded: in floats with a proven bound where that settles the rounding, in
whole numbers of any length where it does not (Ziv 1991: of two ways to one result, the short one is taken when it cannot be wrong).

A window's sum is the difference of two prefix sums, limb by limb: exact, and flat in the length of the window. Each prefix sum as two
floats is a prefix sum to within 2^-104 or so of the greatest; the difference of two decides the nearest float64 of most windows. Where a
window is small beside what came before it, its own leading limbs make two floats whose sum is the window's to within 2^-90 or so of its own
size; the rare cases that are left are computed exactly. So the value is that of :func:`transforms.exact.to_float` to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.exact import SQUARE_ORIGIN, Limbs, normalise, rounded, to_float, variance_numerator
from transforms.exact_lists import CHUNK, Lists, bulk_of
from transforms.windows import Extremes

__all__ = ["Prefix", "WindowSums", "variance"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]

LEADING = 4
"""So many limbs are looked at: they hold 97 bits at least of a sum that does not cancel."""
WIDE = 6
"""Prefix sums of more limbs are not made floats: windows differ in size by far more than floats tell apart."""
LANES = 30
"""Of more limbs the last are nothing in units of the topmost one: a float64 ends at 2^-1074."""
PART = 8_192
"""Variances are computed for so many windows at a time: the forty numbers of each that are made on the way stay near the processor."""
FEW = 64
"""So many windows that are left are computed one by one, in Python's whole numbers: less work than a matrix of them."""
LONG = 2**20
"""Sums of so many digits are whole numbers below 2^53, which a float64 holds."""
MANY = 2**26
"""Of so many values the products in floats are not exact."""
MODERATE = 100
"""Prefix sums whose unit is within so many powers of two of 1 are kept as they are, in units of 1: their products neither overflow nor lose
bits at the lower end."""
_LIMB = 2.0**-32


class Prefix:
    """Prefix sums of N numbers: of the limbs that the bulk of them has, and apart of the few that have others."""

    def __init__(self, numbers: Lists, origin: int) -> None:
        self.origin, whole = origin, slice(None)
        off = bulk_of(*numbers.reach(whole))
        self.far: Limbs | None = None
        if off is None or not off.any():
            x = numbers.dense(whole)
        else:
            at = np.flatnonzero(off)
            x = numbers.dense(np.flatnonzero(~off))
            far = numbers.dense(at)
            self.far = Limbs(far.base, _prefix(far.digits.T))
            self.far_before = np.append(0, np.cumsum(off))
            digits = np.zeros((x.digits.shape[1], len(numbers)), np.int64)
            digits[:, ~off] = x.digits.T
            x = Limbs(x.base, digits.T)
        self.base, limbs = x.base, x.digits.shape[1]
        self._padded = _prefix(x.digits.T, LEADING - 1 if limbs > LEADING else 0)
        self.sums = self._padded[len(self._padded) - limbs :]
        """Shape [limbs, N + 1]."""

    @cached_property
    def leading(self) -> tuple[Extremes, Int] | None:
        """(the topmost limb of any range, the sums with three limbs of zeros below them, so that four can be read from any on); None where
        there are no more than four."""
        if len(self.sums) <= LEADING:
            return None
        top = np.zeros(self.sums.shape[1] - 1, np.int16)
        for k, sums in enumerate(self.sums):
            top[sums[1:] != sums[:-1]] = k
        return Extremes(top, np.int16(0)), self._padded

    @cached_property
    def near(self) -> tuple[Float, Float, float, int] | None:
        """(high, low, bound of what the difference of two misses, the power of two they are all in units of) of every prefix sum; None
        where that would say little. All high parts are multiples of one power of two and all low parts of another, none beyond 2^52 of its
        own and no low part beyond one of the other: the differences of high parts, and those of low parts, are exact."""
        lanes = self.sums
        if len(lanes) > min(WIDE, LANES) or lanes.shape[1] > LONG:
            return None
        high, low, error = _added([lane.astype(np.float64) for lane in lanes[::-1]])
        missed, greatest = float(error.max(initial=0.0)), float(np.abs(high).max(initial=0.0))
        exponent = max(int(np.frexp(greatest)[1]), -800)
        coarse, fine = 2.0 ** (exponent - 52), 2.0 ** (exponent - 104)
        whole = np.rint(high * (1.0 / coarse)) * coarse
        low += high - whole
        bits = int(np.bitwise_or.reduce(lanes[0]))
        bound = 0.0
        if missed > 0.0 or fine > (bits & -bits) * _LIMB ** (len(lanes) - 1):  # else all are multiples of the last bit that any has
            low = np.rint(low * (1.0 / fine)) * fine
            bound = 2.0 * (missed + fine)  # each missed so much, and was rounded twice by half of the last bit that is kept
        shift = 32 * (self.base + len(self.sums) - 1) + self.origin
        if abs(shift) > MODERATE:
            return whole, low, bound, shift
        one = 2.0**shift  # once here, rather than in each window
        return whole * one, low * one, bound * one, 0

    @property
    def unit(self) -> int:
        """All numbers, and their sums, are whole numbers of this power of two."""
        base = self.base if self.far is None else min(self.base, self.far.base)
        return 32 * base + self.origin

    def numbers(self, lo: Int, hi: Int) -> list[int]:
        """The sums of these windows as whole numbers of :attr:`unit`."""
        out = [0] * len(lo)
        parts = [(self.base, self.sums, lo, hi)]
        if self.far is not None:
            parts.append((self.far.base, self.far.digits, self.far_before[lo], self.far_before[hi]))
        for base, sums, begin, end in parts:
            for k, digits in enumerate((sums[:, end] - sums[:, begin]).tolist()):
                up = 32 * (base + k) + self.origin - self.unit
                out = [number + (digit << up) for number, digit in zip(out, digits, strict=True)]
        return out

    def exactly(self, lo: Int, hi: Int) -> Limbs:
        """The sums of these windows in whole numbers."""
        near = normalise(Limbs(self.base, (self.sums[:, hi] - self.sums[:, lo]).T))
        if self.far is None:
            return near
        lo, hi = self.far_before[lo], self.far_before[hi]
        if not (hi > lo).any():
            return near
        digits = (self.far.digits[:, hi] - self.far.digits[:, lo]).T
        base = min(near.base, self.far.base)
        width = max(near.base + near.digits.shape[1], self.far.base + digits.shape[1]) - base
        return normalise(Limbs(base, near.window(base, width) + Limbs(self.far.base, digits).window(base, width)))


def _prefix(columns: Int, zeros: int = 0) -> Int:
    """The prefix sums of these columns, below so many rows of zeros."""
    # Sums may wrap around; their differences are right modulo 2^64 all the same.
    out = np.zeros((zeros + columns.shape[0], columns.shape[1] + 1), np.int64)
    np.cumsum(columns, axis=1, out=out[zeros:, 1:])
    return out


@dataclass(frozen=True)
class Near:
    """Numbers ``(high + low) * 2^shift`` to within ``error * 2^shift``; NaN where that is not known. ``high`` is the float nearest to
    ``high + low``, so numbers without an error are as certain as can be. All numbers are multiples of ``2^least``."""

    high: Float
    low: Float
    error: Float | float
    shift: Any
    least: int

    def rounded(self) -> tuple[Float, Bool]:
        """(the nearest float64 of each number, which may be ``high`` itself; where that is certain)."""
        value = _scaled(self.high, self.shift)
        if isinstance(self.error, float) and self.error == 0.0:
            sure = ~np.isnan(value)
        else:
            room = np.abs(self.low)
            room *= 2.0**-50
            room += self.error
            exact = np.equal(self.error, 0.0)
            if exact.any():
                room[exact] = 0.0
            edge = self.low + room
            edge += self.high
            sure = edge == self.high  # NaN is not equal to itself
            np.subtract(self.low, room, out=edge)
            edge += self.high
            sure &= edge == self.high
        if self.least < -1021:
            sure &= (np.abs(value) >= 2.0**-1021) | (self.high == 0.0)  # subnormals have fewer bits
        return value, sure

    def some(self, rows: Int) -> Near:
        """Some of the numbers."""
        error, shift = ((x[rows] if isinstance(x, np.ndarray) else x) for x in (self.error, self.shift))
        return Near(self.high[rows], self.low[rows], error, shift, self.least)


@dataclass(frozen=True)
class WindowSums:
    """The exact sums of the numbers ``lo[r] .. hi[r] - 1``, R windows."""

    prefix: Prefix
    lo: Int
    hi: Int

    @cached_property
    def near(self) -> Near:
        """The sums in two floats each: as differences of prefix sums that are two floats, where that says enough."""
        p = self.prefix
        if p.near is None:
            return self.nearer
        before_high, before_low, error, shift = p.near
        whole = before_high.take(self.hi)
        whole -= before_high.take(self.lo)
        rest = before_low.take(self.hi)
        rest -= before_low.take(self.lo)
        high = whole + rest
        low = rest - (high - whole)  # exact, as no rest has a greater exponent than the whole but where that is 0 (Dekker)
        if p.far is not None:
            high[p.far_before.take(self.hi) > p.far_before.take(self.lo)] = np.nan
        return Near(high, low, error, shift, p.unit)

    @cached_property
    def nearer(self) -> Near:
        """The sums in two floats each, of the window's own leading limbs."""
        p, lo, hi = self.prefix, self.lo, self.hi
        unit = 32 * p.base + p.origin
        if p.leading is None:
            lanes = [(s.take(hi) - s.take(lo)).astype(np.float64) for s in p.sums[::-1]]
            shift: Any = unit + 32 * (len(lanes) - 1)
        else:
            extremes, sums = p.leading
            top = extremes.of(lo, hi).astype(np.int64)
            flat, n = sums.reshape(-1), sums.shape[1]
            at = (top + LEADING - 1) * n
            lanes = []
            for _ in range(LEADING):
                lanes.append((flat.take(at + hi) - flat.take(at + lo)).astype(np.float64))
                at -= n
            shift = unit + 32 * top
        high, low, error = _added(lanes)
        if p.leading is not None:
            error = error + np.where(top >= LEADING, 2.0 * _LIMB ** (LEADING - 1), 0.0) * (hi - lo)
        unknown = hi - lo > LONG
        if p.far is not None:
            unknown |= p.far_before.take(hi) > p.far_before.take(lo)
        if unknown.any():
            high[unknown] = np.nan
        return Near(high, low, error, shift, p.unit)

    def some(self, rows: Int) -> WindowSums:
        """Some of the windows."""
        return WindowSums(self.prefix, self.lo[rows], self.hi[rows])

    def rounded(self) -> Float:
        """The sums rounded to the nearest float64, as :func:`transforms.exact.to_float` says."""
        p = self.prefix
        unit = 32 * p.base + p.origin
        if len(p.sums) == 1 and p.far is None and p.sums.shape[1] <= LONG and -1022 <= unit <= 900:
            whole: Float = (p.sums[0].take(self.hi) - p.sums[0].take(self.lo)) * 2.0**unit  # whole numbers below 2^53
            return whole
        with np.errstate(invalid="ignore", over="ignore"):
            value, sure = self.near.rounded()
            left = np.flatnonzero(~sure)
            if len(left) and value is self.near.high:
                value = value.copy()
            if len(left) > FEW and p.near is not None:
                value[left], known = self.some(left).nearer.rounded()
                left = left[~known]
        if len(left) <= FEW:
            value[left] = [rounded(number, p.unit) for number in p.numbers(self.lo[left], self.hi[left])]
        else:
            _in_parts(left, value, lambda r: to_float(self.exactly(r), p.origin))
        return value

    def exactly(self, rows: Int) -> Limbs:
        """The sums of some of the windows in whole numbers."""
        return self.prefix.exactly(self.lo[rows], self.hi[rows])


def variance(n: Int, total: WindowSums, squares: WindowSums) -> Float:
    """``n * sum(x^2) - sum(x)^2`` of R windows, the same of both sums, rounded once to float64, as
    :func:`transforms.exact.variance_numerator` says."""
    whole = _whole(n, total, squares)
    if whole is not None:
        return whole
    out = np.zeros(len(n))
    several = np.flatnonzero(n > 1)  # of one value nothing is left
    for start in range(0, len(several), PART):
        some = several[start : start + PART]
        part = total.some(some)
        out[some] = _variance(n[some], total.near.some(some), part, WindowSums(squares.prefix, part.lo, part.hi))
    return out


def _variance(n: Int, near: Near, total: WindowSums, squares: WindowSums) -> Float:
    """The variance's numerators of windows of several values; ``near``: the sums of ``total``."""
    with np.errstate(invalid="ignore", over="ignore"):
        value, sure = _near_variance(n, near, squares.near).rounded()
        left = np.flatnonzero(~sure)
        if len(left) > FEW and (total.prefix.near is not None or squares.prefix.near is not None):
            value[left], known = _near_variance(n[left], total.some(left).nearer, squares.some(left).nearer).rounded()
            left = left[~known]
    if len(left) <= FEW:
        value[left] = _numerators(n[left], total.some(left), squares.some(left))
    else:
        _in_parts(left, value, lambda r: to_float(variance_numerator(n[r], total.exactly(r), squares.exactly(r)), SQUARE_ORIGIN))
    return value


def _numerators(n: Int, total: WindowSums, squares: WindowSums) -> list[float]:
    """The variance's numerators, one by one."""
    s1, s2 = (each.prefix.numbers(total.lo, total.hi) for each in (total, squares))
    unit = min(2 * total.prefix.unit, squares.prefix.unit)
    up1, up2 = 2 * total.prefix.unit - unit, squares.prefix.unit - unit
    return [rounded((k * b << up2) - (a * a << up1), unit) for k, a, b in zip(n.tolist(), s1, s2, strict=True)]


def _whole(n: Int, total: WindowSums, squares: WindowSums) -> Float | None:
    """The variance's numerators where all of it fits into 63 bits: of small whole numbers; else None."""
    a, b = total.prefix, squares.prefix
    if a.far is not None or b.far is not None or len(a.sums) > 1 or len(b.sums) > 2 or 2 * a.base != b.base or not len(n):
        return None
    s1 = a.sums[0].take(total.hi) - a.sums[0].take(total.lo)
    s2 = b.sums[0].take(squares.hi) - b.sums[0].take(squares.lo)
    if len(b.sums) == 2:
        high = b.sums[1].take(squares.hi) - b.sums[1].take(squares.lo)
        if int(high.max()) >= 2**29:
            return None
        s2 += high << 32
    # By Cauchy and Schwarz sum(x)^2 is no greater than n * sum(x^2).
    if int(n.max()) * int(s2.max()) >= 2**62 or int(n.max()) > LONG:
        return None
    out: Float = _scaled((n * s2 - s1 * s1).astype(np.float64), 32 * b.base + SQUARE_ORIGIN)
    return out


def _near_variance(n: Int, total: Near, squares: Near) -> Near:
    """The numerators in two floats each: products and sums keep their rounding errors (Dekker 1971, Knuth)."""
    count = n.astype(np.float64)
    if n.max(initial=0) >= MANY:
        count[n >= MANY] = np.nan
    p, p_low = _times(squares.high, count)
    p_low += squares.low * count
    q, q_low = _square(total.high)
    q_low += (2.0 * total.high + total.low) * total.low
    error = squares.error * count
    q_error: Any = 0.0
    if not isinstance(total.error, float) or total.error:
        q_error = (2.0 * np.abs(total.high) + total.error) * total.error
    scale = 2 * total.shift - squares.shift
    if np.any(scale):
        q, q_low, q_error = _scaled(q, scale), _scaled(q_low, scale), _scaled(q_error, scale)
    # Each of the products' low parts was rounded a few times: a few times 2^-106 of the products.
    room = np.abs(p)
    room += q
    room *= 2.0**-99
    error += room
    error += q_error
    high, low = _sum(p, np.negative(q, out=q))
    p_low -= q_low
    low += p_low
    high, low = _sum(high, low)
    return Near(high, low, error, squares.shift, min(2 * total.least, squares.least))


def _in_parts(rows: Int, value: Float, of: Callable[[Int], Float]) -> None:
    """Set ``value`` at ``rows`` to what ``of`` gives for them, some at a time."""
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        value[some] = of(some)


def _sum(a: Float, b: Float) -> tuple[Float, Float]:
    """(a + b rounded, what the rounding left out exactly)."""
    s = a + b
    t = s - a
    rest = s - t
    np.subtract(a, rest, out=rest)
    rest += np.subtract(b, t, out=t)
    return s, rest


def _times(a: Float, b: Float) -> tuple[Float, Float]:
    """(a * b rounded, what the rounding left out exactly) for whole numbers ``b`` below :data:`MANY`."""
    p = a * b
    high, low = _split(a)
    high *= b
    high -= p
    low *= b
    high += low
    return p, high


def _square(a: Float) -> tuple[Float, Float]:
    """(a * a rounded, what the rounding left out exactly)."""
    p = a * a
    high, low = _split(a)
    rest = high * high
    np.subtract(p, rest, out=rest)
    high *= 2.0
    high *= low
    rest -= high
    low *= low
    low -= rest
    return p, low


def _split(a: Float) -> tuple[Float, Float]:
    """Two floats of half the bits each that add up to ``a``."""
    high = a * 134217729.0
    low = high - a
    high -= low
    return high, np.subtract(a, high, out=low)


def _scaled(a: Any, power: Any) -> Any:
    """``a * 2^power``, as :func:`numpy.ldexp`; ``a`` itself where that is the same."""
    if isinstance(power, int) and not power:
        return a
    return a * 2.0**power if isinstance(power, int) and -1022 <= power <= 1023 else np.ldexp(a, power)


def _added(lanes: list[Float]) -> tuple[Float, Float, Float]:
    """(high, low, bound of what they miss) of the sum of lanes, each 2^-32 of the one before; in units of the first."""
    scaled = [lane if k == 0 else lane * _LIMB**k for k, lane in enumerate(lanes)]
    zero = np.zeros(len(scaled[0]))
    if len(scaled) == 1:
        return scaled[0], zero, zero
    high, left = _sum(scaled[-2], scaled[-1])
    missed = zero
    for lane in reversed(scaled[:-2]):
        high, low = _sum(lane, high)
        left, missing = _sum(left, low)
        missed = missed + np.abs(missing)
    high, low = _sum(high, left)
    return high, low, missed * 2.0
