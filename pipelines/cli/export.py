"""``tandem export``: the steps of a repository as a workflow of Airflow or Kubeflow, a file that its user owns."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, RepoOption, Steps, load, quiet, write

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write the repository's steps as a workflow of another engine.")

NameOption = Annotated[str | None, typer.Option(help="What it is called there (default: tandem- and the folder's name).")]
OutputOption = Annotated[Path | None, typer.Option(help="The file to write (default: print it).")]
RetriesOption = Annotated[int, typer.Option(min=0, help="How often a step that fails is tried again.")]
EventsOption = Annotated[bool, typer.Option("--events", help="Begin with 'tandem events' (demo.events of tandem.yaml).")]


@app.command()
def airflow(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    output: OutputOption = None,
    name: NameOption = None,
    schedule: Annotated[str, typer.Option(help="When: a preset or a cron expression of Airflow.")] = "@daily",
    days: Annotated[int | None, typer.Option(min=1, help="Days of rows of a run (default: as many as demo.start to demo.end).")] = None,
    events: EventsOption = False,
    retries: RetriesOption = 2,
) -> None:
    """Write an Airflow DAG: batch, apply, materialize, and for each model train, evaluate, promote."""
    values = _values(repo, data, name, events, retries)
    first, last = values["demo_start"], values["demo_end"]
    values["days"] = days or ((last - first).days if first and last else 14)
    if values["days"] <= values["warm_up"]:
        raise typer.BadParameter(f"{values['days']} days leave nothing to train on after demo.warm_up_days: {values['warm_up']}")
    values |= {"schedule": schedule, "start": first or datetime(2024, 1, 1, tzinfo=UTC)}
    _write("airflow_dag.py.txt", values, output)


@app.command()
def kubeflow(
    image: Annotated[str, typer.Option(help="The image of the steps: FROM tandem-train with the repository in /repo.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    output: OutputOption = None,
    name: NameOption = None,
    claim: Annotated[str, typer.Option(help="The PersistentVolumeClaim of the data folder (needs kfp-kubernetes to compile).")] = "",
    events: EventsOption = False,
    retries: RetriesOption = 2,
) -> None:
    """Write a Kubeflow pipeline: batch, apply, materialize, and for each model train, evaluate, promote."""
    from transforms.errors import ConfigError

    if not re.fullmatch(r"[\w./:@-]+", image):
        raise ConfigError(f"--image {image!r} is no name of an image; write registry/name:tag or registry/name@sha256:...")
    values = _values(repo, data, name, events, retries)
    dates = {key: f"{values[of]:%Y-%m-%d}" if values[of] else "" for key, of in (("first", "demo_start"), ("last", "demo_end"))}
    values |= {"image": image, "claim": claim, **dates}
    _write("kubeflow_pipeline.py.txt", values, output)


def _values(repo: Path, data: Path | None, name: str | None, events: bool, retries: int) -> dict[str, Any]:
    """What both templates want to know of the repository. Raises ConfigError."""
    from transforms.errors import ConfigError

    quiet()
    loaded = load(repo, data, finish=False)
    demo = loaded.settings.demo
    if events and not demo.events:
        raise ConfigError("--events: tandem.yaml has no demo.events; leave --events away, or name the function that writes event logs")
    models = [loaded.attribute(reference).name for reference in loaded.settings.models]
    called = name or re.sub(r"[^a-z0-9]+", "-", f"tandem-{loaded.path.name}".lower()).strip("-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", called):
        raise ConfigError(f"--name {called!r}: write letters, digits, '-', '_' and '.'")
    return {
        "name": called, "models": models, "events": events, "retries": retries, "warm_up": demo.warm_up_days, "repo": str(loaded.path),
        "demo_start": demo.start, "demo_end": demo.end,
    }  # fmt: skip


def _write(template: str, values: dict[str, Any], output: Path | None) -> None:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # Python, no HTML
    environment.filters["literal"] = repr
    text = environment.from_string((files("pipelines.cli") / "templates" / template).read_text("utf-8")).render(values)
    if output is None:
        write(text.rstrip("\n"))
        return
    from pipelines.lake.files import write_text

    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
    Steps().say(f"wrote {output}")
