"""Parts of a definition's canonical form as people write them: ``Epoch('ms')``, ``after.amount``, ``col("amount") > 5``. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from transforms.definitions import duration_name
from transforms.expressions import Formula
from transforms.places import path_text

__all__ = ["columns", "expression", "names_in", "parse", "place", "span", "spans", "value"]

_SIGNS = {"and": "&", "or": "|"}


def span(us: int) -> str:
    """Microseconds as a duration."""
    return duration_name(timedelta(microseconds=us)) if us else "0"


def spans(us: list[int]) -> str:
    """Several durations."""
    return ", ".join(map(span, us))


def columns(aggregate: dict[str, Any]) -> list[str]:
    """The columns of an aggregate, one per window."""
    return [f"{aggregate['name']}_{span(us)}" for us in aggregate["over"]]


def place(found: Any) -> str:
    """Where a field stands."""
    if isinstance(found, list):
        return path_text(tuple(found))
    kind, named = next(iter(found.items()))
    if kind == "header":
        return f"Header({named!r})"
    if kind == "key":
        return f"RecordKey({path_text(tuple(named))!r})" if named else "RecordKey()"
    return "RecordTimestamp()" if kind == "timestamp" else "ElementIndex()"


def parse(found: dict[str, Any] | None) -> str:
    """How a field is read."""
    if found is None:
        return "none"
    given = {name: v for name, v in found.items() if name != "parse" and v not in (None, False, "")}
    if len(given) == 1 and isinstance(only := next(iter(given.values())), str):
        return f"{found['parse']}({only!r})"
    return f"{found['parse']}({', '.join(f'{name}={v!r}' for name, v in given.items())})"


def value(found: Any) -> str:
    """A bound, a domain, a flag."""
    if isinstance(found, list):
        return ", ".join(map(repr, found[:8])) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return "none" if found is None else str(found)


def expression(found: list[Any] | None) -> str:
    """A filter or a computed value."""
    if found is None:
        return "none"
    if found[0] == "expression":
        return str(_formula(found[1]))
    op, *args = found
    if op in _SIGNS:
        return f" {_SIGNS[op]} ".join(f"({expression(a)})" for a in args)
    if op == "not":
        return f"~({expression(args[0])})"
    if op in ("is_null", "isin"):
        return f"{args[0]}.{op}({', '.join(map(str, args[1:]))})"
    return f"{args[0]} {op} {args[1]!r}"


def _formula(plain: list[Any]) -> Formula:
    """The formula of which this is the canonical form: of its arguments lists are formulas, all else are plain values."""
    return Formula(plain[0], tuple(_formula(a) if isinstance(a, list) else a for a in plain[1:]))


def names_in(found: list[Any] | None) -> set[str]:
    """The fields that a filter or a computed value reads."""
    if found is None:
        return set()
    if found[0] == "expression":
        return set(_columns_in(found[1]))
    op, *args = found
    return {n for a in args for n in names_in(a)} if op in (*_SIGNS, "not") else {str(args[0])}


def _columns_in(plain: list[Any]) -> Iterator[str]:
    if plain[0] == "column":
        yield plain[1]
    for a in plain[1:]:
        if isinstance(a, list):
            yield from _columns_in(a)
