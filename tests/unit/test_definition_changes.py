"""What was redefined, in words, and what it costs: one line per thing that differs, free only where values and accepted events stay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.planning.definition_changes import definition_changes, same_rows
from transforms.acceptance import accepts_more
from transforms.definitions import (
    Count,
    Decimal,
    Entity,
    Epoch,
    EventSource,
    FeatureGroup,
    Field,
    Header,
    Mean,
    Quantile,
    Sum,
    TimeFormat,
    case,
    col,
    days,
    hours,
    minutes,
    when,
)  # fmt: skip

AMOUNT = Field("amount", "float64", min=0, max=100)
CHANNEL = Field("channel", "string", domain=["app", "web"])
KEYS = [Field("id", "string", required=True), Field("shop", "int64", required=True), Field("tie", "int64", required=True)]
COUNT = Count(over=[hours(1), hours(24)])


def group(
    fields: list[Field] | None = None, aggregates: list[Any] | None = None, hop: int = 5, keys: tuple[str, ...] = ("shop",),
    null_keys: Any = None, **source: Any,
) -> dict[str, Any]:  # fmt: skip
    """The canonical form of a group of orders."""
    kept: dict[str, Any] = {"event_time": "at", "tie_breaker": "tie", "out_of_orderness": minutes(1), "allowed_lateness": hours(1)}
    made = FeatureGroup(
        name="shops", source=EventSource(name="orders", fields=[*KEYS, *(fields or [AMOUNT, CHANNEL])], **{**kept, **source}),
        entity=Entity(*keys), hop=minutes(hop), ttl=None, null_keys=null_keys,
        aggregates=aggregates or [COUNT, Mean("amount", over=hours(1)), Sum("amount", where=col("amount") > 5, over=hours(1))],
    )  # fmt: skip
    canonical: dict[str, Any] = json.loads(json.dumps(made.canonical()))
    return canonical


def said(now: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    return [str(c) for c in definition_changes(before or group(), now)]


READS = "every value that reads it: amount_mean_1h, amount_sum_1h"


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (group(), []),
        (group([AMOUNT, Field("channel", "string", domain=["app", "web", "tv"])]), ["field 'channel' takes 'tv': nothing is recomputed"]),
        (group([Field("amount", "float64", min=0, max=200), CHANNEL]), ["field 'amount': max 100 is 200: nothing is recomputed"]),
        (
            group([Field("amount", "float64", min=0, max=50), CHANNEL]),
            ["field 'amount': max 100 -> 50: events that were accepted are rejected"],
        ),
        (
            group([Field("amount", "float64", min=-5, max=50), CHANNEL]),
            ["field 'amount': min 0 -> -5: nothing by itself", "field 'amount': max 100 -> 50: events that were accepted are rejected"],
        ),
        (
            group([AMOUNT, Field("channel", "string", domain=["app", "tv"])]),
            ["field 'channel': domain 'app', 'web' -> 'app', 'tv': events that were accepted are rejected"],
        ),
        (
            group([Field("amount", "float64", required=True, min=0, max=100), CHANNEL]),
            ["field 'amount': required False -> True: events that were accepted are rejected"],
        ),
        (
            group([Field("amount", "float64", min=0, max=100, path="after.amount"), CHANNEL]),
            [f"field 'amount': path amount -> after.amount: {READS}"],
        ),
        (
            group([Field("amount", "float64", min=0, max=100, path=Header("x-amount"), parse=Decimal(scale=2)), CHANNEL]),
            [f"field 'amount': path amount -> Header('x-amount'): {READS}", f"field 'amount': parse none -> Decimal(scale=2): {READS}"],
        ),
        (
            group([Field("amount", "float64", min=0, max=100, value=col("shop") * 2.5), CHANNEL]),
            [f"field 'amount': value none -> col(\"shop\") * 2.5: {READS}"],
        ),
        (
            group([Field("amount", "int64", min=0, max=100), CHANNEL]),
            [f"field 'amount': type float64 -> int64: {READS}"],
        ),
        (
            group([AMOUNT, Field("channel", "string", domain=["app", "web"], path="via.channel")]),
            ["field 'channel': path channel -> via.channel: no feature reads it, but events where it cannot be read are rejected"],
        ),
        (group([AMOUNT, CHANNEL, Field("note", "string")]), ["field 'note' is new, and optional: nothing is recomputed"]),
        (
            group([AMOUNT, CHANNEL, Field("note", "string", required=True)]),
            ["field 'note' is new: its rules reject events that were accepted"],
        ),
        (group([AMOUNT]), ["field 'channel' is not read any more: nothing is recomputed"]),
        (
            group(event_time=Field("at", "timestamp", parse=Epoch("ms"))),
            ["event time 'at': parse none -> Epoch('ms'): every row"],
        ),
        (group(event_time="seen_at"), ["source orders: event_time at -> seen_at: every row"]),
        (group(out_of_orderness=minutes(2)), ["source orders: out_of_orderness 1m -> 2m: the event timestamp of every row"]),
        (group(allowed_lateness=hours(2)), []),
        (
            group(where=(col("channel") == "web") & (col("amount") > 1)),
            [
                'source orders: where none -> (col("channel") == \'web\') & (col("amount") > 1): every row: other events are accepted',
            ],
        ),
        (group(hop=10), ["hop: 5m -> 10m: every row, at other times"]),
        (group(keys=("shop", "id")), ["keys: shop -> shop, id: every row"]),
        (
            group(aggregates=[Count(over=[hours(1), hours(24), days(7)]), *[Mean("amount", over=hours(1))]]),
            ["aggregate count: window 7d added: column count_7d added", "aggregate amount_sum is gone: column amount_sum_1h removed"],
        ),
        (
            group(aggregates=[COUNT, Mean("amount", over=hours(1)), Sum("amount", where=Field("amount") > 9, over=hours(1))]),
            ["aggregate amount_sum: where col(\"amount\") > 5 -> amount > 9: every value of column amount_sum_1h"],
        ),
    ],
)  # fmt: skip
def test_each_change_is_named_with_what_it_costs(now: dict[str, Any], lines: list[str]) -> None:
    assert said(now) == lines


def test_a_unit_of_time_is_every_row_of_the_event_time_and_the_readers_of_a_field() -> None:
    before = group(event_time=Field("at", "timestamp", parse=Epoch("s")))
    assert said(group(event_time=Field("at", "timestamp", parse=Epoch("ms"))), before) == [
        "event time 'at': parse Epoch('s') -> Epoch('ms'): every row"
    ]
    was, now = ([AMOUNT, Field("sent", "timestamp", parse=p)] for p in (Epoch("s"), TimeFormat("%d.%m.%Y", zone="UTC")))
    assert said(group(now), group(was))[0].startswith("field 'sent': parse Epoch('s') -> TimeFormat(")


def test_what_computed_fields_and_filters_read_is_followed() -> None:
    """A key, a filter of the source and aggregates may depend on a field by way of computed ones."""
    cents = Field("cents", "float64", value=case(when(col("amount") > 1, col("amount") * 100), otherwise=0.0))
    for aggregates in ([Mean("cents", over=hours(1))], [Count(where=col("cents") > 5, over=hours(1), name="cents_mean")]):
        fields = [AMOUNT, cents]
        other = [Field("amount", "float64", min=0, max=100, path="sum"), cents]
        assert said(group(other, aggregates), group(fields, aggregates)) == [
            "field 'amount': path amount -> sum: every value that reads it: cents_mean_1h"
        ]
    shop = [KEYS[0], Field("shop", "int64", required=True, path="store.id"), KEYS[2]]
    now = json.loads(json.dumps(group()))
    now["source"]["fields"] = json.loads(json.dumps([f.canonical() for f in [*shop, AMOUNT, CHANNEL]]))
    assert said(now) == ["field 'shop': path shop -> store.id: every row, as it is a key"]
    chosen: dict[str, Any] = {"where": col("channel") == "web"}
    moved = [AMOUNT, Field("channel", "string", domain=["app", "web"], path="via")]
    assert said(group(moved, **chosen), group(**chosen)) == [
        "field 'channel': path channel -> via: every row, as it decides which events are accepted"
    ]


BOUNDS = st.none() | st.integers(0, 3)
WORDS = st.none() | st.lists(st.sampled_from(["a", "b", "c", "app", "web"]), min_size=1, unique=True)


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(BOUNDS), draw(st.none() | st.integers(4, 6))
    amount = Field(
        "amount", draw(st.sampled_from(["float64", "int64"])), required=draw(st.booleans()), min=low, max=high,
        path=draw(st.sampled_from([None, "a.b"])),
    )  # fmt: skip
    channel = Field("channel", "string", domain=draw(WORDS))
    windows = draw(st.lists(st.sampled_from([hours(1), hours(2), days(1)]), min_size=1, unique=True))
    some = [Count(over=windows), Mean("amount", over=hours(1)), Quantile("amount", q=0.5, over=hours(2))]
    return group(
        [amount, channel][: draw(st.integers(1, 2))], some[: draw(st.integers(1, 3))], hop=draw(st.sampled_from([5, 10])),
        out_of_orderness=minutes(draw(st.integers(0, 1))),
    )  # fmt: skip


@given(definitions(), definitions())
def test_only_what_accepts_more_is_free(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Equal ones have no line; those of which the graph is carried over free ones alone; all others at least one that costs."""
    changes, wider = definition_changes(before, now), accepts_more(before, now)
    assert all(c.what and c.effect for c in changes)
    if before == now:
        assert changes == [] and same_rows(before, now)
    elif wider is not None:
        assert [c.what for c in changes] == wider and all(c.free for c in changes)
    else:
        assert any(not c.free for c in changes)
