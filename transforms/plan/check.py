"""A plan is used only after it was held against the function that it stands for, in each of the ways in which it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt

from transforms.plan.compiler import REWRITES, Plan, compiled

__all__ = ["SampleRow", "checked"]

Array = npt.NDArray[Any]
S = TypeVar("S")
_ONE_BY_ONE = 48
"""How many sample rows are tried alone where the function fails on one of them."""


class SampleRow(NamedTuple):
    """One sample: the flat arrays that the function is given, those that :meth:`Plan.run` is, and what else that is given."""

    arrays: list[Array]
    read: list[Array]
    alike: Hashable = None
    fixed: Sequence[int] = ()


def checked(
    function: Any,
    sample: Callable[[Plan], S],
    flat: Callable[[S, int, int], list[Array]],
    call: Callable[[list[Array]], list[Array]],
    rows: int,
    alone: Callable[[Plan], Iterable[SampleRow]] = lambda plan: (),
) -> tuple[Plan | None, str]:
    """(a plan of a concrete function, or None; why there is none).

    It gave, bit for bit, what ``call`` gave for the flat arrays ``flat(sample, first row, rows)``: of all ``rows`` sample
    rows and of one alone; and for each row of ``alone(plan)`` as that is read, twice, so that what it remembers counts too.
    """
    why = ""
    for rewrites in REWRITES:
        try:
            plan = compiled(function, rewrites)
        except Exception as error:  # whatever a graph has that plans do not know
            return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        made = sample(plan)
        why = _difference(plan, lambda start, n, made=made: flat(made, start, n), call, rows)  # type: ignore[misc]
        if not why and (why := _one_by_one(plan, alone(plan), call)):
            why = f"rows read alone: {why}"
        if not why:
            return plan, ""
    return None, why


def _difference(plan: Plan, flat: Callable[[int, int], list[Array]], call: Callable[[list[Array]], list[Array]], rows: int) -> str:
    for start, n in ((0, rows), (3, 1)):
        arrays = flat(start, n)
        try:
            expected = call(arrays)
        except Exception:
            some = (flat(i, 1) for i in range(_ONE_BY_ONE))
            return _one_by_one(plan, (SampleRow(arrays, arrays) for arrays in some), call)
        if why := plan.first_difference(arrays, expected):
            return why
    return ""


def _one_by_one(plan: Plan, rows: Iterable[SampleRow], call: Callable[[list[Array]], list[Array]]) -> str:
    """Where the function fails on a row, so must the plan, and on no other."""
    for row in rows:
        try:
            expected = call(row.arrays)
        except Exception:
            try:
                plan.run(row.read, row.alike, row.fixed)
            except Exception:
                continue
            return "TensorFlow fails on a sample and it does not"
        for _ in range(1 if row.alike is None else 2):
            if why := plan.first_difference(row.read, expected, row.alike, row.fixed):
                return why
    return ""
