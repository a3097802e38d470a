"""``tandem train``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

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
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.repo import Repo

__all__ = ["do_train", "train"]


def train(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    model: Annotated[str | None, typer.Option(help="Which model of tandem.yaml (default: the first).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 20130101,
    json_: JsonOption = False,
) -> None:
    """Training set, TFX pipeline, evaluation; pushes the model if it is blessed."""
    quiet()
    loaded = load(repo, data)
    demo = loaded.settings.demo
    trained = do_train(loaded, moment("--start", start, demo.start), moment("--end", end, demo.end), Steps(), model, seed)
    if json_:
        show(
            {"run": trained.run, "pushed": str(trained.pushed or ""), "version": trained.version, "report": trained.report.to_dict()}, True
        )
    else:
        from pipelines.training.report import render

        Console().print(render(trained.report))
    if trained.pushed is None:
        screen.print(f"not pushed: {'; '.join(trained.pipeline.reasons)}")
        raise typer.Exit(3)


def do_train(repo: Repo, start: datetime, end: datetime, steps: Steps, model: str | None = None, seed: int = 20130101) -> Any:
    """Train one model."""
    from pipelines.training import train as run_training

    if not repo.settings.models:
        raise ConfigError("tandem.yaml: models is missing; name one, e.g. models: ['labels:my_model']")
    models = [repo.attribute(reference) for reference in repo.settings.models]
    chosen = [m for m in models if model in (None, m.name)]
    if not chosen:
        raise ConfigError(f"--model {model}: there is no such model; tandem.yaml has {', '.join(m.name for m in models)}")
    with steps.doing("training"):
        return run_training(chosen[0], repo=repo.path, data=repo.data, start=start, end=end, progress=steps.timed, seed=seed)
