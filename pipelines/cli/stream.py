"""``tandem stream``: run the streaming job; ``stop``, ``status``, ``resume`` from another shell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, load, quiet, settings_of, show, write
from transforms.errors import ConfigError, DataError

__all__ = ["app"]

NameOption = Annotated[str, typer.Option("--name", help="Which stream: each has its own checkpoint.")]

app = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)


@app.callback()
def stream(
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: NameOption = "main",
    runner: Annotated[
        str, typer.Option(help="The engine: flink, flink-cluster, direct (in this process, with --until latest), or a package's.")
    ] = "flink",
    until: Annotated[str | None, typer.Option(help="latest: end at the offsets that the topics have now.")] = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            help="Where there is no checkpoint: go on from the end of this batch run (or 'latest'), its tiles filling the windows."
        ),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Forget the checkpoint.")] = False,
    flink_master: Annotated[
        str | None, typer.Option(help="host:port of a Flink cluster's REST interface (default: embedded).", metavar="HOST:PORT")
    ] = None,
    worker_pool: Annotated[
        str | None, typer.Option(help="host:port of the pool of SDK workers beside the task managers.", metavar="HOST:PORT")
    ] = None,
    worker_command: Annotated[
        str | None,
        typer.Option(
            help="Instead of a pool: the command by which each task manager starts a worker, such as tandem-worker; it is sent the code.",
            metavar="COMMAND",
        ),
    ] = None,
    engine_option: Annotated[
        list[str] | None, typer.Option(help="A setting of the engine's own; may be given again.", metavar="NAME=VALUE")
    ] = None,
    savepoint: Annotated[str | None, typer.Option(help="Start from this savepoint or checkpoint of the cluster.")] = None,
    shards: Annotated[int | None, typer.Option(min=1, max=4096, help="Parts that entities are spread over.")] = None,
    parallelism: Annotated[int, typer.Option(min=1, max=128, help="Parallel tasks, of a Flink cluster.")] = 1,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of /metrics (0: a free one).")] = None,
    json_: JsonOption = False,
) -> None:
    """Keep the online store fresh from Kafka, until stopped (Ctrl-C, SIGTERM, 'tandem stream stop')."""
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
        anew=anew,
        given=_given(engine_option or (), flink_master=flink_master, worker_pool=worker_pool, worker_command=worker_command),
        savepoint=savepoint,
        shards=shards,
        parallelism=parallelism,
        metrics_port=metrics_port,
    )
    loaded = load(repo, data, finish=False)  # run_stream completes it
    quiet()  # Feast switches warnings on again
    manifest = run_stream(loaded, options)
    show(manifest, json_, None)
    if manifest["code"]:
        raise DataError(f"the stream ended: {manifest['error']}")


def _given(options: Iterable[str], **flags: str | None) -> dict[str, str]:
    """The settings of the engine. Raises ConfigError."""
    given = {name: value for name, value in flags.items() if value is not None}
    for option in options:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise ConfigError(f"--engine-option {name}: write NAME=VALUE")
        if name in given:
            raise ConfigError(f"--engine-option {name}: it is given twice; leave one of them out")
        given[name] = value
    return given


@app.command()
def stop(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: NameOption = "main",
    savepoint: Annotated[bool, typer.Option("--savepoint", help="On a cluster: keep Flink's state as a savepoint.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its end.")] = 120.0,
    json_: JsonOption = False,
) -> None:
    """Stop a stream when what it polled is delivered. Harmless if none runs."""
    from pipelines.streaming.stream_control import stop_stream

    manifest = stop_stream(settings_of(repo, data).data, name, timeout, savepoint)
    found: dict[str, Any] = manifest if manifest is not None else {"name": name, "running": False}
    if json_:
        show(found, True)
    elif manifest is None:
        write(f"no stream called {name} runs")
    else:
        ended = manifest.get("ended", "stopped")
        write(f"stream {name} stopped" + ("" if ended == "stopped" else f": {ended}"))
        if manifest.get("savepoint"):
            write(f"start from it with --savepoint {manifest['savepoint']}")
        elif savepoint:
            write("no savepoint was made; the next start goes on from the stream's own checkpoint")


@app.command()
def status(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, name: NameOption = "main", json_: JsonOption = False) -> None:
    """Show whether a stream runs and how far it is."""
    from pipelines.streaming.stream_control import stream_status

    found = stream_status(settings_of(repo, data).data, name)

    def table() -> Table:
        title = f"stream {name}: {'running' if found['running'] else 'not running'}"
        out = Table(title=title, title_justify="left", box=None, show_header=False)
        for key in ("pid", "run", "started", "metrics", "failure"):
            if found.get(key):
                out.add_row(key, str(found[key]))
        for key, value in found.get("progress", {}).items():
            if any(value.values()) if isinstance(value, dict) else value:
                out.add_row(key, _cell(key, value))
        for facts in found.get("skipped", []):
            out.add_row("left out", "{topic}/{partition}/{offset}: {reason} ({by}, {at})".format(**facts))
        if found.get("letters_waiting"):
            out.add_row("letters waiting", f"{found['letters_waiting']:,} dead letters that their topic did not take; in {found['folder']}")
        out.caption, out.caption_justify = "\n".join(found.get("said", [])), "left"
        return out

    show(found, json_, table)


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
    """Let partitions that are paused go on, now or at the next start; rejects become dead letters, late events go to the late log."""
    from pipelines.streaming.stream_control import resume_stream

    parts = resume_stream(settings_of(repo, data).data, name)
    write(f"going on: {', '.join(parts)}" if parts else "nothing is paused")


@app.command()
def skip(
    where: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET, as the stream names it.", metavar="TOPIC/PARTITION/OFFSET")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with who and when.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: NameOption = "main",
) -> None:
    """Leave out a record that the stream cannot get past, now or at its next start; of a batch that cannot be read, all of it."""
    quiet()
    from pipelines.project import access
    from pipelines.streaming.stream_control import skip_record

    loaded = load(repo, data, finish=False)
    topics = {g.source.topic: g.source.name for g in loaded.groups.values() if g.source.topic}
    with access.guarded(loaded, "skip", where, reason, stream=name):
        skip_record(loaded.data, name, topics, where, reason)
    write(f"{where} is left out")
