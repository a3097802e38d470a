"""Every operation of the language: which types it takes, what type it gives, and the kernel that computes it.

Types are settled once, where a definition is made: a mistake is one DefinitionError with the expression, the types and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transforms.errors import DefinitionError
from transforms.expressions import logic_kernels as logic
from transforms.expressions import number_kernels as numbers
from transforms.expressions import text_kernels as texts
from transforms.expressions import time_kernels as times
from transforms.expressions.values import Column, Values, null_values

__all__ = ["CASTS", "OPERATIONS", "Run", "bind_call"]

Run = Callable[[dict[str, Column], int], Values]
"""Computes N values of the columns of fields."""
Bound = tuple[str, Run]

CASTS = {
    "int64": ("float64", "string", "timestamp"),
    "float64": ("int64", "string"),
    "bool": ("int64", "string"),
    "string": ("int64", "float64", "bool", "timestamp"),
    "timestamp": ("int64", "string"),
}
_NUMBERS = ("int64", "float64")
_ORDERED = ("int64", "float64", "timestamp")
_FIXES = {
    ("string", "float64"): 'read the text with .cast("float64")',
    ("string", "int64"): 'read the text with .cast("int64")',
    ("string", "timestamp"): 'read the text with .cast("timestamp")',
    ("timestamp", "timestamp"): "write seconds_between(a, b)",
    ("bool", "float64"): 'count truth with .cast("int64")',
    ("bool", "int64"): 'count truth with .cast("int64")',
}


class _Mismatch(Exception):
    def __init__(self, takes: str, fix: str = "") -> None:
        super().__init__(takes)
        self.takes, self.fix = takes, fix


def bind_call(formula: Any, op: str, args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    """The type and the computation of ``op``; bound formulas among ``args`` are (dtype, run), all else stands for itself."""
    given = [a for a, r in zip(args, raw, strict=True) if hasattr(r, "op")]
    types = [t for t, _ in given]
    try:
        return OPERATIONS[op](given, args, raw)
    except _Mismatch as e:
        fix = e.fix or _FIXES.get((types[0], types[-1])) or _FIXES.get((types[-1], types[0])) or "correct one of both"
        raise DefinitionError(f"expression {formula}: {e.takes}, not {' and '.join(types)}; {fix}") from None


# ---- types ---------------------------------------------------------------------------------------------------------------


def _float(given: Bound, raw: Any = None) -> Bound:
    """An int64 that stands where a float64 is wanted."""
    dtype, run = given
    if dtype != "int64":
        return given
    if getattr(raw, "op", "") == "literal" and abs(raw.args[1]) > 2**53:
        raise _Mismatch(f"the number {raw.args[1]} is one that a float64 may not hold exactly", "write one up to 2^53")
    return "float64", lambda columns, rows: numbers.to_float(run(columns, rows))


def _same(given: Sequence[Bound], raw: Sequence[Any], takes: str) -> tuple[str, list[Run]]:
    """The one type of all of ``given``: int64 becomes float64 where one is that; null is of every type."""
    types = {t for t, _ in given} - {"null"}
    if types == {"int64", "float64"}:
        given = [_float(g, r) for g, r in zip(given, raw, strict=True)]
        types = {"float64"}
    if len(types) > 1:
        raise _Mismatch(takes)
    dtype = types.pop() if types else "null"
    return dtype, [_null(dtype) if t == "null" else run for t, run in given]


def _null(dtype: str) -> Run:
    return lambda columns, rows: null_values(dtype, rows)


# ---- numbers -------------------------------------------------------------------------------------------------------------


def _arithmetic(op: str) -> Callable[..., Bound]:
    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        (left, a), (right, b) = given
        if (left == "timestamp" and right == "duration" and op in "+-") or (op == "+" and (left, right) == ("duration", "timestamp")):
            first, second = (b, a) if left == "duration" else (a, b)
            return "timestamp", lambda columns, rows: times.shifted(op, first(columns, rows), second(columns, rows))
        if left not in _NUMBERS or right not in _NUMBERS:
            raise _Mismatch(f"{op} takes two numbers" + (", or a timestamp and a duration" if op in "+-" else ""), _plus(op, left, right))
        dtype = "int64" if left == right == "int64" and op != "/" else "float64"
        if dtype == "float64":
            (_, a), (_, b) = (_float(g, r) for g, r in zip(given, raw, strict=True))
        return dtype, lambda columns, rows: numbers.arithmetic(op, dtype, a(columns, rows), b(columns, rows))

    return bind


def _plus(op: str, left: str, right: str) -> str:
    return "join texts with concat(a, b)" if op == "+" and left == right == "string" else ""


def _one_number(compute: Callable[[str, Values], Values], *, whole_alone: bool = False) -> Callable[..., Bound]:
    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        ((dtype, run),) = given
        if dtype not in _NUMBERS:
            raise _Mismatch("it takes a number")
        if whole_alone and dtype == "int64":
            return given[0]
        return dtype, lambda columns, rows: compute(dtype, run(columns, rows))

    return bind


def _extreme(which: str) -> Callable[..., Bound]:
    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        takes = f"{which} takes numbers, or timestamps"
        dtype, runs = _same(given, raw, takes)
        if dtype not in _ORDERED:
            raise _Mismatch(takes)
        return dtype, lambda columns, rows: numbers.extreme(which, [run(columns, rows) for run in runs])

    return bind


# ---- comparison and logic ------------------------------------------------------------------------------------------------


def _comparison(op: str) -> Callable[..., Bound]:
    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        left, right = (t for t, _ in given)
        kinds = {left, right}
        if "null" in kinds:
            raise _Mismatch("a comparison with null is never true", "ask .is_null() or .not_null()")
        if kinds == {"int64", "float64"}:  # numbers are compared as they are; a literal becomes the field's type
            given = [_float(g, r) if getattr(r, "op", "") == "literal" else g for g, r in zip(given, raw, strict=True)]
        elif len(kinds) > 1 or left.startswith("list<"):
            raise _Mismatch(f"{op} compares two values of one type")
        if left == "bool" and op not in ("==", "!="):
            raise _Mismatch(f"booleans have no order for {op}", "use == or !=")
        (_, a), (_, b) = given
        if left == "string":
            return "bool", lambda columns, rows: texts.compared_texts(op, a(columns, rows), b(columns, rows), rows)
        return "bool", lambda columns, rows: numbers.compared(op, a(columns, rows), b(columns, rows))

    return bind


def _logic(op: str) -> Callable[..., Bound]:
    kernel = {"&": logic.both, "|": logic.either}[op]

    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        for dtype, _ in given:
            if dtype != "bool":
                raise _Mismatch(f"{op} takes two conditions", "put each comparison into parentheses: (a > 1) & (b > 2)")
        (_, a), (_, b) = given
        return "bool", lambda columns, rows: kernel(a(columns, rows), b(columns, rows))

    return bind


def _condition(kernel: Callable[[Values], Values]) -> Callable[..., Bound]:
    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        ((dtype, run),) = given
        if dtype != "bool":
            raise _Mismatch("it takes a condition", "compare it with a value first")
        return "bool", lambda columns, rows: kernel(run(columns, rows))

    return bind


def _is_null(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    ((_, run),) = given
    return "bool", lambda columns, rows: logic.is_null(run(columns, rows), rows)


def _isin(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    dtype, run = given[0]
    literals = raw[1:]
    for literal, bound in zip(literals, given[1:], strict=True):
        if bound[0] != dtype and not (dtype == "float64" and _float(bound, literal)[0] == "float64"):
            raise _Mismatch(f"isin takes values of the type of what it looks at, {dtype}", "write values of that type")
    values: list[Any] = [float(r.args[1]) if dtype == "float64" else r.args[1] for r in literals]
    if dtype == "string":
        return "bool", lambda columns, rows: texts.texts_within(run(columns, rows), values, rows)
    if dtype.startswith("list<") or dtype == "null":
        raise _Mismatch("isin looks at one value", "ask .contains(value) of a list")
    return "bool", lambda columns, rows: numbers.within(run(columns, rows), values)


def _coalesce(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    dtype, runs = _same(given, raw, "coalesce takes values of one type")
    return dtype, lambda columns, rows: logic.first_present([run(columns, rows) for run in runs], dtype, rows)


def _case(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    *pairs, otherwise = given
    if any(dtype != "bool" for dtype, _ in pairs[::2]):
        raise _Mismatch("when takes a condition and a value", "compare with a value first: when(col('a') > 0, 1)")
    dtype, runs = _same([*pairs[1::2], otherwise], [*raw[1:-1:2], raw[-1]], "case takes values of one type")
    conditions = [run for _, run in pairs[::2]]

    def run(columns: dict[str, Column], rows: int) -> Values:
        made = [r(columns, rows) for r in runs]
        return logic.choose([(c(columns, rows), v) for c, v in zip(conditions, made, strict=False)], made[-1], dtype, rows)

    return dtype, run


# ---- texts, lists, moments ---------------------------------------------------------------------------------------------


def _text(compute: Callable[..., Values], gives: str = "string") -> Callable[..., Bound]:
    """A function of one text and plain values: ``compute(values, *plain, rows)``."""

    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        dtype, run = given[0]
        if dtype != "string":
            raise _Mismatch("it takes a text", 'make one with .cast("string")')
        plain = tuple(args[1:])
        return gives, lambda columns, rows: compute(run(columns, rows), *plain, rows)

    return bind


def _contains(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    dtype, run = given[0]
    value = raw[1].args[1]
    if dtype == given[1][0] == "string":
        return "bool", lambda columns, rows: texts.contained("contains", run(columns, rows), value, rows)
    element = dtype[5:-1] if dtype.startswith("list<") else ""
    if not element or (element != given[1][0] and (element, given[1][0]) not in (("float", "float64"), ("float64", "int64"))):
        raise _Mismatch("contains takes a text in a text, or a value of the type of a list's elements")
    return "bool", lambda columns, rows: logic.list_contains(run(columns, rows), value, dtype, rows)


def _length(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    ((dtype, run),) = given
    if dtype != "string" and not dtype.startswith("list<"):
        raise _Mismatch("length is that of a text or a list")
    return "int64", lambda columns, rows: logic.list_length(run(columns, rows), dtype, rows)


def _concat(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    if any(dtype not in ("string", "null") for dtype, _ in given):
        raise _Mismatch("concat takes texts", 'make them with .cast("string")')
    return "string", lambda columns, rows: texts.joined([run(columns, rows) for _, run in given], rows)


def _of_time(compute: Callable[..., Values], gives: str) -> Callable[..., Bound]:
    def bind(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
        dtype, run = given[0]
        if dtype != "timestamp":
            raise _Mismatch("it takes a timestamp", 'make one with .cast("timestamp")')
        plain = tuple(args[1:])
        return gives, lambda columns, rows: compute(run(columns, rows), *plain)

    return bind


def _seconds_between(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    if any(dtype != "timestamp" for dtype, _ in given):
        raise _Mismatch("seconds_between takes two timestamps")
    (_, a), (_, b) = given
    return "float64", lambda columns, rows: times.seconds_between(a(columns, rows), b(columns, rows))


def _cast(given: Sequence[Bound], args: Sequence[Any], raw: Sequence[Any]) -> Bound:
    (dtype, run), to = given[0], args[1]
    if dtype == to:
        return given[0]
    if to not in CASTS.get(dtype, ()):
        raise _Mismatch(f"a {dtype} can be cast to {' or '.join(CASTS.get(dtype, ())) or 'nothing'}, not to {to}; it is")
    if (dtype, to) == ("int64", "float64"):
        return _float(given[0])
    return to, lambda columns, rows: texts.cast(run(columns, rows), dtype, to, rows)


def _time_part(what: str) -> Callable[..., Bound]:
    return _of_time(lambda values, zone: times.part(what, values, zone), "int64")


def _rounding(how: str) -> Callable[..., Bound]:
    return _one_number(lambda dtype, values: numbers.rounded(how, values), whole_alone=True)


def _cased(how: str) -> Callable[..., Bound]:
    return _text(lambda values, rows: texts.cased(how, values, rows))


def _found(how: str) -> Callable[..., Bound]:
    return _text(lambda values, pattern, rows: texts.contained(how, values, pattern, rows), "bool")


OPERATIONS: dict[str, Callable[..., Bound]] = {
    **{op: _arithmetic(op) for op in ("+", "-", "*", "/", "//", "%")},
    **{op: _comparison(op) for op in ("==", "!=", "<", "<=", ">", ">=")},
    **{op: _logic(op) for op in ("&", "|")},
    **{how: _rounding(how) for how in ("floor", "ceil", "round")},
    **{how: _cased(how) for how in ("lower", "upper", "strip")},
    **{how: _found(how) for how in ("starts_with", "ends_with")},
    **{what: _time_part(what) for what in times.PARTS},
    "negative": _one_number(numbers.negative),
    "abs": _one_number(numbers.absolute),
    "min_of": _extreme("min_of"),
    "max_of": _extreme("max_of"),
    "not": _condition(logic.inverted),
    "is_true": _condition(logic.is_true),
    "is_null": _is_null,
    "isin": _isin,
    "coalesce": _coalesce,
    "case": _case,
    "contains": _contains,
    "length": _length,
    "substring": _text(texts.sliced),
    "replace": _text(texts.replaced),
    "matches": _text(texts.matched, "bool"),
    "concat": _concat,
    "truncate": _of_time(lambda values, unit, zone: times.truncated(unit, values, zone), "timestamp"),
    "from_local": _of_time(times.from_local, "timestamp"),
    "seconds_between": _seconds_between,
    "cast": _cast,
}
"""Each operation by its name: binds it to what it is given, or raises what :func:`bind_call` makes an error of."""
