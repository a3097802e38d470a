"""What every command shares: its options, the screen, progress, and loading a repository. Light at import."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.repo import Repo

__all__ = [
    "DEFAULT_REPO", "DataOption", "EndOption", "JsonOption", "RepoOption", "StartOption", "Steps", "load",
    "moment", "quiet", "screen", "show",
]  # fmt: skip

screen = Console(stderr=True, soft_wrap=True)

RepoOption = Annotated[Path, typer.Option("--repo", help="The feature repository.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder (default: data: of tandem.yaml); Feast's own paths stay as in feature_store.yaml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
StartOption = Annotated[str | None, typer.Option("--start", help="First moment, UTC: 2013-01-01 or 2013-01-01T06:00.")]
EndOption = Annotated[str | None, typer.Option("--end", help="Last moment, UTC.")]
DEFAULT_REPO = Path("feature_repo")


def quiet() -> None:
    """Keep TensorFlow's and Google's start-up chatter off the screen."""
    import logging
    import warnings

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("FEAST_USAGE", "False")
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    logging.getLogger().setLevel(logging.ERROR)


def moment(flag: str, text: str | None, default: datetime | None = None) -> datetime:
    """The moment a flag names, in UTC; raises ConfigError."""
    from pipelines.config import parse_time

    if text is None:
        if default is None:
            raise ConfigError(f"{flag} is missing; give a date such as {flag} 2013-01-01")
        return default
    try:
        return parse_time(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is no moment; write 2013-01-31 or 2013-01-31T06:00") from None


def load(repo: Path, data: Path | None = None) -> Repo:
    """The repository, or one clear error."""
    from pipelines.repo import load_repo

    if data is not None:  # the repository's own modules and child processes read the settings too
        os.environ["TANDEM_DATA"] = str(data.resolve())
    loaded = load_repo(repo)
    quiet()  # Feast, which the repository imports, turns the warnings of other libraries on again
    return loaded


class Steps:
    """Progress for people: a line per step on stderr, with the seconds it took; a spinner where there is a terminal."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def say(self, line: str) -> None:
        """One line with the seconds since the start."""
        screen.print(f"[dim]{time.monotonic() - self.begun:7.1f}s[/dim]  {line}", highlight=False)

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        """A spinner with ``what`` while the body runs; yields a function that says a line above it."""
        with screen.status(what):
            yield self.say

    def timed(self, name: str, seconds: float | None) -> None:
        """The callback of training: a step starts (None) or ended."""
        if seconds is not None:
            self.say(f"{name}: {seconds:.1f} s")


def show(value: dict[str, Any], as_json: bool, table: Callable[[], Table] | None = None) -> None:
    """The result: JSON on stdout, or a table."""
    if as_json:
        typer.echo(json.dumps(value, indent=2, default=str))
    elif table is not None:
        Console().print(table())
