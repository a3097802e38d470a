"""Whether a path can have a value, by the schema of a topic's records alone: one that cannot is a mistake, and would always be null.

Of Avro's schemas and JSON Schema; Protobuf's messages have :mod:`~pipelines.sources.formats.protobuf_paths`. Steps into values of another
form (into a number, into a list by a name) are not looked at: each record of them says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.nested import entry_names
from transforms.places import EACH, Path, Step, path_text

__all__ = ["AvroPlaces", "JsonPlaces", "LostFieldError", "Places", "check_fields"]

_SCALARS = ("null", "boolean", "integer", "number", "string")
_CONDITIONS = {"if", "then", "else", "dependentSchemas"}
"""What they name is a member, too, where a schema says of unevaluated ones that there are none."""
_MOST_BRANCHES = 64
"""A schema whose branches lie deeper within each other may lead anywhere."""
_MOST_SCHEMAS = 1_000
"""A step that leads into more of them than that may lead anywhere."""


class Inner(NamedTuple):
    """What a step from a schema leads to: ``schemas`` of what may stand there, none for nothing; ``sure``: whether nothing is nothing, not
    only what no schema names; ``names``: of the members that there are."""

    schemas: list[Any] | None
    """None: any value is possible."""
    sure: bool = True
    names: tuple[str, ...] = ()


class LostFieldError(ConfigError):
    """A ``field`` is read from a path that no record can have."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


class Places:
    """What a schema says of where something may stand; a subclass says it of one step."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def into(self, schema: Any, step: Step) -> Inner:
        """Where a step leads to from a schema."""
        raise NotImplementedError

    def words(self, schema: Any) -> list[str] | None:
        """The texts that a schema allows, where these are all that it does (beside null): an enum's. None: others are possible."""
        raise NotImplementedError

    def words_at(self, path: Path) -> list[str] | None:
        """As :meth:`words`, of the values at a path; [] where none is possible."""
        at = [self.root]
        for step in path:
            found = [self.into(schema, step) for schema in at]
            if any(each.schemas is None for each in found):
                return None
            at = [schema for each in found for schema in each.schemas or ()]
            if len(at) > _MOST_SCHEMAS:
                return None
        each = [self.words(schema) for schema in at]
        return None if None in each else list(dict.fromkeys(word for some in each for word in some or ()))

    def lost(self, path: Path) -> tuple[int, Inner] | None:
        """The first step of a path that leads to nothing, and what there is instead; None: the path can have a value."""
        at = [self.root]
        for number, step in enumerate(path):
            found = [self.into(schema, step) for schema in at]
            if any(each.schemas is None for each in found):
                return None
            inner = [schema for each in found for schema in each.schemas or ()]
            if not inner:
                names = dict.fromkeys(name for each in found for name in each.names)
                return number, Inner([], all(each.sure for each in found), tuple(names))
            if len(inner) > _MOST_SCHEMAS:
                return None
            at = inner
        return None


def check_fields(source: EventSource, places: Places, what: str, say: Callable[[str], None]) -> None:
    """Raises LostFieldError for the first field that stands where the schema, called ``what``, has nothing; of one that it does not name,
    and allows all the same, ``say`` hears. Fields beside the record (its key, headers) and computed ones are not looked for."""
    for f in source.all_fields:
        path = f.place
        if f.value is not None or not isinstance(path, tuple) or (lost := places.lost(path)) is None:
            continue
        at, inner = lost
        told = f"source {source.name!r}: field {f.name!r} stands at {path_text(path)}, where "
        fix = _advice(path, at, inner.names)
        if inner.sure:
            raise LostFieldError(f"{told}no record of {what} can have anything; {fix}", f.name)
        say(f"{told}{what} names nothing; {fix}, where it is no member that its writers add")


def _advice(path: Path, at: int, names: Iterable[str]) -> str:
    """What may be meant: a name that holds dots, one in another spelling, or the names that there are."""
    known = list(names)
    for end in range(len(path), at, -1):
        joined = ".".join(str(step) for step in path[at:end])
        same = [name for name in known if _letters(name) == _letters(joined)]
        close = same or (get_close_matches(joined, known, 1) if end == at + 1 else [])
        if close:
            return f"write path={path_text((*path[:at], close[0], *path[end:]))!r}"
    return f"there is {', '.join(known[:20]) or 'nothing'}"


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _value_of(names: Collection[str]) -> str:
    """The member that holds the value in a list's elements, where these are the entries of a map; "" where they are none."""
    found = entry_names(names)
    return found[1] if found is not None and {*found} <= {*names} else ""


class AvroPlaces(Places):
    """A schema of Avro as fastavro parsed it, with the named types that it refers to. A record has what its schema names."""

    def __init__(self, root: Any, named: Mapping[str, Any]) -> None:
        super().__init__(root)
        self._named = named

    @property
    def schemas(self) -> tuple[Any, Mapping[str, Any]]:
        """The schema, and the named types."""
        return self.root, self._named

    def into(self, schema: Any, step: Step) -> Inner:
        """See the base class."""
        if isinstance(schema, list):
            found = [self.into(each, step) for each in schema if each != "null"]
            names = tuple(name for each in found for name in each.names)
            return Inner(None if any(e.schemas is None for e in found) else [s for e in found for s in e.schemas or ()], names=names)
        if isinstance(schema, str):
            return self.into(self._named[schema], step) if schema in self._named else Inner(None)
        kind = schema["type"]
        if isinstance(kind, (dict, list)):
            return self.into(kind, step)
        if kind in ("record", "error") and isinstance(step, str) and step != EACH:
            fields = {field["name"]: field["type"] for field in schema["fields"]}
            return Inner([fields[step]] if step in fields else [], names=tuple(fields))
        if kind == "map":
            return Inner([schema["values"]])
        if kind == "array":
            return self._of_list(schema["items"], step)
        return self.into(kind, step) if kind in self._named and self._named[kind] is not schema else Inner(None)

    def words(self, schema: Any) -> list[str] | None:
        """See the base class."""
        if isinstance(schema, list):
            each = [self.words(one) for one in schema if one != "null"]
            return None if None in each or not each else [word for some in each for word in some or ()]
        if isinstance(schema, str):
            return self.words(self._named[schema]) if schema in self._named else None
        kind = schema["type"]
        return list(schema["symbols"]) if kind == "enum" else self.words(kind) if isinstance(kind, (dict, list)) else None

    def _of_list(self, items: Any, step: Step) -> Inner:
        if isinstance(step, int) or step == EACH:
            return Inner([items])
        inner = self._named.get(items, items) if isinstance(items, str) else items
        if isinstance(inner, dict) and inner.get("type") == "record" and (value := _value_of([f["name"] for f in inner["fields"]])):
            return self.into(inner, value)
        return Inner(None)


class JsonPlaces(Places):
    """A JSON Schema (JSON, of which anything may be none). Objects have members that it does not name, unless it says that they do not."""

    def into(self, schema: Any, step: Step) -> Inner:
        """See the base class."""
        return self._into(schema, step, set())

    def words(self, schema: Any) -> list[str] | None:
        """See the base class."""
        found: list[str] = []
        left, seen = [schema], set[int]()  # each once: many may refer to one, and one to itself
        while left:
            schema = left.pop()
            if not isinstance(schema, dict):
                return None
            if id(schema) in seen:
                continue
            seen.add(id(schema))
            if isinstance(reference := schema.get("$ref"), str):
                left.append(self._referred(reference))
                continue
            known = [schema["const"]] if "const" in schema else schema.get("enum")
            if isinstance(known, list):
                texts = [value for value in known if value is not None]
                if not all(isinstance(value, str) for value in texts):
                    return None
                found += texts
                continue
            choices: list[Any] = next((schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)), [])
            inner = [one for one in choices if not (isinstance(one, dict) and one.get("type") == "null")]
            if not inner:
                return None
            left += inner[::-1]
        return found

    def _into(self, schema: Any, step: Step, seen: set[int], depth: int = 0) -> Inner:
        """``seen``: the schemas that this step was looked for in, each once, as references may go in circles."""
        while True:
            if not isinstance(schema, dict):
                return Inner([] if schema is False else None)
            if id(schema) in seen:
                return Inner([])
            seen.add(id(schema))
            if not isinstance(reference := schema.get("$ref"), str):
                break
            if (schema := self._referred(reference)) is None:
                return Inner(None)
        choices = [each for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list) for each in schema[key]]
        branches = [each for each in choices if not (isinstance(each, dict) and each.get("type") in _SCALARS)]
        if isinstance(step, int) or step == EACH or "items" in schema:
            own = self._of_list(schema, step)
        else:
            own = _of_object(schema, step, bool(branches))
        if not branches:
            return own
        if depth >= _MOST_BRANCHES:
            return Inner(None)
        found_in = [self._into(each, step, seen, depth + 1) for each in branches]
        # Where the schema has members of its own beside its branches, these say no less of the same object.
        every = [own, *found_in] if own.names or own.schemas else found_in
        named = [schema for each in every for schema in each.schemas or ()]
        if any(each.schemas is None for each in every):
            return Inner(None)
        return Inner(named, all(each.sure for each in every), tuple(name for each in every for name in each.names))

    def _of_list(self, schema: dict[str, Any], step: Step) -> Inner:
        items = schema.get("items")
        if isinstance(items, dict) and isinstance(items.get("$ref"), str):
            items = self._referred(items["$ref"])
        if not isinstance(items, dict):
            return Inner(None)
        if isinstance(step, int) or step == EACH:
            return Inner([items])
        members = items.get("properties")
        if isinstance(members, dict) and (value := _value_of(members)):
            return Inner([members[value]])
        return Inner(None)

    def _referred(self, reference: str) -> Any:
        """What a reference within the schema names; None for one to elsewhere."""
        found = self.root
        if not re.fullmatch("#(/.*)?", reference, re.DOTALL):
            return None  # elsewhere, or by the name of an anchor
        for part in reference[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                return None
            found = found[part]
        return found


def _of_object(schema: dict[str, Any], step: Step, branched: bool) -> Inner:
    members = schema.get("properties")
    if not isinstance(members, dict) or schema.get("patternProperties"):
        more = schema.get("additionalProperties")
        return Inner([more] if isinstance(more, dict) and not schema.get("patternProperties") else [] if branched else None)
    if step in members:
        return Inner([members[step]])
    more = schema.get("additionalProperties", None if _CONDITIONS & schema.keys() else schema.get("unevaluatedProperties"))
    if more is True or isinstance(more, dict):
        return Inner(None if more is True else [more])
    return Inner([], more is False, tuple(members))
