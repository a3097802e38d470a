"""Commands and options that had another name in earlier versions: the old spelling works, with a line of warning. Light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from pipelines.reports.terminal import screen

__all__ = ["MOVED", "RENAMED", "renamed_of", "take_old_names", "warn"]

_ANEW, _LAST, _REASON = "--anew", {"--last": "--limit"}, {"--reason": "--reject-reason"}
RENAMED: dict[str, dict[str, str]] = {
    "archive": {_ANEW: "--overwrite"},
    "audit": _LAST,
    "batch": {_ANEW: "--rerun"},
    "check": {_ANEW: "--no-cache"},
    "dlq list": {"--latest": "--limit", **_REASON},
    "dlq replay": _REASON,
    "infer": {"--group": "--with-group", "--rows": "--sample-size"},
    "reproduce": {"--model": "--train", "--no-model": "--no-train"},
    "runs": _LAST,
    "runs list": _LAST,
    "stream": {_ANEW: "--reset", "--flink-master": "--master", "--savepoint": "--from-savepoint"},
    "train": {"--once": "--idempotency-key"},
    "vacuum": {"--keep": "--keep-last"},
}
"""Command -> old name -> name: where one name meant several things, or several names meant one."""
MOVED = {"topics archive": "archive"}
"""Old name -> name of a command. Under the old one it is registered with ``hidden=True``."""


def renamed_of(context: typer.Context) -> Mapping[str, str]:
    """Old name -> name of the options of a command, by its place below ``tandem``."""
    place = _place(context)
    return RENAMED.get(MOVED.get(place, place), {})


def _place(context: typer.Context) -> str:
    """The command's words behind ``tandem``."""
    words: list[str] = []
    at: Any = context
    while at.parent is not None:
        words.insert(0, at.info_name or "")
        at = at.parent
    return " ".join(words)


def warn(old: str, name: str) -> None:
    """One line on stderr."""
    screen.print(f"warning: {old} is now called {name}", style="yellow", soft_wrap=True)


def take_old_names(command: Any) -> None:
    """Have a command, and those below it, understand the old names."""
    for below in getattr(command, "commands", {}).values():
        take_old_names(below)
    parse = command.parse_args

    def parse_args(context: typer.Context, words: list[str]) -> Any:
        if (name := MOVED.get(place := _place(context))) is not None:
            warn(f"tandem {place}", f"tandem {name}")
        return parse(context, _as_now(command, words, renamed_of(context)))

    command.parse_args = parse_args


def _as_now(command: Any, words: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """The words with the names of now, as far as they are the command's own options."""
    if not renamed:
        return list(words)
    takes_value = {opt for p in command.params for opt in p.opts if opt.startswith("-") and not getattr(p, "is_flag", False)}
    out: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--" or (hasattr(command, "commands") and not word.startswith("-")):  # another command's from here on
            out += [word, *rest]
            break
        given, equals, value = word.partition("=")
        if given in renamed:
            warn(given, renamed[given])
            given = renamed[given]
        out.append(f"{given}{equals}{value}")
        if given in takes_value and not equals:
            out += [next_word] if (next_word := next(rest, None)) is not None else []
    return out
