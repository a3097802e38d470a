"""A command: ``tandem outside-groups``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def groups(repo: Annotated[Path, typer.Option(help="Feature repository (a folder).")] = Path("feature_repo")) -> None:
    """List the feature groups of a repository."""
    from tandem.pipelines.project.repository import load_repo

    for name in sorted(load_repo(repo).groups):
        typer.echo(name)
