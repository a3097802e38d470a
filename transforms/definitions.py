"""What a feature is: fields, sources, entities, aggregates and feature groups, as plain immutable values.

Aggregates are in :mod:`transforms.functions`; a repository may bring its own.

Everything is checked at construction: a mistake is one :class:`~transforms.errors.DefinitionError` that names the
definition, the value and the fix. Times are int64 microseconds of UTC wherever a number is meant; durations are
``datetime.timedelta`` in definitions and microseconds below.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from transforms.durations import check_duration, days, duration_name, hours, micros, minutes, seconds
from transforms.errors import DefinitionError
from transforms.event_source import Entity, EventSource
from transforms.expressions import (
    Expression,
    Predicate,
    case,
    coalesce,
    col,
    concat,
    lit,
    max_of,
    min_of,
    seconds_between,
    when,
)
from transforms.fields import (
    ARROW_TYPES,
    CREATED,
    EVENT_TIMESTAMP,
    FINGERPRINT,
    RESERVED,
    REVISION,
    TIMESTAMP,
    DType,
    Field,
    check_comparison,
    check_name,
    check_reach,
    check_some_pass,
)
from transforms.file_formats import Csv
from transforms.functions import (
    AGGREGATES,
    Age,
    Aggregate,
    Count,
    CountDistinct,
    First,
    Last,
    LastN,
    Max,
    Mean,
    Min,
    Output,
    Quantile,
    Std,
    Sum,
    TopK,
    Variance,
)
from transforms.functions.aggregate import check_aggregate
from transforms.parsing import Base64, BigEndian, Date, Decimal, Enum, Epoch, Hex, IsoTime, Number, Text, TimeFormat, TimeOfDay
from transforms.places import ElementIndex, Header, RecordKey, RecordTimestamp
from transforms.tables import Delta, Iceberg, Query

__all__ = [
    "Delta",
    "Iceberg",
    "Query",
    "AGGREGATES",
    "ARROW_TYPES",
    "Age",
    "Aggregate",
    "Base64",
    "BigEndian",
    "CREATED",
    "Count",
    "CountDistinct",
    "Csv",
    "DType",
    "Date",
    "Decimal",
    "EVENT_TIMESTAMP",
    "ElementIndex",
    "Entity",
    "Enum",
    "Epoch",
    "EventSource",
    "Expression",
    "FINGERPRINT",
    "Feature",
    "FeatureGroup",
    "Field",
    "First",
    "Header",
    "Hex",
    "IsoTime",
    "Last",
    "LastN",
    "Max",
    "Mean",
    "Min",
    "Number",
    "Output",
    "Predicate",
    "Quantile",
    "RESERVED",
    "REVISION",
    "RecordKey",
    "RecordTimestamp",
    "Std",
    "Sum",
    "TIMESTAMP",
    "Text",
    "TimeFormat",
    "TimeOfDay",
    "TopK",
    "Variance",
    "case",
    "coalesce",
    "col",
    "concat",
    "days",
    "duration_name",
    "hours",
    "lit",
    "micros",
    "max_of",
    "min_of",
    "minutes",
    "seconds",
    "seconds_between",
    "when",
]


@dataclass(frozen=True)
class Feature:
    """One aggregate over one window: a column of a feature row."""

    name: str
    output: Output
    aggregate: Aggregate = field(repr=False)
    over: int = 0
    """The window in microseconds."""

    @property
    def arrow_field(self) -> pa.Field:
        """The Arrow field of the column in a feature row."""
        return pa.field(self.name, self.output.arrow_type, nullable=self.output.nullable)


class _Values(dict[str, str | int]):
    """Values by key, as part of what may be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


@dataclass(frozen=True)
class FeatureGroup:
    """Aggregates of one source per entity, on one hop: it becomes one Feast FeatureView.

    ``hop`` is the step between rows; every window is a whole number of hops. ``ttl`` is the age above which a row that is not of empty
    windows is withheld, in training and serving; None: never. ``preprocessing_fn`` is
    ``"module:function"`` in the feature repository: TF-Transform over the aggregates.

    Keys are required fields, so that an event without one is a dead letter; or ``null_keys`` says what such an event is to this group:
    ``"drop"``, none of its events, whatever it is to other groups; or ``{"city": "unknown"}``, an event of that key (one whose null keys
    are not all there is dropped).
    """

    name: str
    source: EventSource
    entity: Entity
    hop: timedelta
    ttl: timedelta | None
    aggregates: Sequence[Aggregate]
    preprocessing_fn: str | None = None
    description: str = ""
    null_keys: Literal["drop"] | Mapping[str, str | int] | None = None

    def __post_init__(self) -> None:
        check_name("feature group", self.name)
        what = f"feature group {self.name!r}"
        if not isinstance(self.source, EventSource):
            raise DefinitionError(f"{what}: source={self.source!r} is no EventSource; write source=EventSource(...), or its variable")
        if not isinstance(self.entity, Entity):
            raise DefinitionError(f"{what}: entity={self.entity!r} is no Entity; write entity=Entity('origin')")
        check_duration(f"{what}: hop", self.hop)
        if self.ttl is not None:
            check_duration(f"{what}: ttl", self.ttl)
        if not isinstance(self.aggregates, list | tuple):
            raise DefinitionError(f"{what}: aggregates={self.aggregates!r} is no list; write aggregates=[Count(over=hours(1))]")
        object.__setattr__(self, "aggregates", tuple(self.aggregates))
        if not self.aggregates:
            raise DefinitionError(f"{what}: no aggregates; give at least Count(over=hours(1))")
        for key in self.entity.keys:
            f = self.source.field(key)
            if f.dtype not in ("string", "int64") or not (f.required or self.null_keys):
                raise DefinitionError(
                    f"{what}: entity key {key!r} must be a required string or int64 field of source {self.source.name!r},"
                    " or the group says what events without it are: null_keys='drop'"
                )
        self._check_null_keys(what)
        names: set[str] = set(self.entity.keys)
        tie = str(self.source.field(self.source.tie_breaker).dtype)
        kinds: dict[str, type[Any]] = {}
        for a in self.aggregates:
            if not isinstance(a, Aggregate):
                raise DefinitionError(
                    f"{what}: {a!r} is no aggregate; use one of {', '.join(t.__name__ for t in AGGREGATES)} or a subclass of Aggregate"
                )
            field = None if a.column is None else self.source.field(a.column)
            if field is not None:
                dtype = field.dtype
                if dtype not in a.takes:
                    raise DefinitionError(
                        f"{what}: {type(a).__name__}({a.column!r}) takes {' or '.join(a.takes)}, but the field is {dtype}"
                    )
            check_aggregate(a, field, tie, what)
            for key, made in ((f"aggregates of kind {a.kind!r}", type(a)), *((f"states {s.key!r}", s.state) for s in a.states())):
                if kinds.setdefault(key, made) is not made:
                    raise DefinitionError(f"{what}: two {key} are of different classes; give one class another kind")
            self._check_filter(a, f"{what}: filter of {a.name!r}")
            for window in a.windows:
                if micros(window) % micros(self.hop):
                    raise DefinitionError(
                        f"{what}: window {duration_name(window)} of {a.name!r} is no whole number of hops of {duration_name(self.hop)};"
                        " change one of them"
                    )
                name = f"{a.name}_{duration_name(window)}"
                if name in names:
                    raise DefinitionError(f"{what}: two columns would be called {name!r}; give one aggregate a name=")
                names.add(name)
        function = self.preprocessing_fn
        if function is not None and not (isinstance(function, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", function)):
            raise DefinitionError(
                f"{what}: preprocessing_fn {function!r} is not of the form 'module:function'; write such as 'preprocessing:{self.name}'"
            )

    def _check_filter(self, a: Aggregate, what: str) -> None:
        if isinstance(a.filter, Predicate):
            for name, op, values in a.filter.comparisons():
                check_comparison(what, self.source.field(name), op, values)
        elif a.filter is not None:
            self.source.check_expression(what, a.filter, "bool")
            for name, op, values in a.filter.comparisons():
                if name != self.source.event_time:
                    check_reach(what, self.source.field(name), op, values)
        if a.filter is not None:
            formula = a.filter.formula if isinstance(a.filter, Predicate) else a.filter
            check_some_pass(what, formula, {f.name: f for f in self.source.fields})

    def _check_null_keys(self, what: str) -> None:
        given = self.null_keys
        if given is None:
            return
        optional = {f.name: f for f in self.key_fields if not f.required}
        if given != "drop" and not (isinstance(given, Mapping) and given):
            raise DefinitionError(f"{what}: null_keys={given!r} is neither 'drop' nor a value for each key, such as {{'city': 'unknown'}}")
        if not optional:
            raise DefinitionError(f"{what}: null_keys={given!r}, but each of its keys is a required field; drop one of both")
        for key, value in given.items() if isinstance(given, Mapping) else ():
            if key not in optional:
                raise DefinitionError(f"{what}: null_keys names {key!r}, which is no key that may be null; those are {', '.join(optional)}")
            check_comparison(f"{what}: null_keys", Field(key, optional[key].dtype), "==", (value,))
        if isinstance(given, Mapping):
            object.__setattr__(self, "null_keys", _Values(sorted(given.items())))

    @property
    def hop_us(self) -> int:
        """The hop in microseconds."""
        return micros(self.hop)

    @property
    def ttl_us(self) -> int | None:
        """The age in microseconds above which a row expires; None: never."""
        return None if self.ttl is None else micros(self.ttl)

    @property
    def delay_us(self) -> int:
        """What is added to a boundary to make the row's event timestamp: the source's out-of-orderness."""
        return micros(self.source.out_of_orderness)

    @property
    def longest_us(self) -> int:
        """The longest window in microseconds."""
        return max(micros(w) for a in self.aggregates for w in a.windows)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Every (aggregate, window) as a column, in the order of the definition."""
        out: list[Feature] = []
        for a in self.aggregates:
            output = a.output_of(self.source.field(a.column) if a.column else None)
            out.extend(Feature(f"{a.name}_{duration_name(w)}", output, a, micros(w)) for w in a.windows)
        return tuple(out)

    @property
    def key_fields(self) -> tuple[Field, ...]:
        """The fields of the entity's keys."""
        return tuple(self.source.field(k) for k in self.entity.keys)

    @cached_property
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
        return {
            "source": self.source.canonical(),
            "name": self.name,
            "entity": list(self.entity.keys),
            "hop": self.hop_us,
            "aggregates": [a.canonical() for a in self.aggregates],
            **({"null_keys": self.null_keys if isinstance(self.null_keys, str) else dict(self.null_keys)} if self.null_keys else {}),
        }

    def definition_hash(self) -> str:
        """SHA-256 (hex) of :meth:`canonical`."""
        return self._definition_hash

    @cached_property
    def _definition_hash(self) -> str:  # a definition does not change; streams ask with every checkpoint
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
