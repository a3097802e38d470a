"""Exports as programs write them: a day and its time in two columns, days of spreadsheets, quotes behind a byte order mark, what stands
around records."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipelines.inference.infer_source import infer_files
from tests.unit.shaped import N, at, inferred, ms, read, z
from transforms.errors import DataError


def local(n: int, zone: str) -> datetime:
    return at(n * 500).replace(microsecond=0).astimezone(ZoneInfo(zone))


def two_columns(zone: str, day: str, clock: str, delimiter: str = ",") -> tuple[bytes, dict[str, Any]]:
    """A local day and a local time of it, as exports have them."""
    lines = [f"{local(n, zone):{day}}{delimiter}{local(n, zone):{clock}}{delimiter}{n}" for n in range(N)]
    names = delimiter.join(("Fecha" if "Rome" in zone else "Date", "Heure" if "Paris" in zone else "Order Time", "id"))
    return "\n".join([names, *lines, ""]).encode(), {"zone": zone}


TWO = {
    "sap": two_columns("Europe/Berlin", "%Y%m%d", "%H%M%S", ";"), "france": two_columns("Europe/Paris", "%d/%m/%Y", "%H:%M:%S", ";"),
    "states": two_columns("America/New_York", "%m/%d/%Y", "%I:%M:%S %p"), "metatrader": two_columns("Europe/Rome", "%Y.%m.%d", "%H:%M:%S"),
    "india": two_columns("Asia/Kolkata", "%d-%m-%y", "%H:%M:%S"), "iso": two_columns("UTC", "%Y-%m-%d", "%H:%M:%S"),
    "weeks": two_columns("Asia/Tokyo", "%G-W%V-%u", "%H:%M:%S"),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
def test_a_day_and_its_time_in_two_columns_are_the_moment(tmp_path: Path, name: str) -> None:
    data, more = TWO[name]
    text, found = inferred(tmp_path, data, **more)
    assert f'.from_local("{more["zone"]}", ambiguous="earlier", missing="later")' in text and "parse=TimeOfDay()" in text
    assert [e["event_at"] for e in found] == [local(n, more["zone"]).astimezone(UTC) for n in range(N)]
    text, found = inferred(tmp_path / "utc", data)
    assert "of which zone? UTC is assumed" in text
    assert [e["event_at"] for e in found] == [local(n, more["zone"]).replace(tzinfo=UTC) for n in range(N)]


def test_hours_behind_midnight_of_timetables(tmp_path: Path) -> None:
    """GTFS counts them on: 25:10:00 is 1:10 of the day after, and the trip's."""
    lines = "".join(f"t{n},{n % 27:02}:{n % 60:02}:00,{n % 27:02}:{n % 60:02}:30,20240501\n" for n in range(N))
    text, found = inferred(tmp_path, f"trip_id,arrival_time,departure_time,service_date\n{lines}".encode(), zone="UTC")
    assert 'tie_breaker="trip_id"' in text
    assert [e["event_at"] for e in found] == [
        datetime(2024, 5, 1, tzinfo=UTC) + timedelta(hours=n % 27, minutes=n % 60, seconds=30) for n in range(N)
    ]


def serial(n: int) -> str:
    return str((at(n).replace(tzinfo=None) - datetime(1899, 12, 30)) / timedelta(days=1)).replace(".", ",")


EXPORTED: dict[str, tuple[str, str, str]] = {
    "salesforce": ('\ufeff"Id","CreatedDate","Amount"\r\n',
                   "".join(f'"{n:018}","{z(n)}","{n / 4}"\r\n' for n in range(N)), 'Field("id", "string", required=True, path="Id")'),
    "fractions": ("id,ts,v\n", "".join(f"{n},{ms(n) / 1000:.3f},{n}\n" for n in range(N)), 'parse=Epoch("s", text=True)'),
    "excel": ("id;Date;v\n", "".join(f"{n};{serial(n)};{n}\n" for n in range(N)), 'parse=Epoch("excel", text=True)'),
    "mysql": ("id,when,note\n", "".join(f'{n},"{z(n)}","a \\"q\\" b, c"\n' for n in range(N)), 'Csv(escape="\\\\")'),
    "postgres": ("",
                 "".join(f"{n}\t{z(n)}\ta\\\tb\t{('x', chr(92) + 'N')[n % 2]}\n" for n in range(N)), 'escape="\\\\", nulls=["", "\\\\N"]'),
    "postgres on Windows": ("",
                 "".join(f"{n},{z(n)},a\\,b,{('x', chr(92) + 'N')[n % 2]}\r\n" for n in range(N)), 'escape="\\\\", nulls=["", "\\\\N"]'),
    "paths": ("", "".join(f"{n},{z(n)},C:\\d{n % 9}\\,{n}\n" for n in range(N)), 'Csv(header=False, columns=["column_1", "column_2"'),
    "a report": ("# Report\n# May\n\nid,when,v\n", "".join(f"{n},{z(n)},{n}\n" for n in range(N)), "Csv(skip=3)"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTED)
def test_texts_of_programs(tmp_path: Path, name: str) -> None:
    head, lines, part = EXPORTED[name]
    text, found = inferred(tmp_path, (head + lines).encode())
    assert part in text and [next(iter(e.values())) for e in found] == [at(n) for n in range(N)]
    if name.startswith("postgres"):
        assert [e["column_4"] for e in found] == ["x", None] * (N // 2)
    assert "column_4" not in text or name in ("paths", "postgres", "postgres on Windows")
    assert {e.get("note", e.get("column_3", "")) for e in found} <= {'a "q" b, c', "a\tb", "a,b", "", *(f"C:\\d{n}\\" for n in range(9))}


def test_what_stands_around_records(tmp_path: Path) -> None:
    """Kafka Connect's schema is none of the record; of one that is a list of records the way to take it apart is said; days as numbers."""
    schema = {"type": "struct", "fields": [{"type": "int64", "field": "id"}], "optional": False}
    records = [
        {"schema": schema, "payload": {"id": n, "date_key": int(f"{at(n * 900):%Y%m%d}"), "user": [n % 9, f"u{n % 9}"][n % 2]}}
        for n in range(N)
    ]
    text, found = inferred(tmp_path, records)
    assert "schema" not in text and [e["payload_user"] for e in found] == [str([n % 9, f"u{n % 9}"][n % 2]) for n in range(N)]
    midnight = [at(n * 900).replace(hour=0, minute=0, second=0, microsecond=0) for n in range(N)]
    assert [e["payload_date_key"] for e in found] == midnight and 'TimeFormat("%Y%m%d", zone="UTC")' in text
    trail = tmp_path / "trail.json"
    trail.write_text(json.dumps({"Records": [{"eventTime": z(n), "eventID": f"e{n}"} for n in range(N)]}))
    with pytest.raises(DataError, match=r"\(--explode Records\)"):
        infer_files(trail)
    assert 'explode="Records"' in infer_files(trail, explode="Records").text


@pytest.mark.parametrize("debezium", [False, True])
def test_what_connects_schema_says_of_its_members(tmp_path: Path, debezium: bool) -> None:
    """Decimals in base64, days and moments whose names say nothing: each is read as the schema beside the record has it."""
    connect, times = "org.apache.kafka.connect.data", "io.debezium.time"
    fields: list[dict[str, Any]] = [
        {"type": "int64", "field": "id"}, {"type": "string", "field": "user"},
        {"type": "bytes", "name": f"{connect}.Decimal", "parameters": {"scale": "2"}, "optional": True, "field": "sum"},
        {"type": "int32", "name": f"{times if debezium else connect}.Date", "field": "due"},
        {"type": "int64", "name": f"{times}.MicroTimestamp" if debezium else f"{connect}.Timestamp", "field": "placed"},
        {"type": "bytes", "name": f"{connect}.Decimal", "parameters": {"scale": "many"}, "field": "odd"},
    ]  # fmt: skip
    row = {"type": "struct", "fields": fields}
    whole = {"type": "struct", "fields": [{**row, "field": name} for name in ("before", "after")]} if debezium else row
    records = []
    for n in range(N):
        total = None if n % 5 == 0 else base64.b64encode((n * 37 - 900).to_bytes(3, "big", signed=True)).decode()
        made = {
            "id": n,
            "user": f"u{n % 9}",
            "sum": total,
            "due": 19_844 + n % 9,
            "placed": ms(n) * (1_000 if debezium else 1),
            "odd": "AA==",
        }
        source = {"ts_ms": ms(n), "pos": n}
        inside = {"op": "c", "before": None, "after": made, "source": source, "ts_ms": ms(n)} if debezium else made
        records.append({"schema": whole, "payload": inside})
    text, found = inferred(tmp_path, records)
    stem = "" if debezium else "payload_"
    assert "parse=Decimal(scale=2, unscaled=True)" in text and f'Field("{stem}odd", "string"' in text, text
    when = "placed" if debezium else next(iter(found[0]))
    for n, event in enumerate(found):
        assert event[f"{stem}sum"] == (None if n % 5 == 0 else (n * 37 - 900) / 100) and event[when] == at(n)
        assert event[f"{stem}due"] == datetime(2024, 5, 1 + n % 9, tzinfo=UTC)


def test_digits_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    """One of them is enough, as is one in Germany's postal codes: as a number it would be another."""
    codes = [f"{n * 997 % 100_000:05}" for n in range(N)]
    records = [{"id": n, "at": z(n), "plz": code, "last4": f"{n * 37 % 10_000:04}", "price": f"{n}.50"} for n, code in enumerate(codes)]
    text, found = inferred(tmp_path / "json", records)
    assert [e["plz"] for e in found] == codes and '"last4", "string"' in text and '"price", "float64"' in text
    nace = [f"{n % 12:02}.{10 + n % 20}" for n in range(N)]
    lines = "".join(f"{n},{z(n)},{code},{branch},{n % 9}.50,{n % 5}\n" for n, (code, branch) in enumerate(zip(codes, nace, strict=True)))
    text, found = inferred(tmp_path / "csv", f"id,at,plz,nace,price,count\n{lines}".encode())
    assert [e["plz"] for e in found] == codes and [e["nace"] for e in found] == nace
    assert text.count("text, so that these stay") == 2
    assert {e["price"] for e in found} == {n + 0.5 for n in range(9)} and {e["count"] for e in found} == set(range(5))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (("01.10", "10.10"), "string"), (("01,10", "10,10"), "string"), (("-05", "12"), "string"), (("+0049", "1"), "string"),
        (("0", "0.5", "-0.25", "10"), "float64"), (("0", "-0", "7"), "int64"), (("0.0", "00.5"), "string"), ((".5", "0"), "float64"),
    ],
)  # fmt: skip
def test_a_zero_before_another_digit_is_no_number(tmp_path: Path, values: tuple[str, ...], dtype: str) -> None:
    rows = "".join(f"{n};{z(n)};{values[n % len(values)]}\n" for n in range(N))
    assert f'"code", "{dtype}"' in inferred(tmp_path, f"id;at;code\n{rows}".encode())[0]


@pytest.mark.parametrize(
    "word", ["u{}", "10.0.0.{}", "sensor-{}-a", "{}@example.org", "/shop/{}"], ids=["users", "addresses", "sensors", "mail", "pages"]
)
def test_things_that_are_numbered_have_no_domain(tmp_path: Path, word: str) -> None:
    letters = word if word[0] in "u1s" else word.replace("{}", "{:c}")
    records = [{"id": n, "at": z(n), "of": letters.format(97 + n % 4), "kind": "abc"[n % 3]} for n in range(N)]
    text, _ = inferred(tmp_path, records)
    assert text.count("domain=") == 1 and 'domain=["a", "b", "c"]' in text


def test_logs_whose_columns_a_comment_names(tmp_path: Path) -> None:
    """IIS and CloudFront: W3C's extended format, with blanks or tabs."""
    head = "#Software: Microsoft Internet Information Services 10.0\n#Version: 1.0\n#Fields: date time cs-uri-stem sc-status time-taken\n"
    for delimiter in (" ", "\t"):
        rows = "".join(delimiter.join((f"{at(n):%Y-%m-%d}", f"{at(n):%H:%M:%S}", "/a", "200", f"{n}\n")) for n in range(N))
        text, found = inferred(tmp_path / f"{ord(delimiter)}", (head + rows).encode(), zone="UTC")
        assert 'comment="#"' in text and [(e["event_at"], e["time_taken"]) for e in found] == [
            (at(n).replace(microsecond=0), n) for n in range(N)
        ]


def test_oracles_days_and_a_line_of_totals(tmp_path: Path) -> None:
    lines = "".join(f"{n},{at(n * 900):%d-%b-%y},{n}\n".upper() for n in range(N))
    text, found = inferred(tmp_path / "days", f"id,booked,v\n{lines}".encode())
    midnight = [at(n * 900).replace(hour=0, minute=0, second=0, microsecond=0) for n in range(N)]
    assert [e["booked"] for e in found] == midnight and 'TimeFormat("%d-%b-%y"' in text
    folder = tmp_path / "totals"
    folder.mkdir()
    (folder / "a.csv").write_text("id,at,v\n" + "".join(f"{n},{z(n)},{n}\n" for n in range(N)) + "Total,,45000\n")
    assert "QUESTION: 1 of 301 records have none, and will be dead letters (missing_timestamp)" in infer_files(folder).text
    (folder / "a.csv").write_text("id,at,v\n" + "".join(f"{n},{z(n) if n % 50 else ''},{n}\n" for n in range(N)))
    with pytest.raises(DataError, match="no column holds a time in every record"):
        infer_files(folder)


def test_numbers_that_are_none_are_out_of_the_range(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    values = ["NaN", "Infinity", "-Infinity", "1714557660.5"]
    (folder / "a.jsonl").write_text("".join(f'{{"id":{n},"at":"{z(n)}","ts":{values[n % 4]},"v":{values[n % 3]}}}\n' for n in range(N)))
    (folder / "b.jsonl").write_text("".join(f'{{"id":{n},"at":"{z(n)}","ts":{ms(n) / 1000},"v":{n / 4}}}\n' for n in range(N)))
    text = infer_files(folder).text
    assert "0 to 74.75; 300 values are NaN or infinite" in text and "inf;" not in text


def test_bytes_of_no_usual_encoding_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("番号,日時,金額\n".encode("shift_jis") + "".join(f"{n},{z(n)},{n}\n" for n in range(N)).encode())
    with pytest.raises(DataError, match=r"a.csv is neither UTF-8 nor Windows-1252; say --encoding, e.g. cp1251, shift_jis or gb18030"):
        infer_files(tmp_path / "a.csv")
    assert 'path="金額"' in infer_files(tmp_path / "a.csv", encoding="shift_jis").text


def test_names_and_members_that_only_resemble(tmp_path: Path) -> None:
    """A record's own schema is its version; milliseconds, a mandate and a candidate are no days."""
    payloads = [{"id": n, "at": z(n), "response_time": 33_000 + n, "mandat": 20240501 + n % 9, "candidate": 10**9 + n} for n in range(N)]
    text, found = inferred(tmp_path / "a", [{"schema": "v1", "payload": p} for p in payloads])
    assert "excel" not in text and [e["schema"] for e in found] == ["v1"] * N
    for name in ("response_time", "mandat", "candidate"):
        assert [e[f"payload_{name}"] for e in found] == [p[name] for p in payloads]
    sap = [{"id": n, "budat": int(f"{at(n):%Y%m%d}"), "order_date": serial_day(n), "at": z(n)} for n in range(N)]
    text, found = inferred(tmp_path / "b", sap)
    assert 'Epoch("excel")' in text and 'TimeFormat("%Y%m%d", zone="UTC")' in text


def serial_day(n: int) -> int:
    return (at(n).replace(tzinfo=None) - datetime(1899, 12, 30)).days


def test_logs_with_blanks_between_their_values(tmp_path: Path) -> None:
    """As AWS writes those of networks: ``-`` stands for nothing, also where all else are words; times are called start and end."""
    rows = [
        f"eni-{n % 9} {'-' if n % 7 == 0 else n} {ms(n) // 1_000} {ms(n) // 1_000 + 60} {'-' if n % 7 == 0 else 'ACCEPT'}" for n in range(N)
    ]
    text, found = inferred(tmp_path, "\n".join(["interface-id bytes start end action", *rows, ""]).encode())
    assert 'Csv(delimiter=" ", nulls=["", "-"])' in text
    assert [e["start"] for e in found] == [at(n).replace(microsecond=0) for n in range(N)]
    assert [e["bytes"] for e in found] == [None if n % 7 == 0 else n for n in range(N)] and found[0]["action"] is None


def test_blanks_in_words_and_marks_that_are_words(tmp_path: Path) -> None:
    text, found = inferred(tmp_path, "\n".join(["at,sign,said", *(f"{z(n)},{'-+'[n % 2]},one two {n}" for n in range(N)), ""]).encode())
    assert "Csv()" in text and [e["sign"] for e in found] == ["-+"[n % 2] for n in range(N)] and found[5]["said"] == "one two 5"


def test_comments_before_a_header_are_comments_in_other_files_too(tmp_path: Path) -> None:
    rows = [f"s{n % 5},{z(n)},{'M' if n % 3 else n / 4}" for n in range(N)]
    data = "\n".join(["#DEBUG: format, comma", "# -> two", "station,valid,tmpf", *rows, ""]).encode()
    (tmp_path / "events" / "things").mkdir(parents=True)
    (tmp_path / "events" / "things" / "z.csv").write_bytes(data.partition(b"\n")[2])
    folder = tmp_path / "one"
    text, found = inferred(folder, data)
    assert 'Csv(comment="#", nulls=["", "M"])' in text and [e["tmpf"] for e in found] == [None if n % 3 else n / 4 for n in range(N)]
    assert len(read(tmp_path, text, "things")) == N


def test_a_first_line_of_values_is_no_header(tmp_path: Path) -> None:
    """Though all of them are words: one is a moment, or one that others below have, too."""
    first = [f"shop\tweb\t{at(n):%Y-%m-%d %H:%M:%S}\te-{n}" for n in range(N)]
    text, found = inferred(tmp_path / "a", "\n".join([*first, ""]).encode().replace(b"\t", b"|"))
    assert "header=False" in text and len(found) == N
    text, found = inferred(tmp_path / "b", "\n".join([*(f"id-{n}|{at(n):%a, %d %b %Y %H:%M:%S} GMT|web" for n in range(N)), ""]).encode())
    assert "header=False" in text and len(found) == N
