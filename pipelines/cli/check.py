"""``tandem check``: is the repository right, in seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, GroupOption, JsonOption, RepoOption, Steps, load, quiet, screen, show

__all__ = ["check"]


class Part(StrEnum):
    """What can be checked alone; models: and feature services."""

    contracts = "contracts"
    preprocessing = "preprocessing"
    models = "models"


def check(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    rows: Annotated[
        bool, typer.Option("--rows/--no-rows", help="Run preprocessing functions on a hundred rows, too (some seconds).")
    ] = True,
    group: GroupOption = None,
    only: Annotated[list[Part] | None, typer.Option("--only", help="This part alone, beside the definitions; may be given again.")] = None,
    json_: JsonOption = False,
) -> None:
    """Check definitions, contracts, preprocessing functions, feature services and models, on a few events and a hundred rows.

    Nothing is written, applied or recorded. Exit codes: 0 nothing is wrong; 1 something is, one line each.
    """
    quiet()
    from pipelines.lake.graphs import applying

    loaded, steps = load(repo, data, finish=False), Steps()
    if applying(loaded.data) is not None:
        steps.say("an apply was ended before it was done; the next command that works with features completes it, as does 'tandem apply'")
    steps.say(f"definitions: {len(loaded.sources)} sources, {len(loaded.groups)} groups")
    from pipelines.training.project_check import check_project

    def wrong(line: str) -> None:
        screen.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)

    with steps.doing("checking"):
        found = check_project(loaded.only(group or ()), steps.say, wrong, rows, [str(p) for p in only or Part])
    show({"problems": found}, json_)
    if found:
        raise typer.Exit(1)
