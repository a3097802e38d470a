"""Values of Arrow, as Python has them, in the form that JSON has for them, so that they are read from it as the same ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa

from transforms.nested import are_keys, are_words, entry_names
from transforms.parsing import Base64, Decimal, Hex, Local, Parse
from transforms.places import EACH, Path

__all__ = ["form_of", "is_utf8", "objects_of", "without_unread"]

Steps = tuple[str, ...]
Form = Callable[[Any], Any]
Read = tuple[Path, Parse | None]


def objects_of(kind: pa.DataType) -> Form | None:
    """What makes objects of the maps in a value of a type, which are lists of pairs in Python; None: there are none. Maps whose keys no
    path names (:func:`transforms.nested.are_keys`) stay."""
    return _nested(kind, (), lambda kind, parse: None, are_keys)


def form_of(kind: pa.DataType, reads: Sequence[Read]) -> Form | None:
    """What gives the values of a column of a type their form: maps are objects, moments say their zone, durations are times of the day, and
    bytes are spelled as their field reads them; None: they have it. ``reads``: which paths of a value fields stand at, and how they read.

    What no path leads into, such as a map whose keys are none of a path, has a form that none leads into either, where one is asked to."""
    return _nested(kind, reads, _leaf)


def _nested(
    kind: pa.DataType, reads: Sequence[Read], leaf: Callable[[pa.DataType, Parse | None], Form | None],
    opens: Callable[[pa.DataType], bool] = lambda key_type: True,
) -> Form | None:  # fmt: skip
    """``opens``: whether a map becomes an object, by the type of its keys."""
    if pa.types.is_map(kind):
        if not opens(kind.key_type):
            return None
        if not are_keys(kind.key_type) and any(path for path, _ in reads):
            return _shown
        of_key = lru_cache(maxsize=1_000)(lambda key: _nested(kind.item_type, _into(reads, key), leaf, opens) or _same)
        return lambda v: {str(key): None if each is None else of_key(str(key))(each) for key, each in v}
    if pa.types.is_struct(kind):
        members = [kind[i] for i in range(kind.num_fields)]
        forms = {f.name: form for f in members if (form := _nested(f.type, _into(reads, f.name), leaf, opens)) is not None}
        return _of_members(forms) if forms else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _of_elements(kind.value_type, reads, leaf, opens)
        return None if inner is None else lambda v: [None if each is None else inner(each) for each in v]
    return leaf(kind, next((parse for path, parse in reads if not path), None))


def _of_elements(
    kind: pa.DataType, reads: Sequence[Read], leaf: Callable[[pa.DataType, Parse | None], Form | None], opens: Callable[[pa.DataType], bool]
) -> Form | None:
    """The form of a list's elements, which paths lead to by their places, or by their keys where they are entries."""
    by_place = [(path[1:], parse) for path, parse in reads if path and not _by_name(path)]
    by_key = [(path[1:], parse) for path, parse in reads if path and _by_name(path)]
    if by_key and pa.types.is_map(kind):
        return _shown  # a map is no entry, and may look like one as an object
    names = entry_names([f.name for f in kind]) if by_key and pa.types.is_struct(kind) else None
    if names is None:
        return _nested(kind, by_place, leaf, opens)
    key, value = names
    plain = _nested(kind, [*by_place, *(((value, *path), parse) for path, parse in by_key)], leaf, opens) or _same
    if kind.get_field_index(key) < 0 or are_words(kind.field(key).type):
        return plain
    of_key = {key: lambda v: {str(kind.field(key).type): _shown(v)}}  # as a text it would be a key
    return lambda v: {**plain(v), **_of_members(of_key)({key: v[key]})}


def _of_members(forms: Mapping[str, Form]) -> Form:
    return lambda v: {**v, **{name: form(v[name]) for name, form in forms.items() if v[name] is not None}}


def _into(reads: Sequence[Read], name: str) -> list[Read]:
    return [(path[1:], parse) for path, parse in reads if path and path[0] == name and _by_name(path)]


def _by_name(path: Path) -> bool:
    return isinstance(path[0], str) and path[0] != EACH


def _shown(value: Any) -> str:
    """A value as text."""
    return json.dumps(value, default=_text)


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _same(value: Any) -> Any:
    return value


def _leaf(kind: pa.DataType, parse: Parse | None) -> Form | None:
    if pa.types.is_timestamp(kind):
        local = isinstance(parse, Local) and parse.zone is not None and kind.tz is None
        form = (lambda v: f"{v:{parse.format}}") if local and isinstance(parse, Local) else _moment
        return lambda v: form(v) if isinstance(v, datetime) else v if parse is None else {str(kind): v}  # beyond what Python's are
    if pa.types.is_duration(kind):
        return _time_of_day
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _bytes(parse)
    return None


def _moment(value: datetime) -> str:
    utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S.%f}Z".rjust(27, "0")


def _time_of_day(value: Any) -> Any:
    if not isinstance(value, timedelta):
        return value  # beyond what Python's are
    seconds, micros = divmod(value // timedelta(microseconds=1), 1_000_000)
    return f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}"


def _bytes(parse: Parse | None) -> Form:
    if isinstance(parse, Hex):
        return lambda v: v.hex()
    unscaled = isinstance(parse, Decimal) and parse.unscaled
    if unscaled or isinstance(parse, Base64):
        return lambda v: base64.b64encode(v).decode()
    return lambda v: v.decode("utf-8", "surrogateescape")


def without_unread(value: Any, steps: Steps, read: Collection[Steps]) -> Any:
    """A value of JSON in which text that is not UTF-8 (with surrogate escapes) is spelled out wherever no field reads it. ``read``: the
    names of members that fields stand at; what is within one of them, or is a list of keys and values, is as it was."""
    if any(steps[: len(place)] == place for place in read):
        return value
    if isinstance(value, dict):
        return {_spelled(key): without_unread(each, (*steps, key), read) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        entries = any(place[: len(steps)] == steps for place in read) and _are_entries(value)
        return value if entries else [without_unread(each, steps, read) for each in value]
    return _spelled(value) if isinstance(value, str) else value


def _are_entries(values: Sequence[Any]) -> bool:
    members = {name for each in values if isinstance(each, dict) for name in each}
    names = entry_names(members)
    return names is not None and names[0] in members


def is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _spelled(text: Any) -> Any:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if isinstance(text, str) else text
