"""One payload of JSON as Python's values: what is taken, within which limits, and why not."""

from __future__ import annotations

import json
import re
from typing import Any

from transforms.json_flat import MAX_PAYLOAD_BYTES
from transforms.reasons import INVALID_UTF8, MALFORMED

__all__ = ["MAX_DEPTH", "Refused", "parse_json", "too_deep"]

MAX_DEPTH = 64


class Refused(Exception):
    """A payload or a value that the contract does not take: one of the reasons of :mod:`transforms.reasons`, and what to say beside it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Refused(MALFORMED, f"the key {twice[:80]!r} is there more than once")
    return made


def _clipped_int(text: str) -> int:
    """An integer of any length; beyond 400 digits only its sign and hugeness are kept, as no field can hold it."""
    return int(text) if len(text) <= 400 else (-1 if text[0] == "-" else 1) * 10**400


_decode = json.JSONDecoder(object_pairs_hook=_object).decode
_decode_huge = json.JSONDecoder(object_pairs_hook=_object, parse_int=_clipped_int).decode
_NESTING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def too_deep(payload: bytes) -> bool:
    """Whether JSON is nested deeper than :data:`MAX_DEPTH` levels."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _NESTING.finditer(payload):
        first = token[0][:1]
        depth += 1 if first in b"[{" else -1 if first in b"]}" else 0
        if depth > MAX_DEPTH:
            return True
    return False


def parse_json(payload: bytes | None) -> dict[str, Any]:
    """The object that a payload is. Raises Refused."""
    if not payload:
        raise Refused(MALFORMED, "there is no payload" if payload is None else "the payload is empty")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Refused(MALFORMED, f"the payload is {len(payload)} bytes long, above the limit of {MAX_PAYLOAD_BYTES}")
    try:
        text = payload.decode()
    except UnicodeDecodeError as e:
        raise Refused(INVALID_UTF8, f"byte {e.start} of the payload is 0x{payload[e.start]:02x}, not valid UTF-8") from None
    if too_deep(payload):  # a fixed limit: the interpreter's own depends on who calls
        raise Refused(MALFORMED, f"nested deeper than {MAX_DEPTH} levels")
    try:
        try:
            record = _decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # the interpreter refuses integers of thousands of digits
            record = _decode_huge(text)
    except json.JSONDecodeError as e:
        raise Refused(MALFORMED, f"not JSON: {e.msg} at character {e.pos}") from None
    if type(record) is not dict:
        raise Refused(MALFORMED, f"a JSON {type(record).__name__}, not an object")
    return record
