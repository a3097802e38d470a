"""What events are: fields with their contract, filters over them, sources, entities; and names and durations that all definitions share.

Users import these from :mod:`transforms.definitions`, which has all that a definition is written with.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import DefinitionError

__all__ = [
    "ARROW_TYPES",
    "CREATED",
    "DType",
    "EVENT_TIMESTAMP",
    "Entity",
    "EventSource",
    "FINGERPRINT",
    "Field",
    "MAX_TEXT_BYTES",
    "Predicate",
    "RESERVED",
    "REVISION",
    "TIMESTAMP",
    "check_comparison",
    "check_duration",
    "check_name",
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
MAX_TEXT_BYTES = 64 << 10
"""The longest text that a value may be, in UTF-8: of an event, and of a request."""
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


def check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(f"{what} {name!r}: a name is lower-case words joined by single underscores, e.g. 'dep_delay'")
    if name in RESERVED:
        raise DefinitionError(f"{what} {name!r}: the name is taken by Tandem itself; choose another")


def check_duration(what: str, value: Any, *, zero: bool = False) -> None:
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
        check_name("field", self.name)
        if self.dtype is not None and self.dtype not in ARROW_TYPES:
            raise DefinitionError(f"field {self.name!r}: dtype {self.dtype!r} is none of {', '.join(ARROW_TYPES)}")
        if self.domain is not None:
            if isinstance(self.domain, str):
                raise DefinitionError(f"field {self.name!r}: domain {self.domain!r} is a text; write a list of the allowed values")
            # A set has another order in each process, and the order is part of the definition.
            ordered = sorted(self.domain, key=repr) if isinstance(self.domain, (set, frozenset)) else self.domain
            object.__setattr__(self, "domain", tuple(ordered))
            if not self.domain:
                raise DefinitionError(f"field {self.name!r}: an empty domain allows no value; list the values or drop it")
            if self.dtype not in ("string", "int64"):
                raise DefinitionError(f"field {self.name!r}: a domain needs dtype 'string' or 'int64', not {self.dtype!r}")
            for value in self.domain:
                if (odd := _unlike(self.dtype, value)) is not None:
                    raise DefinitionError(f"field {self.name!r}: its domain holds {value!r}, {odd}; write values of that type")
        for what, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float)) or bound != bound):
                raise DefinitionError(f"field {self.name!r}: {what} {bound!r} is no number; write one, or leave it out")
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
        values = values if isinstance(values, str) else tuple(values)
        if not values or isinstance(values, str):
            raise DefinitionError(f"filter {self.name!r}.isin({values!r}): write a list of at least one value, or no event passes")
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
        check_name("source", self.name)
        object.__setattr__(self, "fields", tuple(self.fields))
        seen: set[str] = set()
        for f in self.fields:
            if not isinstance(f, Field) or f.dtype is None:
                raise DefinitionError(f"source {self.name!r}: {f!r} is no typed field; write Field('name', 'float64')")
            if f.name in seen:
                raise DefinitionError(f"source {self.name!r}: field {f.name!r} is there twice; drop one")
            seen.add(f.name)
        check_name("event time", self.event_time)
        if self.event_time in seen:
            raise DefinitionError(f"source {self.name!r}: the event time {self.event_time!r} is implied; drop it from the fields")
        if self.tie_breaker not in seen:
            raise DefinitionError(f"source {self.name!r}: tie_breaker {self.tie_breaker!r} is no field; it has {', '.join(sorted(seen))}")
        breaker = self.field(self.tie_breaker)
        if breaker.dtype not in ("string", "int64") or not breaker.required:
            raise DefinitionError(f"source {self.name!r}: tie_breaker {self.tie_breaker!r} must be a required string or int64 field")
        check_duration(f"source {self.name!r}: out_of_orderness", self.out_of_orderness, zero=True)
        check_duration(f"source {self.name!r}: allowed_lateness", self.allowed_lateness, zero=True)

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
            check_name("entity key", key)
        if len(set(keys)) != len(keys):
            raise DefinitionError(f"entity {keys}: a key is there twice; drop one")
        object.__setattr__(self, "keys", tuple(keys))


def check_comparison(what: str, f: Field, op: str, values: tuple[Any, ...]) -> None:
    """Refuse what Arrow would truncate or fail on only when the job runs."""
    for value in values:
        if (odd := _unlike(f.dtype or "string", value)) is not None:
            raise DefinitionError(
                f"{what}: {f.name!r} is {f.dtype} and cannot be compared with {value!r}, {odd}; write a value of that type"
            )
    if f.dtype == "bool" and op in (">", ">=", "<", "<="):
        raise DefinitionError(f"{what}: {f.name!r} is bool and has no order; use .eq(True) or .eq(False)")
    for value in values:
        if f.domain is not None and (value not in f.domain if op in ("==", "!=", "isin") else not _some(f.domain, op, value)):
            sign, words = "=" if op in ("==", "!=", "isin") else f" {op} ", ", ".join(map(repr, f.domain))
            raise DefinitionError(f"{what}: no accepted event has {f.name}{sign}{value!r}; its domain is {words}: correct one of both")
        if not _reachable(f, op, value):
            bounds = " to ".join("any" if bound is None else str(bound) for bound in (f.min, f.max))
            sign = "==" if op == "isin" else op
            raise DefinitionError(f"{what}: no accepted event has {f.name} {sign} {value!r}; the field is {bounds}: correct one of both")


def _reachable(f: Field, op: str, value: Any) -> bool:
    """Whether some number that the contract accepts passes (for ``!=``: could be this value)."""
    if f.dtype not in ("int64", "float64"):
        return True
    low, high = -math.inf if f.min is None else f.min, math.inf if f.max is None else f.max
    return bool({">": high > value, ">=": high >= value, "<": low < value, "<=": low <= value}.get(op, low <= value <= high))


def _some(domain: Sequence[Any], op: str, value: Any) -> bool:
    """Whether an allowed value passes an ordered comparison."""
    compare = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}[op]
    return any(compare(member, value) for member in domain)


_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int64": (int,),
    "float64": (int, float),
    "bool": (bool,),
    "timestamp": (datetime,),
}


def _unlike(dtype: str, value: Any) -> str | None:
    """Why a value of a definition is none that a field of this type can have; None where it is one."""
    if not isinstance(value, _KINDS[dtype]) or (isinstance(value, bool) and dtype != "bool") or value != value:
        return f"which is no {dtype}"
    if isinstance(value, datetime) and value.tzinfo is None:
        return "which has no time zone"
    if isinstance(value, int) and not isinstance(value, bool):
        if dtype == "int64" and not -(2**63) <= value < 2**63:
            return "which is beyond 64 bits"
        if dtype == "float64" and abs(value) > 2**53:
            return "which a float64 may not hold exactly"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "which is no valid text"
    return None
