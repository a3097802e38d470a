"""Values of Arrow, as Python has them, in the form that JSON has for them, so that they are read from it as the same ones."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa

from transforms.nested import are_keys, entry_names
from transforms.parsing import Base64, Decimal, Hex, Local, Parse

__all__ = ["form_of", "is_utf8", "objects_of", "without_unread"]

Steps = tuple[str, ...]
Form = Callable[[Any], Any]


def objects_of(kind: pa.DataType) -> Form | None:
    """What makes objects of the maps in a value of a type, which are lists of pairs in Python; None: there are none. Maps whose keys no
    path names (:func:`transforms.nested.are_keys`) stay."""
    return _nested(kind, (), lambda kind, steps: None, are_keys)


def form_of(kind: pa.DataType, name: str, parses: Mapping[Steps, Parse | None]) -> Form | None:
    """What gives the values of a column ``name`` of a type their form: maps are objects, moments say their zone, durations are times of the
    day, and bytes are spelled as their field reads them; None: they have it. ``parses``: how fields are read, by the names of members that
    they stand at."""
    return _nested(kind, (name,), lambda kind, steps: _leaf(kind, parses.get(steps)))


def _nested(
    kind: pa.DataType, steps: Steps, leaf: Callable[[pa.DataType, Steps], Form | None],
    opens: Callable[[pa.DataType], bool] = lambda key_type: True,
) -> Form | None:  # fmt: skip
    """``opens``: whether a map becomes an object, by the type of its keys."""
    if pa.types.is_map(kind):
        if not opens(kind.key_type):
            return None
        of_key = lru_cache(maxsize=1_000)(lambda key: _nested(kind.item_type, (*steps, key), leaf, opens) or _same)
        return lambda v: {str(key): None if each is None else of_key(str(key))(each) for key, each in v}
    if pa.types.is_struct(kind):
        members = [kind[i] for i in range(kind.num_fields)]
        forms = {f.name: form for f in members if (form := _nested(f.type, (*steps, f.name), leaf, opens)) is not None}
        return (lambda v: {**v, **{n: form(v[n]) for n, form in forms.items() if v[n] is not None}}) if forms else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _nested(kind.value_type, steps, leaf, opens)
        return None if inner is None else lambda v: [None if each is None else inner(each) for each in v]
    return leaf(kind, steps)


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
        entries = any(place[: len(steps)] == steps for place in read) and any(isinstance(each, dict) and _is_entry(each) for each in value)
        return value if entries else [without_unread(each, steps, read) for each in value]
    return _spelled(value) if isinstance(value, str) else value


def _is_entry(value: dict[str, Any]) -> bool:
    names = entry_names(value)
    return names is not None and names[0] in value


def is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _spelled(text: Any) -> Any:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if isinstance(text, str) else text
