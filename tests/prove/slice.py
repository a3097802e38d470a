"""A small slice of real flights as every trial sends it: records in order of arrival, and what must follow from any first part of them.

What must follow is judged here anew, record by record in plain Python: which records are broken, which events are too late, how far the
watermark is. The rows are :mod:`tests.oracle`'s; for parts of the slice those of the pure window function, which the oracle confirms
over the whole.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import runs
from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.project.repository import Repo, load_repo
from pipelines.replay.event_log import EventLog
from pipelines.replay.replay_job import schedule
from pipelines.replay.schedule import CORRUPT, Alterations, partitions_of
from pipelines.sources.formats.record_format import record_format
from tests.integration.flights import ROOT, environment, us
from tests.oracle import features
from tests.oracle.compare import differences, to_dicts
from transforms.aggregates import rows_between, tile
from transforms.definitions import EventSource, FeatureGroup, micros

__all__ = ["DAY", "FORTNIGHT", "USUAL", "Due", "Range", "Record", "Slice", "as_logged", "make_slice", "open_slice", "tandem"]

NEVER = -(2**62)
LEAP_US = round(StreamSettings().max_future_hours * 3.6e9)


@dataclass(frozen=True)
class Range:
    """``[history, begin)`` is the batch run's; the topics hold ``[start, end)``: a little of what the batch run has too, then the rest."""

    history: datetime
    begin: datetime
    start: datetime
    end: datetime


DAY = Range(*(datetime(2013, 1, day, hour, tzinfo=UTC) for day, hour in ((5, 0), (7, 0), (6, 21), (8, 3))))
FORTNIGHT = Range(*(datetime(2013, 1, day, hour, tzinfo=UTC) for day, hour in ((3, 0), (7, 0), (6, 21), (21, 0))))
USUAL = Alterations(0, disorder=0.05, late=0.01, duplicates=0.01, corrupt=0.02)


@dataclass(frozen=True)
class Record:
    """A record to send."""

    source: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    stamp_ms: int
    broken: bool


@dataclass(frozen=True)
class Due:
    """What must follow from some records: per group the newest row of each entity and the boundary up to which rows are out (us), all
    rows where asked for; too-late events and broken records as (source, partition, offset)."""

    output_watermark: dict[str, int]
    online: dict[str, dict[tuple[Any, ...], dict[str, Any]]]
    rows: dict[str, list[dict[str, Any]]]
    late: set[tuple[str, int, int]]
    broken: set[tuple[str, int, int]]


class EventTime:
    """How far the event time of a partition is (``now``), event by event, as docs/semantics.md has it: one that lies further ahead than
    ``far`` (us) moves nothing until ten such follow on each other, or two at the start."""

    def __init__(self, far: int) -> None:
        self.far, self.now = far, NEVER
        self.leaps: list[int] = []

    def take(self, at: int) -> None:
        """The next event."""
        if self.now != NEVER and at - self.now <= self.far:
            self.now, self.leaps = max(self.now, at), []
            return
        self.leaps = sorted([*self.leaps, at])
        if len(self.leaps) == (2 if self.now == NEVER else 10):
            self.now = self.leaps.pop(0)
            while self.leaps and self.leaps[0] - self.now <= self.far:
                self.now = self.leaps.pop(0)


@dataclass(frozen=True)
class Slice:
    """The prepared folder (``feature_repo`` to copy, ``data`` with an applied batch run) and the records."""

    folder: Path
    range: Range
    how: Alterations
    run: str
    partitions: int
    records: Sequence[Record]
    history: dict[str, pa.Table]
    idle: bool = False
    """Whether the stream was given the time to see that nothing comes any more: then the partition that is furthest on speaks for all."""
    ended: bool = False
    """Whether the stream reads to ends that were told it: a partition without an event up to there holds nobody back."""
    _known: dict[Any, Due] = field(default_factory=dict)
    _ends: dict[int, dict[str, dict[int, int]]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @functools.cached_property
    def repo(self) -> Repo:
        return load_repo(self.folder / "feature_repo")

    def ends(self, n: int) -> dict[str, dict[int, int]]:
        """source -> partition -> how many of the first n records it has."""
        if n not in self._ends:
            out = {s: dict.fromkeys(range(self.partitions), 0) for s in self.repo.sources}
            for record in self.records[:n]:
                out[record.source][record.partition] = record.offset + 1
            self._ends[n] = out
        return self._ends[n]

    def due(self, n: int, rows: bool = False, sample: int | None = None) -> Due:
        """What must follow from the first n records; with all rows if ``rows``, those of ``sample`` entities per group (default: of all)
        confirmed by brute force."""
        if (n, rows) not in self._known:
            self._known[n, rows] = self._due(n, rows, sample)
        return self._known[n, rows]

    def _due(self, n: int, rows: bool, sample: int | None) -> Due:
        begin = us(self.range.begin)
        late: set[tuple[str, int, int]] = set()
        events: dict[str, list[dict[str, Any]]] = {s: [] for s in self.repo.sources}
        marks: dict[str, int] = {}
        for name, source in self.repo.sources.items():
            patience = micros(source.out_of_orderness) + micros(source.allowed_lateness)
            reached = {p: EventTime(max(patience, LEAP_US)) for p in range(self.partitions)}
            for record in self.records[:n]:
                if record.source != name or record.broken:
                    continue
                event = json.loads(record.value or b"")
                at, before = event[source.event_time], reached[record.partition].now
                reached[record.partition].take(at)
                if at < begin:
                    continue
                if at < before - patience:
                    late.add((name, record.partition, record.offset))
                else:
                    events[name].append(event)
            times = [time.now for time in reached.values() if time.now != NEVER or not self.ended]
            furthest = (max if self.idle else min)(times, default=NEVER)
            marks[name] = NEVER if furthest == NEVER else furthest - micros(source.out_of_orderness)
        output_watermark, online, all_rows = {}, {}, {}
        for name, group in self.repo.groups.items():
            mark = marks[group.source.name]
            output_watermark[name] = max(begin // group.hop_us * group.hop_us, mark - mark % group.hop_us)
            found = self._rows(group, events[group.source.name], output_watermark[name])
            if rows:
                all_rows[name] = found
                self._confirm(
                    group, to_dicts(self.history[group.source.name]) + events[group.source.name], output_watermark[name], found, sample
                )
            online[name] = {tuple(r[k] for k in group.entity.keys): r for r in found}  # sorted by time: the last one stays
        broken = {(r.source, r.partition, r.offset) for r in self.records[:n] if r.broken}
        return Due(output_watermark, online, all_rows, late, broken)

    def _confirm(
        self, group: FeatureGroup, events: list[dict[str, Any]], output_watermark: int, found: list[dict[str, Any]], sample: int | None
    ) -> None:
        """The rows of the pure window function are the brute-force oracle's, to the bit."""

        def key(row: dict[str, Any]) -> tuple[Any, ...]:
            return tuple(row[k] for k in group.entity.keys)

        keys = sorted({key(e) for e in events})
        chosen = set(keys if sample is None else random.Random(0).sample(keys, min(sample, len(keys))))
        want = features.rows([e for e in events if key(e) in chosen], group, us(self.range.begin), output_watermark)
        wrong = differences([r for r in found if key(r) in chosen], want)
        assert not wrong, f"{group.name}: the window function and the oracle disagree: {wrong[:3]}"

    def _rows(self, group: FeatureGroup, events: list[dict[str, Any]], output_watermark: int) -> list[dict[str, Any]]:
        table = pa.concat_tables([self.history[group.source.name], _arrow(group.source, events)]).combine_chunks()
        found = to_dicts(rows_between(tile(table.to_batches()[0], group), group, us(self.range.begin), output_watermark))
        return sorted(found, key=lambda r: (*(features.order(r[k]) for k in group.entity.keys), r["event_timestamp"]))


def _arrow(source: EventSource, events: list[dict[str, Any]]) -> pa.Table:
    columns = [
        pa.array([e.get(f.name) for e in events], pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in source.arrow_schema
    ]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, source.arrow_schema)], schema=source.arrow_schema)


def make_slice(folder: Path, range_: Range = DAY, how: Alterations = USUAL, partitions: int = 2, light: bool = True) -> Slice:
    """Prepare everything in ``folder``: logs, a copy of the repository, an applied batch run; then the records.

    A ``light`` copy has no preprocessing functions: its workers need no TensorFlow and start sooner. Its longest windows are of four
    hours, so that checkpoints move on within a day.
    """
    repo_path, data = folder / "feature_repo", folder / "data"
    repo_path.mkdir(parents=True)
    for path in (ROOT / "feature_repo").iterdir():
        if path.is_file():
            shutil.copy(path, repo_path / path.name)
    if light:
        text = re.sub(r'\s*preprocessing_fn="[^"]*",', "", (repo_path / "features.py").read_text())
        (repo_path / "features.py").write_text(text.replace("hours(24)", "hours(4)").replace("hours(6)]", "hours(4)]"))
    (repo_path / "tandem.yaml").write_text("data: ../data\ndefinitions: features\n")
    days = ["--start", f"{range_.history:%Y-%m-%d}", "--end", f"{range_.end + timedelta(days=2):%Y-%m-%d}"]
    command([str(ROOT / "feature_repo" / "flights_events.py"), "--data", str(data), *days])
    words = ["batch", "--start", f"{range_.history:%Y-%m-%d}", "--end", f"{range_.begin:%Y-%m-%d}"]
    for each in (words, ["apply"]):
        tandem(repo_path, *each)
    return open_slice(folder, range_, how, partitions)


def open_slice(
    folder: Path, range_: Range = DAY, how: Alterations = USUAL, partitions: int = 2, idle: bool = False, ended: bool = False
) -> Slice:
    """The slice of a prepared folder."""
    repo = load_repo(folder / "feature_repo")
    run = next(r for r in reversed(runs.list_runs(repo.data)) if r.manifest.get("kind") == "batch")
    history = {}
    for name, source in repo.sources.items():
        files = sorted((repo.data / source.files).rglob("part-*.parquet"))
        table = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files]).select(source.arrow_schema.names)
        times = table.column(0).cast(pa.int64()).to_numpy()
        history[name] = table.filter(pa.array((times >= us(range_.history)) & (times < us(range_.begin)))).cast(source.arrow_schema)
    return Slice(folder, range_, how, run.id, partitions, _records(repo, range_, how, partitions), history, idle, ended)


def command(words: list[str]) -> str:
    """Run Python with these words; its output. Fails with its errors."""
    done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def tandem(repo_path: Path, *words: str) -> str:
    """A command of ``tandem`` over a repository; its output."""
    return command(["-m", "pipelines.cli", words[0], "--repo", str(repo_path), *words[1:]])


def as_logged(
    records: Sequence[Record], fed: int, place: tuple[str, int], values: Sequence[bytes | None], payload: Callable[[Record], bytes | None]
) -> list[Record]:
    """The records where the log of ``place`` (source, partition) holds ``values``: those of it among the first ``fed``, in order, some of
    them again. Each repeat stands behind the record that it follows in the log, and all have the log's offsets."""
    mine = [n for n, r in enumerate(records) if (r.source, r.partition) == place]
    sent = [n for n in mine if n < fed]
    following = dict(itertools.pairwise(sent))
    out: list[Record] = []
    offset = 0
    for number, record in enumerate(records):
        if (record.source, record.partition) != place:
            out.append(record)
            continue
        out.append(replace(record, offset=offset))
        offset += 1
        if number >= fed:
            continue
        then = following.get(number)
        while offset < len(values) and (then is None or values[offset] != payload(records[then])):
            again = next(records[n] for n in sent if payload(records[n]) == values[offset])
            out.append(replace(again, offset=offset))
            offset += 1
    return out


def _records(repo: Repo, range_: Range, how: Alterations, partitions: int) -> list[Record]:
    sources = list(repo.sources.values())
    log = EventLog(repo.data, sources, us(range_.start), us(range_.end), now_us=time.time_ns() // 1000, max_future_us=0)
    out: list[Record] = []
    offsets: dict[tuple[str, int], int] = {}
    for table in schedule(log, how, {s.name: record_format(s, KafkaSettings()) for s in sources}):
        keys = table.column("key").cast(pa.binary()).combine_chunks()
        places = np.asarray(partitions_of(keys, partitions))
        for row, partition in zip(table.to_pylist(), places.tolist()):
            name = sources[row["source"]].name
            offset = offsets.get((name, partition), 0)
            offsets[name, partition] = offset + 1
            out.append(Record(name, partition, offset, row["key"], row["payload"], row["arrival"] // 1000, row["role"] == CORRUPT))
    return out
