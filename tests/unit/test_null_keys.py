"""FAULTS 28: an event without an entity key is a dead letter, no event of the group, or one of a key that stands for none; by group."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle import rows as oracle_rows
from tests.oracle.compare import differences, to_dicts
from transforms.aggregates import keyed, merge, rows_between, tile, tiles_of, with_keys
from transforms.contract import check
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Mean, Sum, hours, minutes
from transforms.errors import DefinitionError
from transforms.fold import OFFSET, OffsetRange, Shard

HOUR = 3_600_000_000
T = 1_700_000_000_000_000 // HOUR * HOUR
SOURCE = EventSource(
    name="orders",
    fields=[Field("order", "string", required=True), Field("shop", "int64"), Field("city", "string"), Field("amount", "int64")],
    event_time="at",
    tie_breaker="order",
    allowed_lateness=hours(48),
)


def group(null_keys: Any, *keys: str) -> FeatureGroup:
    return FeatureGroup(
        name="by_key",
        source=SOURCE,
        entity=Entity(*(keys or ("city",))),
        hop=minutes(30),
        ttl=hours(9),
        aggregates=[Count(over=[hours(1), hours(3)]), Sum("amount", over=hours(1))],
        null_keys=null_keys,
    )


POLICIES = [
    group("drop"),
    group({"city": "unknown"}),
    group("drop", "shop", "city"),
    group({"city": "b", "shop": -1}, "shop", "city"),
    group({"shop": 0}, "shop", "city"),
]
EVENTS = st.lists(
    st.fixed_dictionaries({
        "at": st.integers(0, 40).map(lambda n: T + n * HOUR // 7),
        "order": st.sampled_from("abc"),
        "shop": st.sampled_from([None, 0, 1]),
        "city": st.sampled_from([None, "", "b", "unknown"]),
        "amount": st.sampled_from([None, 1, 5]),
    }),
    max_size=25,
)  # fmt: skip


def batch_of(events: list[dict[str, Any]]) -> pa.RecordBatch:
    schema = SOURCE.arrow_schema
    return pa.RecordBatch.from_arrays([pa.array([e.get(f.name) for e in events], f.type) for f in schema], schema=schema)


TOGETHER = [
    *POLICIES,
    replace(POLICIES[0], aggregates=[Sum("amount", where=Field("amount") > 1, over=hours(1)), Mean("amount", over=hours(2))]),
    replace(POLICIES[0], aggregates=[Sum("amount", over=hours(2)), Count(where=Field("amount") > 1, over=hours(1))]),
    replace(POLICIES[0], hop=minutes(60)),
]


@settings(max_examples=examples(30))
@given(events=EVENTS)
def test_tiles_of_groups_made_together_are_those_made_one_by_one(events: list[dict[str, Any]]) -> None:
    """Issue 10: groups of one topic share what they can, and nothing else."""
    batch = batch_of(events)
    for of, made in zip(TOGETHER, tiles_of(batch, TOGETHER), strict=True):
        assert made.equals(tile(batch, of))


@pytest.mark.parametrize("number", range(len(POLICIES)))
@settings(max_examples=examples(30))
@given(events=EVENTS, cut=st.integers(0, 25))
def test_rows_are_the_oracles(number: int, events: list[dict[str, Any]], cut: int) -> None:
    """FAULTS 28."""
    of = POLICIES[number]
    batch = batch_of(events)
    tiles = merge([tile(batch.slice(0, cut), of), tile(batch.slice(cut), of)], of)
    got = rows_between(tiles, of, T - HOUR, T + 12 * HOUR)
    assert not differences(to_dicts(got), oracle_rows(events, of, T - HOUR, T + 12 * HOUR))


@pytest.mark.parametrize("number", range(len(POLICIES)))
@settings(max_examples=examples(30))
@given(events=EVENTS)
def test_a_stream_folds_the_same_events(number: int, events: list[dict[str, Any]]) -> None:
    """FAULTS 28: corrections of rows that are out go to the keys that the group gives."""
    of = POLICIES[number]
    shard = Shard({of.name: of}, {of.name: T - HOUR}, {})
    delivered: dict[tuple[Any, ...], Any] = {}
    for i, event in enumerate(events):
        one = batch_of([event])
        one = pa.RecordBatch.from_arrays([*one.columns, pa.array([i])], [*one.schema.names, OFFSET])
        mark = T + (12 if i == len(events) - 1 else 2) * HOUR
        span = OffsetRange("orders", 0, 1, 0, i, i + 1, T, T, mark)
        assert shard.accepts(span)
        for rows in shard.fold(span, {of.name: one}).rows.values():
            delivered.update({tuple(row[k] for k in (*of.entity.keys, "event_timestamp")): row for row in to_dicts(rows)})
    assert not differences([row for _, row in sorted(delivered.items())], oracle_rows(events, of, T - HOUR, T + 12 * HOUR))


def test_the_events_of_a_group() -> None:
    """FAULTS 28: columns beside the source's stay, for batches and tables."""
    events = batch_of([{"at": T, "order": "a", "city": None}, {"at": T, "order": "b", "city": "x"}])
    for form in (events, pa.Table.from_batches([events, events])):
        assert keyed(form, group("drop")).column("city" if isinstance(form, pa.Table) else 3).to_pylist().count("x") == form.num_rows // 2
        filled = with_keys(form, group({"city": "?"}))
        assert type(filled) is type(form)
        assert filled.schema == form.schema
        assert set(filled.to_pydict()["city"]) == {"?", "x"}
        assert keyed(form, group(None, "order")) is form


def test_the_contract_takes_such_an_event() -> None:
    """FAULTS 28: other groups of the source have it."""
    checked = check(batch_of([{"at": T, "order": "a"}]), SOURCE, T + 1, 0)
    assert checked.valid.num_rows == 1


def test_a_policy_is_part_of_the_fingerprint_and_only_where_there_is_one() -> None:
    """FAULTS 28: what is stored already keeps its fingerprint."""
    hashes = [group("drop").definition_hash(), group({"city": "?"}).definition_hash(), group({"city": "!"}).definition_hash()]
    assert len(set(hashes)) == 3
    assert "null_keys" not in group(None, "order").canonical()
    again = pickle.loads(pickle.dumps(group({"city": "?"})))
    assert again == group({"city": "?"})
    assert hash(again) == hash(group({"city": "?"}))


@pytest.mark.parametrize(
    ("null_keys", "keys", "says"),
    [
        (None, (), "must be a required string or int64 field .* or the group says what events without it are: null_keys='drop'"),
        ("keep", (), "null_keys='keep' is neither 'drop' nor a value for each key"),
        ({}, (), "must be a required"),
        (["city"], (), "is neither 'drop' nor a value"),
        ({"shop": 1}, (), "names 'shop', which is no key that may be null; those are city"),
        ({"city": 1}, (), "'city' is string and cannot be compared with 1"),
        ({"shop": True}, ("shop",), "'shop' is int64 and cannot be compared with True"),
        ("drop", ("order",), "each of its keys is a required field"),
    ],
)
def test_mistakes(null_keys: Any, keys: tuple[str, ...], says: str) -> None:
    """FAULTS 28."""
    with pytest.raises(DefinitionError, match=says):
        group(null_keys, *keys)
