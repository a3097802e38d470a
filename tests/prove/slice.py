"""A small slice of real flights as every trial sends it: records in order of arrival, and what must follow from any first part of them.

What must follow is judged here anew, record by record in plain Python: which records are broken, which events are too late, how far the
watermark is. The rows are :mod:`tests.oracle`'s; for parts of the slice those of the pure window function, which the oracle confirms
over the whole.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import runs
from pipelines.repo import Repo, load_repo
from pipelines.streaming.replay import schedule
from pipelines.streaming.replay_log import EventLog
from pipelines.streaming.replay_plan import CORRUPT, Alterations, partitions_of
from tests.integration.flights import ROOT, environment, make_logs, us
from tests.oracle import features
from tests.oracle.compare import to_dicts
from transforms.aggregates import rows_between, tile
from transforms.definitions import EventSource, FeatureGroup, micros

__all__ = ["Due", "Record", "Slice", "make_slice"]

HISTORY, BEGIN = datetime(2013, 1, 5, tzinfo=UTC), datetime(2013, 1, 7, tzinfo=UTC)
"""The batch run's range: the stream takes what happened from its end on."""
FROM, TO = datetime(2013, 1, 6, 21, tzinfo=UTC), datetime(2013, 1, 8, 3, tzinfo=UTC)
"""What the topics hold: a little of what the batch run has too, then a day and some hours."""
NEVER = -(2**62)


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

    emitted: dict[str, int]
    online: dict[str, dict[tuple[Any, ...], dict[str, Any]]]
    rows: dict[str, list[dict[str, Any]]]
    late: set[tuple[str, int, int]]
    broken: set[tuple[str, int, int]]


@dataclass(frozen=True)
class Slice:
    """The prepared folder (``feature_repo`` to copy, ``data`` with an applied batch run) and the records."""

    folder: Path
    run: str
    partitions: int
    records: Sequence[Record]
    history: dict[str, pa.Table]
    _known: dict[Any, Due] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @functools.cached_property
    def repo(self) -> Repo:
        return load_repo(self.folder / "feature_repo")

    def ends(self, n: int) -> dict[str, dict[int, int]]:
        """source -> partition -> how many of the first n records it has."""
        out = {s: dict.fromkeys(range(self.partitions), 0) for s in self.repo.sources}
        for record in self.records[:n]:
            out[record.source][record.partition] = record.offset + 1
        return out

    def due(self, n: int, rows: bool = False) -> Due:
        """What must follow from the first n records; with all rows, by brute force, if ``rows``."""
        if (n, rows) not in self._known:
            self._known[n, rows] = self._due(n, rows)
        return self._known[n, rows]

    def _due(self, n: int, rows: bool) -> Due:
        late: set[tuple[str, int, int]] = set()
        events: dict[str, list[dict[str, Any]]] = {s: [] for s in self.repo.sources}
        marks: dict[str, int] = {}
        for name, source in self.repo.sources.items():
            newest = dict.fromkeys(range(self.partitions), NEVER)
            for record in self.records[:n]:
                if record.source != name or record.broken:
                    continue
                event = json.loads(record.value or b"")
                at, before = event[source.event_time], newest[record.partition]
                newest[record.partition] = max(at, before)
                if at < us(BEGIN):
                    continue
                if at < before - micros(source.out_of_orderness) - micros(source.allowed_lateness):
                    late.add((name, record.partition, record.offset))
                else:
                    events[name].append(event)
            marks[name] = min(m - micros(source.out_of_orderness) if m != NEVER else NEVER for m in newest.values())
        emitted, online, all_rows = {}, {}, {}
        for name, group in self.repo.groups.items():
            mark = marks[group.source.name]
            emitted[name] = max(us(BEGIN) // group.hop_us * group.hop_us, mark - mark % group.hop_us)
            found = self._rows(group, events[group.source.name], emitted[name])
            if rows:
                past = to_dicts(self.history[group.source.name])
                all_rows[name] = features.rows(past + events[group.source.name], group, us(BEGIN), emitted[name])
                assert [list(r.items()) for r in all_rows[name]] == [list(r.items()) for r in found], f"{name}: two oracles disagree"
            online[name] = {tuple(r[k] for k in group.entity.keys): r for r in found}  # sorted by time: the last one stays
        broken = {(r.source, r.partition, r.offset) for r in self.records[:n] if r.broken}
        return Due(emitted, online, all_rows, late, broken)

    def _rows(self, group: FeatureGroup, events: list[dict[str, Any]], emitted: int) -> list[dict[str, Any]]:
        table = pa.concat_tables([self.history[group.source.name], _arrow(group.source, events)]).combine_chunks()
        found = to_dicts(rows_between(tile(table.to_batches()[0], group), group, us(BEGIN), emitted))
        return sorted(found, key=lambda r: (*(features.order(r[k]) for k in group.entity.keys), r["event_timestamp"]))


def _arrow(source: EventSource, events: list[dict[str, Any]]) -> pa.Table:
    columns = [
        pa.array([e.get(f.name) for e in events], pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in source.arrow_schema
    ]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, source.arrow_schema)], schema=source.arrow_schema)


def make_slice(folder: Path, seed: int = 0, partitions: int = 2) -> Slice:
    """Prepare everything in ``folder``: logs, the repository without preprocessing functions, an applied batch run; then the records."""
    repo_path, data = folder / "feature_repo", folder / "data"
    repo_path.mkdir(parents=True)
    for path in (ROOT / "feature_repo").iterdir():
        if path.is_file():
            shutil.copy(path, repo_path / path.name)
    text = re.sub(r'\s*preprocessing_fn="[^"]*",', "", (repo_path / "features.py").read_text())
    (repo_path / "features.py").write_text(text)
    (repo_path / "tandem.yaml").write_text("data: ../data\ndefinitions: features\n")
    make_logs(data)
    for words in (["batch", "--start", f"{HISTORY:%Y-%m-%d}", "--end", f"{BEGIN:%Y-%m-%d}"], ["apply"]):
        command = [sys.executable, "-m", "pipelines.cli", words[0], "--repo", str(repo_path), *words[1:]]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    repo = load_repo(repo_path)
    run = runs.list_runs(repo.data)[-1]
    how = Alterations(seed, disorder=0.05, late=0.01, duplicates=0.02, corrupt=0.02)
    history = {}
    for name, source in repo.sources.items():
        files = sorted((data / source.files).rglob("part-*.parquet"))
        table = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files]).select(source.arrow_schema.names)
        times = table.column(0).cast(pa.int64()).to_numpy()
        history[name] = table.filter(pa.array((times >= us(HISTORY)) & (times < us(BEGIN)))).cast(source.arrow_schema)
    return Slice(folder, run.id, partitions, _records(repo, how, partitions), history)


def _records(repo: Repo, how: Alterations, partitions: int) -> list[Record]:
    sources = list(repo.sources.values())
    log = EventLog(repo.data, sources, us(FROM), us(TO), now_us=time.time_ns() // 1000, max_future_us=0)
    out: list[Record] = []
    offsets: dict[tuple[str, int], int] = {}
    for table in schedule(log, how, {s.name: "json" for s in sources}):
        keys = table.column("key").cast(pa.binary()).combine_chunks()
        places = np.asarray(partitions_of(keys, partitions))
        for row, partition in zip(table.to_pylist(), places.tolist()):
            name = sources[row["source"]].name
            offset = offsets.get((name, partition), 0)
            offsets[name, partition] = offset + 1
            out.append(Record(name, partition, offset, row["key"], row["payload"], row["arrival"] // 1000, row["role"] == CORRUPT))
    return out
