"""Fields with their contract, filters over them, and the names that all definitions share.

Users import these from :mod:`transforms.definitions`, which has all that a definition is written with.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import DefinitionError
from transforms.expressions import Expression, Formula, Predicate, col, formula_of
from transforms.parsing import Parse
from transforms.places import ElementIndex, Header, Place, RecordKey, RecordTimestamp, Step, canonical_place, path_of

__all__ = [
    "ARROW_TYPES",
    "CREATED",
    "DType",
    "EVENT_MARK",
    "EVENT_TIMESTAMP",
    "FIELD_TYPES",
    "FINGERPRINT",
    "Field",
    "LIST_TYPES",
    "MAX_ELEMENTS",
    "MAX_TEXT_BYTES",
    "Predicate",
    "RESERVED",
    "REVISION",
    "TIMESTAMP",
    "check_comparison",
    "check_name",
    "check_reach",
    "check_some_pass",
]

DType = Literal[
    "string", "int64", "float64", "bool", "timestamp", "list<string>", "list<int64>", "list<float64>", "list<bool>", "list<float>"
]  # fmt: skip
"""What a field may be; ``list<float>`` is another name of ``list<float64>``."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": TIMESTAMP,
}
LIST_TYPES: dict[str, pa.DataType] = {f"list<{name}>": pa.list_(ARROW_TYPES[name]) for name in ("string", "int64", "float64", "bool")}
FIELD_TYPES = {**ARROW_TYPES, **LIST_TYPES}
"""The Arrow types of a field's dtypes; features of one value have those of ARROW_TYPES."""
REVISION = "tandem_revision"
FINGERPRINT = "tandem_fingerprint"
EVENT_TIMESTAMP = "event_timestamp"
CREATED = "created_timestamp"
MAX_TEXT_BYTES = 64 << 10
"""The longest text that a value may be, in UTF-8: of an event, and of a request."""
EVENT_MARK = "tandem_event"
"""The member by which a JSON payload, and the metadata by which Arrow rows, say that they hold an event of a source as it was read."""
MAX_ELEMENTS = 8192
"""The longest list that a field may be; of texts also no more bytes than one text may have."""
RESERVED = {REVISION, FINGERPRINT, EVENT_TIMESTAMP, CREATED, EVENT_MARK, "tile_start", "events"}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")


def _snake(name: str) -> str:
    """The same words as a name: ``kiloWatt`` as ``kilo_watt``; "" where they make none."""
    made = "_".join(filter(None, _WORD_BEGINS.split(name))).lower()
    return made if _NAME.fullmatch(made) else ""


def check_name(what: str, name: str, typed: str = "") -> None:
    """Raise DefinitionError for what is no name. ``typed``: the dtype of a field, which may stand under any name in the record."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        better = _snake(name) if isinstance(name, str) else ""
        fix = f"write {better!r}" if better else "e.g. 'dep_delay'"
        if better and typed:
            fix = f"write Field({better!r}, {typed!r}, path={name!r})"
        raise DefinitionError(f"{what} {name!r}: a name is lower-case words joined by single underscores; {fix}")
    if name in RESERVED:
        raise DefinitionError(f"{what} {name!r}: the name is taken by Tandem itself; choose another")


@dataclass(frozen=True)
class Field:
    """One field of an event.

    ``required`` fields must be present and not null; others may be missing. ``min``/``max`` (inclusive) and
    ``domain`` (the allowed values) are part of the contract: an event outside is a dead letter, not a value.
    Without a ``dtype`` a field is only a reference, for filters: ``Field("dep_delay") > 15``.

    ``path`` says where in the record it stands, if not as a member of its own name: a path through the payload (``"user.id"``,
    ``"items[0].sku"``, ``["a name with.dots"]``), or RecordKey(), Header("x-tenant"), RecordTimestamp(), ElementIndex(). ``parse`` says how
    it is read where the value alone does not: Epoch("ms"), TimeFormat(...), Decimal(scale=2) and their like. ``value`` computes it from
    other fields of the event instead: an expression (:mod:`transforms.expressions.language`), of which the field keeps the formula.

    ``length`` is how many elements every list of a list field has, such as the dimension of an embedding.
    """

    name: str
    dtype: DType | None = None
    required: bool = False
    unit: str = ""
    min: float | None = None
    max: float | None = None
    domain: Sequence[Any] | None = None
    description: str = ""
    path: str | Sequence[Step] | Place | None = None
    parse: Parse | None = None
    value: Expression | Formula | Predicate | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        check_name("field", self.name, self.dtype if isinstance(self.dtype, str) else "")
        if self.dtype == "list<float>":
            object.__setattr__(self, "dtype", "list<float64>")
        if self.dtype is not None and self.dtype not in FIELD_TYPES:
            raise DefinitionError(f"field {self.name!r}: dtype {self.dtype!r} is none of {', '.join(FIELD_TYPES)}")
        self._check_origin()
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
        self._check_length()

    def _check_length(self) -> None:
        n = self.length
        if n is None:
            return
        if self.dtype not in LIST_TYPES:
            raise DefinitionError(f"field {self.name!r}: length is for lists, such as 'list<float>', not for {self.dtype!r}; drop it")
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_ELEMENTS:
            raise DefinitionError(f"field {self.name!r}: length {n!r} is no whole number from 1 to {MAX_ELEMENTS}")

    def _check_origin(self) -> None:
        what = f"field {self.name!r}"
        if self.path is not None and not isinstance(self.path, (RecordKey, Header, RecordTimestamp, ElementIndex)):
            steps = path_of(what, self.path)
            object.__setattr__(self, "path", None if steps == (self.name,) else steps)
        if self.path is None and self.parse is None and self.value is None:
            return
        if self.dtype is None:
            raise DefinitionError(f"{what}: path, parse and value are for a field with a dtype; give it one, or drop them in a filter")
        for place, dtype in ((RecordTimestamp, "timestamp"), (ElementIndex, "int64")):
            if isinstance(self.path, place) and (self.dtype != dtype or self.parse is not None):
                raise DefinitionError(
                    f"{what}: {place.__name__}() gives {dtype} and needs no parse, but the field is {self.dtype}; write it so"
                )
        if isinstance(self.path, (RecordKey, Header)) and self.dtype in LIST_TYPES and getattr(self.path, "member", None) is None:
            raise DefinitionError(f"{what}: {type(self.path).__name__} gives one value, but the field is {self.dtype}")
        if self.parse is not None:
            if not isinstance(self.parse, Parse):
                raise DefinitionError(
                    f"{what}: parse={self.parse!r} is no way to read a value; write Epoch('ms'), TimeFormat(...) or their like"
                )
            self.parse.check(what, self.dtype)
        if self.value is not None:
            if self.path is not None or self.parse is not None:
                raise DefinitionError(f"{what}: value= computes it, so it stands nowhere; drop path= and parse=, or value=")
            if not isinstance(self.value, Expression | Formula | Predicate):
                raise DefinitionError(f"{what}: value={self.value!r} is no expression; write one such as col('amount') / 100")
            object.__setattr__(self, "value", formula_of(self.value))

    @property
    def place(self) -> Place:
        """Where in the record the field stands."""
        return (self.name,) if self.path is None else cast(Place, self.path)

    @property
    def formula(self) -> Formula:
        """The expression that computes it, as it is kept."""
        assert isinstance(self.value, Formula)
        return self.value

    def canonical(self) -> list[Any]:
        """A JSON-able form of everything that can change a value: what stands elsewhere than under its name is told behind the rest."""
        own: dict[str, Any] = {}
        if self.path is not None:
            own["path"] = canonical_place(self.place)
        if self.parse is not None:
            own["parse"] = self.parse.canonical()
        if self.value is not None:
            own["value"] = self.formula.canonical()
        if self.length is not None:
            own["length"] = self.length
        plain = [self.name, self.dtype, self.required, self.min, self.max, list(self.domain) if self.domain else None]
        return [*plain, own] if own else plain

    def __gt__(self, value: Any) -> Any:
        return self._compared(">", value)

    def __ge__(self, value: Any) -> Any:
        return self._compared(">=", value)

    def __lt__(self, value: Any) -> Any:
        return self._compared("<", value)

    def __le__(self, value: Any) -> Any:
        return self._compared("<=", value)

    def eq(self, value: Any) -> Any:
        """Events whose field equals ``value``."""
        return self._compared("==", value)

    def ne(self, value: Any) -> Any:
        """Events whose field is not null and differs from ``value``."""
        return self._compared("!=", value)

    def _compared(self, op: str, value: Any) -> Any:
        """A filter; beside another field, or an expression, an expression."""
        if isinstance(value, Field):
            value = col(value.name)
        if isinstance(value, Expression):
            return Expression(Formula(op, (formula_of(col(self.name)), value.formula)))
        return Predicate(op, (self.name, value))

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
            raise DefinitionError(f"field {self.name!r} has no dtype; give it one of {', '.join(FIELD_TYPES)}")
        return FIELD_TYPES[self.dtype]


def check_comparison(what: str, f: Field, op: str, values: tuple[Any, ...]) -> None:
    """Refuse what Arrow would truncate or fail on only when the job runs."""
    if values and f.dtype in LIST_TYPES:
        raise DefinitionError(f"{what}: {f.name!r} is {f.dtype} and is compared with no value; use .is_null() or .not_null()")
    for value in values:
        if (odd := _unlike(f.dtype or "string", value)) is not None:
            raise DefinitionError(
                f"{what}: {f.name!r} is {f.dtype} and cannot be compared with {value!r}, {odd}; write a value of that type"
            )
    if f.dtype == "bool" and op in (">", ">=", "<", "<="):
        raise DefinitionError(f"{what}: {f.name!r} is bool and has no order; use .eq(True) or .eq(False)")
    check_reach(what, f, op, values)


def check_reach(what: str, f: Field, op: str, values: tuple[Any, ...]) -> None:
    """Refuse a comparison with a value that no event has which the contract accepts."""
    for value in values:
        if why := _unreached(f, op, value):
            raise DefinitionError(f"{what}: {why}")


def _unreached(f: Field, op: str, value: Any) -> str:
    """Why no accepted event passes a comparison with one value (for ``!=``: could be it); "" where one may."""
    if f.domain is not None and (value not in f.domain if op in ("==", "!=", "isin") else not _some(f.domain, op, value)):
        sign, words = "=" if op in ("==", "!=", "isin") else f" {op} ", ", ".join(map(repr, f.domain))
        return f"no accepted event has {f.name}{sign}{value!r}; its domain is {words}: correct one of both"
    if not _reachable(f, op, value):
        bounds = " to ".join("any" if bound is None else str(bound) for bound in (f.min, f.max))
        sign = "==" if op == "isin" else op
        return f"no accepted event has {f.name} {sign} {value!r}; the field is {bounds}: correct one of both"
    return ""


_WANTED = ("==", "isin", "<", "<=", ">", ">=")
_MOST_TRIED = 4096


def check_some_pass(what: str, formula: Formula, fields: Mapping[str, Field], *, before_contract: bool = False) -> None:
    """Refuse a filter that no event passes which the contract accepts. One of several ways to pass it (what ``|`` joins) may be none.

    Of fields with a domain each value is tried, and null where the field may be; of any other field a plain comparison alone is judged.
    ``before_contract`` is of a filter that is asked before the contract judges: what it lets pass as null is meant to be a dead letter.
    """
    if why := _none_passes(formula, fields, before_contract):
        raise DefinitionError(f"{what}: {why}")


def _none_passes(formula: Formula, fields: Mapping[str, Field], nulls: bool) -> str:
    """Why no accepted event passes; "" where one may. ``nulls``: a required field may be null."""
    if formula.op == "is_true":
        return _none_passes(formula.args[0], fields, nulls)
    if formula.op in ("&", "|"):
        whys = [_none_passes(part, fields, nulls) for part in formula.args]
        if all(whys) or (formula.op == "&" and any(whys)):
            return next(filter(None, whys))
    if formula.op in _WANTED and all(a.op in ("column", "literal") for a in formula.args):
        for name, op, values in formula.comparisons():
            whys = [_unreached(fields[name], op, value) for value in values] if name in fields else []
            if whys and all(whys):
                return whys[0]
    read = [fields.get(name) for name in formula.fields]
    choices = [(*f.domain, *(() if f.required and not nulls else (None,))) for f in read if f is not None and f.domain is not None]
    if len(choices) < len(read) or not choices or math.prod(map(len, choices)) > _MOST_TRIED:
        return ""
    tried = zip(*itertools.product(*choices), strict=True)
    columns = [pa.array(values, f.arrow_type) for values, f in zip(tried, read, strict=True) if f is not None]
    if pc.any(formula.mask(pa.RecordBatch.from_arrays(columns, list(formula.fields)))).as_py():
        return ""
    words = "; ".join(f"of {f.name!r} {', '.join(map(repr, f.domain or ()))}" for f in read if f is not None)
    return f"no accepted event passes {formula}; the domain is {words}: correct one of both"


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
