"""Hypothesis strategies: feature groups, events made to hurt them, and random ways to split and order a log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa
from hypothesis import strategies as st

from transforms.definitions import (
    AGGREGATES,
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
    Predicate,
    Quantile,
    Std,
    Sum,
    TopK,
    Variance,
)

__all__ = [
    "SCALES",
    "aggregates",
    "deals",
    "event_lists",
    "every_aggregate",
    "events",
    "groups",
    "make_group",
    "make_source",
    "predicates",
    "splits",
    "to_batch",
    "to_batches",
    "values",
]

T = TypeVar("T")
Event = dict[str, Any]

KEY_STRINGS = ("EWR", "", "é", "aa", "a", "a\0", "\uffff", "\U00010000", "Z" * 17)
"""Keys whose order as UTF-8 differs from UTF-16's and from any that drops NUL bytes."""
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    -0.1,
    1e308,
    -1e308,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    5e-324,
    -5e-324,
    2.2250738585072014e-308,
    -2.2250738585072011e-308,
    1e16,
    -1e16,
    9007199254740993.0,
    1e-300,
    2.0**-1022,
    2.0**-1030,
    2.0**970,
    2.0**-53,
    1.0 + 2.0**-52,
    3.5e-310,
)
INTS = (0, 1, -1, 2, 7, -(2**63), 2**63 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 10**6)
TEXTS = ("", "a", "a\0", "\0", "12345678", "123456789", "ä€𝄞", "N12345", "x" * 16, "\uffff", "\U00010000", "True")
HOUR = 3_600_000_000


# --------------------------------------------------------------------------------------------------------- definitions


def make_source(*, tie_breaker: str = "flight", delay_us: int = 0, lateness_us: int = 0, name: str = "departures") -> EventSource:
    """A source with two key fields, a string and an int64 tie-breaker, and a nullable field of every dtype."""
    return EventSource(
        name=name,
        fields=[
            Field("origin", "string", required=True),
            Field("gate", "int64", required=True),
            Field("flight", "string", required=True),
            Field("serial", "int64", required=True),
            Field("x", "float64"),
            Field("n", "int64"),
            Field("s", "string"),
            Field("b", "bool"),
            Field("at", "timestamp"),
        ],
        event_time="departed_at",
        tie_breaker=tie_breaker,
        files="events/departures",
        out_of_orderness=timedelta(microseconds=delay_us),
        allowed_lateness=timedelta(microseconds=lateness_us),
    )


def make_group(
    aggregates: list[Aggregate],
    *,
    source: EventSource | None = None,
    keys: tuple[str, ...] = ("origin",),
    hop_us: int = HOUR,
    name: str = "traffic",
) -> FeatureGroup:
    """A group with these aggregates; by default of a one-hour hop, keyed by ``origin``."""
    return FeatureGroup(
        name=name,
        source=source or make_source(),
        entity=Entity(*keys),
        hop=timedelta(microseconds=hop_us),
        ttl=timedelta(days=2),
        aggregates=aggregates,
    )


def every_aggregate(over: list[timedelta], where: Predicate | None = None, prefix: str = "a") -> list[Aggregate]:
    """Every kind of aggregate over every dtype that it takes, named apart."""
    out: list[Aggregate] = [
        Count(over=over, where=where, name=f"{prefix}_count"),
        Age(over=over, where=where, name=f"{prefix}_age"),
    ]
    options: dict[type[Aggregate], dict[str, Any]] = {CountDistinct: {"precision": 4}, LastN: {"n": 2}, TopK: {"k": 2}}
    for kind in (Sum, Mean, Variance, Std, Min, Max, First, Last, LastN, TopK, CountDistinct, Quantile):
        for column, dtype in (("x", "float64"), ("n", "int64"), ("s", "string"), ("b", "bool")):
            if dtype in kind.takes:
                out.append(kind(column, over=over, where=where, name=f"{prefix}_{kind.kind}_{column}", **options.get(kind, {})))
    return out


SCALES = (1, 7, 1_000_000, 300_000_000, HOUR)
"""Hops in microseconds."""


@st.composite
def predicates(draw: st.DrawFn, depth: int = 2) -> Predicate:
    """A filter over the fields of :func:`make_source`, nested up to ``depth``."""
    if depth and draw(st.booleans()):
        op = draw(st.sampled_from("&|~"))
        left = draw(predicates(depth=depth - 1))
        if op == "~":
            return ~left
        right = draw(predicates(depth=depth - 1))
        return left & right if op == "&" else left | right
    name, pool = draw(st.sampled_from([("x", FLOATS), ("n", INTS), ("s", TEXTS), ("b", (False, True))]))
    field = Field(name)
    op = draw(st.sampled_from(["==", "!=", "isin", "is_null", "not_null"] + ([] if name == "b" else [">", ">=", "<", "<="])))
    if op == "is_null":
        return field.is_null()
    if op == "not_null":
        return field.not_null()
    if op == "isin":
        return field.isin(draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3)))
    value = draw(st.sampled_from(pool))
    if op == "==":
        return field.eq(value)
    if op == "!=":
        return field.ne(value)
    return {">": field > value, ">=": field >= value, "<": field < value, "<=": field <= value}[op]


@st.composite
def aggregates(draw: st.DrawFn, hop_us: int, index: int = 0) -> Aggregate:
    """Any aggregate over any field that it takes, with one to three windows and perhaps a filter."""
    kind = draw(st.sampled_from(AGGREGATES))
    hops = draw(st.lists(st.sampled_from([1, 2, 3, 5, 12]), min_size=1, max_size=3, unique=True))
    over = [timedelta(microseconds=hop_us * k) for k in hops]
    where = draw(st.none() | predicates())
    options: dict[str, Any] = {}
    if kind.takes:
        types = {"x": "float64", "n": "int64", "s": "string", "b": "bool"}
        options["column"] = draw(st.sampled_from([c for c, dtype in types.items() if dtype in kind.takes]))
    if kind is LastN:
        options["n"] = draw(st.sampled_from([1, 2, 3, 10, 1000]))
    if kind is TopK:
        options["k"] = draw(st.sampled_from([1, 2, 3, 1000]))
    if kind is CountDistinct:
        options["precision"] = draw(st.sampled_from([4, 5, 11]))
    if kind is Quantile:
        options["q"] = draw(st.sampled_from([0.5, 0.9, 0.01, 0.25, 1 / 3, 0.999, 5e-324, 1 - 2**-53]))
    return kind(over=over, where=where, name=f"a{index}_{kind.kind}", **options)


@st.composite
def groups(draw: st.DrawFn, max_aggregates: int = 4) -> FeatureGroup:
    """A feature group: a simple or composite key, a string or int64 tie-breaker, any hop, delay and aggregates."""
    hop_us = draw(st.sampled_from(SCALES))
    source = make_source(tie_breaker=draw(st.sampled_from(["flight", "serial"])), delay_us=draw(st.sampled_from([0, 1, 60_000_000])))
    keys = draw(st.sampled_from([("origin",), ("gate",), ("origin", "gate"), ("gate", "origin")]))
    count = draw(st.integers(1, max_aggregates))
    return make_group([draw(aggregates(hop_us, i)) for i in range(count)], source=source, keys=keys, hop_us=hop_us)


# -------------------------------------------------------------------------------------------------------------- events


def values(dtype: str) -> st.SearchStrategy[Any]:
    """Valid values of a dtype: the nasty ones and any others; floats are finite."""
    if dtype == "float64":
        return st.sampled_from(FLOATS) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-50, 50).map(float)
    if dtype == "int64":
        return st.sampled_from(INTS) | st.integers(-(2**63), 2**63 - 1)
    if dtype == "string":
        return st.sampled_from(TEXTS) | st.text(st.characters(codec="utf-8"), max_size=20)
    if dtype == "bool":
        return st.booleans()
    return st.integers(0, 4 * 10**15)


@st.composite
def events(draw: st.DrawFn, group: FeatureGroup, max_size: int = 25) -> list[Event]:
    """A log of valid events: none, one, bursts, equal times, equal times and tie-breakers, whole duplicates, times on and
    next to the borders of hops, gaps as long as a window and longer. Times are not negative; the log is in no order."""
    hop, longest = group.hop_us, group.longest_us // group.hop_us
    steps = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, longest - 1, longest, longest + 1, 3 * longest])
    offsets = st.sampled_from([0, 0, 1, hop // 2, hop - 1]) | st.integers(0, hop - 1)
    at = draw(st.sampled_from([0, 1, 1_357_000_000_000_000 // hop, 2_000_000]))
    few_keys = draw(st.booleans())
    log: list[Event] = []
    for _ in range(draw(st.integers(0, max_size))):
        if log and draw(st.integers(0, 7)) == 0:
            log.append(dict(draw(st.sampled_from(log))))
            continue
        at += draw(steps)
        event: Event = {
            group.source.event_time: at * hop + min(draw(offsets), hop - 1),
            "origin": draw(st.sampled_from(KEY_STRINGS[:1] if few_keys else KEY_STRINGS)),
            "gate": draw(st.sampled_from([3] if few_keys else [0, 3, -1, 2**63 - 1, -(2**63)])),
            "flight": draw(st.sampled_from(TEXTS)),
            "serial": draw(st.sampled_from(INTS)),
        }
        for field in group.source.fields:
            if field.name not in event:
                event[field.name] = draw(st.none() | values(str(field.dtype)) | values(str(field.dtype)))
        log.append(event)
    return draw(st.permutations(log)) if draw(st.booleans()) else log


def event_lists(group: FeatureGroup, max_size: int = 25) -> st.SearchStrategy[list[Event]]:
    """Another name of :func:`events`, for use as an argument."""
    return events(group, max_size)


# ------------------------------------------------------------------------------------------------- batches and splits


def to_batch(log: list[Event], source: EventSource) -> pa.RecordBatch:
    """One batch of ``source.arrow_schema``."""
    schema = source.arrow_schema
    return pa.RecordBatch.from_arrays([pa.array([e.get(f.name) for e in log], type=f.type) for f in schema], schema=schema)


def to_batches(log: list[Event], source: EventSource, sizes: list[int] | None = None) -> list[pa.RecordBatch]:
    """The log, in its order, in batches of these sizes (the last takes what is left); by default one batch."""
    out, start = [], 0
    for size in sizes or []:
        out.append(to_batch(log[start : start + size], source))
        start += size
    return [*out, to_batch(log[start:], source)]


@st.composite
def deals(draw: st.DrawFn, items: list[T], max_hands: int = 4) -> list[list[T]]:
    """The items in a random order, dealt to one or more hands, some of which may stay empty."""
    hands: list[list[T]] = [[] for _ in range(draw(st.integers(1, max_hands)))]
    for item in draw(st.permutations(items)):
        hands[draw(st.integers(0, len(hands) - 1))].append(item)
    return hands


@st.composite
def splits(draw: st.DrawFn, log: list[Event], source: EventSource, max_batches: int = 4) -> list[pa.RecordBatch]:
    """The log in a random order as one or more batches, some of which may be empty."""
    return [to_batch(hand, source) for hand in draw(deals(log, max_batches))]
