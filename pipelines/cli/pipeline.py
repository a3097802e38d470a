"""``tandem pipeline``: everything from events to an evaluated model, as one run with a run per step."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from pipelines import workflow
from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    EndOption,
    JsonOption,
    RepoOption,
    StartOption,
    Steps,
    load,
    moment,
    quiet,
    screen,
    show,
)
from transforms.errors import ConfigError

__all__ = ["pipeline"]


def pipeline(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    train_start: Annotated[
        str | None, typer.Option(help="Start of the training examples, UTC (default: demo.warm_up_days after --start).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model in tandem.yaml (default: the first).")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 20130101,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Set a parameter of the model: name=value.", metavar="NAME=VALUE")] = None,
    events: Annotated[bool, typer.Option("--events", help="Generate the event logs first (demo.events in tandem.yaml).")] = False,
    json_: JsonOption = False,
) -> None:
    """Run batch, apply, materialize, train and evaluate as one run with a child run per step; resumes where it was interrupted."""
    quiet()
    from pipelines.training.experiments import parse_sets

    sets = parse_sets(set_ or [])
    if several := [name for name, values in sets.items() if len(values) > 1]:
        raise ConfigError(f"--set {several[0]}: a pipeline takes one value; use 'tandem train' to compare several")
    loaded = load(repo, data)
    demo = loaded.settings.demo
    first, last = moment("--start", start, demo.start), moment("--end", end, demo.end)
    begin = moment("--train-start", train_start, first + timedelta(days=demo.warm_up_days))
    if begin >= last:  # told before the first step, which may take hours
        where = "--train-start" if train_start else f"--start and demo.warm_up_days: {demo.warm_up_days} make --train-start"
        raise ConfigError(
            f"{where} {begin:%Y-%m-%dT%H:%M}, which is not before --end {last:%Y-%m-%dT%H:%M}: no training examples;"
            " give an earlier --train-start"
        )
    result = workflow.pipeline(loaded, first, last, begin, Steps(), model, seed, {k: v[0] for k, v in sets.items()}, events)
    show(result.to_dict(), json_)
    if not json_:
        screen.print(f"pipeline {result.run}: " + ", ".join(f"{k} {v}" for k, v in result.steps.items()), highlight=False)
    if result.version is None:
        screen.print(f"not pushed: {'; '.join(result.reasons)}")
        raise typer.Exit(3)
