"""And, or, not, null and choice. Truth has three values, as in SQL: null is neither true nor false.

What does not decide a row is not looked at: the right side of ``&`` where the left one is false, of ``|`` where it is true; in ``case``
and ``coalesce`` what stands after the one that holds. A division by zero there is no fault of the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.expressions.values import Bools, Codes, Values, arrow_of
from transforms.reasons import OK

__all__ = ["both", "choose", "either", "first_present", "inverted", "is_null", "list_contains", "list_length"]


def both(a: Values, b: Values) -> Values:
    """``a & b``: false where one is false, else null where one is null."""
    return _joined(a, b, np.False_)


def either(a: Values, b: Values) -> Values:
    """``a | b``: true where one is true, else null where one is null."""
    return _joined(a, b, np.True_)


def _joined(a: Values, b: Values, decisive: np.bool_) -> Values:
    data = a.data & b.data if not decisive else a.data | b.data
    if a.null is None and b.null is None:
        return Values(data)
    left, right = _nulls(a), _nulls(b)
    settled_left = ~left & (a.data == decisive)
    settled_right = ~right & (b.data == decisive)
    bad: Codes | None = None
    if a.bad is not None or b.bad is not None:
        first, second = _codes(a), _codes(b)
        bad = np.where(first != OK, first, np.where(settled_left, OK, second))
        settled_right &= first == OK
    null = ~(settled_left | settled_right) & (left | right)
    return Values(np.where(settled_left | settled_right, decisive, data), null, bad)


def inverted(a: Values) -> Values:
    """``~a``: null stays null."""
    return Values(~a.data, a.null, a.bad)


def is_null(a: Values, rows: int) -> Values:
    """Whether there is no value; never null."""
    if isinstance(a.data, pa.Array):
        null: Bools = a.data.is_null().to_numpy(zero_copy_only=False)
        null = null if a.null is None else null | a.null
    else:
        null = np.zeros(rows, bool) if a.null is None else a.null
    return Values(null, None if a.bad is None else a.bad != OK, a.bad)


def is_true(a: Values) -> Values:
    """Whether it is true; false where it is null."""
    return Values(a.data if a.null is None else a.data & ~a.null, None if a.bad is None else a.bad != OK, a.bad)


def first_present(args: list[Values], dtype: str, rows: int) -> Values:
    """The first value that is not null."""
    return choose([(is_null(Values(a.data, a.null, None), rows), a) for a in args[:-1]], args[-1], dtype, rows, coalesce=True)


def choose(pairs: list[tuple[Values, Values]], otherwise: Values, dtype: str, rows: int, *, coalesce: bool = False) -> Values:
    """The value beside the first condition that is true, else ``otherwise``; with ``coalesce`` beside the first that is false."""
    open_rows = np.ones(rows, bool)
    picked = np.full(rows, len(pairs))
    bad: Codes = np.full(rows, OK)
    for k, (condition, value) in enumerate(pairs):
        if coalesce:
            # A value that cannot be read is not a missing one.
            broken = _codes(value) != OK if value.bad is not None else np.zeros(rows, bool)
            holds = ~condition.data | broken
        else:
            if condition.bad is not None:
                failed = open_rows & (condition.bad != OK)
                bad[failed] = condition.bad[failed]
            holds = condition.data & ~_nulls(condition)
        picked[open_rows & holds] = k
        open_rows &= ~holds
    values = [*(v for _, v in pairs), otherwise]
    for k, value in enumerate(values):
        if value.bad is not None:
            of = (picked == k) & (bad == OK)
            bad[of] = value.bad[of]
    null: Bools = bad != OK
    for k, value in enumerate(values):
        if value.null is not None:
            null |= (picked == k) & value.null
    found = None if not (bad != OK).any() else bad
    if dtype == "string" or dtype.startswith("list<"):
        arrays = [v.data if isinstance(v.data, pa.Array | pa.Scalar) else pa.nulls(rows, _arrow(values)) for v in values]
        made = arrays[-1]
        for k in reversed(range(len(pairs))):
            made = pc.if_else(pa.array(picked == k), arrays[k], made)
        return _known(made, null, found)
    made_data = values[-1].data
    for k in reversed(range(len(pairs))):
        made_data = np.where(picked == k, values[k].data, made_data)
    return Values(made_data, null, found)


def _known(made: Any, null: Bools, bad: Codes | None) -> Values:
    if isinstance(made, pa.Scalar):
        return Values(made, null, bad)
    return Values(made, null | made.is_null().to_numpy(zero_copy_only=False), bad)


def _arrow(values: list[Values]) -> pa.DataType:
    return next((v.data.type for v in values if isinstance(v.data, pa.Array | pa.Scalar)), pa.string())


def _nulls(a: Values) -> Bools:
    return np.zeros(len(a.data), bool) if a.null is None else a.null


def _codes(a: Values) -> Codes:
    return np.full(len(a.data), OK) if a.bad is None else a.bad


def list_length(a: Values, dtype: str, rows: int) -> Values:
    """How many elements a list has; of a text, how many code points."""
    array, _ = arrow_of(a, dtype, rows)
    length = pc.utf8_length(array) if dtype == "string" else pc.list_value_length(array)
    return Values(pc.fill_null(length, 0).to_numpy(zero_copy_only=False).astype(np.int64), a.null, a.bad)


def list_contains(a: Values, value: Any, dtype: str, rows: int) -> Values:
    """Whether an element of the list equals ``value``."""
    array, _ = arrow_of(a, dtype, rows)
    hit = pc.fill_null(pc.equal(array.flatten(), pa.scalar(value, array.type.value_type)), False).to_numpy(zero_copy_only=False)
    made = np.zeros(rows, bool)
    made[pc.list_parent_indices(array).to_numpy(zero_copy_only=False)[hit]] = True
    return Values(made, a.null, a.bad)
