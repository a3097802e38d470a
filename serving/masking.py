"""Texts without what is secret in them: passwords in addresses, and what stands behind a name that sounds like a secret's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["MASK", "SECRET_NAME", "masked", "without_named_secrets"]

MASK = "***"
SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|^pwd$|secret|token|api[_-]?key|private[_-]?key|credential|webhook|authorization", re.IGNORECASE
)
"""In a name of what nobody is shown."""

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|token|secret(?:[_-]?key)?|credentials?|sasl\.jaas\.config"
    r"|(?:api|access|account|private|signing|encryption|master)[_-]?key"
)
_VALUE = (
    r"[bru]{0,2}\"(?:\\.|[^\"\\])*\"|[bru]{0,2}'(?:\\.|[^'\\])*'"  # quoted, as Python prints it, too
    r"|\\+\"(?:(?!\\+\").)*\\+\"|\\+'(?:(?!\\+').)*\\+'"  # quoted within what is quoted
    r"|[^\s,;&'\"\\]+(?:[ \\][^\s,;&'\"=]+(?=;))*"  # blanks only where a connection string goes on
)
_NAMED = re.compile(rf"((?:{_NAMES})(?:\\*[\"'])?\s*(?:=>|[=:])\s*)({_VALUE})", re.IGNORECASE)
_BEARER = re.compile(r"(\b(?:bearer|basic|authorization:\s*token)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*", re.DOTALL)


def without_named_secrets(text: str) -> str:
    """A text in which ``password=...``, ``Pwd: ...``, ``Bearer ...`` and private keys are ``***``; what is masked stays as it is."""
    return _PEM.sub(rf"\1{MASK}", _BEARER.sub(rf"\1{MASK}", _NAMED.sub(rf"\1{MASK}", text)))


_USERINFO = re.compile(r"(?<=://)([^/@\s:]*):(?!\d+/)[^\s\"'<>]*@")  # up to the last @: a password may hold one, and a slash
_TOKEN = re.compile(r"(?<=://)[^/@\s:]{20,}@")  # a user alone has a shorter name
_QUERY = re.compile(r"([?&][^=&\s]*(?:passw|secret|token|key|sig)[^=&\s]*=)[^&\s]+", re.IGNORECASE)


def masked(value: Any, name: str = "") -> Any:
    """``value`` (JSON-able) without secrets: what is called like one, and passwords inside of addresses, become ``***``."""
    if isinstance(value, Mapping):
        return {k: masked(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(v, name) for v in value]
    if value in (None, "", True, False) or not isinstance(value, (str, int, float)):
        return value
    if name and SECRET_NAME.search(name):
        return MASK
    if not isinstance(value, str):
        return value
    return without_named_secrets(_QUERY.sub(rf"\1{MASK}", _TOKEN.sub(f"{MASK}@", _USERINFO.sub(rf"\1:{MASK}@", value))))
