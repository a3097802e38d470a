"""``tandem watch``: the monitor on a schedule, retraining on triggers, alerts; ``tandem metrics``: what jobs left, for Prometheus."""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    JsonOption,
    RepoOption,
    Steps,
    load,
    moment,
    quiet,
    screen,
    settings_of,
    show,
    write,
)
from pipelines.lake.data_files import write_bytes
from pipelines.project.config import parse_duration
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.watch.watch_status import Subject, WatchStatus

__all__ = ["app", "metrics"]

app = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)

JOBS_ALONE = "jobs only: tandem.yaml lists no models to monitor or retrain"

ModelOption = Annotated[str | None, typer.Option("--model", help="Only this model (default: all models of tandem.yaml).")]


@app.callback()
def watch(
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    every: Annotated[str | None, typer.Option(help="Interval of monitor runs: 30m, 1h, 1d (default: watch.every).")] = None,
    once: Annotated[bool, typer.Option("--once", help="Run once and exit (for cron).")] = False,
    as_of: Annotated[
        str | None, typer.Option(help="Run labels and monitor as of this time (UTC), and train on no later events; for historical data.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port for Prometheus /metrics (0: any free port).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what a run would do; do nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Run the monitor on a schedule, alert, and retrain on drift, decay, age or new data, until stopped (Ctrl-C, SIGTERM).

    A retrained model is pushed as the challenger; with watch.promote in tandem.yaml it is promoted if it passes the thresholds of tandem
    promote. With --once the exit code is 1 if a step failed. Findings of the monitor do not change it: they are alerted, and shown by
    tandem watch status.
    """
    if context.invoked_subcommand is not None:
        return
    quiet()
    from pipelines.project.recording import recorded
    from pipelines.watch.child_commands import Children
    from pipelines.watch.job_metrics import JobMetrics
    from pipelines.watch.watch_job import Watch, utc_now
    from pipelines.watch.watch_status import intentions, status

    if as_of is not None:
        moment("--as-of", as_of)
    try:
        length = parse_duration(every) if every is not None else None
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from None
    subject, steps = _subject(repo, data, model), Steps()
    if dry_run:
        planned = intentions(subject, utc_now(), as_of)
        show(planned, json_)
        for name, lines in planned.items() if not json_ else ():
            for line in lines:
                write(f"{name}: would {line}" if not line.startswith("tandem") else f"{name}: would run {line}")
        if not planned:
            steps.say(f"would watch {JOBS_ALONE}")
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def say(line: str) -> None:
        if screen.is_terminal:
            steps.say(line.replace("[", r"\["))
        else:  # a log: whole moments, nothing to parse
            write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", err=True)

    if once and not subject.models:
        say(f"watching {JOBS_ALONE}")
    watcher = Watch(subject, Children(subject.path, subject.data, stop), utc_now, say, every=length, as_of=as_of)
    if once:
        watcher.look_now.update(subject.models)
        with recorded(subject, "watch", once=True):
            watcher.run(stop, wait=lambda until: True)
    else:
        from pipelines.streaming.stream_metrics import serve

        port = subject.settings.watch.metrics_port if metrics_port is None else metrics_port
        host = subject.settings.watch.metrics_host
        port, end = serve(JobMetrics(subject.data, lambda: watcher.known), port, "watch.metrics_port", host)
        address = f"http://{host}:{port}/metrics"
        say(f"watching {', '.join(subject.models) or JOBS_ALONE} every {every or subject.settings.watch.every}; metrics on {address}")
        try:
            with recorded(subject, "watch", links={"metrics": address}):
                watcher.run(stop)
        finally:
            end()
        say("stopped")
    show({**status(subject, utc_now()), "failed": watcher.failed}, json_, None)
    if once and watcher.failed:
        raise typer.Exit(1)


def _subject(repo: Path, data: Path | None, model: str | None) -> Subject:
    from pipelines.watch.watch_status import Subject

    loaded = load(repo, data, everything=True)
    names = [str(loaded.attribute(reference).name) for reference in loaded.settings.models]
    if model is not None and model not in names:
        raise ConfigError(f"--model {model}: no such model; tandem.yaml has {', '.join(names) or 'none'}")
    chosen = tuple(names) if model is None else (model,)
    return Subject(loaded.path, loaded.settings, loaded.data, loaded.sources, loaded.groups, chosen)


@app.command()
def status(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, model: ModelOption = None, json_: JsonOption = False) -> None:
    """Show the state of the watch: triggers, next actions, retrainings and alerts."""
    quiet()
    from pipelines.watch.watch_job import utc_now
    from pipelines.watch.watch_status import status as look

    found = look(_subject(repo, data, model), utc_now())
    show(found, json_, lambda: _table(found))


def _table(found: WatchStatus) -> Table:
    who = ", ".join(f"pid {w['pid']} since {_when(w['since'])}, {w['metrics'] or 'once'}" for w in found["watching"])
    table = Table(title=f"watching: {who or 'nobody'}", title_justify="left", box=None, show_header=False)
    for name, facts in found["models"].items():
        table.add_row(name, "")
        for key, value in facts.items():
            if value:
                told = "; ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else _when(value)
                table.add_row(f"  {key.replace('_', ' ')}", told)
    for one in found["retrainings"]:
        what = one.get("outcome") or one["status"]
        version = f" version {one['version']}" if one.get("version") else ""
        table.add_row(
            one["run"], f"{what}{version}; triggered by {', '.join(one['triggers'])}{'; ' + one['error'] if one.get('error') else ''}"
        )
    for alert in found["alerts"]["firing"]:
        table.add_row(f"alert, {alert['severity']}", f"{alert['title']} (since {_when(alert['since'])})")
    if found["alerts"]["waiting"]:
        table.add_row("alerts pending", str(found["alerts"]["waiting"]))
    return table


def _when(value: Any) -> str:
    """A moment to the minute; anything else as it is."""
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return f"{at:%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return str(value)


def metrics(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics on this port (0: any free port) until stopped.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the metrics to this file, atomically: for node_exporter's textfile collector (*.prom).")
    ] = None,
) -> None:
    """Print Prometheus metrics of the jobs of a data folder; tandem watch serves the same metrics."""
    from pipelines.watch.job_metrics import JobMetrics, page

    found = JobMetrics(settings_of(repo, data).data)
    if output is not None:
        write_bytes(output, page(found))
    if port is not None:
        from pipelines.streaming.stream_metrics import serve

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        taken, end = serve(found, port, "--port")
        Steps().say(f"metrics on http://127.0.0.1:{taken}/metrics")
        stop.wait()
        end()
    elif output is None:
        write(page(found).decode().removesuffix("\n"))
