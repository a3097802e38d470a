"""``tandem topics``: make the topics of the sources; ``tandem archive``: what they hold into event files."""

from __future__ import annotations

import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, load, moment, quiet, show
from pipelines.lake import layout
from pipelines.project.config import parse_duration
from transforms.errors import ConfigError
from transforms.instants import micros_of

if TYPE_CHECKING:
    from pipelines.replay.topic_archive import Archived

__all__ = ["app", "archive"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Create the topics of the sources.")

SourceOption = Annotated[
    list[str] | None, typer.Option("--source", help="Only this source (repeatable; default: all sources with a topic).")
]


@app.command()
def create(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of each topic that is created (default: 1).")] = None,
    replication: Annotated[int | None, typer.Option(min=1, help="Replication factor (default: the broker's).")] = None,
    retention: Annotated[str, typer.Option(help="Retention time: forever, or 7d, 12h.")] = "forever",
    json_: JsonOption = False,
) -> None:
    """Create missing topics. Existing ones are left unchanged; it is an error if their number of partitions differs from --partitions.

    By default records are kept forever, so that replayed history with old timestamps is not deleted, and nothing is lost before archiving.
    """
    quiet()
    from pipelines.replay.producer import prepare_topics
    from pipelines.sources.kafka.kafka_client import client_options

    loaded, steps = load(repo, data, finish=False), Steps()
    try:
        kept = -1 if retention == "forever" else int(parse_duration(retention).total_seconds() * 1000)
    except ValueError as error:
        raise ConfigError(f"--retention: {error}") from None
    topics = [str(s.topic) for s in _chosen(loaded, source)]
    connection = client_options(loaded.settings.kafka, loaded.data)
    made = prepare_topics(connection, topics, partitions, steps.say, retention_ms=kept, replication=replication)
    show({"topics": made}, json_, lambda: _topics(made))


def _topics(made: dict[str, int]) -> Table:
    table = Table("topic", "partitions", box=None)
    for name, count in made.items():
        table.add_row(name, str(count))
    return table


@app.command(hidden=True)  # its old place, see cli/renamed.py
def archive(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    since: Annotated[str | None, typer.Option("--since", help="Omit events with an event time before this, UTC.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over, and delete what was archived before.")] = False,
    until: Annotated[
        str, typer.Option(help="latest: stop at the current end of the topics; stopped: run until Ctrl-C or SIGTERM.")
    ] = "latest",
    every: Annotated[str, typer.Option(help="With --until stopped: polling interval (30s, 5m).")] = "1m",
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Continue after records that were deleted by retention.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Archive new records of the topics to the event files, for batch runs and training.

    Each event is written exactly once, even if the command is killed and repeated: files are named by their offsets, and small files are
    merged. Records that violate the contract are only counted by reason (the stream keeps them as dead letters).
    """
    quiet()
    from pipelines.project.recording import recorded
    from pipelines.sources.broker import open_broker

    if until not in ("latest", "stopped"):
        raise ConfigError(f"--until {until!r} is unknown; use latest or stopped")
    try:
        pause = parse_duration(every).total_seconds()
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from None
    loaded, steps, stop = load(repo, data, finish=False), Steps(), threading.Event()
    begin = None if since is None else micros_of(moment("--since", since))
    chosen = _chosen(loaded, source)
    if until == "stopped":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    for one in chosen:
        if len(of := [s.name for s in loaded.sources.values() if one.files and s.files == one.files]) > 1:
            raise ConfigError(
                f"sources {', '.join(of)} share the folder {one.files}: events archived there for one of them cannot be read by the others;"
                " give each its own files="
            )
    reader = open_broker(loaded.settings.kafka, loaded.data).open_reader()
    totals: dict[str, Archived] = {}
    try:
        with recorded(loaded, "archive", params={"since": since, "overwrite": overwrite}) as run:
            while True:
                for one in chosen:
                    done = _pass(reader, one, loaded, steps, begin, overwrite, accept_missing, one.name in totals)
                    totals[one.name] = totals[one.name].followed_by(done) if one.name in totals else done
                overwrite = False
                if until == "latest" or stop.wait(pause):
                    break
            run.add(counts={f"events/{name}": done.events for name, done in totals.items()})
    finally:
        reader.close()
    found = list(totals.values())
    show({"sources": [done.to_dict() for done in found]}, json_, lambda: _archived(found))


def _pass(
    reader: Any, source: Any, loaded: Any, steps: Steps, begin: int | None, overwrite: bool, accept_missing: bool, again: bool
) -> Archived:
    """Archive what there is of one topic now; ``again``: say nothing where nothing came."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from pipelines.replay.topic_archive import archive_topic

    columns = (TextColumn("archiving {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("offsets"), TimeRemainingColumn())
    bar = Progress(*columns, console=steps.screen, transient=True) if steps.screen.is_terminal else None
    task = bar.add_task(str(source.topic), total=None) if bar is not None else None

    def progress(so_far: int, total: int) -> None:
        if bar is not None and task is not None:
            bar.update(task, completed=so_far, total=total)

    with bar or nullcontext():
        done = archive_topic(
            reader, source, loaded.settings.kafka, loaded.data, begin=begin, overwrite=overwrite, accept_missing=accept_missing,
            max_future_us=round(loaded.settings.stream.max_future_hours * 3.6e9), skip=_skipped(loaded.data, str(source.topic)),
            say=steps.say, progress=progress,
        )  # fmt: skip
    if done.records or not again:
        merged = f", {done.merged} files merged" if done.merged else ""
        steps.say(
            f"{source.topic}: {done.events:,} events of {done.records:,} records into {done.files} files of {source.files}{merged};"
            f" lag {done.lag:,} records"
        )
    return done


def _skipped(data: Path, topic: str) -> dict[int, frozenset[int]]:
    """Partition -> the offsets that some stream was told to leave out: what it could not read, nobody can."""
    from pipelines.streaming.state.job_state import JobState

    out: dict[int, frozenset[int]] = {}
    for folder in sorted(p for p in layout.streams(data).glob("*") if (p / "skipped.jsonl").is_file()):
        for (of, partition), offsets in JobState(folder).skips().items():
            if of == topic:
                out[partition] = out.get(partition, frozenset()) | offsets
    return out


def _archived(found: list[Archived]) -> Table:
    table = Table("source", "records", "events", "before --since", "filtered", "tombstones", "rejected", "lag", box=None)
    for d in found:
        rejected = ", ".join(f"{n:,} {reason}" for reason, n in sorted(d.rejected.items())) or "none"
        numbers = (f"{n:,}" for n in (d.records, d.events, d.left_out, d.passed_over, d.tombstones))
        table.add_row(d.source, *numbers, rejected, f"{d.lag:,}")
    return table


def _chosen(repo: Any, names: list[str] | None) -> list[Any]:
    known = {name: s for name, s in repo.sources.items() if s.topic}
    for name in names or ():
        if name not in known:
            problem = "has no topic" if name in repo.sources else "is unknown"
            raise ConfigError(f"--source {name} {problem}; sources with a topic: {', '.join(sorted(known)) or 'none'}")
    chosen = [s for name, s in sorted(known.items()) if not names or name in names]
    if not chosen:
        raise ConfigError(f"{repo.path.name} has no source with a topic; set topic= in a source")
    return chosen
