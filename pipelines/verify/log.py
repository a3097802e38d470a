"""The events that a stream's rows are made of, as one event log, and the batch rows over exactly these.

History before the stream's beginning comes from the event files, the rest from what the stream read from Kafka. The log is written as
Parquet into a scratch data folder, and the real batch job (:func:`pipelines.batch.run_batch`, pinned graphs) runs over it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch.batch_job import run_batch
from pipelines.batch.steps import write_parquet
from pipelines.lake import layout
from pipelines.lake.graphs import carried_over, hash_of
from pipelines.lake.run_records import BatchRecord
from pipelines.lake.runs import Run
from pipelines.project.repository import Repo
from pipelines.sources.event_files import events as file_events
from pipelines.sources.event_files import list_files
from pipelines.verify.causes import OFFSET, PARTITION
from transforms.definitions import EVENT_TIMESTAMP, EventSource, FeatureGroup
from transforms.errors import DataError, GraphError
from transforms.graph import TransformGraph
from transforms.instants import instant, micros_of
from transforms.lateness import NEVER

__all__ = ["EventLog", "batch_rows", "changed_files", "check_run", "compose", "found_graphs", "from_files"]
__all__ += ["offline_rows", "run_over"]

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class EventLog:
    """``events``: source -> every event (``source.arrow_schema``, ``_partition``, ``_offset``; these are null for events from files).
    The rows asked for are those with ``start`` < boundary <= ``end`` (microseconds)."""

    events: Mapping[str, pa.Table]
    start: int
    end: int


def compose(
    repo: Repo, kafka: Mapping[str, pa.Table], begin: int, end: int, progress: Callable[[str], None] = lambda line: None
) -> EventLog:
    """One log of history before ``begin`` (NEVER: none) and the events from Kafka at or after it.

    ``kafka``: source -> ``source.arrow_schema`` with ``_partition`` (int32) and ``_offset`` (int64).
    """
    out, earliest = {}, end
    for name, source in {g.source.name: g.source for g in repo.groups.values()}.items():
        schema = pa.schema([*source.arrow_schema, pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64())])
        live = kafka[name].select(schema.names).cast(schema)
        times = live.column(source.event_time).cast(pa.int64())
        live = live.filter(pc.greater_equal(times, begin))
        parts = [live]
        if begin != NEVER:
            back = max(g.longest_us + g.hop_us for g in repo.groups.values() if g.source.name == name)
            past = _history(repo, source, begin - back, begin, schema)
            progress(f"{name}: {past.num_rows:,} events of history, {live.num_rows:,} from Kafka since {instant(begin):%Y-%m-%d %H:%M}")
            parts.insert(0, past)
        else:
            progress(f"{name}: {live.num_rows:,} events from Kafka")
        if live.num_rows:
            earliest = min(earliest, pc.min(live.column(source.event_time).cast(pa.int64())).as_py())
        out[name] = pa.concat_tables(parts).combine_chunks()
    return EventLog(out, begin if begin != NEVER else earliest // DAY_US * DAY_US - DAY_US, end)


def from_files(repo: Repo, start: int, end: int) -> EventLog:
    """The log of the event files alone (no partitions, no offsets), as a batch run over [start, end) sees it."""
    out = {}
    for name, source in {g.source.name: g.source for g in repo.groups.values()}.items():
        back = max(g.longest_us + g.hop_us for g in repo.groups.values() if g.source.name == name)
        out[name] = _history(repo, source, start - back, end, source.arrow_schema)
    return EventLog(out, start, end)


def _history(repo: Repo, source: EventSource, begin: int, end: int, schema: pa.Schema) -> pa.Table:
    batches = []
    for file in list_files(repo.data, source, begin, end, hashes=False):
        now = micros_of(datetime.now(UTC))
        ahead = round(repo.settings.batch.max_future_hours * 3.6e9)
        for valid, _ in file_events(file.path, source, now, ahead, name=file.name, partitions=file.partitions):
            times = valid.column(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
            batches.append(valid.filter(pa.array((times >= begin) & (times < end))))
    table = pa.Table.from_batches(batches, schema=source.arrow_schema)
    none = [pa.nulls(table.num_rows, f.type) for f in schema if f.name in (PARTITION, OFFSET)]
    return pa.Table.from_arrays([*table.columns, *none], schema=schema)


def changed_files(repo: Repo, run: Run, begin: int) -> list[str]:
    """The event files of history before ``begin`` that are not as they were in ``run``, or that it did not have."""
    out = []
    for name, source in {g.source.name: g.source for g in repo.groups.values()}.items():
        known = {f["file"]: f["sha256"] for f in run.record.inputs.get(name, [])}
        back = max(g.longest_us + g.hop_us for g in repo.groups.values() if g.source.name == name)
        out += [f.name for f in list_files(repo.data, source, begin - back, begin) if known.get(f.name) != f.sha256]
    return out


def run_over(repo: Repo, log: EventLog, folder: Path, progress: Callable[[str], None] = lambda line: None) -> tuple[Repo, Run]:
    """Run the batch job over a log in the scratch data folder ``folder``, with the applied graphs; the repository there, and the run."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(repo, folder)
    for name, source in {g.source.name: g.source for g in scratch.groups.values()}.items():
        table = log.events[name].select(source.arrow_schema.names).replace_schema_metadata(source.arrow_schema.metadata)
        day = table.column(source.event_time).cast(pa.int64()).to_numpy() // DAY_US
        (folder / source.files).mkdir(parents=True, exist_ok=True)
        for number in np.unique(day):
            path = folder / source.files / f"date={instant(int(number) * DAY_US):%Y-%m-%d}" / "part-0.parquet"
            write_parquet(table.filter(pa.array(day == number)), path)
    if not layout.graphs(folder).exists():
        os.symlink(layout.graphs(repo.data).resolve(), layout.graphs(folder))
    result = run_batch(scratch, instant(log.start), instant(log.end), now=datetime.now(UTC), pinned=True, progress=progress)
    rejected = result.run.as_(BatchRecord).rejected
    if rejected:  # they were valid when the stream read them
        progress(f"the batch job rejected {sum(rejected.values()):,} events that the stream took: {rejected}")
    return scratch, result.run


_JUDGED_HOURS = 1e6
"""The events have their verdict, by their records' own times: this clock has no say."""


def _scratch(repo: Repo, folder: Path) -> Repo:
    """The repository with its data in ``folder``: each source has a place of its own, as the events of one, once read, are no records of
    another that reads the same files or topic."""
    sources = {n: dataclasses.replace(s, files=f"events/{n}", table=None) for n, s in repo.sources.items()}
    groups = {n: dataclasses.replace(g, source=sources[g.source.name]) for n, g in repo.groups.items()}
    told_nobody = repo.settings.tracking.model_copy(update={"trackers": []})  # the folder is gone before a tracker would read it
    taken = repo.settings.batch.model_copy(update={"max_future_hours": _JUDGED_HOURS})
    settings = repo.settings.model_copy(update={"data": folder.resolve(), "tracking": told_nobody, "batch": taken})
    return dataclasses.replace(repo, settings=settings, sources=sources, groups=groups)


def offline_rows(data: Path, group: FeatureGroup, run_id: str) -> pa.Table:
    """All rows of one run of a group, in no particular order."""
    folder = layout.offline_run(data, group.name, run_id)
    files = sorted(folder.rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(f, partitioning=None) for f in files]) if files else group.row_schema.empty_table()


def batch_rows(data: Path, group: FeatureGroup, run: Run, start: int, end: int) -> pa.Table:
    """The run's rows of a group with ``start`` < boundary <= ``end``."""
    rows = offline_rows(data, group, run.id)
    boundary = rows.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy() - group.delay_us
    return rows.filter(pa.array((boundary > start) & (boundary <= end)))


def found_graphs(data: Path, group: FeatureGroup) -> Callable[[str], tuple[TransformGraph | None, bool]]:
    """How to find a group's graphs by fingerprint below ``data/graphs``; each is loaded once."""
    known: dict[str, tuple[TransformGraph | None, bool]] = {}

    def find(fingerprint: str) -> tuple[TransformGraph | None, bool]:
        if fingerprint not in known:
            known[fingerprint] = _load(data, fingerprint, group) if fingerprint else (None, False)
        return known[fingerprint]

    return find


def _load(data: Path, fingerprint: str, group: FeatureGroup) -> tuple[TransformGraph | None, bool]:
    path = layout.graph(data, group.name, fingerprint)
    try:
        graph = TransformGraph.load(path, fingerprint)
        made_of = hash_of(data, group.name, fingerprint)
    except (GraphError, OSError, ValueError, KeyError):
        return None, False
    return graph, carried_over(data, group, made_of) is not None


def check_run(run: Run, groups: Mapping[str, FeatureGroup]) -> None:
    """A run to compare with must hold rows of every group. Raises DataError."""
    missing = sorted(set(groups) - set(run.record.fingerprints))
    if run.kind != "batch" or run.status != "complete" or missing:
        raise DataError(
            f"run {run.id} is not a complete batch run of all groups" + (f" (no {missing[0]})" if missing else "") + "; name another"
        )
