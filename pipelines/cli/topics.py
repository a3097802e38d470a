"""``tandem topics``: make the topics of the sources, and archive what they hold into event files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, load, moment, quiet, show
from transforms.errors import ConfigError
from transforms.instants import micros_of

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

SourceOption = Annotated[list[str] | None, typer.Option("--source", help="Only this source (repeat for more). Default: all with a topic.")]


@app.command()
def create(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of each topic that is made (default: 1).")] = None,
    replication: Annotated[int | None, typer.Option(min=1, help="Copies of each partition (default: the broker's).")] = None,
    retention: Annotated[str, typer.Option(help="How long records are kept: forever, or 7d, 12h.")] = "forever",
    json_: JsonOption = False,
) -> None:
    """Make the topics that are missing. One that is there stays as it is; with another number of partitions than asked for it is an error.

    By default records are kept for ever: archive them, or replay history whose timestamps are old, without any being deleted.
    """
    quiet()
    from pipelines.project.config import parse_duration
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


@app.command()
def archive(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    since: Annotated[str | None, typer.Option("--since", help="Leave out events before this moment of event time, UTC.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Begin again, and remove what was archived before.")] = False,
    json_: JsonOption = False,
) -> None:
    """Add what the topics hold since the last time to the event files, for batch runs and training.

    Only what the contract takes is written; the rest is counted by reason (the stream keeps it as dead letters). Safe to repeat, to kill
    and to schedule: nothing is written twice.
    """
    quiet()
    from pipelines.project.recording import recorded
    from pipelines.replay.topic_archive import archive_topic
    from pipelines.sources.broker import open_broker

    loaded, steps = load(repo, data, finish=False), Steps()
    begin = None if since is None else micros_of(moment("--since", since))
    chosen = _chosen(loaded, source)
    reader = open_broker(loaded.settings.kafka, loaded.data).open_reader()
    future = round(loaded.settings.stream.max_future_hours * 3.6e9)
    found = []
    try:
        with recorded(loaded, "archive", params={"since": since, "anew": anew}) as run:
            for one in chosen:
                with steps.doing(f"archiving {one.topic}"):
                    done = archive_topic(
                        reader, one, loaded.settings.kafka, loaded.data, begin=begin, anew=anew, max_future_us=future, say=steps.say,
                        skip=_skipped(loaded.data, str(one.topic)),
                    )  # fmt: skip
                found.append(done.to_dict())
                steps.say(f"{one.topic}: {done.events:,} events of {done.records:,} records into {done.files} files of {one.files}")
            run.add(counts={f"events/{d['source']}": d["events"] for d in found})
    finally:
        reader.close()
    show({"sources": found}, json_, lambda: _archived(found))


def _skipped(data: Path, topic: str) -> dict[int, frozenset[int]]:
    """Partition -> the offsets that some stream was told to leave out: what it could not read, nobody can."""
    from pipelines.lake import layout
    from pipelines.streaming.state.job_state import JobState

    out: dict[int, frozenset[int]] = {}
    for folder in sorted(p for p in layout.streams(data).glob("*") if (p / "skipped.jsonl").is_file()):
        for (of, partition), offsets in JobState(folder).skips().items():
            if of == topic:
                out[partition] = out.get(partition, frozenset()) | offsets
    return out


def _archived(found: list[dict[str, Any]]) -> Table:
    table = Table("source", "records", "events", "before --since", "rejected", box=None)
    for d in found:
        rejected = ", ".join(f"{n:,} {reason}" for reason, n in d["rejected"].items()) or "none"
        table.add_row(d["source"], f"{d['records']:,}", f"{d['events']:,}", f"{d['left_out']:,}", rejected)
    return table


def _chosen(repo: Any, names: list[str] | None) -> list[Any]:
    known = {name: s for name, s in repo.sources.items() if s.topic}
    for name in names or ():
        if name not in known:
            problem = "has no topic" if name in repo.sources else "is not known"
            raise ConfigError(f"--source {name} {problem}; sources with a topic: {', '.join(sorted(known)) or 'none'}")
    chosen = [s for name, s in sorted(known.items()) if not names or name in names]
    if not chosen:
        raise ConfigError(f"{repo.path.name} has no source with topic=; give one a topic")
    return chosen
