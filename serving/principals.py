"""Who asks, and what they may do: scopes per model and view, and one for administration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from serving.request_errors import ForbiddenError
from transforms.errors import ConfigError

__all__ = ["ALL_SCOPES", "ANYBODY", "Principal", "checked_scopes", "is_name"]

ALL_SCOPES = frozenset({"admin", "model:*", "view:*"})
_SCOPE = re.compile(r"admin|(?:model|view):(?:\*|[A-Za-z0-9_][A-Za-z0-9_.-]*)")


@dataclass(frozen=True)
class Principal:
    """Somebody with a name and scopes: ``model:NAME`` (predict with it and see its state), ``view:NAME`` (read its features),
    ``admin`` (metrics); ``*`` stands for every name."""

    name: str
    """Empty: the server asks nobody who they are."""
    scopes: frozenset[str]

    def may(self, kind: str, name: str = "") -> bool:
        """Whether a scope allows it: ``may("admin")``, ``may("model", "delay")``, ``may("view", "origin_traffic")``."""
        return (kind if kind == "admin" else f"{kind}:{name}") in self.scopes or f"{kind}:*" in self.scopes

    def need(self, kind: str, *names: str) -> None:
        """Raise ForbiddenError for the first of ``names`` (of ``admin``: for itself) that no scope allows; without names nothing is asked
        for."""
        for name in ("",) if kind == "admin" else names:
            if not self.may(kind, name):
                asked = kind if kind == "admin" else f"{kind}:{name[:60]}"
                raise ForbiddenError(f"{self.name[:60]!r} lacks the scope {asked!r}; ask the server's operator for it")


ANYBODY = Principal("", ALL_SCOPES)


def is_name(text: object, most: int = 255) -> bool:
    """Whether somebody may be called so. A name gets into logs and metrics: no line ends, no escape sequences. A longer one is none, and no
    part of it is taken: that could be somebody else's."""
    return isinstance(text, str) and 0 < len(text) <= most and text.isprintable()


def checked_scopes(scopes: Iterable[str], where: str) -> frozenset[str]:
    """The scopes as a set; ConfigError, which starts with ``where``, for text that is none."""
    found = frozenset(scopes)
    for scope in sorted(found):
        if not _SCOPE.fullmatch(scope):
            raise ConfigError(f"{where}: {scope[:60]!r} is not a scope; use model:NAME, view:NAME (* for all) or admin")
    return found
