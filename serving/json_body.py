"""The bytes of a body as one JSON object: strict, in one pass over the bytes and one over the values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from serving.request_errors import BadRequestError

__all__ = ["kind_of", "parse_object", "shortened"]


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``.

    NaN, Infinity, numbers beyond float64, invalid UTF-8, deep nesting and a key that an object holds twice are refused: of two values
    nobody can say which was meant, and the contract of events refuses them as well. Raises BadRequestError.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        where = f"line {e.lineno} column {e.colno}"
        raise BadRequestError(f"the body is not valid JSON: {e.msg} ({where}); send one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise BadRequestError(f'the body is {kind_of(value)}; send a JSON object such as {{"instances": [{{...}}]}}')
    if _keys_written(body) != _keys_kept(value, body.count(b"{")):
        raise BadRequestError("the body has an object with a duplicate key; give each key once")
    return value


def _keys_written(body: bytes) -> int:
    """How many keys stand in a valid JSON text: each is followed by a colon, and there is no other colon outside of strings."""
    if b"\\" in body:  # of a run of backslashes each pair is one, and what is left over belongs to the quote behind it
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(body.split(b'"')[::2]).count(b":")


def _keys_kept(value: dict[str, Any], braces: int) -> int:
    """How many keys the objects in ``value`` have; ``braces``: how many ``{`` its text has, at least one per object."""
    objects = [value, *(item for item in value.values() if isinstance(item, dict))]
    if len(objects) == braces:  # so there are no others, and no list has to be looked through
        return sum(map(len, objects))
    count = 0
    inner: list[Iterable[Any]] = [(value,)]
    while inner:
        for item in inner.pop():
            if isinstance(item, dict):
                count += len(item)
                inner.append(item.values())
            elif isinstance(item, list):
                inner.append(item)
    return count


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    return names[type(value)]


def shortened(value: Any) -> str:
    """A JSON value on one line of at most 60 characters."""
    text = repr(value[:61]) if isinstance(value, str) else kind_of(value) if isinstance(value, (list, dict)) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
