"""``--log-format`` of every command: what it says on standard error as text for people, or as JSON for machines. Light."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from serving import json_logs

__all__ = ["take_log_format"]

NAME = "--log-format"


def take_log_format(command: Any, option: Any = None) -> None:
    """Give a command, and those below it, the option; groups that only hold commands go without."""
    option = option or _option()
    for below in getattr(command, "commands", {}).values():
        take_log_format(below, option)
    if command.params and not any(NAME in p.opts for p in command.params):
        command.params.append(option)


def _option() -> Any:
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(
        log_format: Annotated[
            str | None,
            typer.Option(
                NAME,
                metavar="FORMAT",
                help=f"Of what is said on standard error: {' or '.join(json_logs.FORMATS)} (default: {json_logs.VARIABLE}, else text).",
                is_eager=True,
                expose_value=False,
                callback=_take,
            ),
        ] = None,
    ) -> None:
        pass  # fmt: skip

    return next(p for p in typer.main.get_command(app).params if NAME in p.opts)


def _take(context: typer.Context, value: str | None) -> None:
    if value is None:
        return
    if value not in json_logs.FORMATS:
        raise typer.BadParameter(f"{value!r} is none; write {' or '.join(json_logs.FORMATS)}")
    os.environ[json_logs.VARIABLE] = value  # for the processes that we start, too
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    json_logs.set_up(" ".join(["tandem", *words[:1]]))
