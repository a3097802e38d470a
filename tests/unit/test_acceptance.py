"""FAULTS 20: a contract that accepts more is no redefinition; one that accepts less, or decides a value, is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from transforms.acceptance import accepts_more
from transforms.contract import check_json
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Mean, hours, minutes


def group(*fields: Field, over: int = 1) -> FeatureGroup:
    own = [Field("id", "string", required=True), Field("shop", "int64", required=True)]
    source = EventSource(
        name="orders", event_time="at", tie_breaker="id", fields=[*own, *fields], out_of_orderness=minutes(1), allowed_lateness=hours(1)
    )
    return FeatureGroup("shops", source, Entity("shop"), hours(1), hours(9), [Count(over=hours(over)), Mean("amount", over=hours(1))])


def compared(before: FeatureGroup, now: FeatureGroup) -> list[str] | None:
    return accepts_more(*(json.loads(json.dumps(g.canonical())) for g in (before, now)))


AMOUNT = Field("amount", "float64", min=0.0, max=9.0)
WORD = Field("word", "string", domain=("a", "b"))


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ([AMOUNT, WORD], []),
        ([Field("amount", "float64", min=-1.0), WORD], ["field 'amount': min 0.0 is -1.0", "field 'amount': max 9.0 is gone"]),
        ([AMOUNT, Field("word", "string", domain=("b", "c", "a"))], ["field 'word' takes 'c'"]),
        ([AMOUNT, Field("word", "string", domain=("b", "a"))], []),
        ([AMOUNT, Field("word", "string")], ["field 'word' takes any value"]),
        ([AMOUNT], ["field 'word' is not read any more"]),
        ([AMOUNT, WORD, Field("more", "int64")], ["field 'more' is new, and optional"]),
        # Its value was not looked at before: a rule of its own refuses events that were taken.
        ([AMOUNT, WORD, Field("more", "int64", min=0)], None),
        ([AMOUNT, WORD, Field("more", "string", domain=["a"])], None),
        ([AMOUNT, WORD, Field("more", "int64", required=True)], None),
        ([AMOUNT, Field("word", "string", domain=("a",))], None),
        ([AMOUNT, Field("word", "string", domain=("a", "b"), required=True)], None),
        ([Field("amount", "float64", min=0.5, max=9.0), WORD], None),
        ([Field("amount", "float64", min=0.0, max=8.0), WORD], None),
        ([Field("amount", "int64", min=0, max=9), WORD], None),
    ],
)
def test_what_accepts_more(now: list[Field], lines: list[str] | None) -> None:
    assert compared(group(AMOUNT, WORD), group(*now)) == lines


def test_what_decides_a_value_is_redefined() -> None:
    assert compared(group(AMOUNT), group(AMOUNT, over=2)) is None
    assert compared(group(Field("amount", "float64", required=True)), group(Field("amount", "float64"))) == [
        "field 'amount' may be missing"
    ]


BOUND = st.one_of(st.none(), st.integers(0, 4).map(float))


@st.composite
def contracts(draw: Any) -> FeatureGroup:
    low, high = draw(BOUND), draw(BOUND)
    if low is not None and high is not None and low > high:
        low, high = high, low
    words = draw(st.one_of(st.none(), st.sets(st.sampled_from("abc"), min_size=1)))
    return group(
        Field("amount", "float64", required=draw(st.booleans()), min=low, max=high),
        Field("word", "string", required=draw(st.booleans()), domain=tuple(sorted(words)) if words else None),
    )


EVENTS: list[dict[str, Any]] = [
    {"id": "x", "shop": 1, "at": 1_714_500_000_000_000, **amount, **word}
    for amount in [{}, *({"amount": float(n)} for n in range(-1, 6))]
    for word in [{}, *({"word": w} for w in "abcd")]
]
PAYLOADS = [json.dumps(event).encode() for event in EVENTS]


@given(contracts(), contracts())
@settings(max_examples=examples(200))
def test_what_was_accepted_is_accepted_by_a_contract_that_accepts_more(before: FeatureGroup, now: FeatureGroup) -> None:
    was, is_ = (set(taken(g)) for g in (before, now))
    assert compared(before, now) is None or was <= is_


def test_the_events_tell_contracts_apart() -> None:
    """The property above would hold of contracts that take nothing, or all."""
    assert taken(group(AMOUNT, WORD)) == [i for i, e in enumerate(EVENTS) if e.get("amount", 0) >= 0 and e.get("word", "a") in "ab"]


def taken(g: FeatureGroup) -> list[int]:
    """Which of the events the group's contract accepts."""
    found: list[int] = check_json(PAYLOADS, g.source, 2 * 10**15, 0).accepted.tolist()
    return found
