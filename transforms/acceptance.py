"""What of a definition decides values, and what only says which events are accepted: a contract that accepts more costs no new graph.

Works on :meth:`transforms.definitions.FeatureGroup.canonical`, as it stands in manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["accepts_more", "field_accepts_more"]


def accepts_more(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str] | None:
    """What the present definition of a group accepts that the one ``before`` did not, a line each; empty where they are equal.

    None where they differ in anything else: a row may then have another value for the same events, or an event that was taken is refused.
    Both are canonical forms, as JSON gives them.
    """
    if _deciding(before) != _deciding(now):
        return None
    was, fields = ({f[0]: f for f in definition["source"]["fields"]} for definition in (before, now))
    out: list[str] = []
    for name, field in fields.items():
        if name not in was:
            if field[2] or any(rule is not None for rule in field[3:]):
                return None  # until now its value was not looked at: its rules refuse events that were taken
            out.append(f"field {name!r} is new, and optional")
            continue
        lines = field_accepts_more(was[name], field)
        if lines is None:
            return None
        out += lines
    return out + [f"field {name!r} is not read any more" for name in was if name not in fields]


def _deciding(definition: Mapping[str, Any]) -> dict[str, Any]:
    source = {name: value for name, value in definition["source"].items() if name != "fields"}
    return {**definition, "source": source}


def field_accepts_more(was: list[Any], now: list[Any]) -> list[str] | None:
    """As :func:`accepts_more`, of one field in its canonical form."""
    name, dtype, required, low, high, domain, *read = was
    if now[1] != dtype or now[6:] != read or (now[2] and not required):
        return None
    out = [f"field {name!r} may be missing"] if required and not now[2] else []
    for old, new, sign, what in ((low, now[3], 1, "min"), (high, now[4], -1, "max")):
        if old == new:
            continue
        if new is not None and (old is None or sign * new > sign * old):
            return None
        out.append(f"field {name!r}: {what} {old} is {'gone' if new is None else new}")
    if domain != now[5]:
        if now[5] is not None and (domain is None or not set(domain) <= set(now[5])):
            return None
        more = "any value" if now[5] is None else ", ".join(repr(v) for v in now[5] if v not in domain)
        out += [f"field {name!r} takes {more}"] if more else []
    return out
