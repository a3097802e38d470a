"""``tandem dlq list|show|replay``: the dead letters of the stream and of batch runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    JsonOption,
    RepoOption,
    Steps,
    load,
    moment,
    quiet,
    results,
    screen,
    settings_of,
    show,
    write,
)
from pipelines.reports.terminal import on_one_line
from transforms.errors import ConfigError, DataError, TandemError
from transforms.instants import instant, micros_of, now_us

if TYPE_CHECKING:
    from pipelines.lake.runs import Run
    from pipelines.project.config import Settings
    from pipelines.sources.broker import Broker
    from pipelines.sources.file_letters import FileListing
    from pipelines.sources.letters import Choice, Letter, Listing

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Dead letters: records that the stream or a batch run rejected.")

SourceOption = Annotated[str | None, typer.Option("--source", help="Only records of this source.")]
ReasonOption = Annotated[str | None, typer.Option("--reject-reason", help="Only records rejected for this reason.")]
SinceOption = Annotated[str | None, typer.Option("--since", help="Only dead letters written since this time, UTC: 2013-01-31T06:00.")]


def _quiet_settings(repo: Path, data: Path | None) -> Settings:
    quiet()
    return settings_of(repo, data)


def _broker(settings: Settings) -> Broker:
    from pipelines.sources.broker import open_broker

    return open_broker(settings.kafka, settings.data)


def _settings(repo: Path, data: Path | None) -> tuple[Settings, Broker]:
    """The settings, and the broker that they name."""
    settings = _quiet_settings(repo, data)
    return settings, _broker(settings)


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


RunOption = Annotated[str | None, typer.Option("--run", help="Batch run to read dead letters from (default: the newest finished one).")]
OnlyOption = Annotated[str | None, typer.Option("--only", help="Only dead letters of 'stream' or of 'batch' (default: both).")]


@app.command("list")
def list_(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Number of dead letters to show: the stream's latest, a batch run's first.")
    ] = 20,
    run: RunOption = None,
    only: OnlyOption = None,
    json_: JsonOption = False,
) -> None:
    """Count dead letters by source, reason and field, and show some of them: of the stream and of the newest batch run."""
    from pipelines.sources.file_letters import list_file_letters, run_with_letters
    from pipelines.sources.letters import list_letters

    if only not in (None, "stream", "batch"):
        raise ConfigError(f"--only {only}: unknown value; use stream or batch")
    settings = _quiet_settings(repo, data)
    topic, choice = settings.kafka.dead_letters, _choice(source, reason, since)
    made = None if only == "stream" else run_with_letters(settings.data, run)
    batch = None if made is None else list_file_letters(made, choice, limit)
    stream: Listing | TandemError | None = None
    if only != "batch":
        try:
            stream = list_letters(_broker(settings), topic, choice, limit)
        except TandemError as error:
            if batch is None:
                raise
            stream = error
    if json_:
        value = {} if stream is None else _stream_letters(stream, topic)
        show({**value, **({} if batch is None else {"batch": _batch_letters(batch)})}, True)
        return
    if stream is not None:
        _show_stream(stream, topic)
    if batch is not None:
        if stream is not None:
            write("")
        _show_batch(batch)


def _stream_letters(found: Listing | TandemError, topic: str) -> dict[str, Any]:
    if isinstance(found, TandemError):
        return {"topic": topic, "problem": str(found)}
    return {
        "topic": topic,
        "records": sum(found.records.values()),
        "counts": [
            {"source": s, "reason": r, "records": n, "replayed": found.replayed[s, r]} for (s, r), n in sorted(found.records.items())
        ],
        "fields": _fields(found.fields),
        "repeats": found.repeats,
        "foreign": found.foreign,
        "latest": _latest(found),
    }


def _latest(found: Listing) -> list[dict[str, str]]:
    return [
        {"when": _when(a.written_us), "source": a.source, "record": a.where, "reason": a.reason, "detail": a.detail} for a in found.latest
    ]


def _batch_letters(found: FileListing) -> dict[str, Any]:
    return {
        "run": found.run,
        "records": sum(found.records.values()),
        "counts": [{"source": s, "reason": r, "records": n} for (s, r), n in sorted(found.records.items())],
        "fields": _fields(found.fields),
        "first": _first(found),
    }


def _first(found: FileListing) -> list[dict[str, str]]:
    return [{"source": a.source, "record": a.where, "reason": a.reason, "detail": a.detail} for a in found.first]


def _fields(found: Counter[tuple[str, str, str]]) -> dict[str, int]:
    return {"/".join(key): n for key, n in sorted(found.items())}


def _show_stream(found: Listing | TandemError, topic: str) -> None:
    if isinstance(found, TandemError):
        screen.print(f"cannot read the stream's dead letters: {found}", style="yellow")
        return
    if found.foreign:
        screen.print(f"{found.foreign} records of topic {topic!r} are not dead letters; skipped", style="yellow")
    if not found.records.total():
        write(f"no dead letters in topic {topic!r}")
        return
    _tables(f"topic {topic}", found, _latest(found), found.replayed)


def _show_batch(found: FileListing) -> None:
    if not found.records.total():
        write(f"no dead letters in batch run {found.run}")
        return
    _tables(f"batch run {found.run}; fix the files or the contract and run 'tandem batch' again", found, _first(found))


def _tables(title: str, found: Listing | FileListing, rows: list[dict[str, str]], replayed: Counter[tuple[str, str]] | None = None) -> None:
    from pipelines.lake.run_records import with_fields

    last = [] if replayed is None else [Column("replayed", justify="right")]
    table = Table("source", "reason", Column("records", justify="right"), *last, box=None, title=title, title_justify="left")
    fields = _fields(found.fields)
    for (source, name), records in sorted(found.records.items()):
        reason = with_fields(f"{source}/{name}", fields).removeprefix(f"{source}/")
        table.add_row(source, reason, f"{records:,}", *([] if replayed is None else [f"{replayed[source, name]:,}"]))
    results().print(table)
    if rows:
        write("")
        shown = Table(*(Column(name, overflow="fold") for name in rows[0]), box=None)
        for row in rows:
            shown.add_row(*map(on_one_line, row.values()))
        results().print(shown)


@app.command("show")
def show_(
    record: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET or FILE:ROW of the record, as shown by 'tandem dlq list'.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    run: RunOption = None,
    json_: JsonOption = False,
) -> None:
    """Show one dead letter: the original record, why it was rejected, and whether the contract would accept it now."""
    if not _IN_TOPIC.fullmatch(record):
        _show_file_letter(record, repo, data, run, json_)
        return
    from pipelines.sources.letters import find

    settings, broker = _settings(repo, data)
    letter, times, done = find(broker, settings.kafka.dead_letters, record)
    event_time, verdict = None, "not checked: the dead letter holds only the beginning of the record"
    if letter.whole:
        event_time, verdict = _judge(repo, data, letter.source, letter.value, letter.timestamp_us, letter)
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
                table.add_row(f"header {on_one_line(header)}", _line(content))
        else:
            table.add_row(name.replace("_", " "), _line(getattr(letter, _BYTES[name])) if name in _BYTES else _cell(cell))
    show(value, False, lambda: table)


_BYTES = {"key": "key", "payload": "value"}
_IN_TOPIC = re.compile(r"[^/]+/[0-9]+/[0-9]+(@.*)?")


def _show_file_letter(record: str, repo: Path, data: Path | None, run: str | None, as_json: bool) -> None:
    from pipelines.sources.file_letters import find_file_letter, run_with_letters

    made = run_with_letters(_quiet_settings(repo, data).data, run)
    if made is None:
        raise DataError(f"no dead letter for {record}: no batch run has finished yet")
    letter = find_file_letter(made, record)
    event_time, verdict = None, "unknown: the file could not be read at all"
    if letter.row is not None:
        event_time, verdict = _judge(repo, data, letter.source, letter.payload, None, file=letter.file)
    value = {
        "record": letter.where,
        "run": letter.run,
        "source": letter.source,
        "reason": letter.reason,
        "detail": letter.detail,
        "rejected": _when(letter.written_us),
        "event_time": event_time,
        "contract_now": verdict,
        "payload": _text(letter.payload),
    }
    if as_json:
        show(value, True)
        return
    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False)
    for name, cell in value.items():
        table.add_row(name.replace("_", " "), _line(letter.payload) if name == "payload" else _cell(cell))
    results().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    return ("no", "yes")[value] if isinstance(value, bool) else on_one_line(value)


def _judge(
    repo: Path, data: Path | None, source: str, payload: bytes | None, stamp_us: int | None, letter: Letter | None = None, file: str = ""
) -> tuple[str | None, str]:
    """The event time, as far as it can be read, and what the contract says of the record now; ``stamp_us`` None: of the event file
    ``file``, a line of its dialect or JSON. ``letter``: what has its key and headers."""
    import numpy as np
    import pyarrow as pa

    if letter is not None and letter.tombstone:
        return None, "a tombstone (key without value): no longer a reject"
    try:
        loaded = load(repo, data, finish=False, everything=True)
        if source not in loaded.sources:
            return None, f"source {source!r} is no longer defined"
        from pipelines.sources.file_letters import line_columns
        from pipelines.sources.formats.record_format import record_format
        from pipelines.sources.record_times import judged_at, said_of
        from transforms.origin import Origin

        in_file = stamp_us is None
        max_future_us = round((loaded.settings.batch if in_file else loaded.settings.stream).max_future_hours * 3.6e9)
        stamps, now = np.array([stamp_us or 0], np.int64), now_us()
        kafka, names = loaded.settings.kafka, line_columns(loaded.data, file, loaded.sources[source]) if in_file else None
        if names is not None:
            kafka = kafka.model_copy(update={"format_options": {source: {"columns": names, "encoding": "utf-8"}}})
        form = record_format(loaded.sources[source], kafka, None if not in_file else "json" if names is None else "csv")
        beside = Origin.of([letter.key], [letter.headers], stamps) if letter is not None and form.source.needs_origin else None
        checked = form.judge(pa.array([payload], pa.binary()), judged_at(stamps, now, max_future_us), max_future_us, beside)
    except TandemError as error:
        return None, f"unknown: {error}"
    times = checked.times.cast(pa.int64()).to_pylist()
    reason = checked.reasons.to_pylist()[0]
    (detail,) = said_of([reason or ""], checked.details.to_pylist(), times, stamps, now, max_future_us)
    verdict = "valid" if reason is None else f"{reason}: {detail or ''}".rstrip(": ")
    return None if times[0] is None else _when(times[0]), verdict


def _timed(repo: Path, data: Path | None, say: Callable[[str], None]) -> set[str]:
    """The sources of which a field is the record's timestamp."""
    from transforms.definitions import RecordTimestamp

    try:
        sources = load(repo, data, finish=False).sources
    except TandemError as error:
        say(f"the definitions cannot be loaded, so record timestamps are not preserved: {error}")
        return set()
    return {name for name, s in sources.items() if any(isinstance(f.path, RecordTimestamp) for f in s.all_fields)}


@app.command("replay")
def replay_(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be replayed; produce nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Produce rejected records back to their topics, each exactly once, even if the command is repeated or killed.

    Fix the contract or the code first: a record that is still invalid becomes a new dead letter. Events older than the allowed lateness
    are counted as late; the next batch run includes them.
    """
    from pipelines.sources.kafka.dead_letter_replay import replay

    settings, broker = _settings(repo, data)
    steps = Steps()
    with _run(repo, settings, dry_run) as run, steps.doing("replaying dead letters") as say:
        timed = set() if dry_run else _timed(repo, data, say)
        counts = replay(broker, settings.kafka.dead_letters, _choice(source, reason, since), timed=timed, dry_run=dry_run, say=say)
        if run is not None:
            run.add(counts={"already": counts["already"], **{f"replayed/{t}": n for t, n in counts["replayed"].items()}})
    if json_:
        show(counts, True)
        return
    if counts["foreign"]:
        say(f"{counts['foreign']} records of the topic are not dead letters; skipped")
    if counts["cut"]:
        say(f"{counts['cut']} dead letters hold only the beginning of a record that was too large; skipped")
    if counts["tombstones"]:
        say(f"{counts['tombstones']} dead letters are tombstones (key without value), which are no longer rejects; skipped")
    done = ", ".join(f"{n:,} to {topic}" for topic, n in sorted(counts["replayed"].items())) or "nothing"
    already = f"; {counts['already']:,} already replayed" if counts["already"] else ""
    write(f"{'would replay' if dry_run else 'replayed'} {done}{already}")
