"""Every mistake in a definition is one DefinitionError on one line that names the definition, the value and the fix."""

import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from transforms.definitions import (
    Age,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    FeatureGroup,
    Field,
    LastN,
    Max,
    Mean,
    Predicate,
    Quantile,
    Sum,
    case,
    coalesce,
    col,
    days,
    duration_name,
    hours,
    minutes,
    seconds,
    when,
)
from transforms.errors import DefinitionError

FIELDS = [
    Field("origin", "string", required=True),
    Field("flight", "string", required=True),
    Field("dep_delay", "float64"),
    Field("note", "string"),
    Field("landed", "bool"),
]


def source(**changes):
    values = {"name": "departures", "fields": FIELDS, "event_time": "departed_at", "tie_breaker": "flight"}
    return EventSource(**{**values, **changes})


def group(*aggregates, **changes):
    values = {
        "name": "traffic",
        "source": source(),
        "entity": Entity("origin"),
        "hop": minutes(5),
        "ttl": hours(6),
        "aggregates": aggregates or (Count(over=hours(1)),),
    }
    return FeatureGroup(**{**values, **changes})


def untyped(value: Any) -> Any:
    """A value that a type checker would have refused already."""
    return value


MISTAKES = {
    # fields
    "field name": (lambda: Field("Dep Delay", "float64"), "field 'Dep Delay'", "lower-case words"),
    "field of another spelling": (
        lambda: Field("kiloWatt", "float64"),
        "field 'kiloWatt'",
        "write Field('kilo_watt', 'float64', path='kiloWatt')",
    ),
    "field of initials": (lambda: Field("userID", "string"), "field 'userID'", "Field('user_id', 'string', path='userID')"),
    "event time of another spelling": (
        lambda: source(event_time="departedAt"),
        "event time 'departedAt'",
        "write Field('departed_at', 'timestamp', path='departedAt')",
    ),
    "field name without letters": (lambda: Field("!", "string"), "field '!'", "e.g. 'dep_delay'"),
    "field name of ours": (lambda: Field("event_timestamp", "int64"), "field 'event_timestamp'", "choose another"),
    "field type": (lambda: Field("x", untyped("double")), "field 'x': dtype 'double'", "float64"),
    "empty domain": (lambda: Field("x", "string", domain=[]), "field 'x': an empty domain", "list the values"),
    "domain of floats": (lambda: Field("x", "float64", domain=[1.0]), "field 'x': a domain", "not 'float64'"),
    # FAULTS 32: what no event can have is said when it is written, not when the job runs (or never).
    "domain of another type": (lambda: Field("x", "int64", domain=[1, 2.0]), "field 'x': its domain holds 2.0", "values of that type"),
    "domain of truth values": (lambda: Field("x", "int64", domain=[True]), "its domain holds True, which is no int64", "values of that"),
    "domain with null": (lambda: Field("x", "string", domain=["a", None]), "its domain holds None, which is no string", "values of"),
    "domain beyond 64 bits": (lambda: Field("x", "int64", domain=[2**63]), "which is beyond 64 bits", "values of that type"),
    "domain of no text": (lambda: Field("x", "string", domain=["\ud800"]), "which is no valid text", "values of that type"),
    "domain that is a text": (lambda: Field("x", "string", domain="web"), "domain 'web' is a text", "write a list"),
    "bound that is none": (lambda: Field("x", "float64", min=float("nan")), "field 'x': min nan is no number", "leave it out"),
    "bound of another type": (lambda: Field("x", "int64", max=untyped("9")), "field 'x': max '9' is no number", "write one"),
    "one of none": (lambda: Field("x").isin([]), "filter 'x'.isin(())", "at least one value"),
    "one of the letters": (lambda: Field("x").isin("web"), "filter 'x'.isin('web')", "write a list"),
    "bounds of text": (lambda: Field("x", "string", min=0), "field 'x': min and max", "not 'string'"),
    "bounds the wrong way": (lambda: Field("x", "int64", min=3, max=2), "field 'x': min 3 is above max 2", "swap"),
    # filters
    "and of filters": (lambda: bool(Field("x") > 1), "a filter has no truth value", "& and |"),
    "filter of an unknown field": (
        lambda: group(Count(over=hours(1), where=Field("dely") > 1)),
        "'departures' has no field 'dely'",
        "dep_delay",
    ),
    "no filter": (lambda: Count(over=hours(1), where=untyped(True)), "aggregate Count(): where=True", "Field('carrier').eq('UA')"),
    # sources
    "source name": (lambda: source(name="Departures"), "source 'Departures'", "lower-case"),
    "field twice": (lambda: source(fields=[*FIELDS, FIELDS[0]]), "source 'departures': field 'origin' is there twice", "drop one"),
    "untyped field": (lambda: source(fields=[*FIELDS, Field("x")]), "source 'departures'", "write Field('name', 'float64')"),
    "no field": (lambda: source(fields=["origin"]), "source 'departures': 'origin' is no typed field", "write Field"),
    "event time as a field": (lambda: source(event_time="note"), "source 'departures': the event time 'note'", "drop it"),
    "unknown tie-breaker": (lambda: source(tie_breaker="serial"), "source 'departures': tie_breaker 'serial' is no field", "it has"),
    "optional tie-breaker": (lambda: source(tie_breaker="note"), "source 'departures': tie_breaker 'note'", "must be a required"),
    "negative delay": (lambda: source(out_of_orderness=minutes(-1)), "source 'departures': out_of_orderness -1 day", "zero or longer"),
    "delay as a number": (lambda: source(allowed_lateness=60), "source 'departures': allowed_lateness 60", "write minutes(5)"),
    "files by a pattern": (lambda: source(files="events/*.jsonl"), "files='events/*.jsonl' is no folder", "files='events/departures'"),
    "files as a list": (lambda: source(files=["events"]), "files=['events'] is no folder", "files='events/departures'"),
    # entities
    "no key": (lambda: Entity(), "an entity needs at least one key", "Entity('origin')"),
    "key twice": (lambda: Entity("origin", "origin"), "'origin'", "drop one"),
    "key name": (lambda: Entity("Origin"), "entity key 'Origin'", "lower-case"),
    "keys as a list": (lambda: Entity(untyped(["origin"])), "entity key ['origin'] is no text", "Entity('origin', 'dest')"),
    # aggregates
    "column of another spelling": (lambda: Mean("depDelay", over=hours(1)), "Mean(depDelay): field 'depDelay'", "write 'dep_delay'"),
    "no window": (lambda: Mean("dep_delay"), "aggregate Mean(dep_delay): no window", "give over="),
    "one window as a number": (
        lambda: Mean("dep_delay", over=untyped(3600)),
        "aggregate Mean(dep_delay): over=3600",
        "write over=hours(1)",
    ),
    "window as a number": (lambda: Mean("dep_delay", over=[untyped(3600)]), "aggregate Mean(dep_delay): window 3600", "write minutes(5)"),
    "window of zero": (lambda: Mean("dep_delay", over=timedelta(0)), "aggregate Mean(dep_delay): window 0:00:00", "longer than zero"),
    "window twice": (lambda: Count(over=[hours(1), minutes(60)]), "aggregate Count(): a window is there twice", "drop one"),
    "no column": (lambda: Sum(over=hours(1)), "aggregate Sum(): needs a field name", "e.g."),
    "column not taken": (
        lambda: Count("dep_delay", over=hours(1)),
        "aggregate Count(dep_delay): takes no field",
        "where=Field('dep_delay')",
    ),
    "age of a column": (lambda: Age("dep_delay", over=hours(1)), "aggregate Age(dep_delay): takes no field", "not_null"),
    "aggregate name": (lambda: Count(over=hours(1), name="Late!"), "aggregate Count(): name 'Late!'", "lower-case"),
    "last none": (lambda: LastN("dep_delay", n=0, over=hours(1)), "aggregate LastN(dep_delay): n=0", "from 1 to 1000"),
    "last too many": (lambda: LastN("dep_delay", n=1001, over=hours(1)), "n=1001", "from 1 to 1000"),
    "precision": (
        lambda: CountDistinct("note", precision=17, over=hours(1)),
        "aggregate CountDistinct(note): precision=17",
        "from 4 to 16",
    ),
    "quantile of one": (lambda: Quantile("dep_delay", q=1.0, over=hours(1)), "aggregate Quantile(dep_delay): q=1.0", "between 0 and 1"),
    "quantile in percent": (lambda: Quantile("dep_delay", q=90, over=hours(1)), "q=90", "e.g. 0.9"),
    # groups
    "group name": (lambda: group(name="Traffic"), "feature group 'Traffic'", "lower-case"),
    "source by name": (lambda: group(source="departures"), "feature group 'traffic'", "source=EventSource"),
    "entity by name": (lambda: group(entity="origin"), "feature group 'traffic'", "entity=Entity"),
    "source that is a name": (lambda: group(source="departures"), "source='departures' is no EventSource", "or its variable"),
    "entity that is a name": (lambda: group(entity="origin"), "entity='origin' is no Entity", "entity=Entity('origin')"),
    "one aggregate": (lambda: group(aggregates=Count(over=hours(1))), "is no list", "aggregates=[Count(over=hours(1))]"),
    "hop of zero": (lambda: group(hop=timedelta(0)), "feature group 'traffic': hop 0:00:00", "longer than zero"),
    "ttl as a number": (lambda: group(ttl=3600), "feature group 'traffic': ttl 3600", "write minutes(5)"),
    "no aggregates": (lambda: group(aggregates=[]), "feature group 'traffic': no aggregates", "give at least"),
    "no aggregate": (lambda: group("dep_delay"), "feature group 'traffic': 'dep_delay' is no aggregate", "use one of Count"),
    "unknown key": (lambda: group(entity=Entity("carrier")), "'departures' has no field 'carrier'", "it has origin"),
    "optional key": (lambda: group(entity=Entity("note")), "feature group 'traffic': entity key 'note'", "must be a required"),
    "float key": (lambda: group(entity=Entity("dep_delay")), "feature group 'traffic': entity key 'dep_delay'", "string or int64"),
    "unknown column": (lambda: group(Mean("delay", over=hours(1))), "'departures' has no field 'delay'", "it has origin"),
    "mean of text": (lambda: group(Mean("note", over=hours(1))), "feature group 'traffic': Mean('note')", "but the field is string"),
    "max of a bool": (lambda: group(Max("landed", over=hours(1))), "feature group 'traffic': Max('landed')", "but the field is bool"),
    "window between hops": (lambda: group(Count(over=minutes(7))), "window 7m of 'count'", "whole number of hops of 5m"),
    "two of one name": (
        lambda: group(Count(over=hours(1)), Count(over=hours(1), where=Field("landed").eq(True))),
        "feature group 'traffic': two columns would be called 'count_1h'",
        "name=",
    ),
    "function itself": (lambda: group(preprocessing_fn=len), "preprocessing_fn <built-in function len>", "'preprocessing:traffic'"),
    "function as a path": (lambda: group(preprocessing_fn="preprocessing.py"), "preprocessing_fn 'preprocessing.py'", "'module:function'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(mistake):
    make, names, fix = MISTAKES[mistake]
    with pytest.raises(DefinitionError) as e:
        make()
    message = str(e.value)
    assert "\n" not in message
    assert names in message and fix in message, message


# What a filter compares with must be of the field's type; said when the group is made, not when the first event comes.
FILTERS = {
    "text for a number": (Field("dep_delay") > "15", "dep_delay"),
    "number for a text": (Field("note").eq(3), "note"),
    "null": (Field("dep_delay").eq(None), "dep_delay"),
    "beyond a float": (Field("dep_delay") > 2**53 + 1, "dep_delay"),
    "one of other types": (Field("dep_delay").isin([1.0, "x"]), "dep_delay"),
}


@pytest.mark.parametrize("mistake", FILTERS)
def test_a_filter_of_another_type_is_a_mistake_of_the_group(mistake):
    where, name = FILTERS[mistake]
    with pytest.raises(DefinitionError) as e:
        group(Count(over=hours(1), where=where))
    assert "feature group 'traffic'" in str(e.value) and name in str(e.value) and "\n" not in str(e.value)


BOUNDED = [
    Field("flight", "string", required=True),
    Field("origin", "string", required=True, domain=["EWR", "JFK"]),
    Field("legs", "int64", min=1, max=4),
    Field("delay", "float64", max=10.5),
    Field("gate", "int64", domain=[1, 2]),
]
REACHED = [
    (Field("origin").eq("JFK"), Field("origin").eq("LGA")),
    (Field("origin").isin(["EWR", "JFK"]), Field("origin").isin(["EWR", "LGA"])),
    (Field("origin").ne("JFK"), Field("origin").ne("jfk")),
    (Field("gate").eq(2), ~Field("gate").eq(3)),
    (Field("gate") >= 2, Field("gate") > 2),
    (Field("gate") < 2, Field("gate") < 1),
    (Field("origin") > "EWR", Field("origin") > "JFK"),
    (Field("legs") > 3, Field("legs") > 4),
    (Field("legs") >= 4, Field("legs") >= 5),
    (Field("legs") < 2, Field("legs") < 1),
    (Field("legs") <= 1, Field("legs") <= 0),
    (Field("legs").eq(1), (Field("legs") > 1) & Field("legs").eq(0)),
    (Field("delay") > -1e9, Field("delay") > 10.5),
    (Field("delay") < 1e9, Field("delay").eq(11)),
]


@pytest.mark.parametrize(("possible", "impossible"), REACHED)
def test_a_filter_that_the_contract_lets_nothing_pass_is_a_mistake(possible: Predicate, impossible: Predicate) -> None:
    """FAULTS 32: a value outside of the field's domain was accepted, and counted 0 for ever."""
    bounded = source(fields=BOUNDED)
    group(Count(over=hours(1), where=possible), source=bounded)
    with pytest.raises(DefinitionError, match=r"filter of 'count': no accepted event has .*: correct one of both$"):
        group(Count(over=hours(1), where=impossible), source=bounded)


@pytest.mark.parametrize(
    ("possible", "impossible"),
    [
        (col("origin").lower() == "jfk", col("origin").lower() == "JFK"),
        (coalesce(col("gate"), 9) == 9, coalesce(col("gate"), 9) == 8),
        (col("gate").is_null(), col("origin").is_null()),
        (Field("origin").not_null(), Field("gate").not_null() & Field("origin").is_null()),
        (col("gate") + 1 == 3, col("gate") + 1 == 4),
        (col("origin").starts_with("J") & (col("delay") > 3), (col("delay") > 3) & col("origin").starts_with("j")),
        ((col("gate").cast("string") == "3") | (col("delay") > 3), (col("gate").cast("string") == "3") & (col("delay") > 3)),
        ((col("gate") + 1 == 4) | (col("gate") + 1 == 3), (col("gate") + 1 == 4) | (col("gate") + 1 == 5)),
        (case(when(col("origin") == "JFK", col("gate")), otherwise=0) == 2, case(when(col("gate") == 1, 5), otherwise=0) == 2),
    ],
)
def test_an_expression_that_no_value_of_a_domain_passes_is_a_mistake(possible: Any, impossible: Any) -> None:
    """FAULTS 32: as a comparison that no value passes: functions of a field, conditions, and what null is to them."""
    bounded = source(fields=BOUNDED)
    group(Count(over=hours(1), where=possible), source=bounded)
    with pytest.raises(DefinitionError, match=r"filter of 'count': no accepted event passes .*; the domain is of .*: correct one of both$"):
        group(Count(over=hours(1), where=impossible), source=bounded)


@pytest.mark.parametrize(
    ("possible", "impossible"),
    [
        (col("origin") == "JFK", col("origin") == "LGA"),
        (col("origin") != "LGA", col("origin").isin(["LGA", "SFO"])),
        (col("origin").isin(["JFK", "LGA"]), (col("origin") == "JFK") & (col("origin") == "EWR")),
        (~(col("origin") == "LGA"), (col("origin") == "LGA") & (col("delay") > 3)),
        (col("legs") >= 4, col("legs") > 4),
        (col("origin").upper() == "JFK", col("origin").lower() == "JFK"),
        ((col("gate") == 3) | (col("origin") == "JFK"), (col("gate") == 3) | (col("origin") == "LGA")),
        ((col("legs") > 20) | (col("gate") == 1), (col("legs") > 20) | (col("gate") == 3)),
        (col("origin").is_null() | (col("legs") > 3), col("origin").is_null() & (col("legs") > 20)),
        (col("origin").is_null(), Field("origin").eq("LGA") | Field("legs").eq(0)),
        (coalesce(col("origin"), "none") == "none", coalesce(col("origin"), "none") == "LGA"),
    ],
)
def test_a_source_of_which_no_event_can_be_accepted_is_a_mistake(possible: Any, impossible: Any) -> None:
    """FAULTS 32: what a source's own ``where`` lets pass, its domains refuse. What it passes over may be outside of them."""
    source(fields=BOUNDED, where=possible)
    with pytest.raises(DefinitionError, match=r"source 'departures': where: no accepted event .*: correct one of both$"):
        source(fields=BOUNDED, where=impossible)


@pytest.mark.parametrize(
    ("duration", "name"),
    [
        (hours(24), "24h"),
        (days(1), "24h"),
        (days(7), "7d"),
        (minutes(90), "90m"),
        (hours(36), "36h"),
        (seconds(90), "90s"),
        (timedelta(microseconds=1500), "1500us"),
    ],
)
def test_names_of_durations(duration, name):
    assert duration_name(duration) == name


def test_what_can_change_a_value_changes_the_hash_and_prose_does_not():
    base = group().definition_hash()
    assert group(description="words", ttl=hours(9)).definition_hash() == base
    assert group(source=source(files="elsewhere", topic="t", description="words")).definition_hash() == base
    changed = [
        group(hop=minutes(10)),
        group(Count(over=hours(2))),
        group(Count(over=hours(1), where=Field("dep_delay") > 15)),
        group(Count(over=hours(1), where=Field("dep_delay") > 16)),
        group(source=source(out_of_orderness=minutes(1))),
        group(source=source(fields=[*FIELDS[:2], Field("dep_delay", "float64", max=10), *FIELDS[3:]])),
        group(entity=Entity("flight")),
    ]
    hashes = {g.definition_hash() for g in changed}
    assert len(hashes) == len(changed) and base not in hashes


def test_columns_of_a_row():
    g = group(Count(over=[hours(1), days(2)]), LastN("note", n=2, over=hours(1)), Mean("dep_delay", over=hours(1)))
    assert g.row_schema.names == [
        "origin",
        "event_timestamp",
        "count_1h",
        "count_2d",
        "note_last_2_1h",
        "dep_delay_mean_1h",
        "tandem_revision",
    ]
    assert [f.nullable for f in g.row_schema] == [False, False, False, False, False, True, False]


def test_a_domain_that_is_a_set_is_the_same_in_every_process() -> None:
    """FAULTS 20: the order of a set of texts differs from process to process, and would redefine the group."""
    script = "from transforms.definitions import Field; print(Field('x', 'string', domain={'web', 'app', 'till', 'phone', 'post'}).domain)"
    made = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(made) == 1
