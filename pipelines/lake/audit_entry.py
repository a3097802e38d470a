"""An entry of the audit log, typed, and the one line that it is written as. Light: standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

__all__ = ["AuditEntry", "hashed"]


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who did what, when and why. What an entry says is hashed as it was written, so that is kept: ``said``.

    ``FORMAT`` is the number that this version writes and knows; entries of before have none, and count as the first.
    """

    FORMAT: ClassVar[int] = 1

    n: int
    """Its place in the log, from 1."""
    format: int = 1
    at: str = ""
    """ISO 8601."""
    who: str = ""
    host: str = ""
    sudo: str = ""
    """Who became ``who`` by sudo."""
    action: str = ""
    subject: str = ""
    why: str = ""
    outcome: str = ""
    """``begun``, and then ``done``, ``failed`` or what the action says; ``denied`` without a beginning."""
    of: int | None = None
    """The entry of its beginning."""
    forced: bool = False
    error: str = ""
    sealed: bool = False
    """Its hash is an HMAC by the key."""
    torn: str = ""
    """The SHA-256 of the line before it, which a kill cut off."""
    before: str = ""
    """The hash of the entry before."""
    hash: str
    details: dict[str, Any] = field(default_factory=dict)
    """What the action says beside."""
    said: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of_line(cls, line: bytes) -> Self | None:
        """The entry that a line holds; None where it holds none."""
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return cls.of_said(said) if isinstance(said, dict) else None

    @classmethod
    def of_said(cls, said: Mapping[str, Any]) -> Self | None:
        """The entry that says this; None where it lacks what each has. A value of another kind than its field's counts as missing."""
        kept: dict[str, Any] = {name: value for name, value in said.items() if name in _KINDS and isinstance(value, _KINDS[name])}
        if "n" not in kept or "hash" not in kept:
            return None
        return cls(**kept, details={k: v for k, v in said.items() if k not in _KINDS}, said=said)

    @property
    def newer(self) -> str:
        """Why this version can say nothing of it; empty where it can."""
        if self.format <= self.FORMAT:
            return ""
        return f"entry {self.n} is of a newer Tandem (format {self.format}, this one knows {self.FORMAT}), or was changed; use that one"

    def to_dict(self) -> dict[str, Any]:
        """What it says, JSON-able."""
        return dict(self.said)

    def line(self) -> bytes:
        """Its line in the log, without the line's end."""
        return _line(self.said)

    def hashed(self) -> bytes:
        """What its hash is of."""
        return hashed(self.said)


def hashed(said: Mapping[str, Any]) -> bytes:
    """What the hash of an entry that says this is of."""
    return _line({k: v for k, v in said.items() if k != "hash"})


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, sort_keys=True).encode()


_KINDS: dict[str, type] = {
    each.name: {"int": int, "int | None": int, "bool": bool}.get(str(each.type), str)
    for each in fields(AuditEntry)
    if each.name not in ("details", "said")
}
