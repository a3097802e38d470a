"""What a source asks of messages of Protobuf: a tree of the parts that its fields name, as far as they need them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from transforms.definitions import EventSource, Field, RecordKey
from transforms.places import EACH, Path, Step, depth_of

__all__ = ["Want", "asked_apart", "wanted", "wanted_of_keys"]


@dataclass
class Want:
    """What is read from a value: its ``dtype`` as a field of the contract, or some of its parts by name; ``items`` of a list's elements."""

    dtype: str | None = None
    parsed: str = ""
    """How a field reads it: the name of its ``parse``."""
    asked: dict[str, str] = field(default_factory=dict, compare=False)
    """By each dtype that a field asks it as, the field's name."""
    parts: dict[str, Want] = field(default_factory=dict)
    items: Want | None = None
    name: str = ""
    """What it is called in its message, where what asks for it gives it another name."""


def wanted(source: EventSource) -> dict[str, Want]:
    """What a source reads from its messages, by the names of their fields. Of :func:`asked_apart`, by names of its own."""
    fields = [(f.place, f) for f in source.all_fields if f.value is None and isinstance(f.path, tuple | None)]
    root = _root(fields)
    if source.explode is not None:
        _step(root, (*source.explode_path, EACH))
    return root.parts


def wanted_of_keys(source: EventSource) -> dict[str, Want]:
    """What a source asks of the messages that its records' keys are."""
    return _root([(f.path.member, f) for f in source.all_fields if isinstance(f.path, RecordKey) and f.path.member is not None]).parts


def _root(fields: Iterable[tuple[Any, Field]]) -> Want:
    root = Want()
    for path, f in fields:
        leaf = _step(root, path)
        if f.dtype is not None and f.dtype.startswith("list<"):
            leaf.dtype, leaf = f.dtype, _step(leaf, (EACH,))
        leaf.parsed = "" if f.parse is None else type(f.parse).__name__
        if f.dtype is not None:
            leaf.dtype = f.dtype.removeprefix("list<").rstrip(">")
            leaf.asked.setdefault(leaf.dtype, f.name)
    return root


class _Asked(str):
    """A step to what is ``real`` under another name, as another field asks for it otherwise."""

    real: str


def asked_apart(source: EventSource) -> EventSource:
    """The source, with a place of its own for each way in which its fields ask for one value: an enum as its name and as its number, a list
    of entries by its places and by its keys. Such places differ in one name on their way."""
    fields = list(source.fields)
    of_payload = [(at, f) for at, f in enumerate(fields) if f.value is None and isinstance(f.place, tuple)]
    whole = {at: _places(f) for at, f in of_payload}
    listed = {path[:n] for path in [*whole.values(), (*source.explode_path, EACH)] for n, step in enumerate(path) if step == EACH}
    first: dict[Path, str | None] = {_places(f): f.dtype for f in source.all_fields[:1] if isinstance(f.place, tuple)}
    for at, f in of_payload:
        path: list[Step] = list(f.place) if isinstance(f.place, tuple) else []
        begin = depth_of(tuple(path))
        names = [n for n in range(begin, len(path)) if isinstance(path[n], str)]
        for n, following in itertools.pairwise(names):
            if following == n + 1 and whole[at][:following] in listed:
                path[n] = _another(path[n], "by key")
        kind = str(f.dtype).removeprefix("list<").rstrip(">")
        if first.setdefault(whole[at], kind) != kind and names:
            path[names[-1]] = _another(path[names[-1]], f"as {f.dtype}")
        if any(isinstance(step, _Asked) for step in path):
            fields[at] = replace(f, path=path)
    when: Any = source.event_time_field or source.event_time
    return replace(source, fields=fields, event_time=when)


def _places(f: Field) -> Path:
    """A field's path, in which all elements of a list are one place."""
    steps = f.place if isinstance(f.place, tuple) else ()
    return (*(EACH if isinstance(step, int) else step for step in steps), *((EACH,) if str(f.dtype).startswith("list<") else ()))


def _another(name: Step, how: str) -> Step:
    step = _Asked(f"{name} ({how})")
    step.real = str(name)
    return step


def _step(want: Want, path: Path) -> Want:
    """What is read from the value at a path below another."""
    for step in path:
        if isinstance(step, int) or step == EACH:
            want.items = want = want.items or Want()
        else:
            want = want.parts.setdefault(step, Want(name=step.real if isinstance(step, _Asked) else ""))
    return want
