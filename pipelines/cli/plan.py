"""``tandem plan``: what the definitions as they are now will cost."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    EndOption,
    GroupOption,
    JsonOption,
    RepoOption,
    StartOption,
    load,
    moment,
    quiet,
    show,
    write,
)
from transforms.errors import ConfigError

__all__ = ["plan"]

CHANGES = 2


def plan(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    group: GroupOption = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 2 where there are changes: 0 none, 1 an error, 2 changes.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Say what was changed since the last batch run and apply, and what it costs, before it is done.

    Per feature group what was redefined, and whether it is recomputed; what a batch run reads and writes; models in use that no longer
    fit; streams; Feast's objects; the commands to run. Nothing is written. --start and --end: rows are wanted of this range, not of the one
    that there are rows of.
    """
    quiet()
    sys.dont_write_bytecode = True  # nothing at all is written, beside the repository's files neither
    if (start is None) != (end is None):
        raise ConfigError("--start and --end go together; give both, or none for the range that there are rows of")
    loaded = load(repo, data, finish=False, everything=True)
    from pipelines.lake.graphs import applying
    from pipelines.planning.plan_text import lines, to_dict
    from pipelines.planning.project_plan import make_plan

    if applying(loaded.data) is not None:
        write("an apply was ended before it was done; this is the plan once it is completed, which the next command does", err=True)
    made = make_plan(loaded, group or (), None if start is None else (moment("--start", start), moment("--end", end)))
    if json_:
        show(to_dict(made), True)
    else:
        for line in lines(made):
            write(line)
    if detailed_exitcode and made.changes:
        raise typer.Exit(CHANGES)
