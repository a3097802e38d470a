"""What of a feature group was redefined, line by line and in words, and what each line costs. Pure: two canonical forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.planning.definition_words import columns, expression, names_in, parse, place, span, spans, value
from transforms.acceptance import accepts_more, field_accepts_more
from transforms.errors import some_of

__all__ = ["Change", "all_columns", "definition_changes", "same_rows"]

NOTHING, BY_ITSELF = "nothing is recomputed", "nothing by itself"
_RULES = ("required", "min", "max", "domain")


@dataclass(frozen=True)
class Change:
    """``what`` differs, and its ``effect``; ``free``: it costs nothing, as what was made before holds still."""

    what: str
    effect: str = ""
    free: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.effect}" if self.effect else self.what


def definition_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """How ``now`` differs from ``before``, both canonical forms of one group as JSON gives them; empty where they mean the same."""
    wider = accepts_more(before, now)
    if wider is not None:
        return [Change(line, NOTHING, free=True) for line in wider]
    found = [*_source(before, now), *_group(before, now), *_aggregates(before["aggregates"], now["aggregates"])]
    return found or [Change("its definition", "every value")]


def all_columns(definition: Mapping[str, Any]) -> list[str]:
    """The columns of a group's aggregates."""
    return [name for a in definition["aggregates"] for name in columns(a)]


def same_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether both definitions make rows at the same keys and times, of whatever events: values alone may differ."""

    def shape(definition: Mapping[str, Any]) -> list[Any]:
        windows = sorted({us for a in definition["aggregates"] for us in a["over"]})
        return [definition["source"], definition["entity"], definition["hop"], definition.get("null_keys"), windows]

    return shape(before) == shape(now)


# ------------------------------------------------------------------------------------------------------------------------- source


def _source(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    a, b = before["source"], now["source"]
    if a["name"] != b["name"]:
        yield Change(f"source: {a['name']} -> {b['name']}", "every row, from other events")
        return
    for name, text, effect in (
        ("event_time", str, "every row"),
        ("tie_breaker", str, "values that depend on the order of events of one microsecond"),
        ("delay", span, "the event timestamp of every row"),
        ("explode", place, "every row: a record is other events"),
        ("where", expression, "every row: other events are accepted"),
    ):
        if a.get(name) != b.get(name):
            called = "out_of_orderness" if name == "delay" else name
            then, new = ("none" if x.get(name) is None else text(x[name]) for x in (a, b))
            yield Change(f"source {b['name']}: {called} {then} -> {new}", effect)
    if a.get("event_time_from") != b.get("event_time_from"):
        for what in _reading(a.get("event_time_from") or {}, b.get("event_time_from") or {}, b["event_time"]):
            yield Change(f"event time {b['event_time']!r}: {what}", "every row")
    fields = [{f[0]: f for f in x["fields"]} for x in (a, b)]
    for name in dict.fromkeys([*fields[0], *fields[1]]):
        yield from _field(fields[0].get(name), fields[1].get(name), name, now if name in fields[1] else before)


def _field(a: list[Any] | None, b: list[Any] | None, name: str, definition: Mapping[str, Any]) -> Iterator[Change]:
    if a == b:
        return
    if a is None or b is None:
        rules = b is not None and (b[2] or any(r is not None for r in b[3:6]))
        what = f"field {name!r} is {'new' if a is None else 'gone'}"
        yield Change(what, "its rules reject events that were accepted", False) if rules else Change(what, BY_ITSELF, free=True)
        return
    wider = field_accepts_more(a, b)
    if wider is not None:
        yield from (Change(line, BY_ITSELF, free=True) for line in wider)
        return
    if a[1] != b[1]:
        yield Change(f"field {name!r}: type {a[1]} -> {b[1]}", _reads(name, definition))
    for i, rule in enumerate(_RULES, 2):
        if a[i] != b[i]:
            free = field_accepts_more(a, [*a[:i], b[i], *a[i + 1 :]]) is not None
            yield Change(
                f"field {name!r}: {rule} {value(a[i])} -> {value(b[i])}",
                BY_ITSELF if free else "events that were accepted are rejected",
                free,
            )
    for what in _reading((a[6:] or [{}])[0], (b[6:] or [{}])[0], name):
        yield Change(f"field {name!r}: {what}", _reads(name, definition))


def _reading(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> Iterator[str]:
    """How a field is read otherwise than before."""
    for key, text, default in (("path", place, name), ("parse", parse, "none"), ("value", expression, "none"), ("length", str, "any")):
        if a.get(key) != b.get(key):
            then, new = (text(x[key]) if x.get(key) is not None else default for x in (a, b))
            yield f"{key} {then} -> {new}"


def _reads(name: str, definition: Mapping[str, Any]) -> str:
    """What of a group depends on the value of a field."""
    source, affected = definition["source"], {name}
    for f in source["fields"]:  # computed ones read those before them
        if f[6:] and names_in(f[6].get("value")) & affected:
            affected.add(f[0])
    if affected & set(definition["entity"]):
        return "every row, as it is a key"
    if affected & names_in(source.get("where")):
        return "every row, as it decides which events are accepted"
    read = [
        column
        for a in definition["aggregates"]
        if a.get("column") in affected or names_in(a["where"]) & affected or source["tie_breaker"] in affected
        for column in columns(a)
    ]
    return f"every value that reads it: {some_of(read)}" if read else "no feature reads it, but events where it cannot be read are rejected"


# -------------------------------------------------------------------------------------------------------------------------- group


def _group(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    if before["entity"] != now["entity"]:
        yield Change(f"keys: {', '.join(before['entity'])} -> {', '.join(now['entity'])}", "every row")
    if before["hop"] != now["hop"]:
        yield Change(f"hop: {span(before['hop'])} -> {span(now['hop'])}", "every row, at other times")
    if before.get("null_keys") != now.get("null_keys"):
        yield Change(f"null_keys: {value(before.get('null_keys'))} -> {value(now.get('null_keys'))}", "rows of events without a key")


def _aggregates(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[Change]:
    then, new = ({a["name"]: a for a in some} for some in (before, now))
    for name in dict.fromkeys([*then, *new]):
        a, b = then.get(name), new.get(name)
        if a is None or b is None:
            one = a or b or {}
            what, effect = ("new", "added") if a is None else ("gone", "removed")
            yield Change(f"aggregate {name} is {what}", f"{_columns(columns(one))} {effect}")
        elif a != b:
            yield from _aggregate(a, b)
    if list(then) != list(new) and set(then) == set(new):
        yield Change("aggregates are in another order", "the columns too; every value stays")


def _aggregate(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Change]:
    name = b["name"]
    for us in (us for us in b["over"] if us not in a["over"]):
        yield Change(f"aggregate {name}: window {span(us)} added", f"column {name}_{span(us)} added")
    for us in (us for us in a["over"] if us not in b["over"]):
        yield Change(f"aggregate {name}: window {span(us)} removed", f"column {name}_{span(us)} removed")
    if a["over"] != b["over"] and sorted(a["over"]) == sorted(b["over"]):
        yield Change(f"aggregate {name}: windows {spans(a['over'])} -> {spans(b['over'])}", "the order of its columns")
    for key in dict.fromkeys([*a, *b]):
        if key != "over" and a.get(key) != b.get(key):
            text = expression if key == "where" else value
            yield Change(f"aggregate {name}: {key} {text(a.get(key))} -> {text(b.get(key))}", f"every value of {_columns(columns(b))}")


def _columns(names: list[str]) -> str:
    return f"column{'s' * (len(names) > 1)} {some_of(names)}"
