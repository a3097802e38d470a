"""Event sources and entities: which log events stand in, how a record becomes events, and what features describe.

Users import these from :mod:`transforms.definitions`, which has all that a definition is written with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from transforms.data_folder import snapshot_name
from transforms.durations import check_duration, micros
from transforms.errors import DefinitionError
from transforms.expressions import Expression, Formula, Predicate, formula_of
from transforms.fields import EVENT_MARK, TIMESTAMP, Field, check_name, check_some_pass
from transforms.file_formats import Csv
from transforms.places import ElementIndex, Header, Path, RecordKey, RecordTimestamp, Step, depth_of, lists_of, path_of, path_text
from transforms.tables import Table

__all__ = ["Entity", "EventSource"]


@dataclass(frozen=True)
class EventSource:
    """An append-only log of events: its contract, its clock and where it lies.

    ``event_time`` names the timestamp column (UTC, microseconds; required, not listed among the fields); as a
    ``Field(name, "timestamp", path=..., parse=...)`` it also says where that stands and how it is read, and is its name from then on.
    ``tie_breaker`` names a field that orders events of the same microsecond. ``out_of_orderness`` is how late an
    event may come and still be counted in its row's first revision; ``allowed_lateness`` how late it may come and still correct it.
    ``files`` is a folder of event files, relative to the data folder; ``topic`` a Kafka topic. ``file_format`` says how those files are
    written that do not say it of themselves: ``Csv(delimiter=";")``; the others need none. Instead of files, ``table`` is a table that each
    batch run takes a snapshot of: ``Delta(...)``, ``Iceberg(...)`` or ``Query(...)``.

    ``explode`` is the path of a list: a record is as many events as it has elements, and fields of an element have a path through
    it (``"items[].sku"``). It may itself lead through lists, ``"orders[].items"``: then the events are the elements of the innermost
    lists, and fields may stand in the elements of each (``"orders[].id"``). ``where`` says which events are of this source: others are
    passed over and counted, whatever else they hold.
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
    explode: str | Sequence[Step] | None = None
    where: Expression | Formula | Predicate | None = None
    file_format: Csv | None = None
    table: Table | None = dataclasses.field(default=None, hash=False)  # in words of its kind, which may be mappings
    event_time_field: Field | None = None
    """What ``event_time`` was given as, where that was a Field; not to be given itself."""

    if TYPE_CHECKING:  # the generated one takes a Field for event_time too

        def __init__(
            self, name: str, fields: Sequence[Field], event_time: str | Field, tie_breaker: str,
            out_of_orderness: timedelta = ..., allowed_lateness: timedelta = ..., files: str = ..., topic: str = ...,
            description: str = ..., explode: str | Sequence[Step] | None = ..., where: Expression | Formula | Predicate | None = ...,
            file_format: Csv | None = ..., table: Table | None = ..., event_time_field: Field | None = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        check_name("source", self.name)
        if not isinstance(self.file_format, (Csv, type(None))):
            raise DefinitionError(
                f"source {self.name!r}: file_format {self.file_format!r} is no dialect of files; write Csv(delimiter=';')"
            )
        if self.table is not None:
            self._check_table(self.table)
        if not isinstance(self.files, str) or "*" in self.files or "?" in self.files:
            raise DefinitionError(
                f"source {self.name!r}: files={self.files!r} is no folder; name the folder below the data folder that holds the files,"
                f" such as files='events/{self.name}'"
            )
        object.__setattr__(self, "fields", tuple(self.fields))
        given: Any = self.event_time
        if isinstance(given, Field):
            self._check_time(given)
            object.__setattr__(self, "event_time", given.name)
            plain = given.path is None and given.parse is None and given.value is None
            object.__setattr__(self, "event_time_field", None if plain else given)
        elif self.event_time_field is not None and self.event_time_field.name != given:  # a copy with another event time
            object.__setattr__(self, "event_time_field", None)
        seen: set[str] = set()
        for f in self.fields:
            if not isinstance(f, Field) or f.dtype is None:
                raise DefinitionError(f"source {self.name!r}: {f!r} is no typed field; write Field('name', 'float64')")
            if f.name in seen:
                raise DefinitionError(f"source {self.name!r}: field {f.name!r} is there twice; drop one")
            seen.add(f.name)
        check_name("event time", self.event_time, "timestamp")
        if self.event_time in seen:
            raise DefinitionError(f"source {self.name!r}: the event time {self.event_time!r} is implied; drop it from the fields")
        if self.tie_breaker not in seen:
            raise DefinitionError(f"source {self.name!r}: tie_breaker {self.tie_breaker!r} is no field; it has {', '.join(sorted(seen))}")
        breaker = self.field(self.tie_breaker)
        if breaker.dtype not in ("string", "int64") or not breaker.required:
            raise DefinitionError(f"source {self.name!r}: tie_breaker {self.tie_breaker!r} must be a required string or int64 field")
        check_duration(f"source {self.name!r}: out_of_orderness", self.out_of_orderness, zero=True)
        check_duration(f"source {self.name!r}: allowed_lateness", self.allowed_lateness, zero=True)
        self._check_explode()
        self._check_expressions()

    def _check_table(self, table: Any) -> None:
        if not isinstance(table, Table) or not table.kind:
            raise DefinitionError(f"source {self.name!r}: table {table!r} is none; write Delta(...), Iceberg(...) or Query(...)")
        own = snapshot_name(self.name)
        if self.files not in ("", own) or self.file_format is not None:
            raise DefinitionError(
                f"source {self.name!r}: its events are those of a table and of files, too; drop table= or files= and file_format="
            )
        object.__setattr__(self, "files", own)  # where snapshots lie

    def _check_time(self, given: Field) -> None:
        what = f"source {self.name!r}: event_time {given.name!r}"
        if given.dtype != "timestamp":
            raise DefinitionError(f"{what} is {given.dtype or 'without a dtype'}; write Field({given.name!r}, 'timestamp', ...)")

    def _check_explode(self) -> None:
        what = f"source {self.name!r}: explode"
        if self.explode is not None:
            object.__setattr__(self, "explode", path_of(what, self.explode))
        for f in self.all_fields:
            if isinstance(f.path, ElementIndex) and self.explode is None:
                raise DefinitionError(
                    f"{what} is not given, but field {f.name!r} is the ElementIndex() of a list; name the list, e.g. 'items'"
                )
            if not isinstance(f.path, tuple) or not (depth := depth_of(f.path)):
                continue
            if f.path[: depth - 1] not in self.exploded:
                into = "no list" if self.explode is None else f"the list {path_text(self.explode_path)!r}"
                raise DefinitionError(f"{what} names {into}, but field {f.name!r} is {path_text(f.path)!r}; make both the same list")

    def _check_expressions(self) -> None:
        known = {f.name: str(f.dtype) for f in self.all_fields if f.value is None}
        for f in self.all_fields:
            if f.value is not None:
                what = f"source {self.name!r}: field {f.name!r}"
                _check_type(what, f.formula, known, str(f.dtype))
                known[f.name] = str(f.dtype)
        if self.where is not None:
            if not isinstance(self.where, Expression | Formula | Predicate):
                raise DefinitionError(
                    f"source {self.name!r}: where={self.where!r} is no expression; write one such as col('type') == 'order'"
                )
            kept = formula_of(self.where)
            object.__setattr__(self, "where", kept)
            _check_type(f"source {self.name!r}: where", kept, known, "bool")
            check_some_pass(f"source {self.name!r}: where", kept, {f.name: f for f in self.fields}, before_contract=True)

    def check_expression(self, what: str, formula: Formula, dtype: str) -> None:
        """Raises DefinitionError, which begins with ``what``, where an expression over the source's fields is none of ``dtype``."""
        _check_type(what, formula, dict(self.types), dtype)

    @property
    def types(self) -> tuple[tuple[str, str], ...]:
        """(name, dtype) of the event time and of each field: what expressions are typed over."""
        return tuple((f.name, str(f.dtype)) for f in self.all_fields)

    @property
    def filter(self) -> Formula | None:
        """``where``, as it is kept."""
        assert self.where is None or isinstance(self.where, Formula)
        return self.where

    def field(self, name: str) -> Field:
        """The field called ``name``; raises DefinitionError if there is none."""
        for f in self.fields:
            if f.name == name:
                return f
        raise DefinitionError(f"source {self.name!r} has no field {name!r}; it has {', '.join(f.name for f in self.fields)}")

    @property
    def all_fields(self) -> tuple[Field, ...]:
        """The event time as a field, then the fields."""
        return (self.event_time_field or Field(self.event_time, "timestamp"), *self.fields)

    @property
    def explode_path(self) -> Path:
        """The path of the list that a record's events are the elements of; () where a record is one event."""
        return () if self.explode is None else path_of("explode", self.explode)

    @cached_property
    def exploded(self) -> tuple[Path, ...]:
        """The paths of the lists that lead to a record's events, from the outermost to that of :attr:`explode_path`; () where there is
        none."""
        return lists_of(self.explode_path)

    @cached_property
    def mapped(self) -> bool:
        """Whether a record is more than an object whose members are the fields: whether anything is read from elsewhere or in a way that
        its field declares, computed, filtered or exploded."""
        own = any(f.path is not None or f.parse is not None or f.value is not None for f in self.fields)
        return own or self.event_time_field is not None or self.explode is not None or self.where is not None

    @cached_property
    def needs_origin(self) -> bool:
        """Whether fields stand in records' keys, headers or timestamps."""
        return any(isinstance(f.path, (RecordKey, Header, RecordTimestamp)) for f in self.all_fields)

    @cached_property
    def plain(self) -> EventSource:
        """The same contract over events that were read already: every field under its own name, nothing else."""
        if not self.mapped:
            return self
        fields = [replace(f, path=None, parse=None, value=None) for f in self.fields]
        return replace(self, fields=fields, explode=None, where=None, event_time_field=None)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The schema of a valid batch: the event time first, then the fields in their order. Where the source maps what it reads, its
        metadata says that these are events as they were read, so that files of them are not mapped once more."""
        return pa.schema(
            [pa.field(self.event_time, TIMESTAMP, nullable=False)]
            + [pa.field(f.name, f.arrow_type, nullable=not f.required) for f in self.fields],
            metadata={EVENT_MARK: self.name} if self.mapped else None,
        )

    def canonical(self) -> dict[str, Any]:
        """A JSON-able form of everything that can change a value of an event; where data lies and prose are left out."""
        own: dict[str, Any] = {}
        if self.event_time_field is not None:
            own["event_time_from"] = self.event_time_field.canonical()[-1]
        if self.explode is not None:
            own["explode"] = list(self.explode_path)
        if self.filter is not None:
            own["where"] = self.filter.canonical()
        return {
            "name": self.name,
            "event_time": self.event_time,
            "tie_breaker": self.tie_breaker,
            "delay": micros(self.out_of_orderness),
            "fields": [f.canonical() for f in self.fields],
            **own,
        }


def _check_type(what: str, formula: Formula, known: Mapping[str, str], dtype: str) -> None:
    try:
        found = formula.dtype(tuple(known.items()))
    except DefinitionError as e:
        raise DefinitionError(f"{what}: {e}") from None
    if found not in (dtype, "null") and (found, dtype) != ("int64", "float64"):
        fix = "compare it with a value" if dtype == "bool" else f'write .cast("{dtype}"), or correct one of both'
        raise DefinitionError(f"{what}: {formula} is {found}, but {dtype} is wanted; {fix}")


@dataclass(frozen=True, init=False)
class Entity:
    """What features describe: one or more key fields. ``Entity("origin")``, ``Entity("origin", "dest")``."""

    keys: tuple[str, ...]

    def __init__(self, *keys: str) -> None:
        if not keys:
            raise DefinitionError("an entity needs at least one key field: Entity('origin')")
        for key in keys:
            if not isinstance(key, str):
                raise DefinitionError(f"entity key {key!r} is no text; write the names of key fields: Entity('origin', 'dest')")
            check_name("entity key", key)
        if len(set(keys)) != len(keys):
            raise DefinitionError(f"entity {keys}: a key is there twice; drop one")
        object.__setattr__(self, "keys", tuple(keys))
