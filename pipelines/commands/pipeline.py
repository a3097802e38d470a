"""``tandem pipeline``: everything from events to an evaluated model, as one run with a run per step."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.console import (
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

if TYPE_CHECKING:
    from pipelines.repo import Repo
    from pipelines.runs import Run

__all__ = ["do_pipeline", "pipeline"]


def pipeline(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    train_start: Annotated[
        str | None, typer.Option(help="First moment of training examples, UTC (default: demo.warm_up_days after the start).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which model of tandem.yaml (default: the first).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 20130101,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the model: name=value.", metavar="NAME=VALUE")] = None,
    events: Annotated[bool, typer.Option("--events", help="Write the event logs first, by demo.events of tandem.yaml.")] = False,
    json_: JsonOption = False,
) -> None:
    """Batch, apply, materialize, train, evaluate: one run with a run per step. Killed and begun again, it goes on where it was."""
    quiet()
    from pipelines.training.experiments import parse_sets
    from transforms.errors import ConfigError

    sets = parse_sets(set_ or [])
    if several := [name for name, values in sets.items() if len(values) > 1]:
        raise ConfigError(f"--set {several[0]}: a pipeline takes one value; 'tandem train' compares several")
    loaded = load(repo, data)
    demo = loaded.settings.demo
    first, last = moment("--start", start, demo.start), moment("--end", end, demo.end)
    begin = moment("--train-start", train_start, first + timedelta(days=demo.warm_up_days))
    result = do_pipeline(loaded, first, last, begin, Steps(), model, seed, {k: v[0] for k, v in sets.items()}, events)
    show(result, json_)
    if not json_:
        screen.print(f"pipeline {result['run']}: " + ", ".join(f"{k} {v}" for k, v in result["steps"].items()), highlight=False)
    if result["version"] is None:
        screen.print(f"not pushed: {'; '.join(result['reasons'])}")
        raise typer.Exit(3)


def do_pipeline(
    repo: Repo,
    start: datetime,
    end: datetime,
    train_start: datetime,
    steps: Steps,
    model: str | None,
    seed: int,
    params: dict[str, Any],
    events: bool = False,
) -> dict[str, Any]:
    """Run all steps below one run; an earlier one of the same question that did not end is gone on with: what it finished stays."""
    from pipelines import cli
    from pipelines.commands.train import do_train, model_of
    from pipelines.runs import recorded

    definition = model_of(repo, model)
    chosen = definition.with_params(params)
    first, last, begin = (t.astimezone(UTC).isoformat() for t in (start, end, train_start))
    key = {"range": [first, last], "train_start": begin, "model": definition.name, "seed": seed, "params": chosen, "events": events}
    asked = {"model": definition.name, "range": [first, last], "train_start": begin, "params": chosen, "seeds": {"seed": seed}}
    with recorded(repo, "pipeline", key=key, anew=True, **asked) as run:
        done = dict(run.manifest.get("steps") or {})
        if events and "events" not in done:
            cli.make_events(repo, f"{start:%Y-%m-%d}", f"{end:%Y-%m-%d}", steps)
            _done(run, done, events="written")
        batch = cli.do_batch(repo, start, end, steps)["id"]  # complete already, it is found by its inputs
        if done.get("batch") != batch:
            done = {k: v for k, v in done.items() if k == "events"}  # the inputs changed meanwhile: what followed is of others
            _done(run, done, batch=batch)
        if "apply" not in done:
            cli.do_apply(repo, batch, steps)
            _done(run, done, apply="done")
        if "materialize" not in done:
            cli.do_materialize(repo, start, end, steps)
            _done(run, done, materialize="done")
        if "train" not in done:
            trained = do_train(repo, train_start, end, steps, definition.name, seed, params)
            run.add(metrics=_metrics(repo, trained.run), links={"training_set": trained.training_set.id})
            run.save(version=trained.version, reasons=list(trained.pipeline.reasons))
            _done(run, done, train=trained.run)
        if "evaluate" not in done and run.manifest.get("version") is not None:
            _evaluate(repo, definition.name, run.manifest["version"])
            _done(run, done, evaluate="done")
        return {
            "run": run.id,
            "steps": done,
            "version": run.manifest.get("version"),
            "reasons": run.manifest.get("reasons", []),
            "metrics": run.manifest.get("metrics", {}),
        }


def _done(run: Run, done: dict[str, Any], **step: Any) -> None:
    done.update(step)
    run.save(steps=dict(done))


def _metrics(repo: Repo, train_run: str) -> dict[str, float]:
    from pipelines.runs import find

    return dict(find(repo.data, train_run).manifest.get("metrics", {}))


def _evaluate(repo: Repo, model: str, version: int) -> None:
    """What 'tandem evaluate' does; its table goes where progress goes."""
    from pipelines.commands.registry import evaluate

    with contextlib.redirect_stdout(sys.stderr):
        evaluate(repo.path, repo.data, model, [version], None, None, True, False, False)
