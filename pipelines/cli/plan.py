"""``tandem plan``: what the definitions as they are now will cost."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    GroupOption,
    JsonOption,
    OtherEndOption,
    OtherStartOption,
    RepoOption,
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
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: OtherStartOption = None,
    end: OtherEndOption = None,
    group: GroupOption = None,
    detailed_exitcode: Annotated[bool, typer.Option("--detailed-exitcode", help="Exit codes: 0 no changes, 1 error, 2 changes.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what changed since the last batch run and apply, and what it will cost.

    For each feature group: what was redefined and whether it is recomputed; what a batch run reads and writes; models in use that no
    longer fit; streams; Feast objects; the commands to run. Nothing is written. Apply takes all groups: with --group, those that it would
    refuse are planned too. --start and --end plan for another time range than that
    of the existing rows.
    """
    quiet()
    sys.dont_write_bytecode = True  # nothing at all is written, beside the repository's files neither
    if (start is None) != (end is None):
        raise ConfigError("--start and --end go together; give both, or neither for the range of the existing rows")
    loaded = load(repo, data, finish=False, everything=True)
    from pipelines.lake.graphs import applying
    from pipelines.planning.plan_text import lines, to_dict
    from pipelines.planning.project_plan import make_plan

    if applying(loaded.data) is not None:
        write("an apply was interrupted; this plan assumes that it is completed first, which the next command does", err=True)
    made = make_plan(loaded, group or (), None if start is None else (moment("--start", start), moment("--end", end)))
    if json_:
        show(to_dict(made), True)
    else:
        for line in lines(made, _given(context, repo=repo, data=data)):
            write(line)
    if detailed_exitcode and made.changes:
        raise typer.Exit(CHANGES)


def _given(context: typer.Context, **values: object) -> str:
    """What of these options stood on the command line, for the commands that are proposed: they can be copied as they are."""
    words = (("--" + name, str(value)) for name, value in values.items() if _on_command_line(context, name))
    return shlex.join([word for pair in words for word in pair])


def _on_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
