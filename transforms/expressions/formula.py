"""What an expression is once it is written: a small tree of values, equal where it says the same, which pickles, and reads as written.

:class:`Formula` is what definitions keep; people write them with :mod:`transforms.expressions.language`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.expressions.binding import Run, bind_call
from transforms.expressions.values import Column, arrow_of, literal_values, read

__all__ = ["Formula", "MAX_DEPTH", "MAX_SIZE"]

MAX_DEPTH, MAX_SIZE = 100, 2000
"""How deep expressions may be nested, and of how many operations, fields and values they may be."""

_INFIX = ("+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "&", "|")
_PREFIX = {"negative": "-", "not": "~"}
_FUNCTIONS = ("coalesce", "concat", "min_of", "max_of", "seconds_between")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Formula:
    """One operation and what it is applied to: further formulas, and plain values (a name, a zone, a pattern).

    ``Formula("column", ("amount",))`` is a field, ``Formula("literal", ("int64", 5))`` a value; moments and durations are microseconds.
    Raises DefinitionError where it is nested too deep, or too long.
    """

    op: str
    args: tuple[Any, ...]
    depth: int = field(default=0, init=False, compare=False, repr=False)
    size: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        inner = [a for a in self.args if isinstance(a, Formula)]
        depth, size = 1 + max((a.depth for a in inner), default=0), 1 + sum(a.size for a in inner)
        if depth > MAX_DEPTH or size > MAX_SIZE:
            what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"made of more than {MAX_SIZE} parts"
            raise DefinitionError(f"an expression is {what}; compute a part of it as a field of its own")
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "size", size)

    def canonical(self) -> list[Any]:
        """A JSON-able form that is equal exactly for equal formulas."""
        return ["expression", self._plain()]

    def _plain(self) -> list[Any]:
        def plain(value: Any) -> Any:
            if isinstance(value, Formula):
                return value._plain()
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return [self.op, *(plain(a) for a in self.args)]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that it reads, sorted."""
        return tuple(sorted({f.args[0] for f in self.walk() if f.op == "column"}))

    def walk(self) -> Iterator[Formula]:
        """Itself and every formula in it."""
        yield self
        for a in self.args:
            if isinstance(a, Formula):
                yield from a.walk()

    def comparisons(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """Every comparison of a field with plain values in it: (field, operator, the values), moments as datetimes."""
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
        out = []
        for f in self.walk():
            if f.op == "isin" and f.args[0].op == "column":
                out.append((f.args[0].args[0], f.op, tuple(_shown(v) for v in f.args[1:])))
            elif f.op in ("==", "!=", *turned):
                left, right = f.args
                if left.op == "column" and right.op == "literal":
                    out.append((left.args[0], f.op, (_shown(right),)))
                elif left.op == "literal" and right.op == "column":
                    out.append((right.args[0], turned.get(f.op, f.op), (_shown(left),)))
        return out

    def dtype(self, types: tuple[tuple[str, str], ...]) -> str:
        """What type it gives over fields of these (name, dtype). Raises DefinitionError: the expression, the types, the fix."""
        return _bound(self, types)[0]

    def evaluate(self, columns: dict[str, Column], types: tuple[tuple[str, str], ...], rows: int) -> Column:
        """Its value in each of N rows: an Arrow array of its type (timestamps as int64 microseconds), and a code per row.

        ``columns`` are the fields' arrays of length N with a code each; a row in which something that decides the value cannot be
        read, or has no value that its type can hold, has the code of a reason, and null. No row's value or code depends on another's.
        """
        dtype, run = _bound(self, types)
        return arrow_of(run(columns, rows), dtype, rows)

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Where it is true, of N valid events: booleans without nulls. Null, and what has no value, is not true."""
        columns, types = self._read(batch)
        held = _bound(self, types)[1](columns, batch.num_rows)
        passes = held.data if held.null is None else held.data & ~held.null
        return pa.Array.from_buffers(pa.bool_(), len(passes), [None, pa.py_buffer(np.packbits(passes, bitorder="little"))])

    def apply(self, batch: pa.RecordBatch) -> pa.Array:
        """Its value in each of N valid events, timestamps as int64 microseconds; null where there is none."""
        columns, types = self._read(batch)
        return self.evaluate(columns, types, batch.num_rows)[0]

    def _read(self, batch: pa.RecordBatch) -> tuple[dict[str, Column], tuple[tuple[str, str], ...]]:
        needed = set(self.fields)
        found = [(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True) if name in needed]
        return {name: (column, None) for name, column in found}, tuple((name, _dtype_of(column.type)) for name, column in found)

    def __str__(self) -> str:
        if self.op == "column":
            return f'col("{self.args[0]}")'
        if self.op == "literal":
            return repr(_shown(self))
        if self.op in _INFIX:
            return f"{_inner(self.args[0])} {self.op} {_inner(self.args[1])}"
        if self.op in _PREFIX:
            return f"{_PREFIX[self.op]}{_inner(self.args[0])}"
        if self.op == "case":
            *pairs, otherwise = self.args
            whens = ", ".join(f"when({c}, {v})" for c, v in zip(pairs[::2], pairs[1::2], strict=True))
            return f"case({whens}, otherwise={otherwise})"
        if self.op in _FUNCTIONS:
            return f"{self.op}({', '.join(map(str, self.args))})"
        values = [_shown(a) if isinstance(a, Formula) and a.op == "literal" else a for a in self.args[1:]]
        given = f"[{', '.join(map(repr, values))}]" if self.op == "isin" else ", ".join(map(repr, values))
        return f"{_inner(self.args[0])}.{self.op}({given})"

    __repr__ = __str__


def _inner(f: Formula) -> str:
    return f"({f})" if f.op in _INFIX else str(f)


def _shown(f: Formula) -> Any:
    """A literal as Python has it."""
    dtype, value = f.args
    if dtype == "timestamp":
        return _EPOCH + timedelta(microseconds=value)
    return timedelta(microseconds=value) if dtype == "duration" else value


def _dtype_of(t: pa.DataType) -> str:
    if pa.types.is_timestamp(t):
        return "timestamp"
    if pa.types.is_list(t):
        return f"list<{_dtype_of(t.value_type)}>"
    return {"double": "float64", "float": "float32"}.get(str(t), str(t))


@lru_cache(maxsize=1024)
def _bound(f: Formula, types: tuple[tuple[str, str], ...]) -> tuple[str, Run]:
    return _bind(f, dict(types))


def _bind(f: Formula, types: dict[str, str]) -> tuple[str, Run]:
    if f.op == "column":
        (name,) = f.args
        if name not in types:
            raise DefinitionError(f"{f}: there is no field {name!r} to read here; there are {', '.join(types) or 'none'}")
        dtype = types[name]
        return dtype, lambda columns, rows: read(columns[name], dtype)
    if f.op == "literal":
        dtype, value = f.args
        return dtype, lambda columns, rows: literal_values(value, dtype, rows)
    return bind_call(f, f.op, [_bind(a, types) if isinstance(a, Formula) else a for a in f.args], f.args)
