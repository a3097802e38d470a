"""``tandem init`` and ``tandem demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, EndOption, JsonOption, RepoOption, StartOption, load, moment, quiet, write
from pipelines.lake.data_files import as_the_users
from pipelines.project.config import load_settings


def init(folder: Annotated[Path, typer.Argument(help="Folder to create.")]) -> None:
    """Create a small example feature repository to start from."""
    from pipelines.demo.scaffold import scaffold

    with as_the_users():
        written = scaffold(folder)
    for path in written:
        write(f"wrote {path}")
    repo = shlex.quote(str(folder))
    write(f"next, run everything: tandem demo --repo {repo}")
    write("or step by step:")
    for command in ("events", "batch", "apply", "materialize", "train"):
        write(f"  tandem {command} --repo {repo}")
    end = load_settings(folder.resolve()).demo.end  # the rows are of then: by today's clock all of them are past their TTL
    write(f"  tandem serve --repo {repo} --as-of {end:%Y-%m-%d}")


def demo(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    stream_days: Annotated[
        int | None,
        typer.Option(min=0, max=30, help="Days after --end that are streamed through Kafka (default 3; 0: only the batch half)."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run everything end to end: events, batch, apply, materialize, train; then a stream with live predictions, and the parity proof."""
    quiet()
    from pipelines.demo.demo_run import run_demo

    loaded = load(repo, data)
    d = loaded.settings.demo
    days = d.stream_days if stream_days is None else stream_days
    first, last = moment("--start", start, d.start), moment("--end", end, d.end)
    from pipelines.project.recording import recorded

    with recorded(loaded, "demo", range=[first.isoformat(), last.isoformat()]):
        run_demo(loaded, first, last, json_, days)
