"""What an aggregate is: one class that says what it takes, what it keeps of events, and what comes out.

To write one, subclass :class:`Aggregate`. What it keeps is one or more states: subclasses of :class:`State`, N partial aggregates as
columns, a commutative monoid on the bits. States of the package may be used as they are; aggregates of a group that need the same state
(the mean and the sum of a field) share it. ``tandem.testing.aggregates`` has the contract suite that an aggregate must pass.

Nothing else in Tandem knows aggregates by name: whoever has the definition has all of it.
"""

from __future__ import annotations

import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from transforms.durations import check_duration, micros
from transforms.errors import DataError, DefinitionError, first_line
from transforms.expressions import Expression, Formula, Predicate
from transforms.fields import ARROW_TYPES, FIELD_TYPES, Field, check_name
from transforms.functions.arrays import Int
from transforms.functions.travel import reduced

__all__ = ["Aggregate", "Events", "Output", "Param", "State", "StateSpec", "check_aggregate", "checked_output"]

Param = int | float | str
LISTS = ("string", "int64", "float64", "bool")
"""The dtypes that a list may have."""


@dataclass(frozen=True)
class Output:
    """The column that an aggregate gives for each of its windows.

    ``dtype`` is one of ``transforms.definitions.ARROW_TYPES``. ``nullable``: the value may be null. ``width``: the column is a list of at
    most so many values; a list is never null and holds no nulls, over nothing it is empty.
    """

    dtype: str
    nullable: bool = True
    width: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ARROW_TYPES:
            raise DefinitionError(f"output dtype {self.dtype!r} is none of {', '.join(ARROW_TYPES)}")
        if self.width is not None:
            object.__setattr__(self, "nullable", False)
            if self.dtype not in LISTS or isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
                raise DefinitionError(
                    f"output of {self.dtype} with width={self.width!r}: a list is of {', '.join(LISTS)}; its width is a number from 1 up"
                )

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the column."""
        value = ARROW_TYPES[self.dtype]
        return value if self.width is None else pa.list_(value)


@dataclass(frozen=True)
class Events:
    """What states are made of: N events' values (an Arrow column, null where skipped), times (int64 microseconds, shape [N]) and
    tie-breakers (an Arrow column without nulls). The values of an aggregate without a field are the times."""

    values: pa.Array
    times: Int
    ties: pa.Array


class State(ABC):
    """N partial aggregates as columns; a commutative monoid on the bits.

    Which elements were merged, not how or in which order, decides every bit: of :meth:`to_arrow`, which is the one canonical form of a
    state, and of what an aggregate reads off it. -0.0 counts as 0.0. ``param`` is what the aggregate's :class:`StateSpec` says.
    """

    kind: ClassVar[str]
    """Names the state in the tiles that runs keep; a class needs one of its own."""

    @classmethod
    @abstractmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Any) -> pa.DataType:
        """The type of :meth:`to_arrow`, by the Arrow types of values and tie-breakers."""

    @classmethod
    @abstractmethod
    def add_input(cls, events: Events, param: Any) -> Self:
        """N partial aggregates of one event each; a null value adds nothing."""

    @abstractmethod
    def merge(self, lo: Int, hi: Int, ordered: bool) -> Self:
        """R partial aggregates: number r combines the elements ``lo[r] .. hi[r] - 1`` (none where they are equal).

        ``ordered`` promises that within a range the elements follow each other in event time without overlap (unique sorted tiles);
        then ranges may overlap (windows). Without it (parts of a log, in any order) they do not.
        """

    @abstractmethod
    def to_arrow(self) -> pa.Array:
        """One column of length N and of type :meth:`arrow_type`."""

    @classmethod
    @abstractmethod
    def from_arrow(cls, array: pa.Array, param: Any) -> Self:
        """The inverse of :meth:`to_arrow`; ``array`` may be a slice, and may stem from another machine."""

    def windows(self, lo: Int, hi: Int) -> Any:
        """What aggregates read their values off: ``merge(lo, hi, ordered=True)``, or what says the same at less cost.

        Neither bound ever goes back from one window to the next.
        """
        return self.merge(lo, hi, ordered=True)


@dataclass(frozen=True)
class StateSpec:
    """One state column of a tile: its class, the field, the filter, and a parameter. Aggregates that need the same one share it."""

    state: type[State]
    column: str | None = None
    where: Predicate | Formula | None = None
    param: Param = 0

    @property
    def key(self) -> str:
        """The column's name in a tile."""
        where = repr(self.where.canonical()) if self.where is not None else ""
        return f"{self.state.kind}|{self.column or ''}|{self.param}|{where}"


@dataclass(frozen=True)
class Aggregate:
    """Base of all aggregates: a field, one or more windows, an optional filter, an optional name.

    Null values of the field are skipped. A feature is called ``<name>_<window>``; the default name is the field's and the aggregate's.

    A subclass is a frozen dataclass whose parameters are its fields. It says :attr:`kind`, :attr:`takes`, :meth:`output`, :meth:`states`
    and :meth:`extract_output`; every one is exact or a mergeable sketch, so that order, batching and sharding cannot change a bit. What is
    wrong with it is a DefinitionError where it is constructed, or where a FeatureGroup gives it a field.
    """

    column: str | None = None
    over: timedelta | Sequence[timedelta] = ()
    where: Predicate | Expression | Formula | None = None
    name: str = ""

    kind: ClassVar[str] = ""
    """Names the aggregate in fingerprints and in default names of features; a class needs one of its own."""
    version: ClassVar[int] = 1
    """Raise it when the class comes to compute other values: it is part of the fingerprint, so nothing old is mixed with new."""
    takes: ClassVar[tuple[str, ...]] = ("int64", "float64")
    """The dtypes that the field may have; empty: the aggregate takes no field."""
    keeps_unit: ClassVar[bool] = True
    """Whether its values are in the unit of the field."""
    reads_boundary: ClassVar[bool] = True
    """Whether :meth:`extract_output` looks at the rows' boundaries. Where it does not, say False: of rows in which a window holds the
    same, it is then asked for one, and the value serves all of them."""

    def __post_init__(self) -> None:
        what = f"aggregate {type(self).__name__}({self.column or ''})"
        _check_class(type(self), what)
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
        if self.column is not None:
            check_name(f"{what}: field", self.column)
        if isinstance(self.where, Expression):
            object.__setattr__(self, "where", self.where.formula)
        if self.where is not None and not isinstance(self.where, Predicate | Formula):
            raise DefinitionError(
                f"{what}: where={self.where!r} is no filter; write where=Field('dep_delay') > 15, or Field('carrier').eq('UA')"
            )
        if not self.name:
            object.__setattr__(self, "name", "_".join(p for p in (self.column, self.default_suffix()) if p))
        check_name(f"{what}: name", self.name)
        try:
            json.dumps(self.canonical(), allow_nan=False)
            hash(self)
        except (TypeError, ValueError) as error:
            raise DefinitionError(
                f"{what}: {first_line(error)}; parameters are numbers, texts, booleans, None and tuples of them"
            ) from None

    def default_suffix(self) -> str:
        """What the default name ends in."""
        return self.kind

    @property
    def windows(self) -> tuple[timedelta, ...]:
        """The windows, in the order given."""
        assert isinstance(self.over, tuple)
        return self.over

    def output(self, dtype: str | None) -> Output:
        """The feature's column for a field of ``dtype`` (None: the aggregate takes no field)."""
        return Output("float64")

    def output_of(self, field: Field | None) -> Output:
        """As :meth:`output`, for those to whom more than the field's dtype matters: of lists its ``length``."""
        return self.output(None if field is None else field.dtype)

    def states(self) -> tuple[StateSpec, ...]:
        """What is kept of the events, one column of a tile each."""
        raise NotImplementedError

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        """The feature's column of R rows, of :meth:`output`'s type.

        ``parts`` holds, for each of :meth:`states` in their order, what :meth:`State.windows` gave; ``boundary`` the rows' boundaries
        (int64 microseconds, shape [R]).
        """
        raise NotImplementedError

    def state(self, state: type[State], param: Param = 0) -> StateSpec:
        """A state of this aggregate's field and filter."""
        return StateSpec(state, self.column, self.filter, param)

    @property
    def filter(self) -> Predicate | Formula | None:
        """Which events count, as it is kept: null, and what has no value, does not pass."""
        assert not isinstance(self.where, Expression)
        return self.where

    def canonical(self) -> dict[str, Any]:
        """A JSON-able form of everything that can change a value."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("over", "where")}
        return {
            "kind": self.kind,
            **({"version": self.version} if self.version != 1 else {}),
            **own,
            "over": [micros(w) for w in self.windows],
            "where": self.filter.canonical() if self.filter is not None else None,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, {**vars(self), **{f.name: getattr(self, f.name) for f in fields(self)}})


# ----------------------------------------------------------------------------------------------------------- checks


_KIND = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_PACKAGE = __name__.rpartition(".")[0]


def _ours(cls: type[Any]) -> Iterator[type[Any]]:
    """The subclasses of ``cls`` that come with Tandem."""
    for sub in cls.__subclasses__():
        if sub.__module__.startswith(_PACKAGE + "."):
            yield sub
        yield from _ours(sub)


def _check_kind(cls: type[Any], base: type[Any], what: str) -> None:
    kind = cls.__dict__.get("kind")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise DefinitionError(
            f"{what}: class {cls.__name__} needs a kind of its own in lower-case words, e.g. kind = {cls.__name__.lower()!r}"
        )
    for other in _ours(base):
        if other is not cls and other.__dict__.get("kind") == kind:
            raise DefinitionError(f"{what}: kind {kind!r} is that of Tandem's {other.__name__}; give {cls.__name__} another")


def _check_class(cls: type[Aggregate], what: str) -> None:
    """Refuse a subclass that says too little. Cheap: done for each instance."""
    _check_kind(cls, Aggregate, what)
    for name in ("states", "extract_output"):
        if getattr(cls, name) is getattr(Aggregate, name):
            raise DefinitionError(f"{what}: class {cls.__name__} has no {name}(); see Aggregate.{name}")
    if not isinstance(cls.takes, tuple) or not all(t in FIELD_TYPES for t in cls.takes):
        raise DefinitionError(f"{what}: takes={cls.takes!r} must be a tuple of {', '.join(FIELD_TYPES)}; empty: it takes no field")
    if isinstance(cls.version, bool) or not isinstance(cls.version, int):
        raise DefinitionError(f"{what}: version={cls.version!r} must be a whole number")
    own = {n for n, t in inspect.get_annotations(cls).items() if "ClassVar" not in str(t)}
    if own - {f.name for f in fields(cls)}:
        raise DefinitionError(f"{what}: class {cls.__name__} has parameters but is no dataclass; write @dataclass(frozen=True) above it")


_SAMPLES: dict[str, Any] = {"string": "a", "int64": 1, "float64": 1.0, "bool": True, "timestamp": 1}
_SAMPLES |= {f"list<{name}>": [_SAMPLES[name]] for name in LISTS}


def check_aggregate(a: Aggregate, field: Field | None, tie: str, what: str) -> None:
    """Refuse an aggregate that does not hold what it says over a ``field``: three events go all the way to a column.

    ``tie`` is the dtype of the source's tie-breaker; ``what`` names the group in errors. Raises DefinitionError, one line.
    """
    dtype = None if field is None else field.dtype
    cls, called = type(a), f"{type(a).__name__}({a.column or ''})"
    if not isinstance(a.over, tuple):
        raise DefinitionError(f"{what}: {called}: the __post_init__ of {cls.__name__} must call super().__post_init__()")
    try:
        output = a.output_of(field)
        if not isinstance(output, Output):
            raise DefinitionError(f"output() gave {output!r}; return an Output, e.g. Output('float64')")
        specs = a.states()
        if not isinstance(specs, tuple) or not specs or not all(isinstance(s, StateSpec) for s in specs):
            raise DefinitionError("states() must give a tuple of what state() makes, at least one")
        for spec in specs:
            _check_kind(spec.state, State, "state")
        _trial(a, specs, output, field, tie)
    except Exception as error:
        line = str(error) if isinstance(error, DefinitionError | DataError) else first_line(error)
        raise DefinitionError(f"{what}: {called} does not work{f' over a field of {dtype}' if dtype else ''}: {line}") from error


def _trial(a: Aggregate, specs: Sequence[StateSpec], output: Output, field: Field | None, tie: str) -> None:
    dtype = None if field is None else field.dtype
    sample, value = _SAMPLES[dtype or "int64"], FIELD_TYPES[dtype or "int64"]
    if field is not None and field.length is not None:
        sample = sample * field.length
    events = Events(pa.array([sample, None, sample], value), np.array([1, 2, 3]), pa.array([_SAMPLES[tie]] * 3, ARROW_TYPES[tie]))
    parts = []
    for spec in specs:
        want = spec.state.arrow_type(value, ARROW_TYPES[tie], spec.param)
        kept = spec.state.add_input(events, spec.param).merge(np.array([0, 2]), np.array([2, 3]), ordered=False).to_arrow()
        if not isinstance(kept, pa.Array) or kept.type != want or len(kept) != 2:
            raise DefinitionError(f"to_arrow() of {spec.state.__name__} gave {_described(kept)} for 2 elements of type {want}")
        parts.append(spec.state.from_arrow(kept, spec.param).windows(np.array([0, 0, 2]), np.array([1, 2, 2])))
    checked_output(a, output, a.extract_output(parts, np.array([10, 20, 30])), 3)


def checked_output(a: Aggregate, output: Output, column: Any, rows: int) -> pa.Array:
    """The column that an aggregate gave, if it is what the aggregate said. Raises DataError."""
    if not isinstance(column, pa.Array) or column.type != output.arrow_type or len(column) != rows:
        raise DataError(
            f"extract_output() of {type(a).__name__} {a.name!r} gave {_described(column)} instead of {rows} of {output.arrow_type};"
            " correct it, or its output()"
        )
    if column.null_count and not output.nullable:
        raise DataError(f"extract_output() of {type(a).__name__} {a.name!r} gave {column.null_count} nulls, but its output() allows none")
    return column


def _described(column: Any) -> str:
    return f"{len(column)} values of {column.type}" if isinstance(column, pa.Array) else f"a {type(column).__name__}, which is no pa.Array"
