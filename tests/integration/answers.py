"""A request log as a server would have written it over past days, without replaying them: every labelled request of a range is answered
as of its own moment, from the offline rows of the batch runs (what materialize puts online), by the pushed SavedModel itself, and
written by the server's own request log."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.lake.runs import list_runs
from pipelines.monitoring.baseline import load_spec
from pipelines.project.repository import Repo
from pipelines.verify.log import offline_rows
from serving.features import NOT_FOUND, NULL, OUTSIDE_MAX_AGE, PRESENT, ViewRows
from serving.metrics import Metrics
from serving.models import load_model
from serving.request_log import LogLimits, RequestLog
from serving.request_rows import RequestRecord
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION, FeatureGroup

Change = Callable[[str, pa.Table], pa.Table]


def unchanged(view: str, rows: pa.Table) -> pa.Table:
    """The rows as they are stored."""
    return rows


def answer(
    repo: Repo,
    model: Any,
    version: int,
    start: datetime,
    end: datetime,
    *,
    change: Change = unchanged,
    folder: Path | None = None,
) -> int:
    """Answer every request of the spine in [start, end); how many. ``change(view, rows)``: what a broken producer did to the rows."""
    spec = load_spec(repo.data, model.name, version)
    loaded = load_model(repo.data / "models" / model.name / str(version), spec)
    spine = repo.attribute(model.spine)(repo.data, start, end).sort_by([(EVENT_TIMESTAMP, "ascending")]).combine_chunks()
    asked = spine.column(EVENT_TIMESTAMP).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    types = {n: spine.schema.field(n).type for n in dict.fromkeys([*model.entity_keys, *(f.name for f in model.request_fields)])}
    views: dict[str, ViewRows] = {}
    for name in dict.fromkeys(v for v, _ in spec.features):
        wanted = [f for v, f in spec.features if v == name]
        views[name] = _read(change(name, _rows(repo, repo.groups[name])), repo.groups[name], spine, asked, wanted)
    inputs = {n: spine.column(n) for n in types} | {f"{v}__{f}": c for v, g in views.items() for f, c in g.columns.items()}
    predictions = loaded.predict(pa.table(inputs)).tolist()
    columns = {n: spine.column(n).to_pylist() for n in types}
    log = RequestLog(folder or repo.data / "requests", LogLimits(rows=1_000_000, seconds=3600), Metrics())
    log.start()
    at_us = time.time_ns() // 1000
    edges = np.flatnonzero(np.concatenate([[True], asked[1:] != asked[:-1], [True]]))
    for number, (lo, hi) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        part = slice(lo, hi)
        record = RequestRecord(
            request_id=f"{start:%m%d}-{number:06d}",
            at_us=at_us,
            as_of_us=int(asked[lo]),
            endpoint="predict",
            rows=hi - lo,
            columns={n: values[part] for n, values in columns.items()},
            types=types,
            groups={n: _part(g, lo, hi, int(asked[lo])) for n, g in views.items()},
            model=spec.name,
            version=spec.version,
            run=spec.run,
            predictions=predictions[part],
        )
        log._waiting.append((record, 0))  # its bounded queue is for a server under load; here nothing may be dropped
    log.close()
    return len(asked)


def _rows(repo: Repo, group: FeatureGroup) -> pa.Table:
    """All offline rows of complete batch runs."""
    complete = [r.id for r in list_runs(repo.data) if r.manifest.get("kind") == "batch" and r.manifest.get("status") == "complete"]
    tables = [offline_rows(repo.data, group, run) for run in complete]
    names = tables[-1].schema.names
    return pa.concat_tables([t.select(names) for t in tables if t.num_rows]).combine_chunks()


def _read(rows: pa.Table, group: FeatureGroup, spine: pa.Table, asked: np.ndarray[Any, Any], wanted: list[str]) -> ViewRows:
    """As of each request the newest row of its key."""
    keys = list(group.entity.keys)
    stamps = rows.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy()
    both = np.concatenate([_words(rows, keys), _words(spine, keys)])
    code = np.unique(both, return_inverse=True)[1].astype(np.int64)
    theirs, mine = code[: rows.num_rows], code[rows.num_rows :]
    order = np.lexsort((stamps, theirs))
    low = int(min(stamps.min(), asked.min()))
    room = int(max(stamps.max(), asked.max())) - low + 2
    place = np.searchsorted(theirs[order] * room + (stamps[order] - low), mine * room + (asked - low), side="right") - 1
    row = order[np.maximum(place, 0)]
    found = (place >= 0) & (theirs[row] == mine)
    old = found & (asked - stamps[row] > (group.ttl_us or 0)) & (rows.column("tandem_revision").to_numpy()[row] != 0)
    status = np.where(~found, NOT_FOUND, np.where(old, OUTSIDE_MAX_AGE, PRESENT)).astype(np.uint8)
    take = pa.array(row, mask=status != PRESENT)
    columns = {f: rows.column(f).combine_chunks().take(take) for f in wanted}
    statuses = {f: np.where((status == PRESENT) & c.is_null().to_numpy(zero_copy_only=False), NULL, status) for f, c in columns.items()}
    prints = rows.column(FINGERPRINT).combine_chunks().take(take).to_pylist()
    revisions = rows.column(REVISION).combine_chunks().take(pa.array(row, mask=~found)).to_pylist()
    ages = np.where(found, (asked - stamps[row]) / 1e6, np.nan)
    return ViewRows(
        group.name, columns, {f: s.astype(np.uint8) for f, s in statuses.items()}, status, np.where(found, stamps[row], 0), ages, prints,
        revisions, 0,
    )  # fmt: skip


def _words(table: pa.Table, keys: list[str]) -> np.ndarray[Any, Any]:
    return np.array(["\x1f".join(map(str, k)) for k in zip(*(table.column(k).to_pylist() for k in keys), strict=True)])


def _part(g: ViewRows, lo: int, hi: int, as_of: int) -> ViewRows:
    columns = {f: c.slice(lo, hi - lo) for f, c in g.columns.items()}
    statuses = {f: s[lo:hi] for f, s in g.statuses.items()}
    own = (g.row_status[lo:hi], g.timestamps_us[lo:hi], g.ages[lo:hi], g.fingerprints[lo:hi], g.revisions[lo:hi])
    return ViewRows(g.view, columns, statuses, *own, as_of)
