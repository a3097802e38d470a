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
    """Whether a path of a message can have a value."""
    if not path or of.full_name in OPEN or not isinstance(path[0], str):
        return True
    if (field := of.fields_by_name.get(path[0])) is not None:
        return _value_leads(field, path[1:], types)
    if of.full_name != "google.protobuf.Any":
        return False
    if (packed := types.named(path[0])) is not None:
        return _leads(packed, path[1:], types)
    return path == ("@type",) or any(path[0] in each.fields_by_name and _leads(each, path, types) for each in types.messages())


def _value_leads(of: FieldDescriptor, path: Path, types: Types) -> bool:
    if path and (is_map(of) or (is_repeated(of) and isinstance(path[0], str))) and (entry := entry_of(of)) is not None:
        return _value_leads(entry[1], path[1:], types)
    if is_repeated(of):
        if path and isinstance(path[0], str) and path[0] != "[]":
            return True  # into a list that is no map
        path = path[1:]
    return of.message_type is None or _leads(of.message_type, path, types)


def _advice(message: Descriptor, path: Path, types: Types) -> str:
    """What may be meant: names that hold dots, names in another spelling, or the names that there are."""
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
