"""``--log-format`` of every command: what it says on standard error as text for people, or as JSON for machines. Light."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from pipelines.cli.common_option import give_option
from serving import json_logs

__all__ = ["take_log_format"]

NAME = "--log-format"


def take_log_format(command: Any) -> None:
    """Give a command, and those below it, the option."""
    said = f"Format of log lines on stderr: {' or '.join(json_logs.FORMATS)} (default: {json_logs.VARIABLE}, else text)."
    give_option(command, NAME, "FORMAT", said, _take)


def _take(context: typer.Context, value: str | None) -> None:
    if value is None:
        return
    if value not in json_logs.FORMATS:
        raise typer.BadParameter(f"{value!r} is unknown; use {' or '.join(json_logs.FORMATS)}")
    os.environ[json_logs.VARIABLE] = value  # for the processes that we start, too
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    json_logs.set_up(" ".join(["tandem", *words[:1]]))
