"""``tandem stream``: run the streaming job; ``stop``, ``status``, ``resume`` from another shell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, load, quiet, settings_of, show, write
from transforms.errors import ConfigError, DataError

__all__ = ["app"]

NameOption = Annotated[str, typer.Option("--name", help="Name of the stream; each has its own checkpoint.")]

app = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)


@app.callback()
def stream(
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: NameOption = "main",
    runner: Annotated[
        str, typer.Option(help="Engine: flink, flink-cluster, direct (in this process, with --until latest), or one from a package.")
    ] = "flink",
    until: Annotated[str | None, typer.Option(help="latest: stop at the current end offsets of the topics.")] = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            help="If there is no checkpoint: continue from the end of this batch run (an id, or latest), whose tiles fill the windows."
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Discard the checkpoint and start over.")] = False,
    master: Annotated[
        str | None, typer.Option(help="Address of a Flink cluster's REST API (default: embedded Flink).", metavar="HOST:PORT")
    ] = None,
    worker_pool: Annotated[
        str | None, typer.Option(help="Address of the SDK worker pool next to the task managers.", metavar="HOST:PORT")
    ] = None,
    worker_command: Annotated[
        str | None,
        typer.Option(
            help="Instead of a pool: command with which each task manager starts a worker, such as tandem-worker (the code is sent to it).",
            metavar="COMMAND",
        ),
    ] = None,
    engine_option: Annotated[list[str] | None, typer.Option(help="Engine-specific setting (repeatable).", metavar="NAME=VALUE")] = None,
    from_savepoint: Annotated[str | None, typer.Option(help="Start from this savepoint or checkpoint of the cluster.")] = None,
    shards: Annotated[int | None, typer.Option(min=1, max=4096, help="Number of shards that entity keys are distributed over.")] = None,
    parallelism: Annotated[int, typer.Option(min=1, max=128, help="Number of parallel tasks (on a Flink cluster).")] = 1,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port for Prometheus /metrics (0: any free port).")] = None,
    json_: JsonOption = False,
) -> None:
    """Keep the online store up to date from Kafka, until stopped (Ctrl-C, SIGTERM, 'tandem stream stop')."""
    if context.invoked_subcommand is not None:
        return
    quiet()
    from pipelines.streaming.stream_job import run_stream
    from pipelines.streaming.stream_options import StreamOptions

    options = StreamOptions(
        name=name,
        runner=runner,
        until=until,  # type: ignore[arg-type]
        from_run=from_run,
        reset=reset,
        given=_given(engine_option or (), flink_master=master, worker_pool=worker_pool, worker_command=worker_command),
        savepoint=from_savepoint,
        shards=shards,
        parallelism=parallelism,
        metrics_port=metrics_port,
    )
    loaded = load(repo, data, finish=False)  # run_stream completes it
    quiet()  # Feast switches warnings on again
    manifest = run_stream(loaded, options)
    show(manifest, json_, None)
    if manifest["code"]:
        raise DataError(f"the stream failed: {manifest['error']}")


def _given(options: Iterable[str], **flags: str | None) -> dict[str, str]:
    """The settings of the engine. Raises ConfigError."""
    given = {name: value for name, value in flags.items() if value is not None}
    for option in options:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise ConfigError(f"--engine-option {name} is invalid; use NAME=VALUE")
        if name in given:
            raise ConfigError(f"--engine-option {name} is given twice; remove one")
        given[name] = value
    return given


@app.command()
def stop(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: NameOption = "main",
    savepoint: Annotated[bool, typer.Option("--savepoint", help="On a cluster: stop with a Flink savepoint.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it has stopped.")] = 120.0,
    json_: JsonOption = False,
) -> None:
    """Stop a stream after it has delivered what it polled. Does nothing if it is not running."""
    from pipelines.streaming.stream_control import stop_stream

    manifest = stop_stream(settings_of(repo, data).data, name, timeout, savepoint)
    found: dict[str, Any] = manifest if manifest is not None else {"name": name, "running": False}
    if json_:
        show(found, True)
    elif manifest is None:
        write(f"stream {name} is not running")
    else:
        ended = manifest.get("ended", "stopped")
        write(f"stream {name} stopped" + ("" if ended == "stopped" else f": {ended}"))
        if manifest.get("savepoint"):
            write(f"to start from it: --from-savepoint {manifest['savepoint']}")
        elif savepoint:
            write("no savepoint was taken; the next start resumes from the stream's own checkpoint")


@app.command()
def status(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, name: NameOption = "main", json_: JsonOption = False) -> None:
    """Show whether a stream is running, and its progress."""
    from pipelines.streaming.stream_control import stream_status

    found = stream_status(settings_of(repo, data).data, name)

    def table() -> Table:
        title = f"stream {name}: {'running' if found.running else 'not running'}"
        out = Table(title=title, title_justify="left", box=None, show_header=False)
        driver = found.driver or {}
        for key, fact in (*((k, driver.get(k)) for k in ("pid", "run", "started", "metrics")), ("failure", found.failure)):
            if fact:
                out.add_row(key, str(fact))
        for key, value in found.counts().items():
            if any(value.values()) if isinstance(value, dict) else value:
                out.add_row(key, _cell(key, value))
        for facts in found.skipped:
            out.add_row("skipped", "{topic}/{partition}/{offset}: {reason} ({by}, {at})".format(**facts))
        if found.letters_waiting:
            out.add_row("dead letters pending", f"{found.letters_waiting:,} not accepted by their topic yet; in {found.folder}")
        out.caption, out.caption_justify = "\n".join(found.said), "left"
        return out

    show(found.to_dict(), json_, table)


def _cell(key: str, value: Any) -> str:
    """A value of ``progress`` for people: times as times."""
    if not isinstance(value, dict):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if key in ("watermark", "output_watermark"):
        from transforms.instants import to_minute

        return ", ".join(f"{k}: {to_minute(v)}" for k, v in value.items())
    return ", ".join(f"{k}: {v:,}" if isinstance(v, int) else f"{k}: {v:.1f}" for k, v in value.items())


@app.command()
def resume(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, name: NameOption = "main") -> None:
    """Resume paused partitions, now or at the next start; rejects become dead letters, late events go to the late log."""
    from pipelines.streaming.stream_control import resume_stream

    parts = resume_stream(settings_of(repo, data).data, name)
    write(f"resumed: {', '.join(parts)}" if parts else "no partition is paused")


@app.command()
def skip(
    where: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET, as reported by the stream.", metavar="TOPIC/PARTITION/OFFSET")],
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded with user and time.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: NameOption = "main",
) -> None:
    """Skip a record that blocks the stream, now or at its next start; if its record batch cannot be read, the whole batch."""
    quiet()
    from pipelines.project import permissions
    from pipelines.streaming.stream_control import skip_record

    loaded = load(repo, data, finish=False)
    topics = {g.source.topic: g.source.name for g in loaded.groups.values() if g.source.topic}
    with permissions.guarded(loaded, "skip", where, reason, stream=name):
        skip_record(loaded.data, name, topics, where, reason)
    write(f"{where} is skipped")
