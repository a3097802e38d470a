"""What every command shares: its options, the screen, progress, and loading a repository. Light at import."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.lake import shared
from pipelines.project.config import Settings, load_settings, moment
from pipelines.reports.terminal import Steps, results, screen, show, write
from serving.object_store.cache import data_path
from transforms.tensorflow_settings import settle_tensorflow

if TYPE_CHECKING:
    from pipelines.project.repository import Repo

__all__ = [
    "DEFAULT_REPO", "DataOption", "EndOption", "GroupOption", "JsonOption", "LogEndOption", "LogStartOption",
    "OtherEndOption", "OtherStartOption", "RepoOption", "StartOption", "Steps", "load",
    "moment", "quiet", "results", "screen", "settings_of", "show", "write",
]  # fmt: skip

RepoOption = Annotated[Path, typer.Option("--repo", envvar="TANDEM_REPO", help="Feature repository (a folder).")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        parser=data_path,
        metavar="PATH|URL",
        help="Data folder, or s3://bucket/prefix, gs://, az:// (default: data in tandem.yaml). Feast's own paths stay as in"
        " feature_store.yaml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_START = "Start of the time range (inclusive), UTC: 2013-01-01 or 2013-01-01T06:00"
_END = "End of the time range (exclusive), UTC"
StartOption = Annotated[str | None, typer.Option("--start", help=f"{_START} (default: demo.start in tandem.yaml).")]
EndOption = Annotated[str | None, typer.Option("--end", help=f"{_END} (default: demo.end in tandem.yaml).")]
OtherStartOption = Annotated[str | None, typer.Option("--start", help=f"{_START}; needs --end.")]
OtherEndOption = Annotated[str | None, typer.Option("--end", help=f"{_END}; needs --start.")]
"""Of commands that have a range of their own without them."""
LogStartOption = Annotated[str | None, typer.Option("--start", help=f"{_START} (default: that of the event logs).")]
LogEndOption = Annotated[str | None, typer.Option("--end", help=f"{_END} (default: that of the event logs).")]
GroupOption = Annotated[list[str] | None, typer.Option("--group", help="Only this feature group (repeatable).")]
DEFAULT_REPO = Path("feature_repo")


def quiet() -> None:
    """Keep TensorFlow's and Google's start-up chatter off the screen."""
    settle_tensorflow()
    os.environ.setdefault("FEAST_USAGE", "False")
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    logging.getLogger().setLevel(logging.ERROR)


def settings_of(repo: Path, data: Path | None) -> Settings:
    """The settings of a repository that need not be loaded; ``data``: the data folder that the command was given."""
    return load_settings(repo.resolve(), data=data.resolve() if data else None)


def load(repo: Path, data: Path | None = None, *, finish: bool = True, everything: bool = False) -> Repo:
    """The repository, or one clear error.

    An apply that was killed is completed first, so that no command reads the registry and the online store as it left them. Commands that
    read definitions alone say ``finish=False``, and those by which one gets out where it cannot be completed. ``everything``: where the
    data folder is a cache of an object store, all that the store has is fetched, for commands that look back over it.
    """
    from pipelines.project.repository import load_repo

    if data is not None:  # the repository's own modules and child processes read the settings too
        os.environ["TANDEM_DATA"] = str(data.resolve())
    loaded = load_repo(repo)
    quiet()  # Feast, which the repository imports, turns the warnings of other libraries on again
    if everything:
        shared.have_everything(loaded.data, [s.files for s in loaded.sources.values() if s.files])
    if finish:
        from pipelines.lake.graphs import applying

        if applying(loaded.data) is not None or shared.is_shared(loaded.data):
            from pipelines.feature_store import applying as killed

            killed.finish(loaded, Steps().say)
    return loaded
