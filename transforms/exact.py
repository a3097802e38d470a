"""Exact sums of floats and integers as fixed-point numbers in 32-bit limbs.

A matrix of N numbers is ``digits`` (int64, shape [N, K]) with ``base``: number i is
``sum_k digits[i, k] * 2^(32 * (base + k) + origin)``, exactly. Digits carry signs and need not be normalised, so adding two
matrices digit by digit adds the numbers; that is what makes sums independent of order. Only the limbs that the data touch are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ORIGIN", "SQUARE_ORIGIN", "Limbs", "canonical", "from_squares", "from_values", "rounded", "to_float", "variance_numerator"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

ORIGIN = -1152  # a multiple of 32 below -1126, the exponent of the lowest bit that frexp gives for a subnormal
SQUARE_ORIGIN = 2 * ORIGIN
_MASK = np.int64(0xFFFFFFFF)


@dataclass(frozen=True)
class Limbs:
    """N exact numbers; see the module's text. Digits stay within +-2^32, so that 2^30 of them add up without overflow."""

    base: int
    digits: Int

    def window(self, base: int, width: int) -> Int:
        """The digits as a matrix [N, width] whose first limb is ``base`` (which must cover them)."""
        out = np.zeros((len(self.digits), width), np.int64)
        out[:, self.base - base : self.base - base + self.digits.shape[1]] = self.digits
        return out

    def fold(self, lo: Int, hi: Int) -> Limbs:
        """Row r of the result is the exact sum of the numbers ``lo[r]`` to ``hi[r]`` (exclusive), 0 where empty."""
        # Prefix sums may wrap around; their differences are right modulo 2^64 all the same.
        prefix = np.zeros((len(self.digits) + 1, self.digits.shape[1]), np.int64)
        np.cumsum(self.digits, axis=0, out=prefix[1:])
        return normalise(Limbs(self.base, prefix[hi] - prefix[lo]))


def normalise(x: Limbs) -> Limbs:
    """The same numbers with all digits but the last in [0, 2^32) and the last within +-2^32."""
    d = np.array(x.digits, order="F")
    for k in range(d.shape[1] - 1):
        d[:, k + 1] += d[:, k] >> 32
        d[:, k] &= _MASK
    if d.size and np.abs(d[:, -1]).max() >= 2**32:
        top = d[:, -1] >> 32
        d[:, -1] &= _MASK
        d = np.concatenate([d, top[:, None]], axis=1)
    return Limbs(x.base, d)


def _pieces(values: npt.NDArray[Any]) -> tuple[Int, list[npt.NDArray[np.uint64]], Int]:
    """(limb index, three digits of the magnitude, sign) of each value."""
    if values.dtype == np.int64:
        v = values.astype(np.int64)
        magnitude = np.where(v < 0, (~v).view(np.uint64) + np.uint64(1), v.view(np.uint64))
        limb = np.full(len(v), -ORIGIN // 32, np.int64)
        low, high = magnitude & np.uint64(_MASK), magnitude >> np.uint64(32)
        return limb, [low, high, np.zeros_like(low)], np.where(v < 0, -1, 1).astype(np.int64)
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
    whole = np.ldexp(mantissa, 53).astype(np.uint64)
    position = np.where(whole == 0, -ORIGIN, exponent.astype(np.int64) - 53 - ORIGIN)
    limb, shift = position >> 5, (position & 31).astype(np.uint64)
    low = (whole & np.uint64(_MASK)) << shift
    high = ((whole >> np.uint64(32)) << shift) + (low >> np.uint64(32))
    return limb, [low & np.uint64(_MASK), high & np.uint64(_MASK), high >> np.uint64(32)], np.where(values < 0, -1, 1).astype(np.int64)


def _place(limb: Int, pieces: list[npt.NDArray[np.uint64]], sign: Int) -> Limbs:
    if not len(limb):
        return Limbs(0, np.zeros((0, 1), np.int64))
    base = int(limb.min())
    digits = np.zeros((len(limb), int(limb.max()) - base + len(pieces)), np.int64)
    rows = np.arange(len(limb))
    for k, piece in enumerate(pieces):
        digits[rows, limb - base + k] += piece.astype(np.int64) * sign
    used = np.flatnonzero(digits.any(axis=0))
    if not len(used):
        return Limbs(0, np.zeros((len(limb), 1), np.int64))
    return Limbs(base + int(used[0]), np.ascontiguousarray(digits[:, used[0] : used[-1] + 1]))


def from_values(values: npt.NDArray[Any]) -> Limbs:
    """Each finite float64 or int64 of an array of shape [N], exactly (origin :data:`ORIGIN`)."""
    return _place(*_pieces(values))


def from_squares(values: npt.NDArray[Any]) -> Limbs:
    """The square of each value of an array of shape [N], exactly (origin :data:`SQUARE_ORIGIN`)."""
    limb, d, _ = _pieces(values)
    out = [np.zeros(len(limb), np.uint64) for _ in range(2 * len(d))]
    for i in range(len(d)):
        for j in range(len(d)):
            product = d[i] * d[j]
            out[i + j] += product & np.uint64(_MASK)
            out[i + j + 1] += product >> np.uint64(32)
    return normalise(_place(2 * limb, out, np.ones(len(limb), np.int64)))


def _magnitude(x: Limbs) -> tuple[Limbs, npt.NDArray[np.bool_]]:
    """(absolute values with every digit in [0, 2^32), which were negative)."""

    def carried(d: Int) -> Int:
        out = np.zeros((len(d), d.shape[1] + 1), np.int64, order="F")  # limb by limb in memory, as it is worked on
        out[:, :-1] = d
        for k in range(d.shape[1]):
            out[:, k + 1] += out[:, k] >> 32
            out[:, k] &= _MASK
        return out

    d = carried(x.digits)
    negative = d[:, -1] < 0
    if negative.any():
        d[negative] = -d[negative]
        d = carried(d)
    used = np.flatnonzero(d.any(axis=0))
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    return Limbs(x.base + first, d[:, first : last + 1]), negative


def canonical(x: Limbs) -> Limbs:
    """The same numbers as sign and magnitude, every digit within +-(2^32 - 1) and of the number's sign: one form per number."""
    least, most = x.digits.min(initial=0), x.digits.max(initial=0)
    one_sign = least == 0 or most == 0 or not ((x.digits > 0).any(axis=1) & (x.digits < 0).any(axis=1)).any()
    if one_sign and least > -(2**32) and most < 2**32:
        return x
    magnitude, negative = _magnitude(x)
    if negative.any():
        magnitude.digits[negative] *= -1
    return magnitude


class Rounds(Protocol):
    """Exact numbers that know how to be rounded, as :func:`to_float` says, without being made a matrix."""

    def rounded(self) -> Float: ...


def to_float(x: Limbs | Rounds, origin: int = ORIGIN) -> Float:
    """The numbers rounded to the nearest float64, ties to even (as IEEE 754 defines it), subnormals included; +-inf beyond the range."""
    if not isinstance(x, Limbs):
        return x.rounded()
    if not len(x.digits):
        return np.zeros(0)
    magnitude, negative = _magnitude(x)
    shift_all = 32 * magnitude.base + origin
    if magnitude.digits.shape[1] <= 2 and int(magnitude.digits[:, -1].max()) < 2**31 and -1022 <= shift_all <= 900:
        # Whole numbers below 2^63 times a power of two: the processor rounds them to nearest even, and scaling is exact.
        whole_part = magnitude.digits[:, 0]
        if magnitude.digits.shape[1] == 2:
            whole_part = whole_part | (magnitude.digits[:, 1] << 32)
        scaled = np.ldexp(whole_part.astype(np.float64), shift_all)
        return np.where(negative, -scaled, scaled)
    d = np.concatenate([np.zeros((len(x.digits), 2), np.int64), magnitude.digits], axis=1).astype(np.uint64)
    nonzero = d != 0
    top = d.shape[1] - 1 - np.argmax(nonzero[:, ::-1], axis=1)
    top = np.maximum(top, 2)
    rows = np.arange(len(d))
    first, second, third = d[rows, top], d[rows, top - 1], d[rows, top - 2]
    below = np.concatenate([np.zeros((len(d), 1), bool), np.logical_or.accumulate(nonzero, axis=1)], axis=1)
    sticky = below[rows, top - 2]
    lead = np.uint64(32) - np.frexp(first.astype(np.float64))[1].astype(np.uint64)  # leading zeros of the first digit
    spare = np.uint64(32) - lead
    v = (((first << np.uint64(32)) | second) << lead) | (third >> spare)
    sticky |= (third & ((np.uint64(1) << spare) - np.uint64(1))) != 0
    position = 32 * (magnitude.base - 2 + top.astype(np.int64) - 1) - lead.astype(np.int64) + origin
    drop = np.clip(-1074 - position, 11, 65)
    shift = np.minimum(drop, 63).astype(np.uint64)
    quotient, rest = v >> shift, v & ((np.uint64(1) << shift) - np.uint64(1))
    half = np.uint64(1) << (shift - np.uint64(1))
    up = (rest > half) | ((rest == half) & (sticky | ((quotient & np.uint64(1)) == 1)))
    whole = np.uint64(1) << np.uint64(63)
    up = np.where(drop == 64, (v > whole) | ((v == whole) & sticky), up & (drop < 64))
    quotient = np.where(drop >= 64, np.uint64(0), quotient) + up.astype(np.uint64)
    with np.errstate(over="ignore"):
        out = np.ldexp(quotient.astype(np.float64), np.clip(position + drop, -3000, 3000).astype(np.int32))
    out = np.where(nonzero.any(axis=1), out, 0.0)
    return np.where(negative, -out, out)


def rounded(number: int, power: int) -> float:
    """``number * 2^power`` rounded as :func:`to_float` says."""
    try:
        return float(number << power) if power >= 0 else number / (1 << -power)  # of whole numbers, both round once
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _halves(x: Limbs) -> npt.NDArray[np.int64]:
    """Non-negative digits split in two of 16 bits: shape [N, 2K]."""
    out = np.empty((len(x.digits), 2 * x.digits.shape[1]), np.int64, order="F")
    out[:, 0::2] = x.digits & 0xFFFF
    out[:, 1::2] = x.digits >> 16
    return out


def variance_numerator(n: Int, total: Limbs, squares: Limbs) -> Limbs:
    """``n * sum(x^2) - sum(x)^2`` exactly (origin :data:`SQUARE_ORIGIN`), for n < 2^31 values each; shape [N]."""
    s1, _ = _magnitude(total)
    s2, _ = _magnitude(squares)
    a, b = _halves(s1), _halves(s2)
    base = min(4 * s1.base, 2 * s2.base) & ~1
    width = max(4 * s1.base + 2 * a.shape[1], 2 * s2.base + b.shape[1]) - base + 6
    out = np.zeros((len(n), width + width % 2), np.int64, order="F")
    out[:, 2 * s2.base - base : 2 * s2.base - base + b.shape[1]] += b * n[:, None]
    start = 4 * s1.base - base
    for i in range(a.shape[1]):
        out[:, start + i : start + i + a.shape[1]] -= a * a[:, i : i + 1]
    for k in range(out.shape[1] - 1):
        out[:, k + 1] += out[:, k] >> 16
        out[:, k] &= 0xFFFF
    return Limbs(base // 2, out[:, 0::2] + (out[:, 1::2] << 16))
