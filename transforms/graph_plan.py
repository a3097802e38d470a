"""A transform graph's plan of numpy calls, held against TensorFlow before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.graph_columns import input_width
from transforms.plan import Plan, checked
from transforms.plan.samples import SEED, fractions, wholes, words

__all__ = ["checked_plan"]

Array = npt.NDArray[Any]
_ROWS = 512


def checked_plan(
    function: Any,
    inputs: pa.Schema,
    arrays_of: Callable[[pa.RecordBatch], list[Array]],
    call: Callable[[list[Array]], list[Array]],
) -> tuple[Plan | None, str]:
    """(the plan of a graph's concrete function, or None; why there is none).

    It gave the bits that ``call`` gave, on some hundred made-up rows of ``inputs``: edge values, nulls, known and unknown words.
    """
    return checked(function, lambda plan: _sample(inputs, plan), lambda batch, start, n: arrays_of(batch.slice(start, n)), call, _ROWS)


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
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns.append(pa.ListArray.from_arrays(offsets, _values(field.type.value_type, int(offsets[-1]), random, plan)))
    return pa.RecordBatch.from_arrays(columns, schema=inputs)


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
