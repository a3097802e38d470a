"""Names of fields for names as data has them."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from transforms.definitions import RESERVED

__all__ = ["called", "identifier", "taken_from", "words"]

_SPECIAL = str.maketrans(
    {
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "Ä": "Ae",
        "Ö": "Oe",
        "Ü": "Ue",
        "ß": "ss",
        "æ": "ae",
        "ø": "oe",
        "å": "aa",
        "€": "eur",
        "%": "percent",
    }
)
_MONGO_TYPES = {
    "$binary", "$code", "$date", "$dbPointer", "$maxKey", "$minKey", "$numberDecimal", "$numberDouble", "$numberInt", "$numberLong",
    "$oid", "$regularExpression", "$symbol", "$timestamp", "$undefined", "$uuid",
}  # fmt: skip
"""Of MongoDB's Extended JSON, version 2."""
_ANY_TYPES = {
    "stringValue", "intValue", "doubleValue", "boolValue", "bytesValue", "string_value", "int_value", "float_value", "double_value",
}  # fmt: skip
"""Of OpenTelemetry's and GA4's values of any type."""
_BORDERS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")


def words(name: str) -> list[str]:
    """The words of a name in any style, in lower case: ``PULocationID`` is pu, location, id."""
    plain = unicodedata.normalize("NFKD", name.translate(_SPECIAL)).encode("ascii", "ignore").decode()
    return [w.lower() for w in _BORDERS.split(plain) if w]


def identifier(name: str) -> str:
    """The name of a field for a name of data: ``VendorID`` is ``vendor_id``; one that has no letters is ``field``."""
    found = words(name)
    if not found:
        return "field"
    if not found[0][0].isalpha():
        found.insert(0, "field")
    made = "_".join(found)
    return f"{made}_value" if made in RESERVED or keyword.iskeyword(made) else made


def called(steps: Sequence[Any]) -> list[str]:
    """The names on a way that call something: without places in lists, without the types that MongoDB writes (``$date``, ``$oid``), and
    without those of values of any type at its end (``stringValue``). What others begin with a dollar (``$browser`` of Mixpanel,
    PostHog) are names."""
    inner = [str(s) for s in steps if s != "[]"] or [str(steps[-1])]
    if len(inner) > 1 and inner[-1] in _ANY_TYPES:
        inner = inner[:-1]
    return [s for s in inner if s not in _MONGO_TYPES] or inner


def taken_from(steps: Sequence[Any], taken: set[str]) -> str:
    """A name for what stands at ``steps`` that is not taken yet: of its last part, with those before it where need be."""
    inner = called(steps)
    own = identifier(inner[-1])
    tries = [own] if len(inner) == 1 or "[]" in steps else []
    tries += [identifier("_".join(inner[-k:])) for k in range(2, len(inner) + 1)] or [own]
    whole = [str(s) for s in steps if s != "[]"]
    tries += [identifier("_".join(whole[-3:]))] if whole[-1] in _ANY_TYPES else []
    for made in [*tries, *(f"{tries[-1]}_{n}" for n in range(2, 10_000))]:
        if made not in taken:
            taken.add(made)
            return made
    raise AssertionError("more than ten thousand columns of one name")
