"""Expressions by plain Python, one event at a time. An event's fields are values, or a :class:`Fault` where they cannot be read."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1, YEAR_9999 = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
TIME_TEXT = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


class Fault(Exception):
    """The event has no such value, for the reason of this code."""


def value(f: Any, event: dict[str, Any], types: dict[str, str]) -> Any:
    """The value of a formula for an event; None is null. Raises Fault."""
    return _value(f, event, types)[1]


def true(f: Any, event: dict[str, Any], types: dict[str, str]) -> bool:
    """Whether a condition is true; a fault is not."""
    try:
        return value(f, event, types) is True
    except Fault:
        return False


def _value(f: Any, event: dict[str, Any], types: dict[str, str]) -> tuple[str, Any]:
    """(dtype, value); the dtype of null literals is 'null'."""
    if f.op == "column":
        found = event.get(f.args[0])
        if isinstance(found, Fault):
            raise found
        return types[f.args[0]], found if found is None or types[f.args[0]] != "float64" else finite(float(found))
    if f.op == "literal":
        return f.args[0], f.args[1]
    if f.op in ("&", "|"):
        decisive = f.op == "|"
        left = value(f.args[0], event, types)
        if left is decisive:
            return "bool", decisive
        right = value(f.args[1], event, types)
        return "bool", decisive if right is decisive else None if None in (left, right) else not decisive
    if f.op == "coalesce":
        dtype = unified(f.args, event, types)
        for arg in f.args:
            if (found := as_type(arg, dtype, event, types)) is not None:
                return dtype, found
        return dtype, None
    if f.op == "case":
        *pairs, otherwise = f.args
        dtype = unified([*pairs[1::2], otherwise], event, types)
        for condition, chosen in zip(pairs[::2], pairs[1::2], strict=True):
            if value(condition, event, types) is True:
                return dtype, as_type(chosen, dtype, event, types)
        return dtype, as_type(otherwise, dtype, event, types)
    args = [_value(a, event, types) if hasattr(a, "op") else a for a in f.args]
    if f.op == "is_null":
        return "bool", args[0][1] is None
    if f.op == "is_true":
        return "bool", args[0][1] is True
    if f.op in ("min_of", "max_of"):
        dtype = unified(f.args, event, types)
        present = [x for a in f.args if (x := as_type(a, dtype, event, types)) is not None]
        return dtype, (min if f.op == "min_of" else max)(present) if present else None
    if f.op in ("+", "-", "*", "/", "//", "%"):
        return arithmetic(f.op, args)
    if f.op in ("==", "!=", "<", "<=", ">", ">="):
        return "bool", compare(f.op, args[0][1], args[1][1])
    return plain(f.op, args, f.args)


def unified(args: Any, event: dict[str, Any], types: dict[str, str]) -> str:
    kinds = {dtype_of(a, types) for a in args} - {"null"}
    return "float64" if kinds == {"int64", "float64"} else kinds.pop() if kinds else "null"


def dtype_of(f: Any, types: dict[str, str]) -> str:
    return str(f.dtype(tuple(sorted(types.items()))))  # types are no values: the language's own answer is tested apart


def as_type(f: Any, dtype: str, event: dict[str, Any], types: dict[str, str]) -> Any:
    own, found = _value(f, event, types)
    return real(found) if own == "int64" and dtype == "float64" and found is not None else found


def real(x: int) -> float:
    if abs(x) > 2**53:
        raise Fault("overflow")
    return float(x)


def finite(x: float) -> float:
    if math.isnan(x):
        raise Fault("nan")
    if math.isinf(x):
        raise Fault("infinite")
    return x + 0.0


def whole(x: int) -> int:
    if not -(2**63) <= x < 2**63:
        raise Fault("overflow")
    return x


def moment(us: int) -> datetime:
    try:
        return EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise Fault("out_of_range") from None


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def arithmetic(op: str, args: list[tuple[str, Any]]) -> tuple[str, Any]:
    (left, a), (right, b) = args
    if "duration" in (left, right):
        us, shift = (b, a) if left == "duration" else (a, b)
        if us is None:
            return "timestamp", None
        moment(us)
        made = us + shift if op == "+" else us - shift
        moment(made)
        return "timestamp", made
    dtype = "int64" if left == right == "int64" and op != "/" else "float64"
    # Each side is converted first, also beside a null.
    if dtype == "float64":
        a = real(a) if left == "int64" and a is not None else a
        b = real(b) if right == "int64" and b is not None else b
    if a is None or b is None:
        return dtype, None
    if op in ("/", "//", "%") and b == 0:
        raise Fault("nan" if op == "%" or a == 0 else "infinite")
    try:
        made = {
            "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "//": lambda: a // b, "%": lambda: a % b,
        }[op]()  # fmt: skip
    except OverflowError:
        raise Fault("infinite") from None
    return dtype, whole(made) if dtype == "int64" else finite(made)


def compare(op: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    if isinstance(a, str):
        a, b = a.encode(), b.encode()
    return bool({"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op])


def text(made: str) -> str:
    if len(made.encode()) > 65536:
        raise Fault("too_long")
    return made


def plain(op: str, args: list[Any], raw: Any) -> tuple[str, Any]:
    """What is null where the first value is."""
    if op == "concat":
        return "string", None if any(x is None for _, x in args) else text("".join(x for _, x in args))
    if op == "seconds_between":
        for _, us in args:
            if us is not None:
                moment(us)
        (_, a), (_, b) = args
        return "float64", None if None in (a, b) else float(b - a) / 1e6
    (dtype, x), rest = args[0], args[1:]
    if op in ("year", "month", "day", "hour", "minute", "second", "weekday"):
        if x is None:
            return "int64", None
        at, years = shown(x, rest[0])
        return "int64", at.weekday() if op == "weekday" else getattr(at, op) + (years if op == "year" else 0)
    if op == "truncate":
        return "timestamp", None if x is None else truncated(x, *rest)
    if op == "not":
        return "bool", None if x is None else not x
    if op == "isin":
        return "bool", None if x is None else any(x == other for _, other in rest)
    if op in ("contains", "starts_with", "ends_with", "matches"):
        if x is None:
            return "bool", None
        other = rest[0][1] if op == "contains" else rest[0]
        asked: dict[str, Any] = {
            "contains": lambda: other in x, "starts_with": lambda: x.startswith(other), "ends_with": lambda: x.endswith(other),
            "matches": lambda: re.search(other, x) is not None,
        }  # fmt: skip
        return "bool", asked[op]()
    if op == "length":
        return "int64", None if x is None else len(x)
    if op == "cast":
        return rest[0], None if x is None else cast(x, dtype, rest[0])
    if x is None:
        return "string" if op in ("lower", "upper", "strip", "substring", "replace") else dtype, None
    if op in ("lower", "upper", "strip"):
        return "string", text(getattr(x, op)())
    if op == "substring":
        start, length = rest
        return "string", x[start:] if length is None else x[start : start + length]
    if op == "replace":
        return "string", text(x.replace(*rest))
    if op in ("negative", "abs"):
        made = -x if op == "negative" else abs(x)
        return dtype, whole(made) if dtype == "int64" else made + 0.0
    if op in ("floor", "ceil", "round"):
        if dtype == "int64" or abs(x) >= 2.0**53:
            return dtype, x
        rounding: dict[str, Any] = {"floor": math.floor, "ceil": math.ceil, "round": round}
        return dtype, float(rounding[op](x)) + 0.0
    raise AssertionError(f"the oracle knows no {op!r}")


CYCLE = 146_097 * 86_400_000_000
"""400 years, after which the calendar repeats itself, weekdays too."""


def shown(us: int, zone: str) -> tuple[datetime, int]:
    """What a zone's clock shows, and the years by which that is off: at the ends of the calendar, where Python has no such year."""
    moment(us)
    try:
        return moment(us).astimezone(ZoneInfo(zone)), 0
    except OverflowError:
        back = 400 if us > 0 else -400
        return moment(us - (CYCLE if us > 0 else -CYCLE)).astimezone(ZoneInfo(zone)), back


def truncated(us: int, unit: str, zone: str) -> int:
    at, years = shown(us, zone)
    if unit == "day":
        made = micros(at.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)) + years // 400 * CYCLE
    else:
        within = timedelta(microseconds=at.microsecond)
        if unit != "second":
            within += timedelta(seconds=at.second)
        if unit == "hour":
            within += timedelta(minutes=at.minute)
        made = us - within // timedelta(microseconds=1)
    if made < micros(YEAR_1):
        raise Fault("out_of_range")
    return made


def cast(x: Any, dtype: str, to: str) -> Any:
    if dtype == to:
        return x
    if to == "string":
        if dtype == "bool":
            return "true" if x else "false"
        return moment(x).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0") if dtype == "timestamp" else repr(x)
    if dtype == "int64" and to == "float64":
        return real(x)
    if dtype == "float64":
        return whole(int(x))
    if dtype != "string":
        return int(x)
    if to == "bool":
        if x not in ("true", "false"):
            raise Fault("wrong_type")
        return x == "true"
    if to == "int64":
        if not re.fullmatch(r"[+-]?\d+", x, re.ASCII):
            raise Fault("wrong_type")
        return whole(int(x))
    if to == "float64":
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", x, re.ASCII):
            bare = x.lower().lstrip("+-")
            raise Fault("nan" if bare == "nan" else "infinite" if bare in ("inf", "infinity") else "wrong_type")
        return finite(float(x))
    return of_text(x)


def of_text(x: str) -> int:
    found = TIME_TEXT.fullmatch(x)
    if not found:
        raise Fault("wrong_type")
    *head, fraction, zone = found.groups()
    try:
        at = datetime(*map(int, head), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        raise Fault("wrong_type") from None
    us = micros(at) + int((fraction or "0")[:6].ljust(6, "0"))
    if zone not in "Zz":
        sign = -1 if zone[0] == "-" else 1
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        if hours > 23 or minutes > 59:
            raise Fault("wrong_type")
        us -= sign * (hours * 60 + minutes) * 60_000_000
    return us
