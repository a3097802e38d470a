"""Filters as ``Field("dep_delay") > 15`` writes them: the part of the language in which a comparison with null is false."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from transforms.durations import micros
from transforms.errors import DefinitionError
from transforms.expressions.formula import Formula
from transforms.expressions.language import Expression, formula_of

__all__ = ["Predicate"]

_JOINS = {"and": "&", "or": "|"}


class Predicate:
    """A filter over events; built from fields by ``>``, ``>=``, ``<``, ``<=``, ``.eq``, ``.ne``, ``.isin``,
    ``.is_null``, ``.not_null`` and joined by ``&``, ``|`` and ``~``. A comparison with null is false.

    It is the expression :attr:`formula`, in which each comparison is asked whether it is true; joined with an expression it becomes one.
    """

    def __init__(self, op: str, args: tuple[Any, ...]) -> None:
        self.op = op
        self.args = args

    def __and__(self, other: Any) -> Any:
        return Predicate("and", (self, other)) if isinstance(other, Predicate) else Expression(self.formula) & other

    def __or__(self, other: Any) -> Any:
        return Predicate("or", (self, other)) if isinstance(other, Predicate) else Expression(self.formula) | other

    def __invert__(self) -> Predicate:
        return Predicate("not", (self,))

    def __bool__(self) -> bool:
        raise DefinitionError("a filter has no truth value of its own; join filters with & and | instead of 'and' and 'or'")

    def canonical(self) -> list[Any]:
        """A JSON-able form that is equal exactly for equal filters; moments are microseconds of UTC."""

        def plain(value: Any) -> Any:
            if isinstance(value, Predicate):
                return value.canonical()
            if isinstance(value, datetime):
                return micros(value - datetime(1970, 1, 1, tzinfo=UTC))
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return [self.op, *(plain(a) for a in self.args)]

    def comparisons(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """Every comparison in the filter: (field, operator, the values that it is compared with)."""
        if self.op in ("and", "or", "not"):
            return [c for a in self.args for c in a.comparisons()]
        values = self.args[1:] if self.op != "isin" else self.args[1]
        return [(self.args[0], self.op, tuple(values))]

    @property
    def formula(self) -> Formula:
        """The filter as an expression; never null."""
        if self.op in _JOINS:
            return Formula(_JOINS[self.op], tuple(a.formula for a in self.args))
        if self.op == "not":
            return Formula("not", (self.args[0].formula,))
        column = Formula("column", (self.args[0],))
        if self.op == "is_null":
            return Formula("is_null", (column,))
        values = self.args[1] if self.op == "isin" else self.args[1:]
        return Formula("is_true", (Formula(self.op, (column, *(formula_of(v) for v in values))),))

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """The filter over a batch of N events: a boolean array of length N without nulls."""
        return self.formula.mask(batch)
