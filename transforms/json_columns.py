"""JSON payloads as columns, where that is safe: the way round a Python object per record.

Arrow's JSON reader is many times faster than Python's and much more lenient, so only payloads that cannot tell both apart are given to
it: one object, no escapes, no control characters (:func:`plain`, :func:`whole`). What it then reads is still no verdict. It is up to the
caller to accept a row, and to ask Python about every row that it would not accept.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json

from transforms.json_flat import keys_in, plain
from transforms.json_shapes import shapes_of

__all__ = ["read_columns"]

CHUNK_BYTES = 32 << 20
CHUNK_CELLS = 2_000_000
"""Rows times keys that are read at once: each unknown key may be a column, and that column as long as there are rows. So what records with
different keys cost grows as their number does, and not as its square."""
SMALLEST = 64
"""Rows in which one that Arrow cannot read is not looked for any more."""
LEAST_FAILURES, ROWS_PER_FAILURE = 8, 500
"""How often Arrow may fail before the rest is left to others: each failure costs as much as some twenty rows read one by one."""

_ROW = re.compile(r" in row ([0-9]{1,9})\Z")


def read_columns(payloads: pa.Array, schema: pa.Schema, depth: int | None = None) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch]]:
    """The :func:`plain` ones of N payloads (the :func:`whole` ones of this ``depth``, if one is given) that Arrow can read with these
    columns, as pairs of their positions (int64 [M], ascending) and M rows in ``schema`` (fields that are missing are null), pair after pair
    in order. Nothing is said of payloads in no pair.

    Text is valid UTF-8, in the whole payload; no key is there twice; other fields may be there. A float64 beyond 2^53 may have been an
    integer that it does not hold exactly. Columns of strings, int64, float64 and bool only; with a ``depth`` of structs and lists of them
    too, whose members may then be more and in which an int64 may have become a float64, but none of their float64 lies beyond 2^53.
    """
    if depth is None:
        rows = np.flatnonzero(plain(payloads))
        payloads = payloads if len(rows) == len(payloads) else payloads.take(pa.array(rows))
        common, others = keys_in(payloads) if len(rows) else (0, rows)
    else:
        shapes = shapes_of(payloads, depth)
        rows = np.flatnonzero(shapes.found)
        payloads = payloads if len(rows) == len(payloads) else payloads.take(pa.array(rows))
        common, others = shapes.common, shapes.others[rows]
    parts = list(_parts(payloads, rows, common + len(schema), others, schema, depth is not None))
    # One step for all of them costs the caller less than many. Of nested columns those with the same members are put together.
    for _, same in itertools.groupby(parts, key=lambda part: part[1].schema):
        each = list(same)
        if len(each) > 1:
            table = pa.Table.from_batches([batch for _, batch in each]).combine_chunks()
            each = [(np.concatenate([at for at, _ in each]), table.to_batches()[0])] if len(table) else []
        yield from each


def _parts(
    payloads: pa.Array, rows: npt.NDArray[np.int64], columns: int, others: npt.NDArray[np.int64], schema: pa.Schema, nested: bool
) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch]]:
    n = len(rows)
    if n == 0:
        return
    _, ends, data = payloads.buffers()
    offsets = np.frombuffer(ends, dtype=np.int32)[payloads.offset : payloads.offset + n + 1]
    failures = max(LEAST_FAILURES, n // ROWS_PER_FAILURE)
    keys = np.concatenate([[0], np.cumsum(others)])  # of all payloads before one
    more = float(keys[-1]) / n
    step = max(1, int(2 * CHUNK_CELLS / (columns + (columns**2 + 4 * CHUNK_CELLS * more) ** 0.5)))  # step * (columns + step * more) cells
    todo = [(first, min(first + step, n)) for first in reversed(range(0, n, step))]
    while todo:
        first, last = todo.pop()
        size = int(offsets[last]) - int(offsets[first])
        stop: int | None = None
        if last - first > 1 and (last - first) * (columns + int(keys[last] - keys[first])) > 2 * CHUNK_CELLS:
            middle = (first + last) // 2
            todo += [(middle, last), (first, middle)]
            continue
        if first < last and size <= CHUNK_BYTES:
            found = _read(payloads.slice(first, last - first), data.slice(int(offsets[first]), size), schema, nested)
            if isinstance(found, pa.RecordBatch):
                yield rows[first:last], found
                continue
            failures -= 1
            if failures < 0:
                return
            stop = found
        if stop is not None and stop < last - first:
            todo += [(first + stop + 1, last), (first, first + stop)]
        elif last - first > SMALLEST:
            middle = (first + last) // 2
            todo += [(middle, last), (first, middle)]


def _read(payloads: pa.Array, data: pa.Buffer, schema: pa.Schema, nested: bool) -> pa.RecordBatch | int | None:
    """All of the payloads; or the first that cannot be read; or None where Arrow does not tell. ``data`` are their bytes in a row."""
    try:
        payloads.cast(pa.string())  # looks at every byte, which the reader does not
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=data.size + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="infer"),
        )
    except (pa.ArrowException, ValueError, MemoryError) as error:
        told = _ROW.search(str(error))  # a hint: if it is wrong, what comes before fails too
        return int(told[1]) if told else None
    if table.num_rows != len(payloads):
        return None
    if nested:
        chosen = table.select(schema.names).combine_chunks()
        asked = [schema.field(name).type if name in schema.names else None for name in table.schema.names]
        sound = all(_sound(chunk, kind) for column, kind in zip(table.columns, asked, strict=True) for chunk in column.chunks)
        return chosen.to_batches()[0] if sound else None
    for column, field in zip(table.columns, table.schema, strict=True):
        # The reader takes Inf and other spellings for numbers, which only Python's NaN and Infinity are.
        if pa.types.is_floating(field.type) and schema.get_field_index(field.name) < 0 and not _finite(column):
            return None
    chosen = table.select(schema.names).combine_chunks()
    if chosen.schema.types != schema.types:  # an integer with a fraction made the whole column float64
        return None
    return chosen.to_batches()[0]


def _finite(column: pa.ChunkedArray) -> bool:
    return all(bool(np.isfinite(chunk.fill_null(0.0).to_numpy(zero_copy_only=False)).all()) for chunk in column.chunks)


def _floats(kind: pa.DataType) -> bool:
    """Whether there are floats in a type, at any depth."""
    if pa.types.is_struct(kind):
        return any(_floats(kind[i].type) for i in range(kind.num_fields))
    return _floats(kind.value_type) if pa.types.is_list(kind) else bool(pa.types.is_floating(kind))


def _sound(array: pa.Array, asked: pa.DataType | None) -> bool:
    """Whether all floats, at any depth, are finite, and those of the type that was ``asked`` for so small that each stands for itself."""
    t = array.type
    if not _floats(t):
        return True
    if pa.types.is_struct(t):
        own = [None if asked is None or (at := asked.get_field_index(f.name)) < 0 else asked[at].type for f in t]
        return all(_sound(array.field(i), kind) for i, kind in enumerate(own) if _floats(t[i].type))
    if pa.types.is_list(t):
        return _sound(array.flatten(), None if asked is None else asked.value_type)
    numbers = array.fill_null(0.0) if array.null_count else array
    return bool((np.abs(numbers.to_numpy(zero_copy_only=False)) < (np.inf if asked is None else 2.0**53)).all())
