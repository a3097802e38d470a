"""Fingerprints of definitions and the names of state columns, as they were written down first: stored rows, tiles and graphs bear them.

A change here orphans everything that anybody stored. A new aggregate adds a line; no line ever changes. (Once one did: version 2 of
CountDistinct counts other values, FAULTS 31.)
"""

from __future__ import annotations

import hashlib
import json

import pytest

from transforms.aggregates import tile_schema
from transforms.definitions import (
    Age,
    Aggregate,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    FeatureGroup,
    Field,
    First,
    Last,
    LastN,
    Max,
    Mean,
    Min,
    Quantile,
    Std,
    Sum,
    TopK,
    Variance,
    hours,
    minutes,
)

SOURCE = EventSource(
    name="departures",
    fields=[
        Field("origin", "string", required=True),
        Field("flight", "string", required=True),
        Field("x", "float64"),
        Field("n", "int64"),
        Field("s", "string"),
        Field("b", "bool"),
    ],
    event_time="departed_at",
    tie_breaker="flight",
    out_of_orderness=minutes(1),
)
BOTH = [hours(1), hours(3)]
LATE = (Field("x") > 15) & ~Field("s").isin(["a", "b"])
WHERE = "['and', ['>', 'x', 15], ['not', ['isin', 's', ['a', 'b']]]]"

PINNED: list[tuple[Aggregate, str, list[str]]] = [
    (Count(over=BOTH), "462a1f7d5d9b5cff", ["count||0|"]),
    (
        Count(over=hours(1), where=LATE, name="late"),
        "64b0b3f42e6f7f65",
        [f"count||0|{WHERE}"],
    ),
    (Sum("x", over=BOTH), "6cb5194de76f6896", ["count|x|0|", "sum|x|0|"]),
    (Mean("n", over=BOTH), "219e589b0dc81e8a", ["count|n|0|", "sum|n|0|"]),
    (
        Variance("x", over=BOTH),
        "ca2b864dfba5b553",
        ["count|x|0|", "sum|x|0|", "squares|x|0|"],
    ),
    (
        Std("x", over=BOTH, where=LATE),
        "dafbe92855f3623d",
        [f"count|x|0|{WHERE}", f"sum|x|0|{WHERE}", f"squares|x|0|{WHERE}"],
    ),
    (Min("x", over=BOTH), "a7f3796218b8392f", ["min|x|0|"]),
    (Max("n", over=BOTH), "63c7aa6080480697", ["max|n|0|"]),
    (First("s", over=BOTH), "39410811c5a41b0d", ["first|s|1|"]),
    (Last("b", over=BOTH), "6acdcfe425660aca", ["last|b|1|"]),
    (LastN("x", over=BOTH), "e36c8c5c02beb9f0", ["last|x|3|"]),
    (LastN("s", n=5, over=hours(1)), "b34f8708863a4c2d", ["last|s|5|"]),
    (Age(over=BOTH), "f0cb31cdf9726ede", ["newest||0|"]),
    (CountDistinct("s", over=BOTH), "417fe84b8eef3c7a", ["distinct|s|11|"]),
    (
        CountDistinct("n", precision=5, over=hours(3)),
        "0bc56a1552ae5673",
        ["distinct|n|5|"],
    ),
    (Quantile("x", over=BOTH), "844d4687dc90bc7c", ["histogram|x|0|"]),
    (Quantile("n", q=0.9, over=BOTH), "4f897e7eec59cf03", ["histogram|n|0|"]),
    (TopK("s", over=BOTH), "836a3baca6e39d1c", ["values|s|0|"]),
]


@pytest.mark.parametrize(("aggregate", "fingerprint", "states"), PINNED, ids=[a.name for a, _, _ in PINNED])
def test_an_aggregate_keeps_its_fingerprint_and_its_state_columns(aggregate: Aggregate, fingerprint: str, states: list[str]) -> None:
    assert hashlib.sha256(json.dumps(aggregate.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16] == fingerprint
    group = FeatureGroup("g", SOURCE, Entity("origin"), minutes(5), hours(6), [aggregate])
    assert tile_schema(group).names[3:] == states


def test_a_group_keeps_its_fingerprint() -> None:
    """Of before aggregates were classes of their own: everything but TopK, which came later, and CountDistinct, which is of version 2."""
    old = [a for a, _, _ in PINNED if not isinstance(a, TopK | CountDistinct)]
    group = FeatureGroup("traffic", SOURCE, Entity("origin"), minutes(5), hours(6), old)
    assert group.definition_hash() == "5ddc755ad17333f5579f8aa077d9504c9bc7df81d9dcea240d15047d6e6a1193"
    group = FeatureGroup("traffic", SOURCE, Entity("origin"), minutes(5), hours(6), [a for a, _, _ in PINNED if not isinstance(a, TopK)])
    assert group.definition_hash() == "4c16d82b50616fbe76a95d596c0ef99c876a8795b2295d5e43880926355e8bb7"
