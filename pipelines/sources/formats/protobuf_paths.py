"""Whether a path of messages whose types are known can have a value: one that cannot is a mistake, and would always be null."""

from __future__ import annotations

from difflib import get_close_matches

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from pipelines.sources.formats.protobuf_any import Types
from pipelines.sources.formats.protobuf_columns import entry_of, is_map, is_repeated
from pipelines.sources.formats.protobuf_values import OPEN
from pipelines.sources.formats.schema_paths import LostFieldError
from transforms.definitions import EventSource
from transforms.places import Path, path_text

__all__ = ["check_paths"]

_MOST_STEPS = 64
"""No advice for a path of more: it is looked for in all that a few changes make of it."""


def check_paths(message: Descriptor, source: EventSource, types: Types) -> None:
    """Raises LostFieldError for the first field whose path leads to nothing that a message has, or may pack. Steps into values of another
    form are not looked at: each record of them says so. Nor are fields under their own names, which may come from elsewhere."""
    for f in source.all_fields:
        if isinstance(f.path, tuple) and not _leads(message, f.path, types):
            raise LostFieldError(
                f"source {source.name!r}: field {f.name!r} stands at {path_text(f.path)}, where no {message.full_name} can have anything;"
                f" {_advice(message, f.path, types)}",
                f.name,
            )


def _leads(of: Descriptor, path: Path, types: Types) -> bool:
    """Whether a path of a message can have a value. Each message is looked at once for each step: how deep a path is, and how many messages
    an Any in it may pack, costs their product."""
    left, seen = [(of, 0)], set[tuple[str, int]]()
    while left:
        of, at = left.pop()
        if (of.full_name, at) in seen:
            continue
        seen.add((of.full_name, at))
        step = path[at] if at < len(path) else None
        if of.full_name in OPEN or not isinstance(step, str):
            return True
        if (field := of.fields_by_name.get(step)) is not None:
            inner = _into_value(field, path, at + 1)
            if inner is None:
                return True
            left.append(inner)
        elif of.full_name == "google.protobuf.Any":
            if (packed := types.named(step)) is not None:
                left.append((packed, at + 1))
            elif step == "@type" and at + 1 == len(path):
                return True
            else:
                left += [(each, at) for each in types.messages() if step in each.fields_by_name]
    return False


def _into_value(of: FieldDescriptor, path: Path, at: int) -> tuple[Descriptor, int] | None:
    """The message that the value of a field is, and the step from it on; None: the path can have a value."""
    while at < len(path) and (is_map(of) or (is_repeated(of) and isinstance(path[at], str))) and (entry := entry_of(of)) is not None:
        of, at = entry[1], at + 1
    if is_repeated(of):
        if at < len(path) and isinstance(path[at], str) and path[at] != "[]":
            return None  # into a list that is no map
        at += 1
    return None if of.message_type is None else (of.message_type, at)


def _advice(message: Descriptor, path: Path, types: Types) -> str:
    """What may be meant: names that hold dots, names in another spelling, or the names that there are."""
    if len(path) > _MOST_STEPS:
        return "correct its path"
    for begin in range(len(path)):
        for end in range(begin + 2, len(path) + 1):
            names = [step for step in path[begin:end] if isinstance(step, str)]
            joined = (*path[:begin], ".".join(names), *path[end:])
            if len(names) == end - begin and _leads(message, joined, types):
                return f"write path={path_text(joined)!r}"
    known = [field.name for field in message.fields]
    if path[0] in known:
        return _spelt(message, path, types) or "correct its path"
    same = [name for name in known if name.replace("_", "").lower() == str(path[0]).replace("_", "").lower()]
    if same:
        return f"write {same[0]!r}"
    return _spelt(message, path, types) or f"it has {', '.join(known[:20])}"


def _spelt(message: Descriptor, path: Path, types: Types) -> str:
    """Which path is meant, where one name in it is much like one that there is; "": none is."""
    for at, step in enumerate(path):
        reached = _reached(message, path[:at])
        for name in [] if reached is None else get_close_matches(str(step), [field.name for field in reached.fields], 3):
            if _leads(message, other := (*path[:at], name, *path[at + 1 :]), types):
                return f"write path={path_text(other)!r}"
    return ""


def _reached(of: Descriptor, path: Path) -> Descriptor | None:
    """The message at a path, through lists and maps; None where none is."""
    within: FieldDescriptor | None = None
    for step in path:
        if within is not None and (is_map(within) or not isinstance(step, str) or step == "[]"):
            within = None  # the key of a map, the place in a list
            continue
        if (within := of.fields_by_name.get(str(step))) is None or within.message_type is None:
            return None
        of = within.message_type.fields_by_name["value"].message_type if is_map(within) else within.message_type
        if of is None:
            return None
    return of
