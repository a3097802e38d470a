"""``tandem train``: one model, or several experiments and their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

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
    results,
    screen,
    show,
)
from pipelines.lake.counted import counted
from pipelines.lake.run_records import TrainRecord
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.lake.runs import Run
    from pipelines.training.experiments import Comparison

__all__ = ["train"]


def train(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    model: Annotated[str | None, typer.Option(help="Model in tandem.yaml (default: the first).")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = workflow.SEED,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set a parameter of the model: name=value; name=value,value,... runs several experiments.", metavar="NAME=VALUE"
        ),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="YAML file of experiments: lists by name (all combinations), or a list of mappings.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Number of parallel experiments (default and maximum: one per core).")] = None,
    metric: Annotated[
        str, typer.Option(help="Metric that selects the best experiment: test/auc, test/log_loss, test/auc/origin=JFK...")
    ] = "test/auc",
    push: Annotated[bool, typer.Option("--push/--no-push", help="Push the model if it is blessed (experiments are never pushed).")] = True,
    push_best: Annotated[bool, typer.Option("--push-best", help="Train the best experiment again, and push it if it is blessed.")] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="For retries: if a training with this key is complete, show it instead of training again."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Build the training set, run the TFX pipeline, evaluate, and push the model if it is blessed. Several values: compare experiments."""
    quiet()
    steps = Steps()
    loaded = load(repo, data)
    steps.say("loading libraries")
    from pipelines.training.experiments import combinations, parse_sets, read_grid

    sets = parse_sets(set_ or [])
    demo = loaded.settings.demo
    first, last = moment("--start", start, demo.start), moment("--end", end, demo.end)
    chosen = [{**one, **more} for one in (read_grid(grid) if grid is not None else [{}]) for more in combinations(sets)]
    if len(chosen) > 1 or grid is not None:
        compared = workflow.experiments(loaded, chosen, first, last, steps, model, seed, metric, jobs)
        best = compared.best
        assert best is not None, "a comparison without one is an error before"
        if not json_:
            show(compared.to_dict(), False, lambda: render(compared))
            screen.print(f"best by {compared.metric} ({compared.better} is better): {best.run}")
        if push_best:
            trained = workflow.train(loaded, first, last, steps, model, seed, best.params)
            _result(trained, True, {**compared.to_dict(), "trained": _to_json(trained)} if json_ else None)
        elif json_:
            show(compared.to_dict(), json_)
        else:
            again = " ".join(f"--set {k}={v}" for k, v in best.params.items())
            screen.print(f"nothing is pushed; the best through the gate, same --repo, --start, --end: tandem train --seed {seed} {again}")
        return
    if push_best:
        raise ConfigError("--push-best is for several experiments; a single training is pushed if it is blessed")
    if idempotency_key is not None and (earlier := workflow.trained_once(loaded, model, idempotency_key)) is not None:
        _again(earlier, json_)
        return
    trained = workflow.train(loaded, first, last, steps, model, seed, chosen[0], push, idempotency_key)
    _result(trained, push, _to_json(trained) if json_ else None)


def _again(run: Run, json_: bool) -> None:
    """Tell of an earlier training as of one made now; the same exit code."""
    record = run.as_(TrainRecord)
    show({"run": run.id, "version": record.version, "metrics": record.metrics}, json_)
    became = f"version {record.version}" if record.version is not None else f"not pushed: {'; '.join(record.reasons)}"
    screen.print(f"already trained for this idempotency key: {run.id}, {became}", highlight=False)
    if record.version is None:
        raise typer.Exit(3)


def _to_json(trained: Any) -> dict[str, Any]:
    return {"run": trained.run, "pushed": str(trained.pushed or ""), "version": trained.version, "report": trained.report.to_dict()}


def _result(trained: Any, push: bool, machine: dict[str, Any] | None) -> None:
    """Show a training, for machines as ``machine``; exit code 3 if it should have been pushed and was not."""
    if machine is not None:
        show(machine, True)
    else:
        from pipelines.training.training_report import render as render_report

        results().print(render_report(trained.report))
    if trained.version is not None:
        screen.print(f"pushed version {trained.version} of {trained.model} ({trained.run})", highlight=False)
    elif not push:
        screen.print("not pushed (--no-push): the model is neither validated for pushing nor served", highlight=False)
    if trained.pushed is None and push:
        screen.print(f"not pushed: {'; '.join(trained.pipeline.reasons)}")
        raise typer.Exit(3)


def render(compared: Comparison) -> Table:
    """The comparison of experiments, the best first."""
    rows = compared.experiments
    names = [n for n in rows[0].params if len({str(r.params[n]) for r in rows}) > 1] or list(rows[0].params)
    out = Table(title=f"{counted(rows, 'experiment')} by {compared.metric} ({compared.better} is better)", title_justify="left")
    for name in ("#", *names, *compared.scores, "seconds"):
        out.add_column(name, justify="right")
    out.add_column("run, or error", overflow="fold")
    for row in rows:
        values = (f"{row.metrics[s]:.4f}" if s in row.metrics else "-" for s in compared.scores)
        told = row.run if row.status == "complete" and not row.why else f"{row.status}: {row.why}"
        out.add_row(str(row.number), *(str(row.params[n]) for n in names), *values, f"{row.seconds:.0f}", told)
    return out
