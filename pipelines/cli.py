"""The command ``tandem``. Light at import: each command imports what it uses."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipelines.commands import registry, services
from pipelines.commands.dlq import app as dlq_app
from pipelines.commands.monitor import labels, monitor
from pipelines.commands.pipeline import pipeline
from pipelines.commands.replay import replay
from pipelines.commands.runs import app as runs_app
from pipelines.commands.runs import lineage, reproduce
from pipelines.commands.stream import app as stream_app
from pipelines.commands.tracking import track
from pipelines.commands.train import train
from pipelines.commands.verify import verify
from pipelines.commands.watch import app as watch_app
from pipelines.commands.watch import metrics
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
from transforms.errors import ConfigError, TandemError

if TYPE_CHECKING:
    from pipelines.repo import Repo

__all__ = ["app", "main"]

app = typer.Typer(
    name="tandem",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Features computed once: as a batch job for training and as a stream for serving, from one graph.",
)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="The folder to make.")]) -> None:
    """Make a small feature repository to start from."""
    from pipelines.scaffold import scaffold

    for path in scaffold(folder):
        typer.echo(f"wrote {path}")
    repo = shlex.quote(str(folder))
    typer.echo(f"next, all of it: tandem demo --repo {repo}")
    typer.echo("or step by step:")
    for command in ("events", "batch", "apply", "materialize", "train", "serve"):
        typer.echo(f"  tandem {command} --repo {repo}")


@app.command()
def events(
    repo: RepoOption = DEFAULT_REPO, data: DataOption = None, start: StartOption = None, end: EndOption = None, json_: JsonOption = False
) -> None:
    """Write the event logs by the repository's own function (demo.events of tandem.yaml)."""
    loaded, steps = load(repo, data), Steps()
    show(make_events(loaded, start, end, steps), json_, None)


def make_events(repo: Repo, start: str | None, end: str | None, steps: Steps) -> dict[str, int]:
    """Write event logs for a range (dates of UTC); returns events per source."""
    demo = repo.settings.demo
    if not demo.events:
        raise ConfigError("tandem.yaml: demo.events is missing; name a function 'module:function' that writes event logs")
    first, last = moment("--start", start, demo.start).date(), moment("--end", end, demo.end).date()
    from datetime import timedelta

    from pipelines.runs import recorded

    with recorded(repo, "events", range=[f"{first}T00:00:00+00:00", f"{last}T00:00:00+00:00"]) as run, steps.doing("writing event logs"):
        counts: dict[str, int] = repo.attribute(demo.events)(repo.data, first - timedelta(days=2), last + timedelta(days=1), None)
        run.add(events=counts, counts={f"events/{n}": v for n, v in counts.items()})
    steps.say(f"event logs of {first} to {last}: " + ", ".join(f"{n:,} {source}" for source, n in counts.items()))
    return counts


@app.command(context_settings={"allow_extra_args": True})
def batch(
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    runner: Annotated[str, typer.Option(help="Beam's runner: DirectRunner, FlinkRunner, DataflowRunner...")] = "DirectRunner",
    pinned: Annotated[bool, typer.Option("--pinned", help="Reuse the applied graphs instead of analyzing anew.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Run though a run of the same inputs is complete.")] = False,
    json_: JsonOption = False,
) -> None:
    """Make feature rows of a range of history. What stands after -- goes to Beam's PipelineOptions."""
    quiet()
    loaded, steps = load(repo, data), Steps()
    demo = loaded.settings.demo
    manifest = do_batch(
        loaded, moment("--start", start, demo.start), moment("--end", end, demo.end), steps, runner, context.args, pinned, anew
    )
    show(manifest, json_, lambda: run_table(manifest))


def do_batch(
    repo: Repo,
    start: datetime,
    end: datetime,
    steps: Steps,
    runner: str = "DirectRunner",
    args: list[str] | None = None,
    pinned: bool = False,
    anew: bool = False,
) -> dict[str, Any]:
    """Run the batch job; returns its manifest."""
    from pipelines.batch import run_batch

    with steps.doing("batch"):
        result = run_batch(
            repo, start, end, now=datetime.now(UTC), runner=runner, beam_args=args or [], pinned=pinned, anew=anew, progress=steps.say
        )
    return result.run.manifest


def run_table(manifest: dict[str, Any]) -> Table:
    """What a batch run made."""
    table = Table(title=f"run {manifest['id']}: {manifest['status']}", title_justify="left")
    for name, justify in (("feature group", "left"), ("rows", "right"), ("graph", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, rows in manifest.get("rows", {}).items():
        table.add_row(name, f"{rows:,}", manifest.get("fingerprints", {}).get(name, "")[:12])
    read, rejected = sum(manifest.get("events", {}).values()), manifest.get("rejected", {})
    reasons = ", ".join(f"{n} {reason}" for reason, n in rejected.items()) or "none"
    table.caption = f"{read:,} events read; rejected: {reasons}"
    return table


@app.command()
def apply(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    run: Annotated[str | None, typer.Option(help="The batch run whose graphs to apply (default: the latest complete one).")] = None,
) -> None:
    """Make a run's graphs the applied ones, and run feast apply."""
    quiet()
    do_apply(load(repo, data), run, Steps())


def do_apply(repo: Repo, run_id: str | None, steps: Steps) -> None:
    """Apply the graphs of a run."""
    from pipelines import runs
    from pipelines.batch import apply_run
    from pipelines.feature_store import apply as feast_apply

    complete = [r for r in runs.list_runs(repo.data) if r.manifest.get("kind") == "batch" and r.status == "complete"]
    if run_id is None and not complete:
        raise ConfigError("there is no complete batch run; run 'tandem batch' first")
    run = runs.find(repo.data, run_id) if run_id else complete[-1]
    with runs.recorded(repo, "apply", of_run=run.id, range=run.manifest.get("range", [])) as applying, steps.doing("apply"):
        fingerprints = apply_run(repo, run)
        applying.save(fingerprints=fingerprints)
        feast_apply(repo, fingerprints)
    steps.say(f"applied {len(fingerprints)} graphs of {run.id}")


@app.command()
def materialize(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, start: StartOption = None, end: EndOption = None) -> None:
    """Load the newest rows of a range into the online store."""
    quiet()
    loaded = load(repo, data)
    demo = loaded.settings.demo
    do_materialize(loaded, moment("--start", start, demo.start), moment("--end", end, demo.end), Steps())


def do_materialize(repo: Repo, start: datetime, end: datetime, steps: Steps) -> None:
    """Materialize all views."""
    from pipelines.feature_store import materialize as feast_materialize
    from pipelines.runs import recorded

    with recorded(repo, "materialize", range=[start.isoformat(), end.isoformat()]):
        feast_materialize(repo, start, end)
    steps.say(f"materialized {start:%Y-%m-%d} to {end:%Y-%m-%d} into the online store")


@app.command()
def serve(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 8500; 0: a free one).")] = None,
    as_of: Annotated[str | None, typer.Option(help="Answer as if it were this moment (UTC), over replayed history.")] = None,
    clock: Annotated[
        Path | None, typer.Option(help="Take the time from this file of tandem replay (DATA/replay/clock.json), while it is there.")
    ] = None,
) -> None:
    """Serve predictions and online features over HTTP."""
    quiet()
    from pydantic import ValidationError

    from pipelines.config import load_settings
    from serving.settings import ServingSettings

    repo = repo.resolve()
    settings = load_settings(repo, data=data.resolve() if data else None)
    given = {"host": host, "port": port, "as_of": moment("--as-of", as_of) if as_of else None, "clock": clock and clock.resolve()}
    log = settings.serve.get("request_log", settings.data / "requests")  # null turns it off; a path is relative to the repository
    try:
        chosen = ServingSettings(
            feature_repo=repo,
            models=settings.data / "models",
            graphs=settings.data / "graphs",
            **{**settings.serve, "request_log": log and repo / log, **{k: v for k, v in given.items() if v is not None}},
        )
    except (ValidationError, TypeError) as error:
        first = (
            error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("settings",), "msg": str(error), "input": settings.serve}
        )
        raise ConfigError(f"serve.{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r}); correct it") from None
    from pipelines.runs import Home, hand_over

    hand_over(Home(repo, settings, settings.data), "serve", serving=chosen.model_dump(mode="json"))
    # The server is a process of its own that never loads Beam or the pipelines; it takes this one's place.
    os.execv(sys.executable, [sys.executable, "-m", "serving", chosen.model_dump_json()])


@app.command()
def demo(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    stream_days: Annotated[
        int | None, typer.Option(min=0, max=30, help="Days after the end that pass through Kafka (default 3; 0: the batch half alone).")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """The whole way: event logs, batch, apply, materialize, train; then a stream, questions to the model meanwhile, and the proof."""
    quiet()
    from pipelines.demo import run_demo

    loaded = load(repo, data)
    d = loaded.settings.demo
    days = d.stream_days if stream_days is None else stream_days
    first, last = moment("--start", start, d.start), moment("--end", end, d.end)
    from pipelines.runs import recorded

    with recorded(loaded, "demo", range=[first.isoformat(), last.isoformat()]):
        run_demo(loaded, first, last, json_, days)


services.register(app)
registry.register(app)
app.command()(train)
app.command()(pipeline)
app.command()(track)
app.command()(replay)
app.command()(verify)
app.command()(labels)
app.command()(monitor)
app.add_typer(stream_app, name="stream")
app.add_typer(dlq_app, name="dlq")
app.add_typer(runs_app, name="runs")
app.command()(reproduce)
app.command()(lineage)
app.add_typer(watch_app, name="watch")
app.command()(metrics)


def fail(error: BaseException) -> int:
    """Print one line; the exit code 1."""
    screen.print(f"error: {' '.join(str(error).split())}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1


def main() -> None:
    """Entry point: errors raised on purpose, and those of files and sockets, are one line; anything else is a bug and shows its trace."""
    code: Any = 0
    try:
        app()
    except SystemExit as stop:
        code = stop.code
    except (TandemError, OSError) as error:
        code = fail(error)
    except KeyboardInterrupt:
        code = fail(RuntimeError("interrupted; run the same command again to complete it"))
    if "tensorflow" in sys.modules:
        # TensorFlow's functions print errors when they are collected while the interpreter goes down; leave before that.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
    sys.exit(code)


if __name__ == "__main__":
    main()
