"""What a feature is: fields, sources, entities, aggregates and feature groups, as plain immutable values.

Everything is checked at construction: a mistake is one :class:`~transforms.errors.DefinitionError` that names the
definition, the value and the mend. Times are int64 microseconds of UTC wherever a number is meant; durations are
``datetime.timedelta`` in definitions and microseconds below.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, ClassVar

import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.fields import (
    ARROW_TYPES,
    CREATED,
    EVENT_TIMESTAMP,
    FINGERPRINT,
    RESERVED,
    REVISION,
    TIMESTAMP,
    DType,
    Entity,
    EventSource,
    Field,
    Predicate,
    check_comparison,
    check_duration,
    check_name,
    days,
    duration_name,
    hours,
    micros,
    minutes,
    seconds,
)

__all__ = [
    "AGGREGATES",
    "ARROW_TYPES",
    "Age",
    "Aggregate",
    "CREATED",
    "Count",
    "CountDistinct",
    "DType",
    "EVENT_TIMESTAMP",
    "Entity",
    "EventSource",
    "FINGERPRINT",
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
    "RESERVED",
    "REVISION",
    "Std",
    "Sum",
    "TIMESTAMP",
    "Variance",
    "days",
    "duration_name",
    "hours",
    "micros",
    "minutes",
    "seconds",
]


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
            check_duration(f"{what}: window", window)
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
        check_name(f"{what}: name", self.name)

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
        check_name("feature group", self.name)
        what = f"feature group {self.name!r}"
        if not isinstance(self.source, EventSource) or not isinstance(self.entity, Entity):
            raise DefinitionError(f"{what}: needs source=EventSource(...) and entity=Entity(...)")
        check_duration(f"{what}: hop", self.hop)
        check_duration(f"{what}: ttl", self.ttl)
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
                check_comparison(f"{what}: filter of {a.name!r}", self.source.field(name), op, values)
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
