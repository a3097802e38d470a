"""A plan is used only after it was held against the function that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy.typing as npt

from transforms.plan.compiler import REWRITES, Plan, compiled

__all__ = ["checked"]

Array = npt.NDArray[Any]
S = TypeVar("S")
_ONE_BY_ONE = 48
"""How many sample rows are tried alone where the function fails on one of them."""


def checked(
    function: Any,
    sample: Callable[[Plan], S],
    flat: Callable[[S, int, int], list[Array]],
    call: Callable[[list[Array]], list[Array]],
    rows: int,
) -> tuple[Plan | None, str]:
    """(a plan of a concrete function, or None; why there is none).

    It gave, bit for bit, what ``call`` gave for the flat arguments ``flat(sample, first row, rows)``: of all ``rows`` sample
    rows and of one alone.
    """
    why = ""
    for rewrites in REWRITES:
        try:
            plan = compiled(function, rewrites)
        except Exception as error:  # whatever a graph has that plans do not know
            return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        made = sample(plan)
        why = _difference(plan, lambda start, n, made=made: flat(made, start, n), call, rows)  # type: ignore[misc]
        if not why:
            return plan, ""
    return None, why


def _difference(plan: Plan, flat: Callable[[int, int], list[Array]], call: Callable[[list[Array]], list[Array]], rows: int) -> str:
    for start, n in ((0, rows), (3, 1)):
        arrays = flat(start, n)
        try:
            expected = call(arrays)
        except Exception:
            return _one_by_one(plan, flat, call)
        if why := plan.first_difference(arrays, expected):
            return why
    return ""


def _one_by_one(plan: Plan, flat: Callable[[int, int], list[Array]], call: Callable[[list[Array]], list[Array]]) -> str:
    """The function fails on some row: so must the plan, and on no other."""
    for i in range(_ONE_BY_ONE):
        arrays = flat(i, 1)
        try:
            expected = call(arrays)
        except Exception:
            try:
                plan.run(arrays)
            except Exception:
                continue
            return "TensorFlow fails on a sample and it does not"
        if why := plan.first_difference(arrays, expected):
            return why
    return ""
