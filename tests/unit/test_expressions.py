"""Every function of the expression language against plain Python, row by row: alone, among others, at the borders, with nulls."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.examples import examples
from tests.oracle import expressions as oracle
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours
from transforms.errors import DefinitionError
from transforms.expressions import Expression, case, coalesce, col, concat, formula_of, lit, max_of, min_of, seconds_between, when
from transforms.reasons import CODE, OK

ARROW = {
    "int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(), "timestamp": pa.int64(),
    "list<string>": pa.list_(pa.string()),
}  # fmt: skip
TYPES = {
    "i": "int64", "j": "int64", "x": "float64", "y": "float64", "s": "string", "t": "string", "b": "bool", "c": "bool",
    "at": "timestamp", "then": "timestamp", "tags": "list<string>",
}  # fmt: skip
PAIRS = tuple(TYPES.items())
REASON = {code: reason for reason, code in CODE.items()}
ZONES = ("UTC", "Europe/Paris", "America/New_York", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "America/Havana")
PARTS = ("year", "month", "day", "hour", "minute", "second", "weekday")
YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999

integers = st.one_of(
    st.sampled_from([0, 1, -1, 2, -2, 7, -7, 10, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-20, 20),
)
MOST = sys.float_info.max
reals = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 5e-324, -5e-324, 2.2e-308, MOST, -MOST, 0.1, 1e16, 1e22]),
    st.floats(),
    st.integers(-20, 20).map(float),
)
finite = st.floats(allow_nan=False, allow_infinity=False)
WORDS = [
    "", "a", "ab", " a ", "\x1ca\x1f", "A", "ß", "İ", "ΑΣ", "\u2003x\u2003", "日本", "😀a", "12", "-7", "+5", "007", "1e5", ".5", "1_0",
    "nan", "Infinity", "9223372036854775808", "-9223372036854775808", "1e999", "true", "false", "2024-05-01T10:00:00Z",
    "0001-01-01T00:00:00+14:00", "2024-02-30T00:00:00Z", "2024-03-31T02:30:00.1234567+02:00", "\uff11\uff12",
]  # fmt: skip
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=6))
# Daylight saving changes in Paris, New York, São Paulo (at midnight) and Havana.
CHANGES = [
    1_711_846_800, 1_729_990_800, 1_710_054_000, 1_730_613_600, 1_541_300_400, 1_550_368_800, 1_710_046_800, 1_730_606_400,
]  # fmt: skip
moments = st.one_of(
    st.sampled_from([0, YEAR_1, YEAR_9999, YEAR_1 - 1, YEAR_9999 + 1, 2**63 - 1, -(2**63), -1]),
    st.integers(YEAR_1 + 3 * 86_400_000_000, YEAR_9999 - 3 * 86_400_000_000),
    st.integers(1_500_000_000, 1_800_000_000).map(lambda s: s * 1_000_000),
    st.builds(lambda at, quarter: (at + quarter * 900) * 1_000_000 + 5, st.sampled_from(CHANGES), st.integers(-8, 8)),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": integers, "float64": reals, "string": words, "bool": st.booleans(), "timestamp": moments,
    "list<string>": st.lists(st.one_of(st.none(), words), max_size=3),
}  # fmt: skip
events = st.fixed_dictionaries({name: st.one_of(st.none(), VALUES[dtype]) for name, dtype in TYPES.items()})


@cache
def expression(dtype: str, depth: int = 2) -> st.SearchStrategy[Expression]:
    """Any expression of a type."""
    leaves: list[st.SearchStrategy[Expression]] = [st.sampled_from([col(n) for n, t in TYPES.items() if t == dtype])]
    if dtype == "bool":
        leaves.append(st.booleans().map(lit))
    if dtype == "int64":  # one beyond 2^53 beside a float64 is a mistake of its own
        leaves.append(integers.filter(lambda v: abs(v) <= 2**53).map(lit))
    if dtype == "float64":
        leaves.append(finite.map(lit))
    if dtype == "string":
        leaves.append(words.map(lit))
    if dtype == "timestamp":
        leaves.append(st.integers(YEAR_1, YEAR_9999).map(lambda us: lit(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us))))
    if depth == 0:
        return st.one_of(leaves)

    def e(t: str) -> st.SearchStrategy[Expression]:
        return st.deferred(lambda: expression(t, depth - 1))

    zone = st.sampled_from(ZONES)
    whole = st.integers(0, 4)
    made: list[st.SearchStrategy[Expression]] = [
        st.builds(lambda *args: coalesce(*args), e(dtype), e(dtype)),
        st.builds(lambda c, v, o: case(when(c, v), otherwise=o), e("bool"), e(dtype), st.one_of(st.none(), e(dtype))),
        st.builds(lambda c, d, v, w: case(when(c, v), when(d, w)), e("bool"), e("bool"), e(dtype), e(dtype)),
    ]
    number = st.one_of(e("int64"), e("float64"))
    if dtype == "int64":
        made += [
            st.builds(lambda op, a, b: op(a, b), operators("+", "-", "*", "//", "%"), e("int64"), e("int64")),
            st.builds(lambda a: -a, e("int64")),
            st.builds(abs, e("int64")),
            st.builds(lambda a: a.length(), st.one_of(e("string"), st.just(col("tags")))),
            st.builds(
                lambda p, a, z: getattr(a, p)(z),
                st.sampled_from(PARTS),
                e("timestamp"),
                zone,
            ),
            st.builds(lambda a: a.cast("int64"), st.one_of(e("float64"), e("string"), e("timestamp"), e("bool"))),
            st.builds(lambda f, a, b: f(a, b), st.sampled_from([min_of, max_of]), e("int64"), e("int64")),
        ]
    if dtype == "float64":
        made += [
            st.builds(lambda op, a, b: op(a, b), operators("+", "-", "*", "/", "//", "%"), number, e("float64")),
            st.builds(lambda a, b: a / b, e("int64"), e("int64")),
            st.builds(lambda how, a: getattr(a, how)(), st.sampled_from(["floor", "ceil", "round", "abs"]), e("float64")),
            st.builds(lambda a: -a, e("float64")),
            st.builds(seconds_between, e("timestamp"), e("timestamp")),
            st.builds(lambda a: a.cast("float64"), st.one_of(e("int64"), e("string"))),
            st.builds(lambda f, a, b, c: f(a, b, c), st.sampled_from([min_of, max_of]), number, e("float64"), number),
        ]
    if dtype == "string":
        made += [
            st.builds(lambda how, a: getattr(a, how)(), st.sampled_from(["lower", "upper", "strip"]), e("string")),
            st.builds(lambda a, n, k: a.substring(n, k), e("string"), whole, st.one_of(st.none(), whole)),
            st.builds(lambda a, o, n: a.replace(o, n), e("string"), words.filter(bool), words),
            st.builds(concat, e("string"), e("string")),
            st.builds(lambda a: a.cast("string"), st.one_of(e("int64"), e("float64"), e("bool"), e("timestamp"))),
        ]
    if dtype == "timestamp":
        made += [
            st.builds(lambda a, d: a + d, e("timestamp"), st.timedeltas(timedelta(days=-800_000), timedelta(days=800_000))),
            st.builds(lambda a, d: a - d, e("timestamp"), st.timedeltas(timedelta(days=-800), timedelta(days=800))),
            st.builds(lambda a, u, z: a.truncate(u, z), e("timestamp"), st.sampled_from(["second", "minute", "hour", "day"]), zone),
            st.builds(lambda a: a.cast("timestamp"), st.one_of(e("int64"), e("string"))),
        ]
    if dtype == "bool":
        compare = operators("==", "!=", "<", "<=", ">", ">=")
        made += [
            st.builds(lambda op, a, b: op(a, b), compare, number, number),
            st.builds(lambda op, a, b: op(a, b), compare, e("string"), e("string")),
            st.builds(lambda op, a, b: op(a, b), compare, e("timestamp"), e("timestamp")),
            st.builds(lambda op, a, b: op(a, b), operators("==", "!=", "&", "|"), e("bool"), e("bool")),
            st.builds(lambda a: ~a, e("bool")),
            st.builds(lambda a: a.is_true(), e("bool")),
            st.one_of(*(e(t) for t in ARROW if t != "list<string>"), st.just(col("tags"))).map(lambda a: a.is_null()),
            st.builds(lambda a, v: a.isin(v), e("int64"), st.lists(integers, min_size=1, max_size=3)),
            st.builds(lambda a, v: a.isin(v), e("float64"), st.lists(finite, min_size=1, max_size=3)),
            st.builds(lambda a, v: a.isin(v), e("string"), st.lists(words, min_size=1, max_size=3)),
            st.builds(lambda how, a, p: getattr(a, how)(p), st.sampled_from(["contains", "starts_with", "ends_with"]), e("string"), words),
            st.builds(lambda v: col("tags").contains(v), words),
            st.builds(lambda a, p: a.matches(p), e("string"), st.sampled_from(["^a", "b$", "[0-9]+", "a|ß", "^$"])),
            st.builds(lambda a: a.cast("bool"), e("string")),
        ]
    return st.one_of(*leaves, *made)


def operators(*signs: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(signs).map(lambda sign: lambda a, b: a._with(sign, b))


def columns_of(log: list[dict[str, Any]]) -> dict[str, tuple[pa.Array, Any]]:
    return {name: (pa.array([e[name] for e in log], ARROW[dtype]), None) for name, dtype in TYPES.items()}


def computed(e: Any, log: list[dict[str, Any]]) -> list[Any]:
    """The value of each event, or the reason why there is none."""
    array, codes = formula_of(e).evaluate(columns_of(log), PAIRS, len(log))
    assert len(array) == len(log)
    reasons = [None] * len(log) if codes is None else [None if c == OK else REASON[c] for c in codes.tolist()]
    values = array.to_pylist()
    assert all(v is None for v, r in zip(values, reasons, strict=True) if r)
    return [f"! {r}" if r else v for v, r in zip(values, reasons, strict=True)]


def expected(e: Any, log: list[dict[str, Any]]) -> list[Any]:
    out = []
    for event in log:
        try:
            out.append(oracle.value(formula_of(e), event, TYPES))
        except oracle.Fault as fault:
            out.append(f"! {fault}")
    return out


def same(a: list[Any], b: list[Any]) -> bool:
    return [(type(v), repr(v)) for v in a] == [(type(v), repr(v)) for v in b]


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
TOGETHER = settings(max_examples=examples(60), suppress_health_check=SLOW)


@pytest.mark.parametrize("dtype", [t for t in ARROW if not t.startswith("list")])
@TOGETHER
@given(data=st.data())
def test_as_plain_python_says_alone_and_among_others(dtype: str, data: st.DataObject) -> None:
    made = data.draw(expression(dtype))
    log = data.draw(st.lists(events, min_size=1, max_size=6))
    assert formula_of(made).dtype(PAIRS) == dtype
    want = expected(made, log)
    among = computed(made, log)
    assert same(among, want), f"{made}: {among} instead of {want}"
    alone = [computed(made, [event])[0] for event in log]
    assert same(alone, among)
    assert same(computed(made, log[::-1])[::-1], among)


def source(*fields: Field, **more: Any) -> EventSource:
    return EventSource(
        name="orders", fields=[Field("order_id", "string", required=True), *fields], event_time="at", tie_breaker="order_id", **more
    )


AMOUNT, FEE, KIND = Field("amount", "float64"), Field("fee", "float64"), Field("kind", "string", domain=["sale", "gift"])


def one(a: Any) -> FeatureGroup:
    return FeatureGroup("g", source(AMOUNT, FEE, KIND, Field("n", "int64")), Entity("order_id"), hours(1), None, [a])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: source(AMOUNT, Field("net", "float64", value=col("amount") - col("fees"))), "there is no field 'fees' to read here"),
        (
            lambda: source(AMOUNT, Field("net", "string", value=col("amount") / 100)),
            'but string is wanted; write .cast("string")',
        ),
        (lambda: source(AMOUNT, Field("net", "int64", value=col("amount") // 1)), "is float64, but int64 is wanted"),
        (lambda: source(AMOUNT, Field("net", "float64", value=7)), "value=7 is no expression"),  # type: ignore[arg-type]
        (lambda: source(Field("a", "float64", value=col("b")), Field("b", "float64", value=col("a"))), "no field 'b' to read here"),
        (lambda: source(AMOUNT, where=col("amount")), "is float64, but bool is wanted; compare it with a value"),
        (lambda: source(AMOUNT, where="amount > 0"), "where='amount > 0' is no expression"),
        (
            lambda: source(KIND, where=(col("kind") > 1)),
            "compares two values of one type, not string and int64; read the text",
        ),
        (lambda: one(Count(over=hours(1), where=col("amount") + col("fee"))), "is float64, but bool is wanted"),
        (lambda: one(Count(over=hours(1), where=col("kind") == "sold")), "no accepted event has kind='sold'; its domain is 'sale', 'gift'"),
        (lambda: one(Count(over=hours(1), where=col("kinds") == "sale")), "there is no field 'kinds'"),
        (lambda: one(Count(over=hours(1), where="amount")), "is no filter"),  # type: ignore[arg-type]
        (lambda: 0 < col("amount") < 5, "has no truth value of its own"),
        (lambda: (col("a") > 1) and (col("b") > 2), "join conditions with & | ~"),
        (lambda: col("kind").isin("sale"), "write a list of at least one value"),
        (lambda: col("kind").matches("("), "no regular expression of RE2"),
        (lambda: col("at").hour("Mars/Base"), "the time zone 'Mars/Base' is not known"),
        (lambda: col("at").truncate("week"), "the unit is none of second, minute, hour, day"),
        (lambda: col("a").cast("decimal"), "the type is none of"),
        (lambda: col("a") + 2**63, "beyond 64 bits"),
        (lambda: col("a") * float("nan"), "write a finite number"),
        (lambda: col("a") > datetime(2024, 1, 1), "has no time zone"),
        (lambda: one(Count(over=hours(1), where=col("amount") > 2**53 + 1)), "a float64 may not hold exactly"),
        (lambda: case(otherwise=1), "at least one when"),
        (lambda: col("s").replace("", "x"), "the empty text is everywhere"),
        (lambda: reduce(lambda a, b: a + b, [col("a")] * 200), "nested more than 100 deep"),
        (lambda: reduce(lambda a, _: a + a, range(40), col("a")), "made of more than 2000 parts"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(make: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as e:
        make()
    assert says in str(e.value) and "\n" not in str(e.value)


def test_definitions_keep_what_they_were_given_equal_hashable_and_across_processes() -> None:
    def make() -> FeatureGroup:
        of = source(AMOUNT, FEE, Field("net", "float64", value=col("amount") - coalesce(col("fee"), 0)), where=col("amount") > 0)
        return FeatureGroup("g", of, Entity("order_id"), hours(1), None, [Count(over=hours(1), where=col("amount") > col("fee"))])

    group, again = make(), make()
    assert group == again and hash(group) == hash(again) and group == pickle.loads(pickle.dumps(group))
    assert group.definition_hash() == again.definition_hash() == pickle.loads(pickle.dumps(group)).definition_hash()
    other = replace(group, source=replace(group.source, where=col("amount") >= 0))
    assert other != group and other.definition_hash() != group.definition_hash()
    json.dumps(group.canonical(), allow_nan=False)
    assert str(group.source.fields[3].value) == 'col("amount") - coalesce(col("fee"), 0)'
    assert replace(group.source.fields[3]).value == group.source.fields[3].value


def test_a_filter_of_fields_is_the_same_language_with_the_fingerprint_that_it_had() -> None:
    old = (Field("amount") > 15) & ~Field("kind").isin(["a"])
    assert old.canonical() == ["and", [">", "amount", 15], ["not", ["isin", "kind", ["a"]]]]
    assert str(old.formula) == """(col("amount") > 15).is_true() & ~col("kind").isin(['a']).is_true()"""
    batch = pa.RecordBatch.from_pydict({"amount": [20.0, 20.0, None, 20.0], "kind": ["a", "b", "b", None]})
    assert old.mask(batch).to_pylist() == [False, True, False, True]
    # An expression asks no comparison whether it is true: null stays null under ~, and does not pass.
    new = formula_of((col("amount") > 15) & ~col("kind").isin(["a"]))
    assert new.mask(batch).to_pylist() == [False, True, False, False]
    mixed = formula_of((Field("amount") > 15) & (col("kind") == "b"))
    assert mixed.mask(batch).to_pylist() == [False, True, False, False]
    assert formula_of((col("kind") == "b") & (Field("amount") > 15)).mask(batch).to_pylist() == [False, True, False, False]
    assert formula_of(Field("amount") > Field("fee")) == formula_of(col("amount") > col("fee"))


def test_what_has_no_value_does_not_pass_a_filter() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [4.0, 4.0, 0.0, None], "b": [2.0, 0.0, 0.0, 1.0]})
    assert formula_of(col("a") / col("b") > 1).mask(batch).to_pylist() == [True, False, False, False]
    assert formula_of(~(col("a") / col("b") > 1)).mask(batch).to_pylist() == [False, False, False, False]
    assert formula_of((col("b") == 0) | (col("a") / col("b") > 1)).mask(batch).to_pylist() == [True, True, True, False]


@given(log=st.lists(events, min_size=1, max_size=8), where=expression("bool"))
@settings(max_examples=examples(40), suppress_health_check=SLOW)
def test_masks_are_what_is_true(log: list[dict[str, Any]], where: Expression) -> None:
    for event in log:  # as events come out of the contract
        event.update({n: 0.5 for n in ("x", "y") if event[n] is not None and not abs(event[n]) < float("inf")})
        event.update({n: 7 for n in ("at", "then") if event[n] is not None and not YEAR_1 <= event[n] <= YEAR_9999})
    arrays = {n: pa.array([e[n] for e in log], ARROW[t]) for n, t in TYPES.items()}
    batch = pa.RecordBatch.from_pydict({n: a.cast(pa.timestamp("us", "UTC")) if TYPES[n] == "timestamp" else a for n, a in arrays.items()})
    assert formula_of(where).mask(batch).to_pylist() == [oracle.true(formula_of(where), e, TYPES) for e in log]


def test_a_text_that_would_be_too_long_is_never_made() -> None:
    assert computed(col("s").replace("a", "b" * 60_000), [dict.fromkeys(TYPES) | {"s": text} for text in ("a", "aa", "b")]) == [
        "b" * 60_000, "! too_long", "b",
    ]  # fmt: skip
    assert computed(concat(col("s"), col("s")), [dict.fromkeys(TYPES) | {"s": text} for text in ("ab", "a" * 40_000)]) == [
        "abab", "! too_long",
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
def test_years_1_to_9999_in_every_zone(zone: str) -> None:
    log = [dict.fromkeys(TYPES) | {"at": us} for us in (YEAR_1, YEAR_1 + 86_400_000_000, 0, YEAR_9999 - 86_400_000_000, YEAR_9999)]
    for e in (col("at").year(zone), col("at").hour(zone), col("at").truncate("hour", zone)):
        values = computed(e, log)
        assert same(values[1:-1], expected(e, log[1:-1]))
    assert computed(col("at").year(zone), log)[0] in (0, 1) and computed(col("at").year(zone), log)[-1] in (9999, 10_000)


@given(
    st.lists(st.datetimes(datetime(1880, 1, 1), datetime(2037, 1, 1)), max_size=8),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Monrovia"]),
    st.sampled_from(["earlier", "later", "reject"]), st.sampled_from(["earlier", "later", "reject"]),
)  # fmt: skip
@example(
    [datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30), datetime(2024, 10, 27, 1, 59, 59)], "Europe/Berlin", "later", "later"
)
@example([datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30)], "Europe/Berlin", "reject", "earlier")
@example([datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30)], "Europe/Berlin", "earlier", "reject")
def test_the_moment_that_a_zone_s_clock_shows(shown: list[datetime], zone: str, ambiguous: str, missing: str) -> None:
    """Against every moment at which zoneinfo shows it: there are two, or none, where clocks change."""
    place, unix = ZoneInfo(zone), datetime(1970, 1, 1, tzinfo=UTC)
    local = pa.array([(at.replace(tzinfo=UTC) - unix) // timedelta(microseconds=1) for at in shown], pa.int64())
    made, codes = col("at").from_local(zone, ambiguous, missing).formula.evaluate({"at": (local, None)}, (("at", "timestamp"),), len(shown))
    for at, got, code in zip(shown, made.to_pylist(), [OK] * len(shown) if codes is None else codes.tolist(), strict=True):
        offsets = {at.replace(tzinfo=place, fold=fold).utcoffset() or timedelta(0) for fold in (0, 1)}
        tried = sorted(at.replace(tzinfo=UTC) - offset for offset in offsets)
        there = [moment for moment in tried if moment.astimezone(place).replace(tzinfo=None) == at]
        choice = ambiguous if len(there) == 2 else missing
        if len(there) == 1:
            wanted: datetime | None = there[0]
        else:
            wanted = {"earlier": tried[0], "later": tried[-1], "reject": None}[choice]
        assert got == (None if wanted is None else (wanted - unix) // timedelta(microseconds=1))
        assert (code == OK) == (wanted is not None)
