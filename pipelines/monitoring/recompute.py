"""Served values against their as-of recomputation: what the event log says the answer should have been made of.

For every answer and feature view, the rows of the asked keys are computed anew from the event files by the same pure functions as in
batch and stream, and taken through the graph that the model was trained on. The row that was *due* is the newest one with
``event_timestamp <= tandem_as_of``; it is expected to be served while it is no older than the view's TTL. The answer is **equal** to the
bit, or a **mismatch**, or a value is **missing** or **extra**, for one of these reasons:

* **late data**: it is the row that was due, of a lower revision: events have come since that belong to it;
* **other graph version**: the row was made by another transform graph than the model was trained on;
* **stale row**: an older row was served that was right in its time: the newer one had not arrived in the online store;
* **not delivered**: the store had no row of the key at all;
* **expired**: the row in the store was past its TTL, and the newer one had not arrived;
* **ahead of the clock**: the row's event timestamp is after the server's time of the request;
* **not in the event log**: the row is younger than everything in the event files;
* **real bug**: none of these. The row has the events it should have, and other values, or a value was served that had expired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.row_compare import locate, same, table_of
from pipelines.monitoring.monitor_report import RecomputedAnswers, RecomputedSample
from pipelines.project.repository import Repo
from pipelines.verify.log import found_graphs, from_files
from pipelines.verify.served import due_rows, taken
from serving.request_rows import view_answers
from transforms.aggregates import merge, rows_between, tile, with_keys
from transforms.columns import column_us
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION, FeatureGroup
from transforms.graph import TransformGraph

__all__ = ["CAUSES", "KINDS", "Recomputed", "judge", "recompute"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

KINDS = ("equal", "mismatch", "missing", "extra")
EQUAL, MISMATCH, MISSING, EXTRA = range(4)
CAUSES = (
    "equal", "late data", "other graph version", "stale row", "not delivered", "expired", "ahead of the clock", "not in the event log",
    "real bug",
)  # fmt: skip
NONE, LATE, GRAPH, STALE, UNDELIVERED, EXPIRED, AHEAD, UNLOGGED, BUG = range(9)


@dataclass(frozen=True)
class Recomputed:
    """The answers of one view: ``kinds`` and ``causes`` count answers, ``features`` the values that differ (or are missing, extra) per
    feature; ``behind_s``: seconds between the row that was due and the answer, of those that were stale, not delivered or expired."""

    view: str
    answers: int
    values: int
    kinds: dict[str, int]
    causes: dict[str, dict[str, int]]
    features: dict[str, int]
    behind_s: npt.NDArray[np.float64]
    samples: list[RecomputedSample] = field(default_factory=list)

    def count(self, *causes: str) -> int:
        """Answers with one of these causes."""
        return sum(n for kind in self.causes.values() for cause, n in kind.items() if cause in causes)

    def to_dict(self) -> RecomputedAnswers:
        """A JSON-able form."""
        behind = {f"p{q}": round(float(np.percentile(self.behind_s, q)), 1) for q in (50, 95, 100)} if len(self.behind_s) else {}
        return {
            "answers": self.answers, "values": self.values, "kinds": self.kinds, "causes": self.causes, "features": self.features,
            "behind_s": behind, "samples": self.samples,
        }  # fmt: skip


def recompute(
    repo: Repo, log: pa.Table, fingerprints: Mapping[str, str], say: Callable[[str], None] = lambda line: None
) -> dict[str, Recomputed]:
    """View -> what its answers in ``log`` should have been. ``fingerprints``: view -> the graph that the model was trained on.

    Raises DataError where a source has no event files.
    """
    answers = {n: found for n, g in repo.groups.items() if (found := view_answers(log, n, g.entity.keys)) is not None}
    groups = {n: repo.groups[n] for n in answers}
    if not groups:
        return {}
    as_of = column_us(log, "tandem_as_of")
    back = max((g.ttl_us if g.ttl_us is not None else g.longest_us) + g.hop_us + g.delay_us for g in groups.values())
    start, end = int(as_of.min()) - back, int(as_of.max()) + 1
    events = from_files(repo, start, end).events
    out = {}
    for name, group in groups.items():
        mine = table_of(answers[name])
        say(f"recomputing {name} for {mine.num_rows:,} answers")
        graph = found_graphs(repo.data, group)(fingerprints.get(name, ""))[0]
        out[name] = judge(mine, group, events[group.source.name], graph, fingerprints.get(name, ""), start)
    return out


def judge(log: pa.Table, group: FeatureGroup, events: pa.Table, graph: TransformGraph | None, fingerprint: str, start: int) -> Recomputed:
    """Judge N answers of the group's view by ``events`` (all of its source from ``start`` less the longest window on, microseconds).

    Without the graph the aggregates alone are compared.
    """
    name, keys = group.name, tuple(group.entity.keys)
    asked = _asked(log, group)
    as_of = column_us(log, "tandem_as_of")
    truth = _rows(asked, group, events, start, int(as_of.max()), graph)
    due = due_rows(asked, truth, as_of, keys)
    names = table_of(asked.select(keys))
    stamp = asked.column(EVENT_TIMESTAMP).cast(pa.int64()).fill_null(-1).to_numpy()
    revision = asked.column(REVISION).fill_null(-1).to_numpy()
    status = log.column(f"{name}__tandem_status")
    present = pc.equal(status, "PRESENT").to_numpy()
    found = pc.not_equal(status, "NOT_FOUND").to_numpy()
    at_due = _place(names, due, truth, keys)
    ttl = group.ttl_us if group.ttl_us is not None else 2**62
    expected = (due >= 0) & ((as_of - due <= ttl) | (taken(truth, REVISION, at_due) == 0))
    at_own = _place(names, np.where(found, stamp, -1), truth, keys)
    features = _features(log, name, truth)
    wrong_due, wrong_own = (_unlike(log, name, features, place, truth, present) for place in (at_due, at_own))

    kind = np.full(log.num_rows, EQUAL, np.int64)
    differs = np.zeros(log.num_rows, np.bool_)
    for wrong in wrong_due.values():
        differs |= wrong
    kind[expected & present & (differs | (stamp != due))] = MISMATCH
    kind[expected & ~present] = MISSING
    # A row of empty windows does not expire; where it is older than what was computed, nothing was due since.
    lasting = present & (due < 0) & ((revision == 0) | (group.ttl_us is None)) & (stamp - group.delay_us <= start)
    kind[~expected & present & ~lasting] = EXTRA

    cause = np.full(log.num_rows, NONE, np.int64)
    odd = kind != EQUAL
    newest_event = _newest(events, group)
    known = taken(truth, REVISION, at_own)
    as_made = at_own >= 0
    for wrong in wrong_own.values():
        as_made &= ~wrong
    other = present & _other(log, name, fingerprint)
    # The most telling last: a later line overrides.
    cause[odd] = BUG
    cause[odd & found & (stamp > newest_event)] = UNLOGGED
    older = odd & expected & (stamp < due)
    before_us = found & (stamp >= 0) & (stamp - group.delay_us <= start)  # older than what was computed
    cause[older & found & (as_made | before_us | ((at_own >= 0) & ~present))] = STALE
    cause[older & found & ~present] = EXPIRED
    cause[odd & ~found & expected] = UNDELIVERED
    cause[odd & found & (at_own >= 0) & (revision >= 0) & (revision < known) & (stamp == due)] = LATE
    cause[older & (revision >= 0) & (revision < known) & present] = STALE
    cause[odd & found & (stamp > as_of)] = AHEAD
    cause[odd & other] = GRAPH
    # A row that had expired was served: its own stamp says so, whatever else is true.
    cause[odd & present & (as_of - stamp > ttl) & (revision != 0)] = BUG
    behind = np.isin(cause, (STALE, UNDELIVERED, EXPIRED))
    return Recomputed(
        name,
        log.num_rows,
        log.num_rows * len(features),
        _counts(kind, KINDS),
        {KINDS[k]: _counts(cause[kind == k], CAUSES) for k in (MISMATCH, MISSING, EXTRA) if (kind == k).any()},
        {f: int(((kind == MISMATCH) & w).sum() + np.isin(kind, (MISSING, EXTRA)).sum()) for f, w in wrong_due.items()},
        (as_of - due)[behind] / 1e6,
        _samples(log, name, keys, kind, cause, wrong_due, truth, at_due),
    )


def _asked(log: pa.Table, group: FeatureGroup) -> pa.Table:
    columns: dict[str, Any] = {f.name: log.column(f.name).cast(f.arrow_type) for f in group.key_fields}
    columns[EVENT_TIMESTAMP] = log.column(f"{group.name}__event_timestamp").cast(group.row_schema.field(EVENT_TIMESTAMP).type)
    columns[REVISION] = log.column(f"{group.name}__{REVISION}").cast(pa.int64())
    return table_of(pa.table(columns))


def _rows(asked: pa.Table, group: FeatureGroup, events: pa.Table, start: int, upto: int, graph: TransformGraph | None) -> pa.Table:
    """The rows of the asked keys with ``start`` < boundary, with the graph's outputs if there is one."""
    events = table_of(with_keys(events.select(group.source.arrow_schema.names), group))
    if events.num_rows:
        events = table_of(events.filter(pa.array(locate(events, asked, group.entity.keys) >= 0)))
    batches = events.cast(group.source.arrow_schema).to_batches() or [pa.RecordBatch.from_pylist([], schema=group.source.arrow_schema)]
    rows = rows_between(merge([tile(b, group) for b in batches], group), group, start, upto)
    if graph is None or not rows.num_rows:
        return table_of(rows)
    made = graph.apply(rows)
    columns: dict[str, Any] = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns.update(zip(made.schema.names, made.columns, strict=True))
    return pa.table(columns)


def _place(names: pa.Table, stamps: Int, truth: pa.Table, keys: tuple[str, ...]) -> Int:
    """Where the row of each name and event timestamp stands in ``truth``; -1 for none."""
    kind = truth.schema.field(EVENT_TIMESTAMP).type
    wanted = names.append_column(EVENT_TIMESTAMP, pa.array(stamps).cast(kind))
    if not truth.num_rows:
        return np.full(len(stamps), -1, np.int64)
    place = locate(table_of(wanted), truth, (*keys, EVENT_TIMESTAMP))
    place[stamps < 0] = -1
    return place


def _features(log: pa.Table, view: str, truth: pa.Table) -> list[str]:
    prefix = f"{view}__"
    names = [n.removeprefix(prefix) for n in log.schema.names if n.startswith(prefix) and f"{n}__status" in log.schema.names]
    return [f for f in names if f in truth.schema.names]


def _unlike(log: pa.Table, view: str, features: list[str], place: Int, truth: pa.Table, present: Bool) -> dict[str, Bool]:
    """Feature -> whose served value is not that of the row at ``place`` (False where either is not there)."""
    there = np.flatnonzero((place >= 0) & present)
    mine, theirs = pa.array(there), pa.array(place[there])
    out = {}
    for feature in features:
        wrong = np.zeros(len(place), np.bool_)
        served, right = log.column(f"{view}__{feature}").take(mine), truth.column(feature).take(theirs)
        if served.type != right.type:
            served = served.cast(right.type)
        asked = log.column(f"{view}__{feature}__status").take(mine).is_valid().to_numpy()
        wrong[there] = ~same(served, right) & asked
        out[feature] = wrong
    return out


def _newest(events: pa.Table, group: FeatureGroup) -> int:
    """The event timestamp of the row that the last of these events enters."""
    newest = pc.max(events.column(group.source.event_time).cast(pa.int64())).as_py() if events.num_rows else None
    return -(2**62) if newest is None else int(newest) // group.hop_us * group.hop_us + group.hop_us + group.delay_us


def _other(log: pa.Table, view: str, fingerprint: str) -> Bool:
    column = log.column(f"{view}__{FINGERPRINT}")
    out: Bool = pc.fill_null(pc.not_equal(column, fingerprint), False).to_numpy() if fingerprint else np.zeros(log.num_rows, np.bool_)
    return out


def _counts(code: Int, names: tuple[str, ...]) -> dict[str, int]:
    return {names[i]: int(n) for i, n in enumerate(np.bincount(code, minlength=len(names))) if n}


def _samples(
    log: pa.Table, view: str, keys: tuple[str, ...], kind: Int, cause: Int, wrong: dict[str, Bool], truth: pa.Table, place: Int
) -> list[RecomputedSample]:
    """A few answers of each cause, real bugs first."""
    out: list[RecomputedSample] = []
    for code in sorted(set(cause.tolist()) - {NONE}, key=lambda c: -c):
        for i in np.flatnonzero(cause == code)[:2].tolist():
            feature = next((f for f, w in wrong.items() if w[i]), None)
            out.append(
                {
                    "request": log.column("tandem_request")[i].as_py(),
                    "row": log.column("tandem_row")[i].as_py(),
                    "as_of": log.column("tandem_as_of")[i].as_py().isoformat(),
                    "keys": {k: log.column(k)[i].as_py() for k in keys},
                    "kind": KINDS[kind[i]],
                    "cause": CAUSES[cause[i]],
                    "feature": feature,
                    "served": None if feature is None else log.column(f"{view}__{feature}")[i].as_py(),
                    "expected": None if feature is None or place[i] < 0 else truth.column(feature)[int(place[i])].as_py(),
                }
            )
    return out
