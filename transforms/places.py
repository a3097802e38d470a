"""Where in a record a field stands: a path through its payload, or its key, a header or its timestamp.

A path is written as text, ``"user.id"`` or ``"items[0].sku"``. A name that holds dots or brackets itself stands in brackets and quotes,
``'payload["shop.Order"].id'``; or the path is a list of its steps, ``["payload", "shop.Order", "id"]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transforms.errors import DefinitionError

__all__ = [
    "EACH",
    "ElementIndex",
    "Header",
    "Path",
    "Place",
    "RecordKey",
    "RecordTimestamp",
    "Step",
    "canonical_place",
    "depth_of",
    "lists_of",
    "path_of",
    "path_text",
    "within",
]

EACH = "[]"
"""The step from a list that a source explodes to the element that an event is made of."""

Step = str | int
Path = tuple[Step, ...]
"""Names of members, indexes of elements (from 0; -1 is the last), and :data:`EACH`."""

_PLAIN = re.compile(r"[^.\[\]]+")
_STEP = re.compile(r"""\[(-?[0-9]{1,6})?\]|\[("[^"]+"|'[^']+')\]|([^.\[\]]+)""")


@dataclass(frozen=True)
class RecordKey:
    """The record's key: UTF-8 text for a string field, the text of a number, a boolean or a time for others (``42``); or what a
    ``parse`` makes of its bytes, such as :class:`~transforms.parsing.BigEndian`. ``member``: the key is an object, and this is the path of
    a member of it. A key in a schema registry's framing (Avro, Protobuf, JSON Schema) is what its schema says, as a whole and by members;
    any other is an object if it is JSON."""

    member: str | Sequence[Step] | None = None

    def __post_init__(self) -> None:
        if self.member is not None:
            object.__setattr__(self, "member", path_of("RecordKey", self.member, each=False))


@dataclass(frozen=True)
class Header:
    """A header of the record by its ``name``; of several the last. Its bytes are read as those of :class:`RecordKey`."""

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DefinitionError(f"Header({self.name!r}): write the header's name, e.g. Header('x-tenant')")


@dataclass(frozen=True)
class RecordTimestamp:
    """The record's own timestamp, as its producer or broker set it: a ``timestamp`` field."""


@dataclass(frozen=True)
class ElementIndex:
    """The position, from 0, of an event's element in the list that its source explodes: an ``int64`` field. Of lists in lists it is the
    position among all of the record's elements, in their order: no two events of a record have the same."""


MOST_STEPS = 128
"""Of a path: JSON is read to 64 levels, Protobuf to 100, and what is made for a path goes as deep as it."""
Place = Path | RecordKey | Header | RecordTimestamp | ElementIndex
"""Where a field stands."""


def path_of(what: str, path: Any, *, each: bool = True) -> Path:
    """The steps of a path in either way of writing it. Raises DefinitionError, where ``what`` names the definition.

    ``each``: the step ``[]`` may be in it, not first.
    """
    advice = "write 'user.id', 'items[0].sku', or 'data[\"user.id\"]' for a name that holds dots"
    if isinstance(path, str):
        steps: list[Step] = []
        at, dot = 0, True
        while at < len(path):
            found = _STEP.match(path, at)
            if not found or (found[3] is None and dot and at) or (found[3] is not None and not dot):
                raise DefinitionError(f"{what}: path {path!r} cannot be read at character {at}; {advice}")
            index, quoted, name = found.groups()
            steps.append(name if name is not None else quoted[1:-1] if quoted is not None else EACH if index is None else int(index))
            at, dot = found.end(), False
            if at < len(path) and path[at] == ".":
                at, dot = at + 1, True
        if dot:
            raise DefinitionError(f"{what}: path {path!r} {'ends in a dot' if path else 'is empty'}; {advice}")
    elif isinstance(path, (list, tuple)) and path and all(isinstance(s, (str, int)) and not isinstance(s, bool) for s in path):
        steps = list(path)
        if "" in steps:
            raise DefinitionError(f"{what}: path {path!r} has an empty step; {advice}")
    else:
        raise DefinitionError(f"{what}: path {path!r} is no path; {advice}")
    if len(steps) > MOST_STEPS:
        raise DefinitionError(f"{what}: path of {len(steps):,} steps; no record is read deeper than {MOST_STEPS}; end it at a value above")
    if not isinstance(steps[0], str) or steps[0] == EACH:
        raise DefinitionError(f"{what}: path {path!r} begins with an index, but a record is an object; {advice}")
    if EACH in steps and not each:
        raise DefinitionError(f"{what}: path {path!r} has a step []; a key has no elements that events are made of; name one, e.g. [0]")
    return tuple(steps)


def depth_of(path: Path) -> int:
    """How many steps of a path lead to the innermost element of lists that it goes through; 0 for a path through none."""
    return len(path) - path[::-1].index(EACH) if EACH in path else 0


def lists_of(path: Path) -> tuple[Path, ...]:
    """The paths of the lists that a list's own path goes through, from the outermost, and its own; () of none."""
    return (*(path[:number] for number, step in enumerate(path) if step == EACH), path) if path else ()


def path_text(path: Path) -> str:
    """A path as people write it, for messages."""
    return "".join(
        f"[{s}]" if isinstance(s, int) else s if s == EACH else f"{'.' if n else ''}{s}" if _PLAIN.fullmatch(s) else f"[{_quoted(s)}]"
        for n, s in enumerate(path)
    )  # fmt: skip


def within(lists: Sequence[Path], positions: Sequence[int]) -> str:
    """The end of a detail: the element of the last of as many ``lists`` (as of :func:`lists_of`) as there are ``positions``; "" of none."""
    if not positions:
        return ""
    outer = iter(positions)
    path = [next(outer) if step == EACH else step for step in lists[len(positions) - 1]]
    return f" (element {positions[-1]} of {path_text(tuple(path))})"


def _quoted(name: str) -> str:
    return f"'{name}'" if '"' in name else f'"{name}"'


def canonical_place(place: Place) -> Any:
    """A JSON-able form that is equal exactly for equal places."""
    if isinstance(place, tuple):
        return list(place)
    if isinstance(place, Header):
        return {"header": place.name}
    if isinstance(place, RecordKey):
        return {"key": list(place.member or ())}
    return {"timestamp": True} if isinstance(place, RecordTimestamp) else {"element": True}
