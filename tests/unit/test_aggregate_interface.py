"""A subclass of Aggregate that is wrong is one line where it is constructed, or where a group gives it a field; never in a worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import Aggregate, Count, Entity, EventSource, FeatureGroup, Field, Max, Mean, Output, Sum, hours, minutes
from transforms.errors import DataError, DefinitionError
from transforms.functions import Counts, Greatest, Smallest, State, StateSpec, ValueCounts

SOURCE = EventSource(
    name="trips",
    fields=[Field("id", "string", required=True), Field("zone", "string", required=True), Field("fare", "float64"), Field("n", "int64")],
    event_time="at",
    tie_breaker="id",
)


def group(*aggregates: Any) -> FeatureGroup:
    return FeatureGroup("g", SOURCE, Entity("zone"), minutes(5), hours(6), aggregates)


@dataclass(frozen=True)
class Spread(Aggregate):
    kind: ClassVar[str] = "spread"

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Smallest), self.state(Greatest)

    def extract_output(self, parts: Any, boundary: Any) -> pa.Array:
        low, high = parts
        return pa.array((high.values - low.values).astype(float), mask=~low.valid)


@dataclass(frozen=True)
class Kindless(Spread):
    pass


@dataclass(frozen=True)
class Stolen(Spread):
    kind: ClassVar[str] = "mean"


@dataclass(frozen=True)
class Stateless(Aggregate):
    kind: ClassVar[str] = "stateless"

    def extract_output(self, parts: Any, boundary: Any) -> pa.Array:
        return parts[0].to_arrow()


@dataclass(frozen=True)
class Mute(Aggregate):
    kind: ClassVar[str] = "mute"

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Counts),)


@dataclass(frozen=True)
class Doubles(Spread):
    kind: ClassVar[str] = "doubles"
    takes: ClassVar[tuple[str, ...]] = ("double",)


class Undeclared(Spread):
    kind: ClassVar[str] = "undeclared"
    width: int = 3


@dataclass(frozen=True)
class Listed(Spread):
    weights: list[float] | float = 1.0
    kind: ClassVar[str] = "listed"


@dataclass(frozen=True)
class Careless(Spread):
    kind: ClassVar[str] = "careless"

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Mistyped(Spread):
    kind: ClassVar[str] = "mistyped"

    def output(self, dtype: str | None) -> Output:
        return Output("int64")


@dataclass(frozen=True)
class NeverNull(Spread):
    kind: ClassVar[str] = "never_null"

    def output(self, dtype: str | None) -> Output:
        return Output("float64", nullable=False)


@dataclass(frozen=True)
class OldOutput(Spread):
    kind: ClassVar[str] = "old_output"

    def output(self, dtype: str | None) -> Any:
        return "float64", False, True


@dataclass(frozen=True)
class Failing(Spread):
    kind: ClassVar[str] = "failing"

    def extract_output(self, parts: Any, boundary: Any) -> pa.Array:
        return parts[2]


@dataclass(frozen=True)
class Borrowed(Counts):
    """A state without a kind of its own: its tiles would be taken for those of Count."""

    @classmethod
    def add_input(cls, events: Any, param: Any) -> Borrowed:
        return cls(np.full(len(events.values), 2))


@dataclass(frozen=True)
class OnBorrowed(Spread):
    kind: ClassVar[str] = "on_borrowed"

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Borrowed),)


@dataclass(frozen=True)
class Floats(Counts):
    kind: ClassVar[str] = "floats"

    def to_arrow(self) -> pa.Array:
        return pa.array(self.n.astype(float))


@dataclass(frozen=True)
class OnFloats(Spread):
    kind: ClassVar[str] = "on_floats"

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Floats),)


class Other:
    """Another class of a kind that is there already."""

    @dataclass(frozen=True)
    class Spread(Spread):
        kind: ClassVar[str] = "spread"


class Unmergeable(State):
    kind: ClassVar[str] = "unmergeable"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Any) -> pa.DataType:
        return pa.int64()


@dataclass(frozen=True)
class OnUnmergeable(Spread):
    kind: ClassVar[str] = "on_unmergeable"

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Unmergeable),)  # type: ignore[type-abstract]  # what is tested


FARE: dict[str, Any] = {"column": "fare", "over": hours(1)}
WRONG: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no kind": (lambda: Kindless(**FARE), "aggregate Kindless(fare)", "needs a kind of its own"),
    "a kind of Tandem's": (lambda: Stolen(**FARE), "kind 'mean' is that of Tandem's Mean", "give Stolen another"),
    "no states": (lambda: Stateless(**FARE), "class Stateless has no states()", "see Aggregate.states"),
    "no output": (lambda: Mute(**FARE), "class Mute has no extract_output()", "see Aggregate.extract_output"),
    "an unknown dtype": (lambda: Doubles(**FARE), "takes=('double',)", "must be a tuple of string"),
    "a parameter that is no field": (lambda: Undeclared(**FARE), "class Undeclared has parameters", "@dataclass(frozen=True)"),
    "a parameter that has no hash": (lambda: Listed(weights=[1.0], **FARE), "aggregate Listed(fare): TypeError", "parameters are numbers"),
    "a parameter that is no number": (lambda: Listed(weights=float("nan"), **FARE), "aggregate Listed(fare)", "parameters are numbers"),
    "a __post_init__ of its own": (lambda: group(Careless(name="c", **FARE)), "Careless(fare)", "must call super().__post_init__()"),
    "a field of another type": (lambda: group(Spread("zone", over=hours(1))), "Spread('zone') takes int64 or float64", "field is string"),
    "another type than said": (lambda: group(Mistyped(**FARE)), "Mistyped(fare) does not work over a field of float64", "of int64"),
    "nulls where none were said": (lambda: group(NeverNull(**FARE)), "NeverNull(fare) does not work", "its output() allows none"),
    "no Output": (lambda: group(OldOutput(**FARE)), "OldOutput(fare) does not work", "return an Output"),
    "a mistake in a method": (lambda: group(Failing(**FARE)), "Failing(fare) does not work over a field of float64: IndexError", "range"),
    "a state without a kind": (lambda: group(OnBorrowed(**FARE)), "OnBorrowed(fare) does not work", "class Borrowed needs a kind"),
    "a state of another type": (lambda: group(OnFloats(**FARE)), "to_arrow() of Floats gave 2 values of double", "of type int64"),
    "a state that lacks methods": (lambda: group(OnUnmergeable(**FARE)), "OnUnmergeable(fare) does not work", "Unmergeable"),
    "two classes of one kind": (
        lambda: group(Spread(**FARE), Other.Spread("n", over=hours(1))),
        "two aggregates of kind 'spread' are of different classes",
        "another kind",
    ),
    "a list of dates": (lambda: Output("timestamp", width=3), "output of timestamp with width=3", "a list is of string"),
    "a list of no width": (lambda: Output("string", width=0), "output of string with width=0", "from 1 up"),
    "an unknown output": (lambda: Output("double"), "output dtype 'double'", "float64"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_class_is_one_line_at_construction(wrong: str) -> None:
    make, names, fix = WRONG[wrong]
    with pytest.raises(DefinitionError) as e:
        make()
    assert "\n" not in str(e.value)
    assert names in str(e.value) and fix in str(e.value), str(e.value)


def test_one_of_ones_own_works_and_shares_states() -> None:
    g = group(Spread("fare", over=hours(1)), Max("fare", over=hours(1)), Count(over=hours(1)))
    assert g.row_schema.names[2:5] == ["fare_spread_1h", "fare_max_1h", "count_1h"]
    batch = pa.RecordBatch.from_pylist(
        [{"at": i, "id": str(i), "zone": "a", "fare": fare, "n": 0} for i, fare in enumerate([3.0, None, 5.5])],
        schema=SOURCE.arrow_schema,
    )
    tiles = merge([tile(batch, g)], g)
    assert tiles.schema.names[3:] == ["min|fare|0|", "max|fare|0|", "count||0|"]
    assert rows_between(tiles, g, 0, 300_000_000).column(2).to_pylist() == [2.5]


def test_a_column_that_is_not_as_said_is_refused_when_it_comes() -> None:
    """What the three events of the trial did not show."""

    @dataclass(frozen=True)
    class Sometimes(Spread):
        kind: ClassVar[str] = "sometimes"

        def extract_output(self, parts: Any, boundary: Any) -> pa.Array:
            made = super().extract_output(parts, boundary)
            return made if len(made) == 3 else made.cast(pa.int64())

    g = group(Sometimes("fare", over=hours(1)))
    batch = pa.RecordBatch.from_pylist([{"at": 0, "id": "a", "zone": "a", "fare": 1.0, "n": 0}], schema=SOURCE.arrow_schema)
    with pytest.raises(DataError, match=r"extract_output\(\) of Sometimes 'fare_sometimes' gave 1 values of int64 instead of 1 of double"):
        rows_between(tile(batch, g), g, 0, 300_000_000)


def test_a_version_is_part_of_the_fingerprint() -> None:
    @dataclass(frozen=True)
    class Newer(Spread):
        kind: ClassVar[str] = "spread"
        version: ClassVar[int] = 2

    assert "version" not in Spread(**FARE).canonical()
    assert Newer(**FARE).canonical() == {**Spread(**FARE).canonical(), "version": 2}


def test_who_keeps_the_unit_of_the_field() -> None:
    assert Mean.keeps_unit and Sum.keeps_unit and Spread.keeps_unit and not Count.keeps_unit


def test_value_counts_are_a_multiset() -> None:
    """The state that an aggregate over values alone may read anything off."""
    rows = [[{"value": "b", "count": 2}], [{"value": "a", "count": 1}, {"value": "b", "count": 1}]]
    made = ValueCounts.from_arrow(pa.array(rows, ValueCounts.arrow_type(pa.string(), pa.string(), 0)))
    assert made.merge(np.array([0]), np.array([2]), ordered=False).to_arrow().to_pylist() == [
        [{"value": "a", "count": 1}, {"value": "b", "count": 3}]
    ]


def test_the_pages_example_works() -> None:
    """Both Python blocks of docs/extending.md about aggregates, as they stand there."""
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text("utf-8")
    names: dict[str, Any] = {"__name__": __name__}
    for block in re.findall(r"```python\n(.*?)```", page[page.index("## An aggregate") : page.index("## An online store")], re.DOTALL):
        exec(compile(block, "extending.md", "exec", dont_inherit=True), names)
    suite = names["TestSpread"]()
    suite.examples = 100  # few find no two int64 that lie too far apart
    for aggregate in suite.aggregates():
        suite.test_windows_are_what_the_reference_says(aggregate)
