"""Arithmetic on columns of int64 and float64, by numpy: the same on every version of Arrow, and in every row whatever the others hold.

What a type cannot hold has a reason instead of a value: ``overflow`` beyond int64, and for an int64 that becomes a float64 beyond 2^53;
``infinite`` and ``nan`` for floats that are none. Division by zero is IEEE's for integers too: infinite, ``0 / 0`` and ``x % 0`` nan.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from transforms.expressions.values import Bools, Values, marked, strict
from transforms.reasons import INFINITE, NAN, OK, OVERFLOW

__all__ = ["absolute", "arithmetic", "compared", "extreme", "negative", "rounded", "to_float", "within"]

_MIN, _EXACT = -(2**63), 2**53


def to_float(a: Values) -> Values:
    """int64 as float64, where that is exact for every integer of its size."""
    return marked(Values(a.data.astype(np.float64), a.null, a.bad), (a.data > _EXACT) | (a.data < -_EXACT), OVERFLOW)


def _floats(data: Any, null: Bools | None, bad: Any) -> Values:
    made = Values(data + 0.0, null, bad)  # no -0.0
    if np.isfinite(data).all():
        return made
    return marked(marked(made, np.isnan(data), NAN), np.isinf(data), INFINITE)


def arithmetic(op: str, dtype: str, a: Values, b: Values) -> Values:
    """``+ - * / // %`` of two columns of ``dtype``; ``/`` takes float64 alone. ``//`` and ``%`` round down, as Python's do."""
    null, bad = strict(a, b)
    x, y = a.data, b.data
    with np.errstate(all="ignore"):
        if dtype == "float64":
            if op == "//":
                return _floats(np.where(y == 0, x / y, np.floor_divide(x, y)), null, bad)
            python: dict[str, Any] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": np.mod}
            return _floats(python[op](x, y), null, bad)
        if op == "+":
            made = x + y
            return marked(Values(made, null, bad), ((x ^ made) & (y ^ made)) < 0, OVERFLOW)
        if op == "-":
            made = x - y
            return marked(Values(made, null, bad), ((x ^ y) & (x ^ made)) < 0, OVERFLOW)
        if op == "*":
            return _product(x, y, null, bad)
        zero = y == 0
        divisor = np.where(zero, 1, y)
        if op == "%":
            made = np.where(divisor == -1, 0, np.mod(x, np.where(divisor == -1, 1, divisor)))
            return marked(Values(made, null, bad), zero, NAN)
        made = Values(np.floor_divide(x, divisor), null, bad)
        made = marked(made, (x == _MIN) & (divisor == -1), OVERFLOW)
        return marked(marked(made, zero & (x == 0), NAN), zero, INFINITE)


def _product(x: Any, y: Any, null: Bools | None, bad: Any) -> Values:
    made = Values(x * y, null, bad)
    if not len(x) or float(np.abs(x.astype(np.float64)).max()) * float(np.abs(y.astype(np.float64)).max()) < 2.0**62:
        return made
    # Only the quotient of a product that was not cut off is the other factor again; -2^63 / -1 is none.
    least = ((x == _MIN) & (y == -1)) | ((y == _MIN) & (x == -1))
    divisor = np.where((x == 0) | least, 1, x)
    return marked(made, least | ((x != 0) & (made.data // divisor != y)), OVERFLOW)


def negative(dtype: str, a: Values) -> Values:
    """``-x``."""
    if dtype == "float64":
        return Values(-a.data + 0.0, a.null, a.bad)
    with np.errstate(all="ignore"):
        return marked(Values(-a.data, a.null, a.bad), a.data == _MIN, OVERFLOW)


def absolute(dtype: str, a: Values) -> Values:
    """``abs(x)``."""
    with np.errstate(all="ignore"):
        made = Values(np.abs(a.data), a.null, a.bad)
    return made if dtype == "float64" else marked(made, a.data == _MIN, OVERFLOW)


def rounded(how: str, a: Values) -> Values:
    """A float64 as a whole one: ``floor``, ``ceil``, or ``round`` to the nearest, of two the even one."""
    kernels: dict[str, Any] = {"floor": np.floor, "ceil": np.ceil, "round": np.rint}
    return Values(kernels[how](a.data) + 0.0, a.null, a.bad)


def compared(op: str, a: Values, b: Values) -> Values:
    """``== != < <= > >=`` of two columns of numbers, moments or booleans; an int64 with a float64 is compared exactly."""
    null, bad = strict(a, b)
    x, y = a.data, b.data
    compares: dict[str, Any] = {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    compare = compares[op]
    if x.dtype == y.dtype:
        return Values(compare(x, y), null, bad)
    made = compare(x.astype(np.float64), y.astype(np.float64))
    whole = x if x.dtype == np.int64 else y
    for row in np.flatnonzero((whole > _EXACT) | (whole < -_EXACT)).tolist():
        made[row] = compare(x[row].item(), y[row].item())
    return Values(made, null, bad)


def within(a: Values, values: list[Any]) -> Values:
    """Whether it is one of ``values``, of the column's own type."""
    return Values(np.isin(a.data, np.array(values, a.data.dtype)), a.null, a.bad)


def extreme(which: str, args: list[Values]) -> Values:
    """The least (``min_of``) or greatest (``max_of``) of the values in a row that are not null; null where all are."""
    _, bad = strict(*args)
    pick = np.less if which == "min_of" else np.greater
    best, have = args[0].data, _present(args[0])
    for a in args[1:]:
        present = _present(a)
        best = np.where(present & (~have | pick(a.data, best)), a.data, best)
        have = have | present
    return Values(best, ~have if bad is None else ~have | (bad != OK), bad)


def _present(a: Values) -> Bools:
    return np.ones(len(a.data), bool) if a.null is None else ~a.null
