"""What a few bytes may make of an Avro schema: schemas of topics and of files are held to the same, before anything is decoded by them."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["UnusableSchema", "checked"]

VALUES_PER_BYTE = 16
MOST_FREE_VALUES = 10_000
"""A record is never decoded to more values than so many per byte and so many more."""
_ONE_BYTE_OR_MORE = {"boolean", "int", "long", "float", "double", "bytes", "string", "enum", "array", "map"}


class UnusableSchema(Exception):
    """No record of this schema can be an event; the message is the reason."""


def checked(parsed: Any, named: dict[str, Any]) -> int:
    """Have a record's schema, as fastavro parsed it, decode what is a record alone; the fewest bytes that one takes.

    ``named`` are the types that it refers to. Raises UnusableSchema for a schema that a few bytes could keep busy for ever.
    """
    weight = _weigh(parsed, named, [], {})
    seen = set[int]()
    for each in (parsed, *named.values()):
        _checked_choices(each, seen)
    return weight.bytes


class _Weight(NamedTuple):
    """What a value of a schema costs: the fewest ``bytes`` that it takes, and its ``surplus``: the most values that it can be made of
    beyond :data:`VALUES_PER_BYTE` for each of its bytes."""

    bytes: int
    surplus: int


def _weigh(schema: Any, named: dict[str, Any], within: list[str], done: dict[str, _Weight]) -> _Weight:
    """The weight of a parsed schema. Raises UnusableSchema for schemas that a few bytes could keep busy for ever.

    Those are a record within itself, to any depth (the decoder would run out of stack, and take the process with it), an array
    of values that take no bytes (its length is not bounded by that of the record), and records of records that double at each level.
    """
    if isinstance(schema, list):
        heaviest = max((_weigh(branch, named, within, done).surplus for branch in schema), default=0)
        return _Weight(1, heaviest - VALUES_PER_BYTE)
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(kind, (dict, list)):
        return _weigh(kind, named, within, done)
    if isinstance(schema, str) and schema in named:
        if schema in within:
            raise UnusableSchema(f"{schema} holds itself, to any depth")
        return done[schema] if schema in done else _weigh(named[schema], named, within, done)
    if kind in ("record", "error"):
        name = schema["name"]
        parts = [_weigh(f["type"], named, [*within, name], done) for f in schema["fields"]]
        done[name] = _Weight(sum(p.bytes for p in parts), 1 + sum(p.surplus for p in parts))
        if done[name].surplus > MOST_FREE_VALUES:
            raise UnusableSchema(f"{name} is made of more than {MOST_FREE_VALUES} values that take no bytes")
        return done[name]
    size = int(schema["size"]) if kind == "fixed" else 1 if kind in _ONE_BYTE_OR_MORE else 0
    if kind in ("array", "map"):
        item = _weigh(schema["items" if kind == "array" else "values"], named, within, done)
        if kind == "array" and not item.bytes:
            raise UnusableSchema("it has an array of values that take no bytes")
        if item.surplus - (VALUES_PER_BYTE if kind == "map" else 0) > 0:  # a map's values have keys of a byte or more
            raise UnusableSchema(f"it has an {kind} of records that are made of more than {VALUES_PER_BYTE} values for each of their bytes")
    return _Weight(size, 1 - size * VALUES_PER_BYTE)


def _checked_choices(schema: Any, seen: set[int]) -> Any:
    """The parsed schema, in place, with branches of unions and symbols of enums that only an index from 0 up finds.

    The decoder takes them by Python's rules, where -1 is the last one: bytes that are no record would be read as one.
    """
    if id(schema) in seen:
        return schema
    if isinstance(schema, list):
        made = _choices([_checked_choices(branch, seen) for branch in schema])
        seen.add(id(made))
        return made
    if isinstance(schema, dict):
        seen.add(id(schema))
        for key, inner in schema.items():
            if key in ("type", "items", "values"):
                schema[key] = _checked_choices(inner, seen)
            elif key == "symbols":
                schema[key] = _choices(inner)
            elif key == "fields":
                for field in inner:
                    _checked_choices(field, seen)
    return schema


def _choices(of: list[Any]) -> list[Any]:
    # A dict's own lookup costs next to nothing, and knows no negative index. Length 0: nothing is added to one that is negative.
    inside = {"__getitem__": dict(enumerate(of)).__getitem__, "__len__": lambda self: 0}
    made: list[Any] = type("Choices", (list,), inside)(of)
    return made
