"""Every reading of a value against Python's own: datetime, zoneinfo, decimal, int; each value alone and among others."""

from __future__ import annotations

import base64
import decimal
import math
import struct
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import examples
from transforms.columns import OK
from transforms.conversions import column_of, value_of, values_of
from transforms.instants import BeyondCalendar
from transforms.json_payload import Refused
from transforms.parsing import (
    Base64,
    BigEndian,
    Date,
    Decimal,
    Enum,
    Epoch,
    Hex,
    IsoTime,
    Number,
    Parse,
    Text,
    TimeFormat,
    TimeOfDay,
)  # fmt: skip
from transforms.reasons import REASONS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
HUGE = 2**63 - 1


def alone(value: Any, parse: Parse, dtype: str) -> Any:
    if value is None:
        return None
    try:
        return value_of(value, parse, dtype)
    except Refused as refused:
        return refused.reason


def said(column: tuple[pa.Array, Any]) -> list[Any]:
    array, codes = column
    values = array.to_pylist()
    return [v if code == OK else REASONS[code] for v, code in zip(values, codes.tolist(), strict=True)]


def same(values: list[Any], parse: Parse, dtype: str, *kinds: pa.DataType) -> list[Any]:
    """The verdicts on each value alone, which must be those among others: as Python values, and as columns of these types."""
    want = [alone(v, parse, dtype) for v in values]
    assert repr(said(values_of(values, parse, dtype))) == repr(want)
    assert repr(said(values_of([None, *values] * 9, parse, dtype))) == repr([None, *want] * 9)
    for kind in kinds:
        column = pa.array([None, *values, None], kind)
        assert repr(said(column_of(column, parse, dtype))) == repr([None, *want, None]), kind
        assert repr(said(column_of(column.slice(1, len(values)), parse, dtype))) == repr(want), kind
    return want


ints = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(10**6), 2 * 10**6), st.integers(10**9, 2 * 10**18))


@given(st.lists(ints, max_size=20), st.sampled_from(["s", "ms", "us", "ns"]))
@example([0, -1, 999, 1000, -999, -1000, -1001, 2**63 - 1, -(2**63), 253402300799, 253402300800], "ns")
def test_whole_epochs_are_exact(values: list[int], unit: Any) -> None:
    got = same(values, Epoch(unit), "timestamp", pa.int64())
    for value, us in zip(values, got, strict=True):
        exact = {"s": value * 10**6, "ms": value * 1000, "us": value, "ns": value // 1000}[unit]
        assert us == max(-HUGE, min(HUGE, exact))
        if 0 <= us < 4 * 10**15 and unit in ("s", "us"):
            assert EPOCH + timedelta(**{"seconds" if unit == "s" else "microseconds": value}) == EPOCH + us * US


reals = st.one_of(st.floats(), st.floats(5e8, 3e9), st.floats(1e12, 3e12), st.integers(0, 2**33 * 2).map(lambda n: n / 2))


@given(st.lists(reals, max_size=20), st.sampled_from(["s", "ms", "us", "ns"]))
@example([1714557660.123456, 2**19 + 0.5, 1e300, 1.5, 2.5, 2**40 + 0.5, 2**40 + 1.5, 524288.0000005], "us")
def test_fractions_of_epochs_are_the_nearest_microsecond(values: list[float], unit: Any) -> None:
    got = same(values, Epoch(unit), "timestamp", pa.float64())
    for value, us in zip(values, got, strict=True):
        if not math.isfinite(value):
            assert us == "wrong_type"
        elif 0 <= value < 2**33 and unit == "s":
            assert EPOCH + us * US == datetime.fromtimestamp(value, UTC)  # Python rounds as we do: half to even


def test_python_s_own_time_in_seconds_is_read_to_the_microsecond() -> None:
    us = np.random.default_rng(1).integers(10**15, 3 * 10**15, 2000).tolist()
    assert same([u / 10**6 for u in us], Epoch("s"), "timestamp", pa.float64()) == us


@given(st.lists(st.one_of(st.integers(-(10**25), 10**25).map(str), st.decimals(allow_nan=False, places=9).map(str), st.text(max_size=5))))
@example(["1e5", " 1", "1_0", "+5", "٣", "1.", ".5", "-0", "0x10", ""])
def test_texts_of_epochs_only_where_declared(values: list[str]) -> None:
    got = same(values, Epoch("ms", text=True), "timestamp", pa.string(), pa.large_string())
    for value, us in zip(values, got, strict=True):
        try:
            exact = math.floor(Fraction(decimal.Decimal(value)) * 1000)
            assert us in (max(-HUGE, min(HUGE, exact)), "wrong_type")
        except (decimal.InvalidOperation, ValueError, OverflowError):
            assert us == "wrong_type"
    assert set(same(values, Epoch("ms"), "timestamp", pa.string())) <= {"wrong_type"}


@given(st.lists(st.one_of(ints, st.integers(0, 3_155_378_975_999_999_999)), max_size=20))
@example([0, 638_501_544_601_230_000, 9, 10, 3_155_378_975_999_999_999, -1, 2**63 - 1, -(2**63)])
def test_ticks_of_dotnet(values: list[int]) -> None:
    got = same(values, Epoch("ticks"), "timestamp", pa.int64())
    for value, us in zip(values, got, strict=True):
        if 0 <= value <= 3_155_378_975_999_999_999:
            assert EPOCH + us * US == datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=value // 10)
    same([v for v in values if v >= 0], Epoch("ticks"), "timestamp", pa.uint64())
    same([float(v) for v in values], Epoch("ticks"), "timestamp", pa.float64())
    same([str(v) for v in values], Epoch("ticks", text=True), "timestamp", pa.string())


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), max_size=20), st.sampled_from(["", "+0120", "-0900"]))
def test_dates_of_odata(values: list[int], offset: str) -> None:
    texts = [f"/Date({v}{offset})/" for v in values]
    got = same([*texts, "/Date(x)/", "/Date(1)", "7"], Epoch("ms", text=True), "timestamp", pa.string(), pa.large_string(), pa.binary())
    assert got == [max(-HUGE, min(HUGE, v * 1000)) for v in values] + ["wrong_type"] * 2 + [7000]
    assert set(same(texts, Epoch("s", text=True), "timestamp", pa.string())) <= {"wrong_type"}


MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))
ISO_ZONES = {
    "Z": 0, "z": 0, " UTC": 0, "UTC": 0, "+00": 0, "-00:00": 0, " +0000": 0, "GMT": 0, "+05:30": 330, "-0930": -570, " +02": 120,
    "+23:59": 1439, "+02:00[Europe/Paris]": 120, "Z[UTC]": 0,
    "+05:30[Asia/Kolkata][u-ca=gregory]": 330, " +0200 CEST": 120, " +0000 UTC": 0,
}  # fmt: skip


@given(st.lists(st.tuples(MOMENTS, st.sampled_from(["T", " ", "t"]), st.integers(0, 9), st.sampled_from(list(ISO_ZONES))), max_size=12))
def test_moments_as_databases_write_them(given: list[tuple[datetime, str, int, str]]) -> None:
    """Against Python's own, of which the digits behind the sixth are none."""
    texts, want = [], []
    for at, between, digits, zone in given:
        fraction = f"{at.microsecond:06}789"[:digits]
        text = f"{at:%Y-%m-%d}".rjust(10, "0") + f"{between}{at:%H:%M:%S}"
        if digits % 2 and between != " ":  # ISO's basic form
            text = text.replace("-", "").replace(":", "")
        texts.append(f"{text}{'.' if digits else ''}{fraction}{zone}")
        exact = at.replace(microsecond=int(f"{fraction[:6]:0<6}"), tzinfo=UTC)
        want.append((exact - EPOCH) // US - ISO_ZONES[zone] * 60_000_000)
    for parse in (IsoTime(), IsoTime("Europe/Paris")):
        assert same(texts, parse, "timestamp", pa.string(), pa.large_string(), pa.binary()) == want


@given(st.lists(st.tuples(MOMENTS, st.sampled_from(["Europe/Paris", "Africa/Monrovia", "Pacific/Apia", "Europe/Amsterdam"]))))
def test_offsets_of_local_mean_times_have_seconds(given: list[tuple[datetime, str]]) -> None:
    """As Python and PostgreSQL print moments of before there were zones: 1890-01-01 00:00:00+00:09:21."""
    local = [at.replace(tzinfo=zoneinfo.ZoneInfo(zone)) for at, zone in given]
    texts = [f"{at.isoformat(sep=' ')}" for at in local]
    assert same(texts, IsoTime(), "timestamp", pa.string()) == [(at - EPOCH) // US for at in local]


@given(st.lists(st.tuples(MOMENTS, st.sampled_from(["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S.%f"])), max_size=12))
def test_texts_without_a_zone_are_of_the_one_that_is_declared(given: list[tuple[datetime, str]]) -> None:
    """As Python prints datetimes: with a fraction, and without one where it is zero."""
    texts = [f"{at:{form}}" for at, form in given if at.year >= 1000]
    for zone in ("Europe/Paris", "UTC"):
        how: Any = {"zone": zone, "ambiguous": "earlier", "missing": "later"}
        want = [
            same([t], TimeFormat(form, **how), "timestamp")[0]
            for t, form in zip(texts, [f for a, f in given if a.year >= 1000], strict=True)
        ]
        assert same(texts, IsoTime(**how), "timestamp", pa.string()) == want
    assert set(same(texts, IsoTime(), "timestamp", pa.string())) <= {"wrong_type"}


def test_what_is_no_moment_as_databases_write_them() -> None:
    odd = ["2024-02-30 10:00:00+00", "2024-05-01 24:00:00Z", "2024-05-01 10:00:60Z", "2024-05-01", "2024-05-01 10:00:00 CEST", "now", "",
           "2024-05-01 10:00:00+24", "2024-05-01 10:00:00+0160", "2024-05-01  10:00:00Z",
           "2024-05-01 10:00:00+01:00:60", "2024-05-01 10:00:00+01000", "2024-05-01 10:00:00.Z", "infinity",
           "20240501T10Z", "20240501 100000Z",
           "20240230T100000Z", "2024-0501T100000Z", "2024-05-01 10:00:00[Europe/Paris]", "2024-05-01 10:00:00Z[", "2024-05-01 10:00:00Z[]",
           "2024-05-01 10:00:00+02 cest", "2024-05-01 10:00:00+02 CEST CEST",
           "0044-03-15 00:00:00+00 BC", "2024-05-01 01:00:00+00 PM", "2024-05-01 01:00:00Z AD"]  # fmt: skip
    assert same(odd, IsoTime("UTC"), "timestamp", pa.string()) == ["wrong_type"] * len(odd)
    twice = ["2024-10-27 02:30:00", "2024-03-31 02:30", "2024-10-27 02:30:00+02"]
    assert same(twice, IsoTime("Europe/Paris"), "timestamp", pa.string())[:2] == ["wrong_type"] * 2


def test_columns_with_a_unit_of_their_own_are_what_they_are() -> None:
    at = datetime(2024, 5, 1, 10, 1, 2, tzinfo=UTC)
    us = (at - EPOCH) // US
    for parse in (Epoch("ms"), Date(), TimeFormat("%Y", "Europe/Paris")):
        for unit in ("s", "ms", "us", "ns"):
            assert said(column_of(pa.array([at, None], pa.timestamp(unit, "UTC")), parse, "timestamp")) == [us, None]


ZONES = ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "America/Sao_Paulo", "UTC"]
LOCAL = "%Y-%m-%d %H:%M:%S.%f"


def changes(zone: str) -> list[datetime]:
    """Local times around each change of the clocks of the years 2014 to 2025, or of every third (tests/examples.py)."""
    z, out = zoneinfo.ZoneInfo(zone), []
    for year in range(2014, 2026, max(1, 12 // examples(12))):
        for quarter in range(366 * 4):
            at = datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=6) * quarter
            if at.astimezone(z).utcoffset() != (at + timedelta(hours=6)).astimezone(z).utcoffset():
                out += [(at + timedelta(minutes=m)).astimezone(z).replace(tzinfo=None) for m in range(-120, 600, 15)]
                out += [at.astimezone(z).replace(tzinfo=None) + timedelta(minutes=m, seconds=1) for m in range(-120, 600, 15)]
    return out


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("choice", ["earlier", "later", "reject"])
def test_local_times_over_both_changes_of_the_clocks(zone: str, choice: Any) -> None:
    z, parse = zoneinfo.ZoneInfo(zone), TimeFormat(LOCAL, zone, ambiguous=choice, missing=choice)
    locals_ = [*changes(zone), datetime(1900, 1, 1), datetime(2037, 7, 1), datetime(1, 1, 2), datetime(9999, 12, 30)]
    rng = np.random.default_rng(2)
    locals_ += [datetime(1950, 1, 1) + timedelta(minutes=int(m)) for m in rng.integers(0, 100 * 365 * 1440, 300)]
    got = same([f"{at:%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0") for at in locals_], parse, "timestamp", pa.string())
    for at, us in zip(locals_, got, strict=True):
        moments = {at.replace(tzinfo=z, fold=fold).astimezone(UTC) if at.year > 1 else at.replace(tzinfo=z, fold=fold) for fold in (0, 1)}
        exact = sorted((m - EPOCH) // US for m in moments)
        want = exact[0] if len(exact) == 1 else "wrong_type" if choice == "reject" else exact[0] if choice == "earlier" else exact[1]
        assert us == want, at
    assert same(locals_, parse, "timestamp", pa.timestamp("us")) == got  # a column of times without a zone holds local ones, too
    whole = [at.replace(microsecond=0) for at in locals_]
    for unit in ("s", "ms"):
        assert said(column_of(pa.array(whole, pa.timestamp(unit)), parse, "timestamp")) == same(whole, parse, "timestamp")


def test_what_earlier_and_later_say_of_two_known_nights() -> None:
    def read(text: str, choice: Any) -> str:
        us = value_of(text, TimeFormat("%d/%m/%Y %H:%M", "Europe/Paris", ambiguous=choice, missing=choice), "timestamp")
        return f"{EPOCH + us * US:%d %H:%M}"

    assert [read("27/10/2024 02:30", c) for c in ("earlier", "later")] == ["27 00:30", "27 01:30"]
    assert [read("31/03/2024 02:30", c) for c in ("earlier", "later")] == ["31 00:30", "31 01:30"]
    with pytest.raises(Refused, match="wrong_type") as error:
        read("31/03/2024 02:30", "reject")
    assert "clocks are put forward in Europe/Paris" in error.value.detail


FORMATS = ["%Y-%m-%d", "%d/%m/%Y %H:%M", "%Y%m%dT%H%M%S", "%Y-%m-%d %H:%M:%S.%f", "%d %b %Y %I:%M %p", "%y/%m/%d", "%Y-%j", "%Y%%%m"]


@given(
    st.lists(st.datetimes(datetime(1000, 1, 1), datetime(9998, 1, 1)), max_size=8),
    st.sampled_from(FORMATS),
    st.randoms(use_true_random=False),
)
def test_formats_read_what_strptime_reads(moments: list[datetime], form: str, random: Any) -> None:
    texts = [at.strftime(form) for at in moments]
    for text in list(texts):
        at = random.randrange(len(text))
        texts += [text[:at] + random.choice("0129 /:-x٣.") + text[at + 1 :], text[:at] + text[at + 1 :], text + " ", text.lower()]
    got = same(texts, TimeFormat(form, "UTC"), "timestamp", pa.string(), pa.binary() if all(t.isascii() for t in texts) else pa.string())
    for text, us in zip(texts, got, strict=True):
        try:
            assert us == (datetime.strptime(text, form) - datetime(1970, 1, 1)) // US
        except ValueError:
            assert us == "wrong_type"


def test_a_format_that_reads_its_zone() -> None:
    texts = ["2024-05-01T10:00:00+0200", "2024-05-01T10:00:00Z", "2024-05-01T10:00:00", "x"]
    assert same(texts, TimeFormat("%Y-%m-%dT%H:%M:%S%z"), "timestamp", pa.string()) == [
        1714550400000000, 1714557600000000, "wrong_type", "wrong_type",
    ]  # fmt: skip


@given(st.lists(st.dates(), max_size=10), st.lists(st.integers(-800_000, 3_000_000), max_size=10))
def test_dates(days: list[date], numbers: list[int]) -> None:
    want = [(d - date(1970, 1, 1)).days * 86_400_000_000 for d in days]
    assert same(days, Date(), "timestamp", pa.date32(), pa.date64()) == want
    assert same([d.isoformat() for d in days], Date(), "timestamp", pa.string()) == want
    assert same(numbers, Date(), "timestamp", pa.int32(), pa.int64()) == [n * 86_400_000_000 for n in numbers]


def test_what_is_no_date() -> None:
    odd = ["20240501", "2024-W01-1", "2024-02-30", "2024-5-1", "2024-05-01T00:00:00", "", 1.5, True, [1]]
    assert set(same(odd, Date(), "timestamp")) == {"wrong_type"}


money = st.one_of(
    st.integers(-(10**17), 10**17).map(lambda n: n / 100), st.floats(), st.integers(-(10**20), 10**20),
    st.decimals(-(10**16), 10**16, places=2), st.decimals(-(10**30), 10**30, places=3), st.decimals(-(10**16), 10**16, places=2).map(str),
    st.text("0123456789.-e+ ", max_size=6),
)  # fmt: skip


@given(st.lists(money, max_size=20), st.integers(0, 15), st.sampled_from(["int64", "float64"]))
@example(["1.10", "1.1", "1.100", "-0.00", "1e2", "0.1e1", "12.345", "9007199254740993", ""], 2, "float64")
@example([0.1, 0.3, 1e15 + 0.3, 9999999999999.99, 99999999999999.99, 1.005, -0.0], 2, "int64")
def test_decimals_against_python_s(values: list[Any], scale: int, dtype: str) -> None:
    got = same(values, Decimal(scale), dtype)
    for kind in (float, str, int):
        some = [v for v in values if type(v) is kind]
        same(some, Decimal(scale), dtype, *([pa.float64()] if kind is float else [pa.string()] if kind is str else []))
    for value, read in zip(values, got, strict=True):
        if isinstance(read, str):
            continue
        exact = decimal.Decimal(repr(value)) if isinstance(value, float) else decimal.Decimal(value)
        if dtype == "int64":
            assert Fraction(read) == Fraction(exact) * 10**scale
        else:
            assert read == float(exact)


@given(
    st.lists(st.decimals(-(10**9), 10**9, places=3), min_size=1, max_size=20),
    st.sampled_from([2, 3, 5]),
    st.sampled_from(["int64", "float64"]),
)
def test_columns_of_decimals(values: list[decimal.Decimal], scale: int, dtype: str) -> None:
    same(values, Decimal(scale), dtype, pa.decimal128(20, 3), pa.decimal256(50, 3))


def test_sums_of_money_stay_exact() -> None:
    texts = ["0.10"] * 10 + ["1234567.89"]
    assert sum(same(texts, Decimal(2), "int64", pa.string())) == 123456889


@given(st.lists(st.one_of(st.integers().map(str), st.floats().map(repr), st.text("0123456789.eE+-_ ", max_size=8)), max_size=20))
@example(["007", "-0", "1e400", "1E5", "5.0", "9223372036854775808", "9007199254740993", "0x1F", "nan", "Infinity"])
def test_numbers_as_text(values: list[str]) -> None:
    for dtype, to in (("int64", int), ("float64", float)):
        got = same(values, Number(), dtype, pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
        for value, read in zip(values, got, strict=True):
            if not isinstance(read, str):
                assert read == to(decimal.Decimal(value)) if dtype == "int64" else read == float(value)
    assert same([1, 2.0, True, None], Number(), "int64") == [1, 2, "wrong_type", None]


def test_big_endian_numbers_as_kafka_s_serializers_write_them() -> None:
    assert same([struct.pack(">q", -5), struct.pack(">i", 7), b"abc", b"", "text"], BigEndian(), "int64") == [-5, 7, *["wrong_type"] * 3]
    assert same([struct.pack(">d", 1.5), struct.pack(">f", 0.5), b"\0"], BigEndian(), "float64", pa.binary()) == [1.5, 0.5, "wrong_type"]


def test_enums_by_name_and_by_number() -> None:
    parse = Enum({0: "unknown", 1: "paid", "PAID": "paid"})
    assert same([0, "PAID", "paid", 2, 0.0, None, [1]], parse, "string") == [
        "unknown", "paid", "not_in_domain", "not_in_domain", "unknown", None, "wrong_type",
    ]  # fmt: skip
    parse = Enum({0: "unknown", 1: "paid"})
    assert same([0, 1, 2, None] * 5, parse, "string", pa.int64(), pa.int8(), pa.uint64()) == ["unknown", "paid", "not_in_domain", None] * 5
    assert same([True, False], parse, "string", pa.bool_()) == ["not_in_domain"] * 2
    assert same(["a", "b", None], Enum({"a": 1}), "int64", pa.string(), pa.dictionary(pa.int32(), pa.string())) == [
        1,
        "not_in_domain",
        None,
    ]


@given(st.lists(st.binary(max_size=12), max_size=10))
def test_bytes_in_hex_and_base64(values: list[bytes]) -> None:
    hexes, b64s = [v.hex() for v in values], [base64.b64encode(v).decode() for v in values]
    for written in (values, hexes, [h.upper() for h in hexes], [f"0x{h}" for h in hexes]):
        assert same(written, Hex(), "string") == hexes
    for written in (values, b64s, [t.rstrip("=") for t in b64s], [base64.urlsafe_b64encode(v).decode() for v in values]):
        assert same(written, Base64(), "string") == b64s
    same(values, Hex(), "string", pa.binary(), pa.large_binary())
    for value, read in zip(values, same(b64s, Base64(text=True), "string", pa.string()), strict=True):
        try:
            assert read == value.decode()
        except UnicodeDecodeError:
            assert read == "invalid_utf8"


def test_what_is_no_hex_or_base64() -> None:
    assert set(same(["0x1", "xy", "12 34", 7, None], Hex(), "string")) == {"wrong_type", None}
    assert set(same(["A", "AB=C", "a b=", "é", 7], Base64(), "string")) == {"wrong_type"}
    assert same(["0x1f3", "ff", "", "0x7fffffffffffffff", "0x8000000000000000"], Hex(), "int64", pa.string()) == [
        0x1F3, 255, "wrong_type", 2**63 - 1, "overflow",
    ]  # fmt: skip


@given(st.lists(st.one_of(ints, st.integers(-(10**40), 10**40)), min_size=1, max_size=20), st.integers(0, 15))
def test_decimals_as_kafka_connect_writes_them(units: list[int], scale: int) -> None:
    """Bytes of the unscaled number, or base64 of these; what is a number or a decimal already is that."""
    raw = [u.to_bytes(u.bit_length() // 8 + 1, "big", signed=True) for u in units]
    texts = [base64.b64encode(b).decode() for b in raw]
    for dtype in ("int64", "float64"):
        parse = Decimal(scale, unscaled=True)
        want = [u if dtype == "float64" or -(2**63) <= u < 2**63 else "overflow" for u in units]
        want = [w if isinstance(w, str) or dtype == "int64" else w / 10**scale for w in want]
        assert same(list(texts), parse, dtype, pa.string()) == want
        assert same(list(raw), parse, dtype, pa.binary()) == want
        shown = [decimal.Decimal(u).scaleb(-scale, decimal.Context(prec=60)) for u in units]
        assert same(list(shown), parse, dtype) == want
    assert same(["", "?"], Decimal(2, unscaled=True), "int64", pa.string()) == ["wrong_type", "wrong_type"]


@given(st.lists(st.one_of(st.integers(-(2**70), 2**70), st.integers(0, 2**64 - 1)), max_size=20))
@example([2**63 - 1, 2**63, 2**64 - 1, 0, -1, 10**400 - 1, 10**400])
def test_whole_numbers_are_texts_without_loss(values: list[int]) -> None:
    got = same(values, Text(), "string")
    assert got == [str(v) if abs(v) < 10**400 else "overflow" for v in values]
    small = [v for v in values if 0 <= v < 2**64]
    assert same(small, Text(), "string", pa.uint64()) == [str(v) for v in small]
    same([decimal.Decimal(v) for v in small], Text(), "string", pa.decimal128(38, 0))
    assert said(column_of(pa.array([str(v) for v in small]).dictionary_encode(), Text(), "string")) == [str(v) for v in small]


@given(st.lists(st.one_of(st.floats(), st.integers(-(2**54), 2**54).map(float)), max_size=20))
@example([5.0, 5.5, -0.0, 2.0**53, 2.0**53 - 1, math.nan, math.inf])
def test_of_floats_only_whole_ones_are_texts(values: list[float]) -> None:
    for value, got in zip(values, same(values, Text(), "string", pa.float64()), strict=True):
        if math.isfinite(value) and value.is_integer() and abs(value) < 2**53:
            assert got == str(int(value))
        else:
            assert got in ("nan", "infinite", "wrong_type", "overflow")
    assert same(["007", "", "\u00e9", "5.0"], Text(), "string", pa.string(), pa.large_string()) == ["007", "", "\u00e9", "5.0"]
    assert same([True, decimal.Decimal("1.5"), {}, [1], date(2024, 5, 1)], Text(), "string") == ["wrong_type"] * 5


CLOCKS = st.timedeltas(timedelta(0), timedelta(hours=900) - US)


@given(st.lists(st.tuples(CLOCKS, st.sampled_from(["%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%H:%M:%S,%f"])), max_size=12))
def test_times_of_a_day_as_texts(given: list[tuple[timedelta, str]]) -> None:
    """Of Python's own timedelta; of hours below 24 also in halves of the day, and as six digits."""
    for at, form in given:
        hours, rest = divmod(at // US, 3_600_000_000)
        shown = (datetime(2024, 5, 1) + timedelta(microseconds=rest)).strftime(form.removeprefix("%H"))
        text, cut = f"{hours:02}{shown}", {"%H:%M": 60_000_000, "%H:%M:%S": 1_000_000}.get(form, 1)
        us = at // US // cut * cut
        assert same([text, f"-{text}", f"{text} PM" if hours > 12 else "x"], TimeOfDay(), "int64", pa.string(), pa.large_string()) == [
            us, -us, "wrong_type"
        ]  # fmt: skip
        moment = datetime(2024, 5, 1) + at
        texts = [moment.strftime("%I:%M:%S %p"), moment.strftime("%I:%M:%Sam").replace("am", " a.m." if moment.hour < 12 else "p.m.")]
        whole = (moment.hour * 60 + moment.minute) * 60 + moment.second
        assert same([*texts, f"{moment:%H%M%S}"], TimeOfDay(), "int64", pa.string()) == [whole * 10**6] * 3


@given(st.lists(st.times(), max_size=12), st.lists(st.timedeltas(timedelta(days=-9), timedelta(days=9)), max_size=12))
def test_times_and_durations_of_columns(times: list[time], spans: list[timedelta]) -> None:
    want = [(datetime.combine(date(1970, 1, 1), t, UTC) - EPOCH) // US for t in times]
    assert same(times, TimeOfDay(), "int64", pa.time64("us")) == want
    assert same(spans, TimeOfDay(), "int64", pa.duration("us")) == [s // US for s in spans]
    nanos = pa.array([u * 1000 + 999 for u in want], pa.int64())
    assert said(column_of(nanos.cast(pa.time64("ns")), TimeOfDay(), "int64")) == want
    millis = pa.array([u // 1000 for u in want], pa.int32())
    assert said(column_of(millis.cast(pa.time32("ms")), TimeOfDay(), "int64")) == [u // 1000 * 1000 for u in want]
    beyond = BeyondCalendar(86_400_000_000, "time", 86_400_000_000)
    odd = same([beyond, BeyondCalendar(1, "date", 1), 7, "24:60", "1:2", "", True], TimeOfDay(), "int64")
    assert odd == [86_400_000_000, *["wrong_type"] * 6]


@pytest.mark.parametrize(("unit", "per"), [("s", 10**6), ("ms", 10**3), ("us", 1)])
def test_a_duration_beyond_int64_is_an_overflow(unit: str, per: int) -> None:
    for number in (10**13, -(10**13), 2**63 // per - 1, 2**62, -(2**62), 2**63 - 1):
        want = number * per if -(2**63) <= number * per < 2**63 else "overflow"
        assert said(column_of(pa.array([number, 0, None], pa.duration(unit)), TimeOfDay(), "int64")) == [want, 0, None]


@given(st.lists(st.datetimes(datetime(1900, 3, 1), datetime(9999, 12, 30)), max_size=12))
def test_days_of_spreadsheets(moments: list[datetime]) -> None:
    """To the millisecond, as they show them; what is stored of one is a float64 of days."""
    exact = [m.replace(microsecond=m.microsecond // 1000 * 1000) for m in moments]
    serials = [(m - datetime(1899, 12, 30)) / timedelta(days=1) for m in exact]
    want = [(m.replace(tzinfo=UTC) - EPOCH) // US for m in exact]
    assert same(serials, Epoch("excel"), "timestamp", pa.float64()) == want
    assert same([f"{s:.10f}" for s in serials], Epoch("excel", text=True), "timestamp", pa.string()) == want
    days = [int(s) for s in serials]
    assert same(days, Epoch("excel"), "timestamp", pa.int64()) == [(d - 25_569) * 86_400_000_000 for d in days]
    assert set(same([math.nan, math.inf, 1e7, -(10**9), "x", True], Epoch("excel", text=True), "timestamp")) == {"wrong_type"}


@given(st.lists(st.dates(date(1000, 1, 1)), max_size=12), st.sampled_from(["UTC", "Europe/Paris", "America/Sao_Paulo"]))
def test_days_as_whole_numbers(days: list[date], zone: str) -> None:
    parse = TimeFormat("%Y%m%d", zone=zone, missing="later")
    numbers = [int(f"{d:%Y%m%d}") for d in days]
    assert same(numbers, parse, "timestamp", pa.int64(), pa.int32()) == same([str(n) for n in numbers], parse, "timestamp", pa.string())
    assert set(same([20240230, 2024, -20240501, 1.5, True], parse, "timestamp")) == {"wrong_type"}
    assert same([1052024], TimeFormat("%d%m%Y", zone="UTC"), "timestamp", pa.int64()) == ["wrong_type"]  # its zero is gone: 1 or 10 May
