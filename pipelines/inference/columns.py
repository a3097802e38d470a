"""What the values of one column say of themselves: type, unit, form, range, domain, nulls. Pure; by Arrow's kernels."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import re
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.inference.names import called, words
from transforms.conversions import value_of
from transforms.instants import micros_of, micros_of_text
from transforms.json_payload import Refused
from transforms.parsing import Epoch, IsoTime

__all__ = ["NONE", "Column", "describe", "time_like"]

NONE = np.iinfo(np.int64).min
"""In place of a moment: there is none."""
MOST_WORDS = 12
_IDS = {"id", "code", "key", "zip", "phone", "number"}
"""Words of names whose digits are no amounts."""
_WORD = re.compile(r"[^\W\d_]+([ _-][^\W\d_]+)*")
_UNITS = (("s", 1_000_000), ("ms", 1_000), ("us", 1))
_DAY = 86_400
_OF_DAY = (1_000_000, 1_000_000_000)
"""Microseconds and nanoseconds; milliseconds of a day are as large as seconds of a year."""
_FIRST, _LAST = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds
_TICKS = 628_929_792_000_000_000, 662_380_416_000_000_000
"""1994 and 2100 in ticks of .NET: as nanoseconds since 1970 these are of December 1989 to 1990, of which few data are."""
_TIME = {
    "time",
    "timestamp",
    "ts",
    "at",
    "date",
    "datetime",
    "when",
    "epoch",
    "created",
    "occurred",
    "day",
    "dt",
    "stamp",
    "zeit",
    "moment",
}
_FORMATS = (
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", "%Y-%m-%d %H:%M:%S"), (r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$", "%Y-%m-%dT%H:%M:%S"),
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,6}$", "%Y-%m-%d %H:%M:%S.%f"),
    (r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}$", "%Y-%m-%dT%H:%M:%S.%f"),
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d$", "%Y-%m-%d %H:%M"), (r"^\d{4}-\d\d-\d\dT\d\d:\d\d$", "%Y-%m-%dT%H:%M"),
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ?[+-]\d\d:?\d\d$", "%Y-%m-%d %H:%M:%S%z"),
    (r"^\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d$", "%d.%m.%Y %H:%M:%S"), (r"^\d\d\.\d\d\.\d{4} \d\d:\d\d$", "%d.%m.%Y %H:%M"),
    (r"^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$", "%d/%m/%Y %H:%M:%S"), (r"^\d\d/\d\d/\d{4} \d\d:\d\d$", "%d/%m/%Y %H:%M"),
    (r"^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$", "%m/%d/%Y %H:%M:%S"), (r"^\d\d/\d\d/\d{4} \d\d:\d\d$", "%m/%d/%Y %H:%M"),
    (r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d$", "%Y/%m/%d %H:%M:%S"), (r"^\d\d\.\d\d\.\d{4}$", "%d.%m.%Y"), (r"^\d\d/\d\d/\d{4}$", "%d/%m/%Y"),
)  # fmt: skip
_DAYS = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
_ISO = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?([.,]\d+)?( ?(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?))?$"
_PACKED = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"


@dataclass
class Column:
    """A column of N values as a field could declare it. ``moments`` (int64 [N] of microseconds, :data:`NONE` where there is none)
    are there for times; ``left_out`` says why it is no field."""

    steps: tuple[Any, ...]
    rows: int
    nulls: int = 0
    dtype: str = ""
    parse: str = ""
    distinct: int = 0
    low: Any = None
    high: Any = None
    domain: list[Any] | None = None
    notes: list[str] = field(default_factory=list)
    moments: npt.NDArray[np.int64] | None = None
    naive: bool = False
    left_out: str = ""
    name: str = ""
    unsigned: bool = False
    """Whether its type in the file holds nothing negative."""
    of_day: int = 0
    """Of a time of the day: how many of its units a second has (a thousand million: nanoseconds since midnight); 0: it is none."""
    is_index: bool = False
    """Whether it is the position of an event's element in the list that is exploded, which stands nowhere."""

    @property
    def called(self) -> str:
        """The name that it has in the data."""
        return called(self.steps)[-1]

    @property
    def required(self) -> bool:
        """Whether every record has it."""
        return self.nulls == 0

    @property
    def unique(self) -> bool:
        """Whether no two records have the same."""
        return self.nulls == 0 and self.distinct == self.rows


def time_like(name: str) -> bool:
    """Whether a name is one that times have."""
    found = words(name)
    return bool(set(found) & _TIME) or any(w.endswith(("time", "zeit", "date", "datum", "stamp")) for w in found)


def describe(
    steps: tuple[Any, ...], values: list[Any], kind: pa.DataType | None, text: bool, decimal_mark: str, zone: str | None,
    thousands: str | None = None,
) -> Column:  # fmt: skip
    """What N values are. ``text``: their format has nothing else; ``kind``: their type in the file, where it has one."""
    rows = len(values)
    column = Column(steps, rows, sum(v is None for v in values))
    if column.nulls == rows:
        column.left_out = "null in all records that were looked at"
        return column
    column.unsigned = kind is not None and pa.types.is_unsigned_integer(kind)
    if kind is not None and pa.types.is_decimal(kind):
        column.dtype, column.parse = "float64", f"Decimal(scale={max(kind.scale, 0)})"
        _numbers(column, [None if v is None else float(v) for v in values])
        column.left_out = "a decimal of more than 15 digits behind the point" if kind.scale > 15 else ""
        return column
    types = set(map(type, values)) - {type(None)}
    if types <= {str}:
        _texts(column, values, text, decimal_mark, zone, thousands)
    elif types == {bool}:
        column.dtype, column.distinct = "bool", len({v for v in values if v is not None})
    elif types == {int} or types == {int, float} or types == {float}:
        _plain_numbers(column, values, types)
    elif all(issubclass(t, dt.datetime) for t in types):
        _times(column, values, zone)
    elif types == {dt.date}:
        column.dtype, column.parse = "timestamp", "Date()"
        _moments(column, [None if v is None else micros_of(dt.datetime(v.year, v.month, v.day, tzinfo=dt.UTC)) for v in values])
    elif types == {bytes}:
        _bytes(column, values)
    elif types == {list}:
        _lists(column, values)
    elif types <= {decimal.Decimal}:
        scale = max(-int(v.as_tuple().exponent) for v in values if v is not None)
        column.dtype, column.parse = "float64", f"Decimal(scale={max(scale, 0)})"
        _numbers(column, [None if v is None else float(v) for v in values])
    else:
        column.left_out = (
            f"values of several types ({', '.join(sorted(t.__name__ for t in types))})" if len(types) > 1 else _kind_name(types)
        )
    return column


def _kind_name(types: set[type]) -> str:
    return f"values of type {next(iter(types)).__name__}, which no field has"


def _numbers(column: Column, values: list[Any]) -> None:
    array = pa.array(values)
    ends = pc.min_max(array).as_py()
    column.low, column.high = ends["min"], ends["max"]
    column.distinct = int(pc.count_distinct(array).as_py())


def _plain_numbers(column: Column, values: list[Any], types: set[type]) -> None:
    known = [v for v in values if v is not None]
    if any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in known):
        column.left_out = "integers beyond 64 bits"
        return
    if float in types:
        finite = [v for v in known if v == v and abs(v) != float("inf")]
        if len(finite) < len(known):
            column.notes.append(f"{len(known) - len(finite):,} values are NaN or infinite, which are rejects; where= may pass them over")
        whole = all(float(v).is_integer() and abs(v) < 2**53 for v in finite)
        ids = {"id", "code", "nr", "number"} & set(words(column.called))
        column.dtype = "int64" if whole and finite and ids and len(finite) == len(known) else "float64"
        values = [None if v is None else float(v) for v in values]
        if column.dtype == "int64":
            column.notes.append("written as floats")
    else:
        column.dtype = "int64"
    _numbers(column, values)
    _epoch(column, values)


def _epoch(column: Column, values: list[Any]) -> None:
    """Integers of a time, by their size and name."""
    name = column.called
    timed = time_like(name) or "$date" in column.steps or (name.startswith("column_") and _rising(values))
    if not timed or not isinstance(column.low, (int, float)):
        return
    if {"date", "day", "dt"} & set(words(name)) and column.low * _DAY >= _FIRST and column.high * _DAY <= _LAST and column.dtype == "int64":
        column.dtype, column.domain, column.parse = "timestamp", None, "Date()"
        column.notes.append("QUESTION: days since 1970?")
        _moments(column, [None if v is None else int(v) * _DAY * 1_000_000 for v in values])
        return
    if column.dtype == "int64" and _TICKS[0] <= column.low and column.high <= _TICKS[1]:
        column.dtype, column.domain, column.parse = "timestamp", None, 'Epoch("ticks")'
        column.notes.append("100 ns since the year 1, as of .NET; as nanoseconds since 1970 they would be of 1990")
        _moments(column, [None if v is None else value_of(int(v), Epoch("ticks"), "timestamp") for v in values])
        return
    for unit, scale in (*_UNITS, ("ns", 0)):
        factor = 1_000_000 // scale if scale else 1_000_000_000
        if _FIRST * factor <= column.low and column.high <= _LAST * factor:
            column.dtype, column.domain = "timestamp", None
            column.parse = f'Epoch("{unit}")'
            _moments(column, [None if v is None else int(v * scale) if scale else int(v) // 1_000 for v in values])
            return
    if column.dtype == "int64" and column.low >= 0 and _rising(values):
        # Counted from midnight, as exchanges do: in units that are neither coarser (a day has no more of these) nor finer ones.
        column.of_day = next((n for n in _OF_DAY if _DAY * n // 1_000 <= column.high < _DAY * n), 0)
        if column.of_day:
            column.moments = np.array([NONE if v is None else v * 1_000_000 // column.of_day for v in values], np.int64)


def _epoch_text(column: Column, values: list[Any]) -> None:
    """Texts of numbers of a time, in a format that has numbers too."""
    was = column.parse
    _epoch(column, values)
    if column.parse != was:
        column.parse = column.parse.removesuffix(")") + ", text=True)"
    column.of_day = 0


def _rising(values: list[Any]) -> bool:
    """Whether values are those of a clock that goes on: a column without a name is a time then."""
    known = [v for v in values if v is not None]
    return len(known) == len(values) > 50 and sum(b >= a for a, b in itertools.pairwise(known)) > 0.9 * len(known) and known[0] < known[-1]


def _moments(column: Column, us: list[int | None]) -> None:
    column.moments = np.array([NONE if v is None else v for v in us], dtype=np.int64)
    known = column.moments[column.moments != NONE]
    column.low, column.high = (_shown(int(known.min())), _shown(int(known.max()))) if len(known) else (None, None)
    column.distinct = len(np.unique(known))


def _shown(us: int) -> str:
    return (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us)).isoformat(sep=" ", timespec="seconds")


def _times(column: Column, values: list[Any], zone: str | None) -> None:
    column.dtype = "timestamp"
    if any(v is not None and v.tzinfo is None for v in values):
        if zone is not None:
            _local(column, [None if v is None else v.replace(tzinfo=None) for v in values], "%Y-%m-%d %H:%M:%S", zone)
            return
        column.naive = True
        column.notes.append("QUESTION: these times have no zone, and are read as UTC; infer --zone says another")
    _moments(column, [None if v is None else micros_of(v) for v in values])


def _texts(column: Column, values: list[Any], text: bool, decimal_mark: str, zone: str | None, thousands: str | None) -> None:
    array = pa.array(values, pa.string())
    column.distinct = int(pc.count_distinct(array).as_py())
    name = column.called

    first = next(v for v in values if v is not None)

    def all_match(pattern: str) -> bool:
        return bool(re.search(pattern, first)) and bool(pc.all(pc.match_substring_regex(array, pattern)).as_py())

    column.dtype = "string"
    if all_match(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)$"):
        us = [None if v is None else micros_of_text(v) for v in values]
        if all(u is not None or v is None for u, v in zip(us, values, strict=True)):
            column.dtype = "timestamp"
            _moments(column, us)
            return
    version = any(w.endswith("version") for w in words(name))
    if not version and all_match(r"^\d{4}-\d\d-\d\d$"):
        column.dtype, column.parse = "timestamp", "Date()"
        _moments(column, [None if v is None else micros_of(dt.datetime.fromisoformat(v).replace(tzinfo=dt.UTC)) for v in values])
        return
    for pattern, form in _FORMATS:
        if all_match(pattern) and _formatted(column, values, form, zone):
            return
    if all_match(_ISO) and _printed(column, values, zone):
        return
    if all_match(r"^/Date\(-?\d{1,15}([+-]\d{4})?\)/$"):
        column.dtype, column.parse = "timestamp", 'Epoch("ms", text=True)'
        _moments(column, [None if v is None else value_of(v, Epoch("ms", text=True), "timestamp") for v in values])
        return
    if not text and time_like(name) and all_match(_DAYS) and _formatted(column, values, "%Y%m%d", zone):
        return
    mark = re.escape(decimal_mark)
    if thousands and all_match(_grouped(thousands, decimal_mark)) and pc.any(pc.match_substring(array, thousands)).as_py():
        array = pc.replace_substring(array, thousands, "")
        values, first = array.to_pylist(), first.replace(thousands, "")
    if text and pc.all(pc.is_in(pc.utf8_lower(array), value_set=pa.array(["true", "false", None], pa.string()))).as_py():
        column.dtype = "bool"
    elif all_match(r"^[+-]?(0|[1-9]\d{0,18})$") and all(v is None or abs(int(v)) < 2**63 for v in values):
        whole = [None if v is None else int(v) for v in values]
        if text:
            _plain_numbers(column, whole, {int})
        elif not _IDS & set(words(name)):
            column.dtype, column.parse = "int64", "Number()"
            _numbers(column, whole)
            _epoch_text(column, whole)
    elif not text and (version or _IDS & set(words(name))):
        pass  # 1.0 is followed by 1.0.1; 1234.1714557660 is who it is, as GA4 has it
    elif all_match(rf"^[+-]?(\d{{1,15}}({mark}\d*)?|{mark}\d+)([eE][+-]?\d{{1,2}})?$") and not all_match(r"^[+-]?0\d"):
        _real_texts(column, values, text, decimal_mark)
    elif all_match(r"^\d+$") and text:
        column.notes.append("digits with leading zeros: text, so that these stay")
    if column.dtype == "string" and column.distinct >= MOST_WORDS and all_match(_PACKED) and pc.any(pc.ends_with(array, "=")).as_py():
        column.notes.append("QUESTION: bytes in base64? a number of Debezium or Kafka Connect is parse=Decimal(scale=2, unscaled=True)")
    if column.dtype == "string":
        longest = pc.max(pc.binary_length(array)).as_py()
        if longest > 64 << 10:
            column.left_out = "texts above 64 KiB"
    if (
        column.dtype == "string"
        and column.distinct <= MOST_WORDS
        and column.rows - column.nulls >= 15 * column.distinct
        and column.rows >= 200
    ):
        counts = pc.value_counts(array.drop_null() if hasattr(array, "drop_null") else array.filter(array.is_valid()))
        known = sorted(each["values"] for each in counts.to_pylist())
        kinds = len(known) > 1 or _WORD.fullmatch(known[0]) is not None  # of one text: a version or an address is another tomorrow
        if kinds and min(each["counts"] for each in counts.to_pylist()) >= 5 and sum(map(len, known)) <= 72:  # longer ones are no names
            column.domain = known


def _grouped(thousands: str, decimal_mark: str) -> str:
    """What numbers look like in groups of three digits, and those that are too small for it."""
    group, mark = re.escape(thousands), re.escape(decimal_mark)
    return rf"^[+-]?\d{{1,3}}({group}\d{{3}})*({mark}\d*)?$"


def _real_texts(column: Column, values: list[Any], text: bool, decimal_mark: str) -> None:
    plain = [None if v is None else v.replace(decimal_mark, ".") for v in values]
    exponents = any(v is not None and "e" in v.lower() for v in plain)
    scale = max(len(v.partition(".")[2]) for v in plain if v is not None)
    real = [None if v is None else float(v) for v in plain]
    column.dtype = "float64"
    if text and all(v is None or v.is_integer() for v in real):
        column.notes.append("written as floats")
        column.dtype = "int64" if {"id", "code", "nr", "number"} & set(words(column.called)) else "float64"
    if not text:
        column.parse = "Number()" if exponents or scale > 15 else f"Decimal(scale={scale})"
    _numbers(column, real)
    if text:
        _epoch(column, real)
    elif not exponents:
        _epoch_text(column, real)


def _formatted(column: Column, values: list[Any], form: str, zone: str | None) -> bool:
    try:
        read = [None if v is None else dt.datetime.strptime(v, form) for v in values]
    except ValueError:
        return False
    column.dtype = "timestamp"
    if "%z" in form:
        column.parse = f'TimeFormat("{form}")'
        _moments(column, [None if at is None else micros_of(at) for at in read])
    else:
        column.naive = zone is None
        if zone is None:
            column.notes.append("QUESTION: local time of which zone? UTC is assumed; infer --zone Europe/Paris says another")
        _local(column, read, form, zone or "UTC")
    if form.startswith(("%d/%m", "%m/%d")) and all(at is None or at.day <= 12 for at in read):
        column.notes.append("QUESTION: day/month or month/day?")
    return True


def _printed(column: Column, values: list[Any], zone: str | None) -> bool:
    """Moments as databases and programs print them; of some the zone, the fraction or the seconds are left out."""
    how: dict[str, Any] = {}
    naive = [v is not None and re.search(r"(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)$", v[16:]) is None for v in values]
    if any(naive):
        how = {"zone": zone or "UTC", "ambiguous": "earlier", "missing": "later"}
        column.naive = zone is None
    try:
        us = [None if v is None else value_of(v, IsoTime(**how), "timestamp") for v in values]
    except Refused:
        return False
    column.dtype, column.parse = "timestamp", "IsoTime()"
    if how:
        column.parse = f'IsoTime(zone="{how["zone"]}", ambiguous="earlier", missing="later")'
        if zone is None:
            column.notes.append("QUESTION: local time of which zone? UTC is assumed; infer --zone Europe/Paris says another")
    _moments(column, us)
    return True


def _local(column: Column, values: list[Any], form: str, zone: str) -> None:
    """Naive times, as those of a zone."""
    place = ZoneInfo(zone)
    us: list[int | None] = []
    twice = gone = False
    for v in values:
        if v is None:
            us.append(None)
            continue
        at = v.replace(tzinfo=place)
        gone |= at.astimezone(dt.UTC).astimezone(place).replace(tzinfo=None) != v
        twice |= at.utcoffset() != at.replace(fold=1).utcoffset()
        us.append(micros_of(at))
    more = ""
    if twice or gone:
        more = ', ambiguous="earlier", missing="later"'
        column.notes.insert(0, "some of these stand in an hour that is there twice, or not at all, as clocks change")
    column.parse = f'TimeFormat("{form}", zone="{zone}"{more})'
    _moments(column, us)


def _bytes(column: Column, values: list[Any]) -> None:
    column.dtype = "string"
    try:
        column.distinct = len({v.decode() for v in values if v is not None})
    except UnicodeDecodeError:
        column.parse = "Hex()"
        column.distinct = len({v for v in values if v is not None})


def _lists(column: Column, values: list[Any]) -> None:
    inner = {type(e) for v in values if v is not None for e in v}
    kinds: dict[frozenset[type], str] = {
        frozenset({str}): "list<string>", frozenset({int}): "list<int64>", frozenset({float}): "list<float>",
        frozenset({int, float}): "list<float>", frozenset({bool}): "list<bool>",
    }  # fmt: skip
    found = kinds.get(frozenset(inner))
    if found is None:
        column.left_out = "empty lists" if not inner else f"lists of {', '.join(sorted(t.__name__ for t in inner))}"
    else:
        column.dtype = found
        sizes = {len(v) for v in values if v is not None}
        if found == "list<float>" and len(sizes) == 1 and max(sizes) > 1 and column.rows - column.nulls >= 20:
            column.notes.append(f"always {max(sizes)} elements: length={max(sizes)}, if that is meant, as of embeddings")
        else:
            column.notes.append(f"up to {max(sizes)} elements")
