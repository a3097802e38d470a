"""How far a stream is: numbers from the parts' reports, for people (one line) and for machines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.text import Text

from pipelines.reports.terminal import screen
from pipelines.sources.null_fields import LEAST_EVENTS, NullFields
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.streaming.state.job_state import JobState
from serving import json_logs
from transforms.instants import to_minute

__all__ = ["StreamStatus", "Screen", "Tracker", "line"]

_NEVER = -(2**61)
_RATE_SECONDS = 5.0
"""Rates are those of so long a time until now."""
_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class StreamStatus:
    """Totals since the driver began (counted on over restarts), rates of the last seconds, and how things stand."""

    seconds: float = 0.0
    events: int = 0
    events_per_second: float = 0.0
    rows: int = 0
    rows_per_second: float = 0.0
    rejected: dict[tuple[str, str], int] = field(default_factory=dict)
    """(source, reason) -> events."""
    read: dict[str, int] = field(default_factory=dict)
    """source -> records."""
    late: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    """source -> events that its ``where`` passes over."""
    empty: dict[str, int] = field(default_factory=dict)
    """source -> records without an event, as the list that it explodes has no element."""
    tombstones: dict[str, int] = field(default_factory=dict)
    """source -> records that have a key and no value."""
    rows_of: dict[str, int] = field(default_factory=dict)
    """group -> rows."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """group/feature -> values that are NaN or infinite."""
    null_fields: dict[str, int] = field(default_factory=dict)
    """source/field -> the events read since the workers began, of the fields that are null in all of them, where these are enough to
    tell."""
    written: int = 0
    stale: int = 0
    refused: int = 0
    sink_seconds: dict[str, float] = field(default_factory=dict)
    """What delivery spent its time on: graph, store, log, waiting."""
    lag: dict[tuple[str, int], int] = field(default_factory=dict)
    """(source, partition) -> records behind the end of its log."""
    watermark: dict[str, int] = field(default_factory=dict)
    """source -> microseconds, the least over the shards; absent while there is none."""
    output_watermark: dict[str, int] = field(default_factory=dict)
    """group -> boundary in microseconds, the least over the shards."""
    late_share: dict[tuple[str, int], float] = field(default_factory=dict)
    """(source, partition) -> share of its last records that came too late to count."""
    many_late: tuple[str, ...] = ()
    """Partitions whose share is above ``stream.max_late_share``, and the share."""
    paused: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    away_why: tuple[str, ...] = ()
    """What the broker of those partitions says."""
    waiting: tuple[str, ...] = ()
    """What shards wait for: a store, a disk."""
    waiting_why: dict[str, str] = field(default_factory=dict)
    """What it says to one of them."""
    waiting_shards: int = 0
    silent_seconds: float = 0.0
    """Since the last report of any part."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        out = dict(vars(self))
        out["rejected"] = {f"{source}/{reason}": n for (source, reason), n in self.rejected.items()}
        for name in ("lag", "late_share"):
            out[name] = {f"{source}/{partition}": n for (source, partition), n in out[name].items()}
        return {k: list(v) if isinstance(v, tuple) else round(v, 3) if isinstance(v, float) else v for k, v in out.items()}


class Tracker:
    """Turns reports, which begin at zero whenever a worker does, into totals that never go back."""

    def __init__(self, job_state: JobState) -> None:
        self.job_state = job_state
        self.begun = time.monotonic()
        self._last: dict[tuple[str, str], float] = {}
        self._total: dict[tuple[str, str], float] = {}
        self._marks: deque[tuple[float, int, int]] = deque([(self.begun, 0, 0)])
        self._null: dict[str, set[str]] = {}
        """source -> its fields that no worker has reported a value of."""
        self.now = StreamStatus()

    def _add(self, part: str, name: str, value: float) -> None:
        key = (part, name)
        last = self._last.get(key, 0.0)
        self._total[key] = self._total.get(key, 0.0) + (value - last if value >= last else value)
        self._last[key] = value

    def _sum(self, kind: str, name: str) -> dict[str, float]:
        """part -> total, of the parts whose name begins with ``kind``."""
        return {p: v for (p, n), v in self._total.items() if p.startswith(kind) and n == name}

    def _by_name(self, kind: str, prefix: str) -> dict[str, int]:
        out: dict[str, int] = {}
        for (part, name), value in self._total.items():
            if part.startswith(kind) and name.startswith(prefix):
                key = name.removeprefix(prefix)
                out[key] = out.get(key, 0) + round(value)
        return out

    def look(self) -> StreamStatus:
        """Read the reports; the state of things now."""
        reports, points = PartReports.of(self.job_state.reports()), self.job_state.load_checkpoints()
        self._add_counts(reports)
        polls, waiting = reports.polls.values(), [sink for sink in reports.sinks.values() if sink.waiting_for]
        nulls: dict[str, list[tuple[int, list[str]]]] = {}
        for poll in polls:
            nulls.setdefault(poll.source, []).append((poll.valid, poll.null_fields))
        now = time.monotonic()
        read, rows_of = self._by_name("poll-", "events/"), self._by_name("sink-", "rows/")
        events, rows = sum(read.values()), sum(rows_of.values())
        self._marks.append((now, events, rows))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()
        then, events_then, rows_then = self._marks[0]
        took = max(now - then, 1e-9)
        rejected: dict[tuple[str, str], int] = {}
        for name, n in self._by_name("poll-", "rejected/").items():
            source, _, reason = name.partition("/")
            rejected[source, reason] = n
        self.now = StreamStatus(
            seconds=now - self.begun,
            events=events,
            events_per_second=(events - events_then) / took,
            rows=rows,
            rows_per_second=(rows - rows_then) / took,
            rejected=rejected,
            read=read,
            late=self._by_name("poll-", "late/"),
            filtered=self._by_name("poll-", "filtered/"),
            empty=self._by_name("poll-", "empty/"),
            tombstones=self._by_name("poll-", "tombstones/"),
            rows_of=rows_of,
            nonfinite=self._by_name("sink-", "nonfinite/"),
            null_fields=self._null_fields(nulls),
            written=round(sum(self._sum("sink-", "written").values())),
            stale=round(sum(self._sum("sink-", "stale").values())),
            refused=round(sum(self._sum("sink-", "refused").values())),
            sink_seconds={n: sum(self._sum("sink-", f"seconds_{n}").values()) for n in ("graph", "store", "log", "waiting")},
            lag=reports.unread | {(p.source, p.partition): max(0, p.end - p.position.next) for p in polls},
            watermark=_least(points, "watermark"),
            output_watermark=_least(points, "output_watermark"),
            late_share={(p.source, p.partition): p.late_share for p in polls},
            many_late=tuple(f"{p.source}/{p.partition} ({p.late_share:.0%})" for p in polls if p.many_late),
            paused=tuple(f"{p.source}/{p.partition}" for p in polls if p.paused),
            away=reports.away,
            away_why=reports.away_why,
            waiting=tuple(sorted({sink.waiting_for for sink in waiting})),
            waiting_why={sink.waiting_for: sink.waiting_why for sink in waiting if sink.waiting_why},
            waiting_shards=len(waiting),
            silent_seconds=time.time() - reports.newest if reports.newest else 0.0,
        )
        return self.now

    def _add_counts(self, reports: PartReports) -> None:
        for name, poll in reports.polls.items():
            for count, n in poll.position.counts.items():
                kind, _, reason = count.partition("/")
                self._add(f"poll-{name}", f"{kind}/{poll.source}/{reason}" if reason else f"{kind}/{poll.source}", n)
        for name, sink in reports.sinks.items():
            for group, n in sink.rows.items():
                self._add(f"sink-{name}", f"rows/{group}", n)
            for feature, n in sink.nonfinite.items():
                self._add(f"sink-{name}", f"nonfinite/{feature}", n)
            for count in ("written", "stale", "refused", "seconds_graph", "seconds_store", "seconds_log", "seconds_waiting"):
                self._add(f"sink-{name}", count, getattr(sink, count))

    def _null_fields(self, seen: Mapping[str, list[tuple[int, list[str]]]]) -> dict[str, int]:
        """What one worker saw of a field stays seen, though another one, which did not, polls the partition now and reports of it."""
        out: dict[str, int] = {}
        for source, of_partitions in seen.items():
            events, names = NullFields.together(of_partitions)
            if events:
                self._null[source] = names & self._null.get(source, names)
            if events >= LEAST_EVENTS:
                out |= {f"{source}/{name}": events for name in sorted(self._null[source])}
        return out


def _least(points: Mapping[int, Mapping[str, Any]], what: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for name in {n for point in points.values() for n in point.get(what, {})}:
        values = [point.get(what, {}).get(name) for point in points.values()]
        known = [v for v in values if v is not None and v > _NEVER]
        if len(known) == len(values):
            out[name] = min(known)
    return out


def line(p: StreamStatus) -> str:
    """One line for people.

    >>> line(StreamStatus(events=1200, events_per_second=310.4, lag={("departures", 0): 7}, rows=90))
    '1,200 events, 310/s; 7 behind; 90 rows, 0/s'
    """
    parts = [
        f"{p.events:,} events, {p.events_per_second:,.0f}/s",
        f"{sum(p.lag.values()):,} behind",
        f"{p.rows:,} rows, {p.rows_per_second:,.0f}/s",
    ]
    if p.watermark:
        parts.append(f"event time {to_minute(min(p.watermark.values()))}")
    if p.output_watermark:
        parts.append(f"rows up to {to_minute(min(p.output_watermark.values()))}")
    if p.rejected:
        parts.append(f"{sum(p.rejected.values()):,} rejected")
    if any(p.filtered.values()):
        parts.append(f"{sum(p.filtered.values()):,} filtered")
    if any(p.empty.values()):
        parts.append(f"{sum(p.empty.values()):,} records of no event")
    if any(p.tombstones.values()):
        parts.append(f"{sum(p.tombstones.values()):,} tombstones")
    if any(p.late.values()):
        parts.append(f"{sum(p.late.values()):,} too late")
    if p.refused:
        parts.append(f"{p.refused:,} rows refused")
    if p.nonfinite:
        parts.append(f"NaN or infinite: {', '.join(f'{n:,} of {feature}' for feature, n in p.nonfinite.items())}")
    parts += [f"too late among the last records: {', '.join(p.many_late)}"] if p.many_late else []
    parts += [f"paused: {', '.join(p.paused)}"] if p.paused else []
    parts += [f"unavailable: {', '.join(p.away)}" + (f" ({'; '.join(p.away_why)})" if p.away_why else "")] if p.away else []
    parts += [f"waiting for {what}" + (f" ({p.waiting_why[what]})" if what in p.waiting_why else "") for what in p.waiting]
    if p.silent_seconds > 10:
        parts.append(f"no news for {p.silent_seconds:.0f} s")
    return "; ".join(parts)


class Screen:
    """Shows progress on stderr: a live line where there is a terminal, else a line every few seconds while something changes."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.console = tracker, screen
        self.live = screen.status(Text("starting")) if screen.is_terminal else None
        self._looked = 0.0
        self._said = time.monotonic()
        self._shown = ""

    def __enter__(self) -> Screen:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if json_logs.on():
            json_logs.say(text)
            return
        self.console.print(f"{datetime.now(UTC):%H:%M:%S}  {text}", highlight=False, markup=False)

    def watch(self) -> None:
        """To be called often; looks once a second."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        text = line(self.tracker.look())
        if self.live is not None:
            self.live.update(Text(text if self.tracker.now.events else f"starting, {now - self.tracker.begun:.0f} s"))
        elif now - self._said >= _LINE_SECONDS and text != self._shown:
            self._said, self._shown = now, text
            self.say(text)
