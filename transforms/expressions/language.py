"""How expressions are written: ``col("amount") / 100 - coalesce(col("fee"), 0)``.

One language for the fields that a source computes, for its ``where``, and for the filters of aggregates. Python's operators compute and
compare, ``& | ~`` join conditions, methods and functions do the rest; plain values (numbers, texts, booleans, aware datetimes, durations)
stand for themselves. Null is SQL's: what is computed of null is null, a comparison with it is neither true nor false, and where a
condition is not true the event does not pass. Docs: ``docs/expressions.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import DefinitionError
from transforms.expressions.binding import CASTS
from transforms.expressions.formula import Formula
from transforms.expressions.time_kernels import UNITS

__all__ = ["Expression", "When", "case", "coalesce", "col", "concat", "formula_of", "lit", "max_of", "min_of", "seconds_between", "when"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def formula_of(value: Any) -> Formula:
    """What a definition keeps of an expression, or of a plain value that stands for itself. Raises DefinitionError for what is neither."""
    if isinstance(value, Formula):
        return value
    kept = getattr(value, "formula", None)
    return kept if isinstance(kept, Formula) else _literal(value)


def _literal(value: Any) -> Formula:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return Formula("literal", ("null", None))
    if isinstance(value, bool):
        return Formula("literal", ("bool", value))
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise DefinitionError(f"the number {value} is beyond 64 bits; write one that an int64 can hold, or a float")
        return Formula("literal", ("int64", value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DefinitionError(f"{value!r} is no value that a field can have; write a finite number")
        return Formula("literal", ("float64", value + 0.0))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DefinitionError(f"{value!r} is no valid text; write one that UTF-8 can hold") from None
        return Formula("literal", ("string", value))
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DefinitionError(f"the moment {value} has no time zone; write datetime(..., tzinfo=UTC)")
        return Formula("literal", ("timestamp", (value - _EPOCH) // _MICROSECOND))
    if isinstance(value, timedelta):
        return Formula("literal", ("duration", value // _MICROSECOND))
    raise DefinitionError(f"{value!r} is no part of an expression; write col('name'), a number, a text, a bool or an aware datetime")


class Expression:
    """A value of each event, computed of its fields. Made by :func:`col` and the functions beside it; it never changes."""

    __slots__ = ("formula",)

    def __init__(self, formula: Formula) -> None:
        self.formula = formula

    def __repr__(self) -> str:
        return str(self.formula)

    def __bool__(self) -> bool:
        raise DefinitionError(
            f"the expression {self.formula} has no truth value of its own; join conditions with & | ~ instead of 'and', 'or', 'not' or a"
            " chain like 0 < x < 1, each in parentheses"
        )

    def __hash__(self) -> int:
        return hash(self.formula)

    def __reduce__(self) -> tuple[Any, ...]:
        return Expression, (self.formula,)

    def _call(self, op: str, *args: Any) -> Expression:
        return Expression(Formula(op, (self.formula, *args)))

    def _with(self, op: str, other: Any, turned: bool = False) -> Expression:
        left, right = self.formula, formula_of(other)
        return Expression(Formula(op, (right, left) if turned else (left, right)))

    # Arithmetic
    def __add__(self, other: Any) -> Expression:
        return self._with("+", other)

    def __radd__(self, other: Any) -> Expression:
        return self._with("+", other, turned=True)

    def __sub__(self, other: Any) -> Expression:
        return self._with("-", other)

    def __rsub__(self, other: Any) -> Expression:
        return self._with("-", other, turned=True)

    def __mul__(self, other: Any) -> Expression:
        return self._with("*", other)

    def __rmul__(self, other: Any) -> Expression:
        return self._with("*", other, turned=True)

    def __truediv__(self, other: Any) -> Expression:
        return self._with("/", other)

    def __rtruediv__(self, other: Any) -> Expression:
        return self._with("/", other, turned=True)

    def __floordiv__(self, other: Any) -> Expression:
        return self._with("//", other)

    def __rfloordiv__(self, other: Any) -> Expression:
        return self._with("//", other, turned=True)

    def __mod__(self, other: Any) -> Expression:
        return self._with("%", other)

    def __rmod__(self, other: Any) -> Expression:
        return self._with("%", other, turned=True)

    def __neg__(self) -> Expression:
        return self._call("negative")

    def __abs__(self) -> Expression:
        return self._call("abs")

    def abs(self) -> Expression:
        """The number without its sign."""
        return self._call("abs")

    def floor(self) -> Expression:
        """The greatest whole number that is not above it; of the same type."""
        return self._call("floor")

    def ceil(self) -> Expression:
        """The least whole number that is not below it; of the same type."""
        return self._call("ceil")

    def round(self) -> Expression:
        """The nearest whole number, of two the even one; of the same type."""
        return self._call("round")

    # Comparison
    def __eq__(self, other: Any) -> Expression:  # type: ignore[override]
        return self._with("==", other)

    def __ne__(self, other: Any) -> Expression:  # type: ignore[override]
        return self._with("!=", other)

    def __lt__(self, other: Any) -> Expression:
        return self._with("<", other)

    def __le__(self, other: Any) -> Expression:
        return self._with("<=", other)

    def __gt__(self, other: Any) -> Expression:
        return self._with(">", other)

    def __ge__(self, other: Any) -> Expression:
        return self._with(">=", other)

    def isin(self, values: Iterable[Any]) -> Expression:
        """Whether it equals one of ``values`` (plain values); null where it is null."""
        listed = () if isinstance(values, str) else tuple(values)
        if not listed:
            raise DefinitionError(f"{self.formula}.isin({values!r}): write a list of at least one value, or no event passes")
        literals = tuple(_literal(v) for v in listed)
        if any(f.args[0] == "null" for f in literals):
            raise DefinitionError(f"{self.formula}.isin(...) holds None, which nothing equals; ask | {self.formula}.is_null()")
        return self._call("isin", *literals)

    def is_null(self) -> Expression:
        """Whether there is no value. Never null."""
        return self._call("is_null")

    def not_null(self) -> Expression:
        """Whether there is a value. Never null."""
        return ~self.is_null()

    # Conditions
    def __and__(self, other: Any) -> Expression:
        return self._with("&", other)

    def __rand__(self, other: Any) -> Expression:
        return self._with("&", other, turned=True)

    def __or__(self, other: Any) -> Expression:
        return self._with("|", other)

    def __ror__(self, other: Any) -> Expression:
        return self._with("|", other, turned=True)

    def __invert__(self) -> Expression:
        return self._call("not")

    def is_true(self) -> Expression:
        """Whether the condition is true; false where it is null."""
        return self._call("is_true")

    # Texts
    def lower(self) -> Expression:
        """In lower case, as Python's ``str.lower``."""
        return self._call("lower")

    def upper(self) -> Expression:
        """In upper case, as Python's ``str.upper``."""
        return self._call("upper")

    def strip(self) -> Expression:
        """Without blanks at both ends, as Python's ``str.strip``."""
        return self._call("strip")

    def length(self) -> Expression:
        """How many code points a text has, or elements a list."""
        return self._call("length")

    def substring(self, start: int, length: int | None = None) -> Expression:
        """``length`` code points (None: all that follow) from number ``start`` on, counted from 0."""
        for what, value in (("start", start), ("length", length)):
            if not (value is None and what == "length") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise DefinitionError(f"{self.formula}.substring: {what} {value!r} is no whole number from 0 up; write one")
        return self._call("substring", min(start, 2**31), None if length is None else min(length, 2**31))

    def contains(self, value: Any) -> Expression:
        """Whether a text holds the text ``value``, or a list an element that equals it."""
        literal = _literal(value)
        if literal.args[0] == "null":
            raise DefinitionError(f"{self.formula}.contains(None): null is in nothing; write a value")
        return self._call("contains", literal)

    def starts_with(self, text: str) -> Expression:
        """Whether a text begins with ``text``."""
        return self._call("starts_with", _plain_text(self, "starts_with", text))

    def ends_with(self, text: str) -> Expression:
        """Whether a text ends with ``text``."""
        return self._call("ends_with", _plain_text(self, "ends_with", text))

    def replace(self, old: str, new: str) -> Expression:
        """Every ``old`` in a text, from the left, replaced by ``new``."""
        if old == "":
            raise DefinitionError(f"{self.formula}.replace('', ...): the empty text is everywhere; write what is to be replaced")
        return self._call("replace", _plain_text(self, "replace", old), _plain_text(self, "replace", new))

    def matches(self, pattern: str) -> Expression:
        """Whether the regular expression is found anywhere in a text (RE2's syntax; anchor it with ``^`` and ``$``)."""
        _plain_text(self, "matches", pattern)
        try:
            pc.match_substring_regex(pa.array([""]), pattern=pattern)
        except pa.ArrowException as e:
            why = str(e).splitlines()[0]
            raise DefinitionError(f"{self.formula}.matches({pattern!r}) is no regular expression of RE2: {why}; correct it") from None
        return self._call("matches", pattern)

    # Moments
    def year(self, zone: str = "UTC") -> Expression:
        """The year that the zone's calendar shows."""
        return self._call("year", _zone(zone))

    def month(self, zone: str = "UTC") -> Expression:
        """The month, 1 to 12."""
        return self._call("month", _zone(zone))

    def day(self, zone: str = "UTC") -> Expression:
        """The day of the month, 1 to 31."""
        return self._call("day", _zone(zone))

    def hour(self, zone: str = "UTC") -> Expression:
        """The hour that the zone's clock shows, 0 to 23."""
        return self._call("hour", _zone(zone))

    def minute(self, zone: str = "UTC") -> Expression:
        """The minute, 0 to 59."""
        return self._call("minute", _zone(zone))

    def second(self, zone: str = "UTC") -> Expression:
        """The second, 0 to 59."""
        return self._call("second", _zone(zone))

    def weekday(self, zone: str = "UTC") -> Expression:
        """The day of the week: 0, Monday, to 6."""
        return self._call("weekday", _zone(zone))

    def truncate(self, unit: str, zone: str = "UTC") -> Expression:
        """The instant at which the zone's clock began its second, minute, hour or day."""
        if unit not in UNITS:
            raise DefinitionError(f"{self.formula}.truncate({unit!r}): the unit is none of {', '.join(UNITS)}; write one of these")
        return self._call("truncate", unit, _zone(zone))

    def from_local(self, zone: str, ambiguous: str = "reject", missing: str = "reject") -> Expression:
        """The moment at which the zone's clock shows what this one shows in UTC: of a day and a time of it, say. What is there twice, or
        not at all, as clocks change: ``"earlier"``, ``"later"``, or the row's fault (``wrong_type``)."""
        for what, choice in (("ambiguous", ambiguous), ("missing", missing)):
            if choice not in ("earlier", "later", "reject"):
                raise DefinitionError(f"{self.formula}.from_local: {what}={choice!r} is none of 'earlier', 'later', 'reject'; write one")
        return self._call("from_local", _zone(zone), ambiguous, missing)

    def cast(self, dtype: str) -> Expression:
        """As another type. What has no form there is a row's fault (``overflow``, ``wrong_type``), never another value; a float64
        loses its fraction as int64; a timestamp is microseconds as int64, and RFC 3339 as text."""
        if dtype not in CASTS:
            raise DefinitionError(f"{self.formula}.cast({dtype!r}): the type is none of {', '.join(CASTS)}; write one of these")
        return self._call("cast", dtype)


def _plain_text(e: Expression, what: str, text: Any) -> str:
    if not isinstance(text, str):
        raise DefinitionError(f"{e.formula}.{what}({text!r}): what it looks for is a plain text; write one")
    return str(_literal(text).args[1])


def _zone(zone: Any) -> str:
    try:
        return str(ZoneInfo(zone).key)
    except Exception:  # whatever its loader makes of a name that is none
        raise DefinitionError(f"the time zone {zone!r} is not known; write a name such as 'Europe/Paris'") from None


def col(name: str) -> Expression:
    """The field ``name`` of an event; in a computed field also a computed one that stands before it, or the event time."""
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"col({name!r}): write the name of a field")
    return Expression(Formula("column", (name,)))


def lit(value: Any) -> Expression:
    """A plain value where Python would not see an expression: ``lit(1) / lit(3)``; None is null."""
    return Expression(_literal(value))


def coalesce(*values: Any) -> Expression:
    """The first of the values that is not null."""
    return _of_all("coalesce", values)


def min_of(*values: Any) -> Expression:
    """The least of the values (numbers or moments) that are not null."""
    return _of_all("min_of", values)


def max_of(*values: Any) -> Expression:
    """The greatest of the values (numbers or moments) that are not null."""
    return _of_all("max_of", values)


def concat(*values: Any) -> Expression:
    """Texts one after the other; null where one is."""
    return _of_all("concat", values)


def _of_all(op: str, values: tuple[Any, ...]) -> Expression:
    if not values:
        raise DefinitionError(f"{op}() takes at least one value")
    return Expression(Formula(op, tuple(formula_of(v) for v in values)))


def seconds_between(start: Any, end: Any) -> Expression:
    """The seconds from one moment to another, as a float64; negative where ``end`` comes first."""
    return Expression(Formula("seconds_between", (formula_of(start), formula_of(end))))


@dataclass(frozen=True)
class When:
    """A condition of :func:`case` and its value."""

    condition: Formula
    value: Formula


def when(condition: Any, value: Any) -> When:
    """In :func:`case`: ``value`` where ``condition`` is true and none before it was."""
    return When(formula_of(condition), formula_of(value))


def case(*whens: When, otherwise: Any = None) -> Expression:
    """The value of the first :func:`when` that is true, else ``otherwise`` (null)."""
    if not whens or not all(isinstance(w, When) for w in whens):
        raise DefinitionError("case takes at least one when(condition, value), and otherwise=")
    return Expression(Formula("case", (*(f for w in whens for f in (w.condition, w.value)), formula_of(otherwise))))
