"""What a verification found, as its report: all numbers, names and samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.lake.run_parts import Code
from pipelines.lake.run_records import BatchRecord
from pipelines.lake.runs import Run
from pipelines.verify.causes import CAUSES, EQUAL, IN_FLIGHT, UNEXPLAINED, added
from pipelines.verify.log import EventLog
from pipelines.verify.offline_online import StoresProof
from pipelines.verify.online import OnlineProof
from pipelines.verify.proof import GroupProof, SourceProof
from pipelines.verify.served import ServedProof
from pipelines.verify.stream_record import StreamRecord
from pipelines.verify.verify_report import ComparedGroup, Counts, RowsOverTime, Sample, ServedAnswers, SourceEvents, VerifyReport
from transforms.definitions import FeatureGroup, micros
from transforms.instants import instant
from transforms.lateness import NEVER

__all__ = ["Findings", "GroupFound", "found_of", "summarize"]

Int = npt.NDArray[np.int64]

HOUR_US = 3_600_000_000
MOST_BINS = 200
BEHIND_EDGES = (1, 10, 60, 300, 900, 3600, 3 * 3600, 12 * 3600)
"""Borders of the lateness histogram, in seconds."""
SAMPLES = 5


@dataclass(frozen=True)
class GroupFound:
    """What is kept of a group once its rows are compared: numbers, names and samples."""

    group: FeatureGroup
    compared: ComparedGroup
    problems: list[str]
    span: tuple[int, int] | None
    """The first and the last event timestamp (None: there is no row)."""
    hours: Int
    """[H] the hours of event time (since 1970) that have rows, ascending."""
    by_hour: Int
    """[H, 4] how many rows: equal, explained, unexplained, in flight."""


@dataclass(frozen=True)
class Findings:
    """What was proven: by group of the stream's rows, by source of its events, and by group of the online store, of the server's answers,
    and of both stores."""

    record: StreamRecord
    groups: Mapping[str, GroupFound]
    sources: Mapping[str, SourceProof]
    online: Mapping[str, OnlineProof]
    served: Mapping[str, ServedProof]
    stores: Mapping[str, StoresProof]

    @property
    def unexplained(self) -> int:
        """How many rows, values, keys and answers no cause was proven for."""
        others = (self.sources, self.online, self.served, self.stores)
        return sum(g.compared["unexplained"] for g in self.groups.values()) + sum(p.unexplained for part in others for p in part.values())

    def problems(self) -> list[str]:
        """What is unexplained, a line each."""
        out = [line for g in self.groups.values() for line in g.problems] + [line for s in self.sources.values() for line in s.problems()]
        for name, o in self.online.items():
            if o.unexplained:
                out.append(f"{name}: {o.unexplained:,} of {o.keys:,} keys have an unexpected row online: {'; '.join(o.lines)}")
        for name, a in self.served.items():
            if a.unexplained:
                out.append(f"{name}: {a.unexplained:,} of {a.answers:,} answers of the server are unexplained: {'; '.join(a.lines)}")
        for name, both in self.stores.items():
            if both.unexplained:
                out.append(f"{name}: offline and online differ for {both.unexplained:,} keys: {'; '.join(both.lines)}")
        return out


def summarize(
    found: Findings,
    *,
    started: datetime,
    seconds: float,
    folder: Path,
    log: EventLog,
    against: str | None,
    batch_run: Run,
    stream_run: str | None,
    notices: list[str],
    scratch: Path | None,
    command: str,
    code: Code,
    versions: Mapping[str, str],
) -> VerifyReport:
    """All numbers, names and samples. ``stream_run`` is the id of the stream's latest run."""
    record, unexplained = found.record, found.unexplained
    groups = {name: g.compared for name, g in found.groups.items()}
    rows = _added(g["rows"] for g in groups.values())
    values = _added(f for g in groups.values() for f in g["features"].values())
    return VerifyReport(
        verdict="unexplained" if unexplained else "proven",
        headline=_headline(values, unexplained),
        unexplained=unexplained,
        problems=found.problems(),
        notices=[*notices, *(both.notice for both in found.stores.values() if both.notice)],
        values=values,
        rows=rows,
        groups=groups,
        sources={name: _source(s) for name, s in found.sources.items()},
        online={n: {"keys": o.keys, "causes": o.causes, "lines": o.lines} for n, o in found.online.items()},
        stores={n: both.to_dict() for n, both in found.stores.items()},
        served={n: _served(s) for n, s in found.served.items()},
        time=_time(found.groups.values()),
        range=[_text(log.start), _text(log.end)],
        stream={
            "name": record.name,
            "run": stream_run,
            "from_run": record.run,
            "begin": None if record.begin == NEVER else _text(record.begin),
            "shards": max((p.shards for p in record.positions.values()), default=0),
            "offsets": _offsets(found),
            "ahead": record.ahead,
        },
        batch={
            "run": batch_run.id,
            "against": against is not None,
            "range": batch_run.head.range,
            "events": batch_run.as_(BatchRecord).events,
            "fingerprints": batch_run.record.fingerprints,
        },
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        folder=str(folder),
        scratch=None if scratch is None else str(scratch),
        command=command,
        code=code,
        versions=dict(versions),
    )


def _headline(values: Counts, unexplained: int) -> str:
    compared, equal = values.get("compared", 0), values.get("equal", 0)
    named = sum(n for cause, n in values.get("different", {}).items() if cause != CAUSES[UNEXPLAINED])
    if unexplained:  # values, rows, keys and answers have no common sum; the problems count each by itself
        alone = values.get("different", {}).get(CAUSES[UNEXPLAINED], 0)
        return (
            f"{alone:,} of {compared:,} compared values are unexplained" if alone else "all values are explained, other differences are not"
        )
    rest = f"; each of the other {named:,} has a proven cause" if named else ""
    return f"{equal:,} of {compared:,} values are equal bit for bit{rest}"


def _text(us: int) -> str:
    return instant(us).isoformat()


def _added(parts: Iterable[Counts]) -> Counts:
    out: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, dict):
                out[key] = added([out.get(key, {}), value])
            else:
                out[key] = out.get(key, 0) + value
    return cast(Counts, out)


def found_of(g: GroupProof, record: StreamRecord) -> GroupFound:
    """What is to be kept of a group's comparison; it holds none of the rows."""
    at, cause = g.comparison.event_us, g.cause
    hours, place = np.unique(at // HOUR_US, return_inverse=True)
    explained = ~np.isin(cause, (EQUAL, UNEXPLAINED, IN_FLIGHT))
    kinds = np.select([cause == EQUAL, explained, cause == UNEXPLAINED], [0, 1, 2], 3)
    by_hour = np.bincount(place.reshape(-1) * 4 + kinds, minlength=4 * len(hours)).reshape(-1, 4)
    span = (int(at.min()), int(at.max())) if len(at) else None
    return GroupFound(g.group, _group(g, record), g.problems(), span, hours, by_hour)


def _group(g: GroupProof, record: StreamRecord) -> ComparedGroup:
    output_watermark = record.positions[g.group.name].output_watermark
    revisions, counts = np.unique(g.newest.revisions, return_counts=True)
    repeats = int(g.newest.deliveries.sum() - g.newest.revisions.sum())
    return {
        "rows": g.rows(),
        "features": g.features(),
        "fingerprint": g.fingerprint,
        "fingerprints": g.fingerprints(),
        "output_watermark": [None if b == NEVER else _text(int(b)) for b in output_watermark.tolist()],
        "conflicts": int(g.newest.conflicts.sum()),
        "unexplained": g.unexplained,
        "revisions": {str(r): int(n) for r, n in zip(revisions.tolist(), counts.tolist(), strict=True)},
        "repeats": repeats,
        "samples": [_sample(g, int(i)) for i in _chosen(g)],
    }


def _chosen(g: GroupProof) -> list[int]:
    """A few rows of each cause, the unexplained first."""
    out: list[int] = []
    for cause in (UNEXPLAINED, *(c for c in range(len(CAUSES)) if c not in (UNEXPLAINED, EQUAL, IN_FLIGHT))):
        found = np.flatnonzero(g.cause == cause)
        if len(found):
            # Differing rows say more than missing ones.
            first = found[g.comparison.different[found]]
            found = first if len(first) else found
            out += found[np.unique(np.linspace(0, len(found) - 1, SAMPLES).astype(int))].tolist()
    return out


def _sample(g: GroupProof, i: int) -> Sample:
    c = g.comparison
    kind = "missing" if c.missing[i] else "extra" if c.extra[i] else "different"
    b, s = int(c.batch_at[i]), int(c.stream_at[i])
    wrong = [n for n, w in c.unequal.items() if w[i]] if kind == "different" else []

    def value(table: pa.Table, name: str, at: int) -> Any:
        return table.column(name)[at].as_py() if at >= 0 and name in table.schema.names else None

    return {
        "keys": {k: c.names.column(k)[i].as_py() for k in c.keys},
        "event_timestamp": _text(int(c.event_us[i])),
        "cause": CAUSES[g.cause[i]],
        "kind": kind,
        "values": {n: [value(c.batch, n, b), value(c.stream, n, s)] for n in wrong},
    }


def _source(s: SourceProof) -> SourceEvents:
    from_topic = s.lateness.behind >= 0
    behind, late = s.lateness.behind[from_topic], s.lateness.too_late[from_topic]
    corrects = ~late & (behind > micros(s.source.out_of_orderness))
    edges = np.array([1, *(e * 1_000_000 + 1 for e in BEHIND_EDGES)], np.int64)
    place = np.searchsorted(edges, behind, side="right")
    bins = [np.bincount(place[mask], minlength=len(edges) + 1).tolist() for mask in (~late & ~corrects, corrects, late)]
    return {
        "topic": s.source.topic,
        "events": s.events,
        "before": s.before,
        "too_late": s.noted,
        "not_late": s.not_late,
        "not_noted": s.not_noted,
        "out_of_orderness_s": micros(s.source.out_of_orderness) / 1e6,
        "allowed_lateness_s": micros(s.source.allowed_lateness) / 1e6,
        "behind": {"edges_s": [0, *BEHIND_EDGES], "in_time": bins[0], "corrects": bins[1], "too_late": bins[2]},
    }


def _served(s: ServedProof) -> ServedAnswers:
    behind = {}
    if len(s.behind_s):
        behind = {name: round(float(np.quantile(s.behind_s, q)), 3) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    return {"answers": s.answers, "values": s.values, "causes": s.causes, "statuses": s.statuses, "behind_s": behind, "lines": s.lines}


def _time(groups: Iterable[GroupFound]) -> RowsOverTime:
    """Rows by the hour (or more) of their event timestamp: equal, explained, unexplained, not due."""
    found = [(g, g.span) for g in groups if g.span is not None]
    if not found:
        return {"step_s": 3600, "start": None, "equal": [], "explained": [], "unexplained": [], "in_flight": []}
    earliest, latest = min(span[0] for _, span in found), max(span[1] for _, span in found)
    hours = next(h for h in (1, 3, 6, 12, 24, 24 * 7, 24 * 365 * 100) if (latest - earliest) / (h * HOUR_US) < MOST_BINS)
    step = hours * HOUR_US
    first = earliest // step
    counts = np.zeros((latest // step - first + 1, 4), np.int64)
    for g, _ in found:
        np.add.at(counts, g.hours // hours - first, g.by_hour)
    equal, explained, unexplained, in_flight = counts.T.tolist()
    return {
        "step_s": step // 1_000_000,
        "start": _text(first * step),
        "equal": equal,
        "explained": explained,
        "in_flight": in_flight,
        "unexplained": unexplained,
    }


def _offsets(found: Findings) -> dict[str, dict[str, int]]:
    groups = {name: g.group for name, g in found.groups.items()}
    return {s: {str(p): o for p, o in sorted(each.items())} for s, each in found.record.upto(groups).items()}
