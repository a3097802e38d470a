"""What a feature is: fields, sources, entities, aggregates and feature groups, as plain immutable values.

Everything is checked at construction: a mistake is one :class:`~transforms.errors.DefinitionError` that names the
definition, the value and the mend. Times are int64 microseconds of UTC wherever a number is meant; durations are
``datetime.timedelta`` in definitions and microseconds below.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import DefinitionError

__all__ = [
    "AGGREGATES",
    "Age",
    "Aggregate",
    "Count",
    "CountDistinct",
    "Entity",
    "EventSource",
    "Feature",
    "FeatureGroup",
    "Field",
    "First",
    "Last",
    "LastN",
    "Max",
    "Mean",
    "Min",
    "Predicate",
    "Quantile",
    "Std",
    "Sum",
    "Variance",
    "days",
    "duration_name",
    "hours",
    "micros",
    "minutes",
    "seconds",
]

DType = Literal["string", "int64", "float64", "bool", "timestamp"]

TIMESTAMP = pa.timestamp("us", tz="UTC")
ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": TIMESTAMP,
}
REVISION = "tandem_revision"
FINGERPRINT = "tandem_fingerprint"
EVENT_TIMESTAMP = "event_timestamp"
CREATED = "created_timestamp"
RESERVED = {REVISION, FINGERPRINT, EVENT_TIMESTAMP, CREATED, "tile_start", "events"}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def seconds(n: float) -> timedelta:
    """A duration of ``n`` seconds."""
    return timedelta(seconds=n)


def minutes(n: float) -> timedelta:
    """A duration of ``n`` minutes."""
    return timedelta(minutes=n)


def hours(n: float) -> timedelta:
    """A duration of ``n`` hours."""
    return timedelta(hours=n)


def days(n: float) -> timedelta:
    """A duration of ``n`` days of 24 hours."""
    return timedelta(days=n)


def micros(duration: timedelta) -> int:
    """The duration in whole microseconds, exactly."""
    return (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds


def duration_name(duration: timedelta) -> str:
    """The shortest whole-unit name of a duration: ``24h``, ``90m``, ``7d`` (from two days up), ``1500us``."""
    us = micros(duration)
    if us % 86_400_000_000 == 0 and us >= 2 * 86_400_000_000:
        return f"{us // 86_400_000_000}d"
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if us % size == 0:
            return f"{us // size}{unit}"
    return f"{us}us"


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(f"{what} {name!r}: a name is lower-case words joined by single underscores, e.g. 'dep_delay'")
    if name in RESERVED:
        raise DefinitionError(f"{what} {name!r}: the name is taken by Tandem itself; choose another")


def _check_duration(what: str, value: Any, *, zero: bool = False) -> None:
    if not isinstance(value, timedelta):
        raise DefinitionError(f"{what} {value!r} is no duration; write minutes(5), hours(1) or days(7)")
    if micros(value) < 0 or (micros(value) == 0 and not zero):
        raise DefinitionError(f"{what} {value} must be {'zero or ' if zero else ''}longer than zero")


class Predicate:
    """A filter over events; built from fields by ``>``, ``>=``, ``<``, ``<=``, ``.eq``, ``.ne``, ``.isin``,
    ``.is_null``, ``.not_null`` and joined by ``&``, ``|`` and ``~``. A comparison with null is false."""

    def __init__(self, op: str, args: tuple[Any, ...]) -> None:
        self.op = op
        self.args = args

    def __and__(self, other: Predicate) -> Predicate:
        return Predicate("and", (self, other))

    def __or__(self, other: Predicate) -> Predicate:
        return Predicate("or", (self, other))

    def __invert__(self) -> Predicate:
        return Predicate("not", (self,))

    def __bool__(self) -> bool:
        raise DefinitionError("a filter has no truth value of its own; join filters with & and | instead of 'and' and 'or'")

    def canonical(self) -> list[Any]:
        """A JSON-able form that is equal exactly for equal filters; moments are microseconds of UTC."""

        def plain(value: Any) -> Any:
            if isinstance(value, Predicate):
                return value.canonical()
            if isinstance(value, datetime):
                return micros(value - datetime(1970, 1, 1, tzinfo=UTC))
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return [self.op, *(plain(a) for a in self.args)]

    def comparisons(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """Every comparison in the filter: (field, operator, the values that it is compared with)."""
        if self.op in ("and", "or", "not"):
            return [c for a in self.args for c in a.comparisons()]
        values = self.args[1:] if self.op != "isin" else self.args[1]
        return [(self.args[0], self.op, tuple(values))]

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """The filter over a batch of N events: a boolean array of length N without nulls."""
        if self.op == "and":
            return pc.and_(self.args[0].mask(batch), self.args[1].mask(batch))
        if self.op == "or":
            return pc.or_(self.args[0].mask(batch), self.args[1].mask(batch))
        if self.op == "not":
            return pc.invert(self.args[0].mask(batch))
        column = batch.column(batch.schema.get_field_index(self.args[0]))
        if self.op == "is_null":
            return column.is_null()
        if self.op == "isin":
            values = pa.array(list(self.args[1]), type=column.type)
            if pa.types.is_floating(column.type):  # is_in tells -0.0 from 0.0
                column, values = pc.add(column, 0.0), pc.add(values, 0.0)
            return pc.and_(pc.is_in(column, value_set=values), column.is_valid())
        compare = {">": pc.greater, ">=": pc.greater_equal, "<": pc.less, "<=": pc.less_equal, "==": pc.equal, "!=": pc.not_equal}
        return pc.fill_null(compare[self.op](column, pa.scalar(self.args[1], type=column.type)), False)


@dataclass(frozen=True)
class Field:
    """One field of an event.

    ``required`` fields must be present and not null; others may be missing. ``min``/``max`` (inclusive) and
    ``domain`` (the allowed values) are part of the contract: an event outside is a dead letter, not a value.
    Without a ``dtype`` a field is only a reference, for filters: ``Field("dep_delay") > 15``.
    """

    name: str
    dtype: DType | None = None
    required: bool = False
    unit: str = ""
    min: float | None = None
    max: float | None = None
    domain: Sequence[Any] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        _check_name("field", self.name)
        if self.dtype is not None and self.dtype not in ARROW_TYPES:
            raise DefinitionError(f"field {self.name!r}: dtype {self.dtype!r} is none of {', '.join(ARROW_TYPES)}")
        if self.domain is not None:
            object.__setattr__(self, "domain", tuple(self.domain))
            if not self.domain:
                raise DefinitionError(f"field {self.name!r}: an empty domain allows no value; list the values or drop it")
            if self.dtype not in ("string", "int64"):
                raise DefinitionError(f"field {self.name!r}: a domain needs dtype 'string' or 'int64', not {self.dtype!r}")
        if (self.min is not None or self.max is not None) and self.dtype not in ("int64", "float64"):
            raise DefinitionError(f"field {self.name!r}: min and max need dtype 'int64' or 'float64', not {self.dtype!r}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise DefinitionError(f"field {self.name!r}: min {self.min} is above max {self.max}; swap them")

    def __gt__(self, value: Any) -> Predicate:
        return Predicate(">", (self.name, value))

    def __ge__(self, value: Any) -> Predicate:
        return Predicate(">=", (self.name, value))

    def __lt__(self, value: Any) -> Predicate:
        return Predicate("<", (self.name, value))

    def __le__(self, value: Any) -> Predicate:
        return Predicate("<=", (self.name, value))

    def eq(self, value: Any) -> Predicate:
        """Events whose field equals ``value``."""
        return Predicate("==", (self.name, value))

    def ne(self, value: Any) -> Predicate:
        """Events whose field is not null and differs from ``value``."""
        return Predicate("!=", (self.name, value))

    def isin(self, values: Iterable[Any]) -> Predicate:
        """Events whose field is one of ``values``."""
        return Predicate("isin", (self.name, tuple(values)))

    def is_null(self) -> Predicate:
        """Events whose field is null."""
        return Predicate("is_null", (self.name,))

    def not_null(self) -> Predicate:
        """Events whose field is not null."""
        return ~self.is_null()

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the field's column."""
        if self.dtype is None:
            raise DefinitionError(f"field {self.name!r} has no dtype; give it one of {', '.join(ARROW_TYPES)}")
        return ARROW_TYPES[self.dtype]


@dataclass(frozen=True)
class EventSource:
    """An append-only log of events: its contract, its clock and where it lies.

    ``event_time`` names the timestamp column (UTC, microseconds; required, not listed among the fields).
    ``tie_breaker`` names a field that orders events of the same microsecond. ``out_of_orderness`` is how late an
    event may come and still be counted in its row's first revision; ``allowed_lateness`` how late it may come and still correct it.
    ``files`` is a folder of Parquet or JSON-lines files, relative to the data folder; ``topic`` a Kafka topic.
    """

    name: str
    fields: Sequence[Field]
    event_time: str
    tie_breaker: str
    out_of_orderness: timedelta = timedelta(0)
    allowed_lateness: timedelta = timedelta(0)
    files: str = ""
    topic: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        _check_name("source", self.name)
        object.__setattr__(self, "fields", tuple(self.fields))
        seen: set[str] = set()
        for f in self.fields:
            if not isinstance(f, Field) or f.dtype is None:
                raise DefinitionError(f"source {self.name!r}: {f!r} is no typed field; write Field('name', 'float64')")
            if f.name in seen:
                raise DefinitionError(f"source {self.name!r}: field {f.name!r} is there twice; drop one")
            seen.add(f.name)
        _check_name("event time", self.event_time)
        if self.event_time in seen:
            raise DefinitionError(f"source {self.name!r}: the event time {self.event_time!r} is implied; drop it from the fields")
        if self.tie_breaker not in seen:
            raise DefinitionError(f"source {self.name!r}: tie_breaker {self.tie_breaker!r} is no field; it has {', '.join(sorted(seen))}")
        breaker = self.field(self.tie_breaker)
        if breaker.dtype not in ("string", "int64") or not breaker.required:
            raise DefinitionError(f"source {self.name!r}: tie_breaker {self.tie_breaker!r} must be a required string or int64 field")
        _check_duration(f"source {self.name!r}: out_of_orderness", self.out_of_orderness, zero=True)
        _check_duration(f"source {self.name!r}: allowed_lateness", self.allowed_lateness, zero=True)

    def field(self, name: str) -> Field:
        """The field called ``name``; raises DefinitionError if there is none."""
        for f in self.fields:
            if f.name == name:
                return f
        raise DefinitionError(f"source {self.name!r} has no field {name!r}; it has {', '.join(f.name for f in self.fields)}")

    @property
    def arrow_schema(self) -> pa.Schema:
        """The schema of a valid batch: the event time first, then the fields in their order."""
        return pa.schema(
            [pa.field(self.event_time, TIMESTAMP, nullable=False)]
            + [pa.field(f.name, f.arrow_type, nullable=not f.required) for f in self.fields]
        )


@dataclass(frozen=True, init=False)
class Entity:
    """What features describe: one or more key fields. ``Entity("origin")``, ``Entity("origin", "dest")``."""

    keys: tuple[str, ...]

    def __init__(self, *keys: str) -> None:
        if not keys:
            raise DefinitionError("an entity needs at least one key field: Entity('origin')")
        for key in keys:
            _check_name("entity key", key)
        if len(set(keys)) != len(keys):
            raise DefinitionError(f"entity {keys}: a key is there twice; drop one")
        object.__setattr__(self, "keys", tuple(keys))


@dataclass(frozen=True)
class Aggregate:
    """Base of all aggregates: a field, one or more windows, an optional filter, an optional name.

    Null values of the field are skipped. A feature is called ``<name>_<window>``; the default name is the field's
    and the aggregate's. Subclasses say what they compute; every one is exact or a mergeable sketch, so that order,
    batching and sharding cannot change a bit.
    """

    column: str | None = None
    over: timedelta | Sequence[timedelta] = ()
    where: Predicate | None = None
    name: str = ""

    kind: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = ("int64", "float64")
    """The dtypes that the field may have; empty: the aggregate takes no field."""

    def __post_init__(self) -> None:
        what = f"aggregate {type(self).__name__}({self.column or ''})"
        if not isinstance(self.over, timedelta | list | tuple):
            raise DefinitionError(f"{what}: over={self.over!r} is no duration; write over=hours(1) or a list of durations")
        over = (self.over,) if isinstance(self.over, timedelta) else tuple(self.over)
        object.__setattr__(self, "over", over)
        if not over:
            raise DefinitionError(f"{what}: no window; give over=hours(1) or a list of durations")
        for window in over:
            _check_duration(f"{what}: window", window)
        if len(set(over)) != len(over):
            raise DefinitionError(f"{what}: a window is there twice; drop one")
        if self.takes and not isinstance(self.column, str):
            raise DefinitionError(f"{what}: needs a field name, e.g. {type(self).__name__}('dep_delay', over=hours(1))")
        if not self.takes and self.column is not None:
            raise DefinitionError(f"{what}: takes no field; filter with where=Field({self.column!r}).not_null()")
        if self.where is not None and not isinstance(self.where, Predicate):
            raise DefinitionError(f"{what}: where={self.where!r} is no filter; write where=Field('dep_delay') > 15")
        if not self.name:
            object.__setattr__(self, "name", "_".join(p for p in (self.column, self.default_suffix()) if p))
        _check_name(f"{what}: name", self.name)

    def default_suffix(self) -> str:
        """What the default name ends in."""
        return self.kind

    @property
    def windows(self) -> tuple[timedelta, ...]:
        """The windows, in the order given."""
        assert isinstance(self.over, tuple)
        return self.over

    def output(self, dtype: str | None) -> tuple[str, bool, bool]:
        """(dtype, is a list, nullable) of the feature for a field of ``dtype``."""
        return "float64", False, True

    def canonical(self) -> dict[str, Any]:
        """A JSON-able form of everything that can change a value."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("over", "where")}
        return {
            "kind": self.kind,
            **own,
            "over": [micros(w) for w in self.windows],
            "where": self.where.canonical() if self.where is not None else None,
        }


@dataclass(frozen=True)
class Count(Aggregate):
    """The number of events (int64, never null). ``Count(over=hours(1))``."""

    kind: ClassVar[str] = "count"
    takes: ClassVar[tuple[str, ...]] = ()

    def output(self, dtype: str | None) -> tuple[str, bool, bool]:
        return "int64", False, False


@dataclass(frozen=True)
class Sum(Aggregate):
    """The exact sum, rounded once to float64; null over no values; infinite beyond the range of float64."""

    kind: ClassVar[str] = "sum"


@dataclass(frozen=True)
class Mean(Aggregate):
    """The exact sum rounded to float64, divided by the number of values; null over none."""

    kind: ClassVar[str] = "mean"


@dataclass(frozen=True)
class Variance(Aggregate):
    """Population variance: ``(n * sum(x^2) - sum(x)^2)`` exactly, rounded to float64, divided by ``float64(n * n)``."""

    kind: ClassVar[str] = "variance"


@dataclass(frozen=True)
class Std(Aggregate):
    """The square root of :class:`Variance`."""

    kind: ClassVar[str] = "std"


class _OfFieldType(Aggregate):
    def output(self, dtype: str | None) -> tuple[str, bool, bool]:
        assert dtype is not None
        return dtype, False, True


@dataclass(frozen=True)
class Min(_OfFieldType):
    """The smallest value, of the field's own type (-0.0 counts as 0.0); null over none."""

    kind: ClassVar[str] = "min"


@dataclass(frozen=True)
class Max(_OfFieldType):
    """The greatest value, of the field's own type (-0.0 counts as 0.0); null over none."""

    kind: ClassVar[str] = "max"


@dataclass(frozen=True)
class First(_OfFieldType):
    """The first value that is not null, by (event time, tie-breaker, value)."""

    kind: ClassVar[str] = "first"
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64", "bool")


@dataclass(frozen=True)
class Last(_OfFieldType):
    """The last value that is not null, by (event time, tie-breaker, value)."""

    kind: ClassVar[str] = "last"
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64", "bool")


@dataclass(frozen=True)
class LastN(Aggregate):
    """The last ``n`` values that are not null, newest first, by (event time, tie-breaker, value); an empty list over none."""

    n: int = 3
    kind: ClassVar[str] = "last_n"
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64")

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or not 1 <= self.n <= 1000:
            raise DefinitionError(f"aggregate LastN({self.column}): n={self.n!r} must be a whole number from 1 to 1000")
        super().__post_init__()

    def default_suffix(self) -> str:
        return f"last_{self.n}"

    def output(self, dtype: str | None) -> tuple[str, bool, bool]:
        assert dtype is not None
        return dtype, True, False


@dataclass(frozen=True)
class Age(Aggregate):
    """Seconds (float64) from the newest event in the window to the row's boundary; null over none. Takes no field."""

    kind: ClassVar[str] = "age"
    takes: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class CountDistinct(Aggregate):
    """The number of distinct values (int64), estimated by HyperLogLog with 2^``precision`` registers (error ~1.04/sqrt)."""

    precision: int = 11
    kind: ClassVar[str] = "count_distinct"
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64")

    def __post_init__(self) -> None:
        if not isinstance(self.precision, int) or not 4 <= self.precision <= 16:
            raise DefinitionError(f"aggregate CountDistinct({self.column}): precision={self.precision!r} must be from 4 to 16")
        super().__post_init__()

    def output(self, dtype: str | None) -> tuple[str, bool, bool]:
        return "int64", False, False


@dataclass(frozen=True)
class Quantile(Aggregate):
    """The ``q``-quantile by nearest rank, from a histogram over the leading bits of the float: relative error <= 2^-8."""

    q: float = 0.5
    kind: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        if not isinstance(self.q, float) or not 0 < self.q < 1:
            raise DefinitionError(f"aggregate Quantile({self.column}): q={self.q!r} must lie between 0 and 1, e.g. 0.9")
        super().__post_init__()

    def default_suffix(self) -> str:
        return "p" + f"{self.q * 100:.10g}".replace(".", "_")


AGGREGATES: tuple[type[Aggregate], ...] = (
    Count,
    Sum,
    Mean,
    Variance,
    Std,
    Min,
    Max,
    First,
    Last,
    LastN,
    Age,
    CountDistinct,
    Quantile,
)


@dataclass(frozen=True)
class Feature:
    """One aggregate over one window: a column of a feature row."""

    name: str
    dtype: str
    is_list: bool
    nullable: bool
    aggregate: Aggregate = field(repr=False)
    over: int = 0
    """The window in microseconds."""

    @property
    def arrow_field(self) -> pa.Field:
        """The Arrow field of the column in a feature row."""
        value = ARROW_TYPES[self.dtype]
        return pa.field(self.name, pa.list_(value) if self.is_list else value, nullable=self.nullable)


def _check_comparison(what: str, f: Field, op: str, values: tuple[Any, ...]) -> None:
    """Refuse what Arrow would truncate or fail on only when the job runs."""
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "int64": (int,),
        "float64": (int, float),
        "bool": (bool,),
        "timestamp": (datetime,),
    }
    for value in values:
        fits = isinstance(value, kinds[f.dtype or "string"]) and (f.dtype == "bool" or not isinstance(value, bool))
        if not fits or (isinstance(value, datetime) and value.tzinfo is None) or value != value:
            raise DefinitionError(f"{what}: {f.name!r} is {f.dtype} and cannot be compared with {value!r}; write a value of that type")
    if f.dtype == "bool" and op in (">", ">=", "<", "<="):
        raise DefinitionError(f"{what}: {f.name!r} is bool and has no order; use .eq(True) or .eq(False)")


@dataclass(frozen=True)
class FeatureGroup:
    """Aggregates of one source per entity, on one hop: it becomes one Feast FeatureView.

    ``hop`` is the step between rows; every window is a whole number of hops. ``preprocessing_fn`` is
    ``"module:function"`` in the feature repository: TF-Transform over the aggregates.
    """

    name: str
    source: EventSource
    entity: Entity
    hop: timedelta
    ttl: timedelta
    aggregates: Sequence[Aggregate]
    preprocessing_fn: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        _check_name("feature group", self.name)
        what = f"feature group {self.name!r}"
        if not isinstance(self.source, EventSource) or not isinstance(self.entity, Entity):
            raise DefinitionError(f"{what}: needs source=EventSource(...) and entity=Entity(...)")
        _check_duration(f"{what}: hop", self.hop)
        _check_duration(f"{what}: ttl", self.ttl)
        object.__setattr__(self, "aggregates", tuple(self.aggregates))
        if not self.aggregates:
            raise DefinitionError(f"{what}: no aggregates; give at least Count(over=hours(1))")
        for key in self.entity.keys:
            f = self.source.field(key)
            if f.dtype not in ("string", "int64") or not f.required:
                raise DefinitionError(f"{what}: entity key {key!r} must be a required string or int64 field of source {self.source.name!r}")
        names: set[str] = set(self.entity.keys)
        for a in self.aggregates:
            if not isinstance(a, Aggregate):
                raise DefinitionError(f"{what}: {a!r} is no aggregate; use one of {', '.join(t.__name__ for t in AGGREGATES)}")
            if a.column is not None:
                dtype = self.source.field(a.column).dtype
                if dtype not in a.takes:
                    raise DefinitionError(
                        f"{what}: {type(a).__name__}({a.column!r}) takes {' or '.join(a.takes)}, but the field is {dtype}"
                    )
            for name, op, values in a.where.comparisons() if a.where is not None else ():
                _check_comparison(f"{what}: filter of {a.name!r}", self.source.field(name), op, values)
            for window in a.windows:
                if micros(window) % micros(self.hop):
                    raise DefinitionError(
                        f"{what}: window {duration_name(window)} of {a.name!r} is no whole number of hops of {duration_name(self.hop)}"
                    )
                name = f"{a.name}_{duration_name(window)}"
                if name in names:
                    raise DefinitionError(f"{what}: two columns would be called {name!r}; give one aggregate a name=")
                names.add(name)
        if self.preprocessing_fn is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.preprocessing_fn):
            raise DefinitionError(f"{what}: preprocessing_fn {self.preprocessing_fn!r} is not of the form 'module:function'")

    @property
    def hop_us(self) -> int:
        """The hop in microseconds."""
        return micros(self.hop)

    @property
    def delay_us(self) -> int:
        """What is added to a boundary to make the row's event timestamp: the source's out-of-orderness."""
        return micros(self.source.out_of_orderness)

    @property
    def longest_us(self) -> int:
        """The longest window in microseconds."""
        return max(micros(w) for a in self.aggregates for w in a.windows)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Every (aggregate, window) as a column, in the order of the definition."""
        out: list[Feature] = []
        for a in self.aggregates:
            dtype = self.source.field(a.column).dtype if a.column else None
            kind, is_list, nullable = a.output(dtype)
            out.extend(Feature(f"{a.name}_{duration_name(w)}", kind, is_list, nullable, a, micros(w)) for w in a.windows)
        return tuple(out)

    @property
    def key_fields(self) -> tuple[Field, ...]:
        """The fields of the entity's keys."""
        return tuple(self.source.field(k) for k in self.entity.keys)

    @property
    def row_schema(self) -> pa.Schema:
        """A feature row before the transform graph: keys, event timestamp, aggregates, revision."""
        return pa.schema(
            [pa.field(f.name, f.arrow_type, nullable=False) for f in self.key_fields]
            + [pa.field(EVENT_TIMESTAMP, TIMESTAMP, nullable=False)]
            + [f.arrow_field for f in self.features]
            + [pa.field(REVISION, pa.int64(), nullable=False)]
        )

    def canonical(self) -> dict[str, Any]:
        """A JSON-able form of everything that can change a value of a row; where data lies, TTLs and prose are left out."""
        s = self.source
        return {
            "source": {
                "name": s.name,
                "event_time": s.event_time,
                "tie_breaker": s.tie_breaker,
                "delay": micros(s.out_of_orderness),
                "fields": [[f.name, f.dtype, f.required, f.min, f.max, list(f.domain) if f.domain else None] for f in s.fields],
            },
            "name": self.name,
            "entity": list(self.entity.keys),
            "hop": self.hop_us,
            "aggregates": [a.canonical() for a in self.aggregates],
        }

    def definition_hash(self) -> str:
        """SHA-256 (hex) of :meth:`canonical`."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
