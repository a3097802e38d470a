"""Served values against their recomputation: each cause, on a log made by hand; what is right is counted by hand too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.monitoring.checks import verdict
from pipelines.monitoring.judge import headline, recomputed
from pipelines.monitoring.recompute import Recomputed, judge
from pipelines.project.config import MonitorSettings
from tests.examples import examples
from transforms.definitions import TIMESTAMP, Count, Entity, EventSource, FeatureGroup, Field, Max, hours, minutes

T0 = round(datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1e6)
MIN = 60_000_000
SOURCE = EventSource(
    name="parcels",
    fields=[Field("id", "string", required=True), Field("depot", "string", required=True), Field("kg", "float64")],
    event_time="at",
    tie_breaker="id",
    out_of_orderness=minutes(1),
)
GROUP = FeatureGroup(
    name="load",
    source=SOURCE,
    entity=Entity("depot"),
    hop=minutes(10),
    ttl=hours(3),
    aggregates=[Count(over=hours(1)), Max("kg", over=hours(1))],
)
FP = "a" * 64
EVENTS = [("north", 5, 2.0), ("north", 12, 7.0), ("north", 130, 1.0), ("south", 15, None), ("north", 600, 3.0)]
"""(depot, minute, kg)."""


def events(rows: list[tuple[str, int, float | None]] = EVENTS) -> pa.Table:
    depot, minute, kg = (list(c) for c in zip(*rows, strict=True))
    columns = {
        "id": [f"p{i}" for i in range(len(rows))],
        "depot": depot,
        "kg": pa.array(kg, pa.float64()),
        "at": pa.array([T0 + m * MIN for m in minute], pa.int64()).cast(TIMESTAMP),
    }
    arrays = {n: c if isinstance(c, pa.Array) else pa.array(c) for n, c in columns.items()}
    return pa.table([arrays[f.name].cast(f.type) for f in SOURCE.arrow_schema], schema=SOURCE.arrow_schema)


def answered(*rows: dict[str, Any]) -> pa.Table:
    """Answers: depot, as_of (minute), stamp (minute or None), revision, status, count, kg, fingerprint."""
    n = len(rows)

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([r.get(name) for r in rows], kind)

    def moments(name: str) -> pa.Array:
        return pa.array([None if r.get(name) is None else T0 + round(r[name] * MIN) for r in rows], pa.int64()).cast(TIMESTAMP)

    present = [r.get("status", "PRESENT") == "PRESENT" for r in rows]
    status = pa.array([r.get("status", "PRESENT") for r in rows])
    prints = [r.get("print", FP) if p else None for r, p in zip(rows, present, strict=True)]
    return pa.table(
        {
            "tandem_request": [f"r{i}" for i in range(n)],
            "tandem_row": pa.array([0] * n, pa.int32()),
            "tandem_as_of": moments("as_of"),
            "depot": column("depot", pa.string()),
            "load__tandem_status": status,
            "load__event_timestamp": moments("stamp"),
            "load__tandem_revision": column("revision", pa.int64()),
            "load__tandem_fingerprint": pa.array(prints, pa.string()),
            "load__count_1h": column("count", pa.int64()),
            "load__count_1h__status": status,
            "load__kg_max_1h": column("kg", pa.float64()),
            "load__kg_max_1h__status": pa.array(
                ["NULL" if p and r.get("kg") is None else r.get("status", "PRESENT") for r, p in zip(rows, present, strict=True)]
            ),
        }
    )


def judged(*rows: dict[str, Any], print_: str = FP) -> Recomputed:
    return judge(answered(*rows), GROUP, events(), None, print_, T0 - 24 * 60 * MIN)


RIGHT = {"depot": "north", "as_of": 25, "stamp": 21, "revision": 2, "count": 2, "kg": 7.0}
"""Both events of the first hour are in the row of boundary 00:20, known one minute later."""


def test_what_is_right_is_equal() -> None:
    found = judged(
        RIGHT,
        {"depot": "south", "as_of": 30, "stamp": 21, "revision": 1, "count": 1, "kg": None},
        {"depot": "north", "as_of": 12, "stamp": 11, "revision": 1, "count": 1, "kg": 2.0},
        {"depot": "west", "as_of": 25, "status": "NOT_FOUND"},
        # a row whose windows are all empty does not expire (FAULTS 25)
        {"depot": "north", "as_of": 599, "stamp": 201, "revision": 0, "count": 0, "kg": None},
        {"depot": "west", "as_of": 599, "status": "NOT_FOUND"},
    )
    assert found.kinds == {"equal": 6} and found.causes == {} and found.samples == [] and found.values == 12


@pytest.mark.parametrize(
    ("change", "kind", "cause"),
    [
        ({"count": 3}, "mismatch", "real bug"),
        ({"kg": None}, "mismatch", "real bug"),
        ({"kg": -0.0}, "mismatch", "real bug"),
        ({"stamp": 11, "revision": 1, "count": 1, "kg": 2.0}, "mismatch", "stale row"),
        ({"stamp": 11, "revision": 1, "count": 1, "kg": 9.0}, "mismatch", "real bug"),
        ({"revision": 1, "count": 1, "kg": 2.0}, "mismatch", "late data"),
        ({"print": "b" * 64, "count": 9}, "mismatch", "other graph version"),
        ({"status": "NOT_FOUND", "stamp": None, "revision": None, "count": None, "kg": None}, "missing", "not delivered"),
        ({"status": "OUTSIDE_MAX_AGE", "stamp": 11, "revision": 1, "count": None, "kg": None}, "missing", "expired"),
        ({"stamp": 31, "revision": 2}, "mismatch", "ahead of the clock"),
        ({"as_of": 25, "stamp": 22, "revision": 2}, "mismatch", "real bug"),
        ({"as_of": 420, "stamp": 201, "revision": 0, "status": "OUTSIDE_MAX_AGE", "count": None, "kg": None}, "missing", "real bug"),
        ({"as_of": 999, "stamp": 995, "revision": 1, "count": 1, "kg": 3.0}, "mismatch", "not in the event log"),
        ({"depot": "west", "as_of": 999, "stamp": 995, "revision": 1, "count": 1, "kg": 3.0}, "extra", "not in the event log"),
    ],
)
def test_each_cause(change: dict[str, Any], kind: str, cause: str) -> None:
    found = judged(RIGHT, {**RIGHT, **change})
    assert found.kinds == {"equal": 1, kind: 1}
    assert found.causes == {kind: {cause: 1}}
    assert found.count(cause) == 1 and found.samples[0]["cause"] == cause and found.samples[0]["request"] == "r1"


@pytest.mark.parametrize(("ahead", "right", "status"), [(0, 10, "ok"), (1, 9, "ok"), (2, 8, "fail"), (3, 0, "fail")])
def test_rows_of_the_future_fail_however_few_answers_there_are(ahead: int, right: int, status: str) -> None:
    found = judged(*[{**RIGHT, "stamp": 31}] * ahead, *[RIGHT] * right)
    checks = {c.name: c for c in recomputed({"load": found}, MonitorSettings())}
    assert (checks["ahead"].status, checks["ahead"].value) == (status, ahead / (ahead + right))
    assert checks["recomputed"].status == "ok" and verdict(list(checks.values())) == status
    assert headline(list(checks.values()), 10).startswith("rows of the future: load") == (status == "fail")


def test_how_far_behind() -> None:
    found = judged({**RIGHT, "as_of": 60, "stamp": 11, "revision": 1, "count": 1, "kg": 2.0})
    assert found.behind_s.tolist() == [39 * 60.0]  # the row of 00:20 was due from 00:21 on
    assert found.to_dict()["behind_s"] == {"p50": 2340.0, "p95": 2340.0, "p100": 2340.0}


def test_the_sample_names_what_was_served_and_what_is_right() -> None:
    sample = judged({**RIGHT, "count": 3}).samples[0]
    assert (sample["feature"], sample["served"], sample["expected"], sample["keys"]) == ("count_1h", 3, 2, {"depot": "north"})


def due(depot: str, as_of: int) -> tuple[int, int, float | None] | None:
    """(minute of the stamp, count, kg) of the newest row by then, by walking through time ten minutes at a time."""
    best, before = None, None
    for boundary in range(-60, as_of + 1, 10):
        inside = [kg for d, m, kg in EVENTS if d == depot and boundary - 60 <= m < boundary]
        state = sorted((m for d, m, kg in EVENTS if d == depot and boundary - 60 <= m < boundary))
        if state != before and (before or state) and boundary + 1 <= as_of:
            known = [kg for kg in inside if kg is not None]
            best = (boundary + 1, len(inside), max(known) if known else None)
        if boundary + 1 <= as_of:
            before = state
    return best


@given(st.lists(st.tuples(st.sampled_from(["north", "south"]), st.integers(1, 900)), min_size=1, max_size=6))
@settings(max_examples=examples(60))
def test_answers_made_by_a_walk_through_time_are_all_equal(asked: list[tuple[str, int]]) -> None:
    rows = []
    for depot, as_of in asked:
        row = due(depot, as_of)
        if row is None:
            rows.append({"depot": depot, "as_of": as_of, "status": "NOT_FOUND"})
        elif as_of - row[0] > 180 and row[1]:
            rows.append({"depot": depot, "as_of": as_of, "stamp": row[0], "revision": row[1], "status": "OUTSIDE_MAX_AGE"})
        else:
            rows.append({"depot": depot, "as_of": as_of, "stamp": row[0], "revision": row[1], "count": row[1], "kg": row[2]})
    assert judged(*rows).kinds == {"equal": len(rows)}
