"""A transform graph's plan of numpy calls, held against TensorFlow before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.graph_columns import input_width
from transforms.graph_row import RowReader
from transforms.plan import Plan, SampleRow, checked
from transforms.plan.compiler import compiled
from transforms.plan.samples import SEED, fractions, wholes, words

__all__ = ["checked_plan", "plan_on"]

Array = npt.NDArray[Any]
_ROWS = 512
_KINDS_OF_ROWS, _OF_A_KIND = 4, 3
"""Rows that are read alone: of so many kinds, by what is null and how long lists are, so many with other values each."""


def checked_plan(
    function: Any,
    inputs: pa.Schema,
    arrays_of: Callable[[pa.RecordBatch], list[Array]],
    call: Callable[[list[Array]], list[Array]],
    row: RowReader,
) -> tuple[Plan | None, str]:
    """(the plan of a graph's concrete function, or None; why there is none).

    It gave the bits that ``call`` gave, on some hundred made-up rows of ``inputs``: edge values, nulls, known and unknown words; and on
    some that ``row`` read, as a batch of one row is.
    """

    def alone(plan: Plan) -> Iterator[SampleRow]:
        batch = _sample_of_kinds(inputs, plan)
        for one in (batch.slice(i, 1) for i in range(batch.num_rows)):
            if (found := row.read(one)) is not None:
                yield SampleRow(arrays_of(one), found[0], found[1], row.fixed)

    return checked(
        function, lambda plan: _sample(inputs, plan), lambda batch, start, n: arrays_of(batch.slice(start, n)), call, _ROWS, alone
    )


def plan_on(function: Any, arrays: list[Array], expected: list[Array]) -> Plan | None:
    """The plan of a concrete function that gives the bits ``expected`` for ``arrays``, which TensorFlow gave; None where there is none."""
    with suppress(Exception):  # whatever a graph has that plans do not know
        plan = compiled(function)
        return None if plan.first_difference(arrays, expected) else plan
    return None


def _sample_of_kinds(inputs: pa.Schema, plan: Plan) -> pa.RecordBatch:
    """Rows of a few kinds, which alternate: all values there, none there that may be missing, and some. Values differ within a kind."""
    random = np.random.default_rng(SEED)
    n = _KINDS_OF_ROWS * _OF_A_KIND
    columns = []
    for field in inputs:
        if not pa.types.is_list(field.type):
            missing = np.array([False, True, *(random.random(_KINDS_OF_ROWS - 2) < 0.5)])
            mask = np.tile(missing & field.nullable, _OF_A_KIND)
            columns.append(_values(field.type, n, random, plan).take(pa.array(np.arange(n), mask=mask)))
            continue
        most = input_width(field) or 3
        lengths = np.tile([most, 0, *random.integers(0, 1 + most, _KINDS_OF_ROWS - 2)], _OF_A_KIND)
        columns.append(_lists(field.type, lengths, random, plan))
    return pa.RecordBatch.from_arrays(columns, schema=inputs)


def _sample(inputs: pa.Schema, plan: Plan) -> pa.RecordBatch:
    random = np.random.default_rng(SEED)
    columns = []
    for field in inputs:
        if not pa.types.is_list(field.type):
            values = _values(field.type, _ROWS, random, plan)
            if field.nullable:
                values = _with_nulls(values, random)
            columns.append(values)
            continue
        lengths = random.integers(0, 1 + (input_width(field) or 3), _ROWS)
        columns.append(_lists(field.type, lengths, random, plan))
    return pa.RecordBatch.from_arrays(columns, schema=inputs)


def _lists(kind: pa.DataType, lengths: Array, random: np.random.Generator, plan: Plan) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _values(kind.value_type, int(offsets[-1]), random, plan))


def _values(kind: pa.DataType, count: int, random: np.random.Generator, plan: Plan) -> pa.Array:
    if pa.types.is_string(kind):
        known = [w for w in plan.known_words if _is_text(w)]
        return pa.array([w.decode() for w in words(count, random, known)], kind)
    if pa.types.is_boolean(kind):
        return pa.array(random.random(count) < 0.5)
    if pa.types.is_floating(kind):
        return pa.array(fractions(count, random, plan.known_fractions)).cast(kind)
    return pa.array(wholes(count, random)).cast(kind)


def _with_nulls(values: pa.Array, random: np.random.Generator) -> pa.Array:
    places = np.arange(len(values))
    return values.take(pa.array(places, mask=random.random(len(values)) < 0.25))


def _is_text(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True
