"""``tandem dlq list|show|replay``: the dead letters of the stream."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, moment, quiet, screen, show, write
from transforms.instants import instant, micros_of, now_us

if TYPE_CHECKING:
    from pipelines.lake.runs import Run
    from pipelines.project.config import Settings
    from pipelines.sources.broker import Broker
    from pipelines.sources.letters import Choice

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Dead letters: the records that the stream could not use.")

SourceOption = Annotated[str | None, typer.Option("--source", help="Only records of this source.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only records rejected for this reason.")]
SinceOption = Annotated[str | None, typer.Option("--since", help="Only letters written since this moment, UTC: 2013-01-31T06:00.")]


def _settings(repo: Path, data: Path | None) -> tuple[Settings, Broker]:
    """The settings, and the broker that they name."""
    quiet()
    from pipelines.project.config import load_settings
    from pipelines.sources.broker import open_broker

    settings = load_settings(repo.resolve(), data=data.resolve() if data else None)
    return settings, open_broker(settings.kafka, settings.data)


def _run(repo: Path, settings: Settings, dry: bool) -> AbstractContextManager[Run | None]:
    from pipelines.project.recording import ProjectRef, recorded

    return nullcontext() if dry else recorded(ProjectRef(repo.resolve(), settings, settings.data), "dlq-replay")


def _choice(source: str | None, reason: str | None, since: str | None) -> Choice:
    from pipelines.sources.letters import Choice

    return Choice(source, reason, None if since is None else micros_of(moment("--since", since)))


def _when(us: int) -> str:
    return instant(us).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: bytes | None) -> dict[str, str] | None:
    """Bytes for people and for JSON: as text where they are printable UTF-8, else as hex."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}
    printable = all(c.isprintable() or c in "\n\t\r" for c in text)
    return {"text": text} if printable else {"hex": value.hex()}


def _line(value: bytes | None) -> str:
    shown = _text(value)
    return "null" if shown is None else shown.get("text", f"0x{shown.get('hex')}")


@app.command("list")
def list_(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    latest: Annotated[int, typer.Option("--latest", min=0, help="Show so many of the latest.")] = 20,
    json_: JsonOption = False,
) -> None:
    """Count dead letters by source and reason, and show the latest."""
    from pipelines.sources.letters import list_letters

    settings, broker = _settings(repo, data)
    topic = settings.kafka.dead_letters
    found = list_letters(broker, topic, _choice(source, reason, since), latest)
    counts: list[dict[str, Any]] = [
        {"source": s, "reason": r, "records": n, "replayed": found.replayed[s, r]} for (s, r), n in sorted(found.records.items())
    ]
    rows = [
        {"when": _when(a.written_us), "source": a.source, "record": a.where, "reason": a.reason, "detail": a.detail} for a in found.latest
    ]
    value = {
        "topic": topic,
        "records": sum(found.records.values()),
        "counts": counts,
        "repeats": found.repeats,
        "foreign": found.foreign,
        "latest": rows,
    }
    if json_:
        show(value, True)
        return
    if found.foreign:
        screen.print(f"{found.foreign} records of topic {topic!r} are no dead letters; they are left out", style="yellow", highlight=False)
    if not found.records:
        write(f"no dead letters in topic {topic!r}")
        return
    table = Table("source", "reason", Column("records", justify="right"), Column("replayed", justify="right"), box=None)
    for count in counts:
        table.add_row(count["source"], count["reason"], f"{count['records']:,}", f"{count['replayed']:,}")
    show(value, False, lambda: table)
    if rows:
        write("")
        latest_table = Table("when", "source", Column("record", overflow="fold"), "reason", Column("detail", overflow="fold"), box=None)
        for row in rows:
            latest_table.add_row(*row.values())
        show(value, False, lambda: latest_table)


@app.command("show")
def show_(
    record: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET of the rejected record, as 'tandem dlq list' shows it.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    json_: JsonOption = False,
) -> None:
    """Show one dead letter: the record as it came, why it was rejected, and whether the contract would take it now."""
    from pipelines.sources.letters import find

    settings, broker = _settings(repo, data)
    letter, times, done = find(broker, settings.kafka.dead_letters, record)
    event_time, verdict = None, "not judged: the letter holds only the beginning of its record"
    if letter.whole:
        event_time, verdict = _judge(repo, data, letter.source, letter.value, letter.timestamp_us)
    value = {
        "record": letter.where,
        "source": letter.source,
        "reason": letter.reason,
        "detail": letter.detail,
        "rejected": _when(letter.written_us),
        "letters": times,
        "replayed": done,
        "record_time": _when(letter.timestamp_us),
        "event_time": event_time,
        "contract_now": verdict,
        "key": _text(letter.key),
        "headers": [{"name": name, "value": _text(v)} for name, v in letter.headers],
        "payload": _text(letter.value),
    }
    if json_:
        show(value, True)
        return
    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False)
    for name, cell in value.items():
        if name == "headers":
            for header, content in letter.headers:
                table.add_row(f"header {header}", _line(content))
        else:
            table.add_row(name.replace("_", " "), _line(getattr(letter, _BYTES[name])) if name in _BYTES else _cell(cell))
    show(value, False, lambda: table)


_BYTES = {"key": "key", "payload": "value"}


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _judge(repo: Path, data: Path | None, source: str, payload: bytes | None, stamp_us: int) -> tuple[str | None, str]:
    """The event time, as far as it can be read, and what the contract says of the record now."""
    import numpy as np
    import pyarrow as pa

    from pipelines.cli.console import load
    from transforms.errors import TandemError

    try:
        loaded = load(repo, data)
        if source not in loaded.sources:
            return None, f"source {source!r} is defined no more"
        from pipelines.sources.formats.record_format import record_format
        from pipelines.sources.record_times import judged_at, said_of

        max_future_us = round(loaded.settings.stream.max_future_hours * 3.6e9)
        stamps, now = np.array([stamp_us], np.int64), now_us()
        form = record_format(loaded.sources[source], loaded.settings.kafka)
        checked = form.decode(pa.array([payload], pa.binary()), judged_at(stamps, now, max_future_us), max_future_us)
    except TandemError as error:
        return None, f"unknown: {error}"
    times = checked.times.cast(pa.int64()).to_pylist()
    reason = checked.reasons.to_pylist()[0]
    (detail,) = said_of([reason or ""], checked.details.to_pylist(), times, stamps, now, max_future_us)
    verdict = "valid" if reason is None else f"{reason}: {detail or ''}".rstrip(": ")
    return None if times[0] is None else _when(times[0]), verdict


@app.command("replay")
def replay_(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed, and produce nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Produce rejected records back to their topics, each once, however often this is run or killed.

    Fix the contract or the code first: a record that is still wrong comes back as a new dead letter. Events older than the allowed
    lateness are counted as late; the next batch run takes them in.
    """
    from pipelines.sources.kafka.dead_letter_replay import replay

    settings, broker = _settings(repo, data)
    steps = Steps()
    with _run(repo, settings, dry_run) as run, steps.doing("replaying dead letters") as say:
        counts = replay(broker, settings.kafka.dead_letters, _choice(source, reason, since), dry_run=dry_run, say=say)
        if run is not None:
            run.add(counts={"already": counts["already"], **{f"replayed/{t}": n for t, n in counts["replayed"].items()}})
    if json_:
        show(counts, True)
        return
    if counts["foreign"]:
        say(f"{counts['foreign']} records of the topic are no dead letters; they are left out")
    if counts["cut"]:
        say(f"{counts['cut']} letters hold only the beginning of a record that is too large; they are left out")
    done = ", ".join(f"{n:,} to {topic}" for topic, n in sorted(counts["replayed"].items())) or "nothing"
    already = f"; {counts['already']:,} were replayed before" if counts["already"] else ""
    write(f"{'would replay' if dry_run else 'replayed'} {done}{already}")
