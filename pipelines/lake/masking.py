"""Texts without what is secret in them: passwords in addresses, and what stands behind a name that sounds like a secret's."""

from __future__ import annotations

import re

__all__ = ["MASK", "without_named_secrets"]

MASK = "***"

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
