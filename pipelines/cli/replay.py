"""``tandem replay``: event logs into topics."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    JsonOption,
    LogEndOption,
    LogStartOption,
    RepoOption,
    load,
    moment,
    quiet,
    screen,
    show,
)
from transforms.errors import ConfigError
from transforms.instants import instant, micros_of

if TYPE_CHECKING:
    from pipelines.replay.replay_job import Reached, ReplaySummary

__all__ = ["replay"]

LINE_EVERY_SECONDS = 10.0


def replay(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: LogStartOption = None,
    end: LogEndOption = None,
    speed: Annotated[
        str, typer.Option(help="Speed-up over real time: 3600 replays an hour per second; max: as fast as possible.")
    ] = "3600",
    source: Annotated[
        list[str] | None, typer.Option(help="Only this source (repeatable; default: all sources with files and a topic).")
    ] = None,
    partitions: Annotated[int | None, typer.Option(help="Partitions of topics that are created (default 1).")] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="Record format: json, avro, or one from a package (default: kafka.formats, else json).", metavar="FORMAT"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the faults below: the same seed alters the same events.")] = 0,
    disorder: Annotated[float, typer.Option(help="Share of events that arrive late, but within the allowed lateness.")] = 0.0,
    late: Annotated[float, typer.Option(help="Share of events that arrive after the allowed lateness.")] = 0.0,
    duplicates: Annotated[
        float,
        typer.Option(help="Share of records sent twice. Events are identified by offset, so these count twice, in stream and batch alike."),
    ] = 0.0,
    corrupt: Annotated[float, typer.Option(help="Share of events sent with an additional corrupt copy: one dead letter each.")] = 0.0,
    json_: JsonOption = False,
) -> None:
    """Produce the event logs to their topics in time order, N times faster than real time.

    The record key is the event's tie-breaker, partitioned as Kafka's default partitioner does, so all copies of an event are in one
    partition; the record timestamp is the replayed arrival time. Missing topics are created, without a retention limit.
    """
    quiet()
    from pipelines.project.recording import recorded
    from pipelines.replay.replay_job import ReplayOptions, run_replay
    from pipelines.replay.schedule import Alterations

    options = ReplayOptions(
        start_us=_us("--start", start),
        end_us=_us("--end", end),
        speed=_speed(speed),
        sources=tuple(source or ()),
        partitions=partitions,
        format=format_,
        how=Alterations(seed, disorder, late, duplicates, corrupt),
    )
    loaded = load(repo, data, finish=False, everything=True)
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with recorded(loaded, "replay", seeds={"seed": seed}) as run, _Screen() as seen:
            summary = run_replay(loaded, options, progress=seen.reached, say=seen.say, stopped=stop.is_set)
            run.add(counts={f"sent/{n}": v["sent"] for n, v in summary["sources"].items()}, passed_over=summary["passed_over"])
            if summary["interrupted"]:
                run.save(status="killed", stage="running", error="interrupted; records already sent remain in the topics")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    show(summary, json_, lambda: _table(summary))
    if summary["interrupted"]:
        raise typer.Exit(130)


def _speed(text: str) -> float | None:
    try:
        return None if text == "max" else float(text)
    except ValueError:
        raise ConfigError(f"--speed {text} is invalid; give a number such as 3600, or max") from None


def _us(flag: str, text: str | None) -> int | None:
    return None if text is None else micros_of(moment(flag, text))


def _when(us: int) -> str:
    return f"{instant(us):%Y-%m-%d %H:%M:%S}"


def _table(summary: ReplaySummary) -> Table:
    table = Table("source", "events", "delayed", "late", "duplicated", "corrupted", "sent", box=None)
    for name, of in summary["sources"].items():
        counts = (of["events"], of["delayed"], of["late"], of["duplicated"], of["corrupted"], of["sent"])
        table.add_row(name, *(f"{n:,}" for n in counts))
    table.caption = f"{summary['sent']:,} records in {summary['seconds']:.1f} s, {summary['records_per_second']:,} per second"
    table.caption_justify = "left"
    return table


class _Screen:
    """Progress on stderr: a bar where there is a terminal, a line every ten seconds where there is none."""

    def __init__(self) -> None:
        self.begun, self.first = time.monotonic(), 0
        self.bar: Any = None
        self.task: Any = None
        self.drawn = self.lined = self.begun

    def __enter__(self) -> _Screen:
        if screen.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=screen, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("replay", total=None, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def say(self, line: str) -> None:
        """A line of its own."""
        screen.print(line, highlight=False)

    def reached(self, now: Reached) -> None:
        """Show how far it is, a few times per second."""
        clock = time.monotonic()
        self.first = self.first or now.start_us or now.event_us
        rate = f"{now.sent / max(clock - self.begun, 1e-9):,.0f}/s"
        behind = f", {now.behind:.1f} s behind" if now.behind > 1 else ""
        if self.bar is not None and clock - self.drawn > 0.1:
            self.drawn = clock
            end = now.end_us
            self.bar.update(
                self.task,
                total=end and end - self.first,
                completed=now.event_us - self.first,
                description=_when(now.event_us),
                rate=rate + behind,
            )
        elif self.bar is None and clock - self.lined > LINE_EVERY_SECONDS:
            self.lined = clock
            self.say(f"{_when(now.event_us)}: {now.sent:,} records, {rate}{behind}")
