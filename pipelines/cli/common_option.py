"""An option that every command has, whatever package it is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

__all__ = ["give_option"]


def give_option(command: Any, name: str, metavar: str, help_: str, take: Callable[[typer.Context, str | None], None]) -> None:
    """Give a command, and those below it, the option ``name``, whose value ``take`` is called with before the others are looked at; groups
    that only hold commands go without."""
    _give(command, name, _option(name, metavar, help_, take))


def _give(command: Any, name: str, option: Any) -> None:
    for below in getattr(command, "commands", {}).values():
        _give(below, name, option)
    if command.params and not any(name in p.opts for p in command.params):
        command.params.append(option)


def _option(name: str, metavar: str, help_: str, take: Callable[[typer.Context, str | None], None]) -> Any:
    """The option as Typer makes it, out of a command of its own."""
    app = typer.Typer(add_completion=False)
    kind = typer.Option(name, metavar=metavar, help=help_, is_eager=True, expose_value=False, callback=take)

    def command(value=None):  # type: ignore[no-untyped-def]
        pass

    command.__annotations__ = {"value": Annotated[str | None, kind]}
    app.command()(command)
    option = next(p for p in typer.main.get_command(app).params if name in p.opts)
    option.name = name.lstrip("-").replace("-", "_")  # of several such options each has its own
    return option
