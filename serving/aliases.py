"""``ALIASES.json`` of a model: which version is its champion, which its challenger, and how that came about.

``<models>/<name>/ALIASES.json`` is what serving goes by (it never asks MLflow). It is replaced by one rename, so a reader sees the old
one or the new one. ``history`` has one entry per change, oldest first; nothing is ever taken out of it. A model without the file has
no aliases: its newest version is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from serving.request_errors import ModelError

__all__ = ["ALIASES", "ALIASES_FILE", "Aliases", "parse_aliases", "read_aliases"]

ALIASES_FILE = "ALIASES.json"
ALIASES = ("champion", "challenger")


@dataclass(frozen=True)
class Aliases:
    """The aliases of one model. ``history`` entries: {n, at, action, champion, challenger, before, by, ...}."""

    champion: int | None = None
    challenger: int | None = None
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @property
    def champions(self) -> tuple[int, ...]:
        """The champion and those before it, as rollback goes back through them: a promotion adds one, a rollback takes those above away."""
        line: list[int] = []
        for entry in self.history:
            now = entry.get("champion")
            if now is None or (line and line[-1] == now):
                continue
            if entry.get("action") == "rollback" and now in line:
                del line[len(line) - line[::-1].index(now) :]
            else:
                line.append(int(now))
        return tuple(reversed(line))


def parse_aliases(text: bytes, where: str) -> Aliases:
    """The aliases in ``text``; what is wrong with it is one ModelError that starts with ``where``."""
    try:
        raw = orjson.loads(text)
        numbers = {alias: raw[alias] for alias in ALIASES}
        history = tuple(raw["history"])
        for alias, number in numbers.items():
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
                raise ValueError(f"{alias} {number!r} is not a version")
        if any(not isinstance(entry, dict) or not isinstance(entry.get("champion"), int | None) for entry in history):
            raise ValueError("its history is damaged")
    except (ValueError, TypeError, KeyError) as e:  # orjson's error is a ValueError
        why = f"lacks {e}" if isinstance(e, KeyError) else " ".join(str(e).split())[:100]
        raise ModelError(f"{where}: {ALIASES_FILE} is damaged ({why}); rewrite it with 'tandem promote --version N'") from None
    return Aliases(numbers["champion"], numbers["challenger"], history)


def read_aliases(folder: Path, where: str) -> Aliases | None:
    """The aliases of the model in ``folder`` (``<models>/<name>``); None if it has none. Raises ModelError if they cannot be read."""
    try:
        text = (folder / ALIASES_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ModelError(f"{where}: {ALIASES_FILE} cannot be read ({type(e).__name__}); fix the permissions of its folder") from None
    return parse_aliases(text, where)
