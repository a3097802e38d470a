"""Lines of delimited values in a topic."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from transforms.contract import Checked
from transforms.definitions import Csv, EventSource, Field, RecordKey, TimeFormat
from transforms.errors import ConfigError

NOW = 1_700_000_000_000_000
AT = NOW - 1_000_000
SALES = EventSource(
    name="sales",
    fields=[Field("id", "string", required=True), Field("amount", "float64", max=2000), Field("paid", "bool"), Field("note", "string")],
    event_time="at",
    tie_breaker="id",
    topic="sales",
)
DIALECT = {
    "delimiter": ";", "columns": ["id", "unknown", "amount", "at", "paid", "note"], "decimal": ",", "thousands": ".", "true": ["ja"],
    "false": ["nein"],
}  # fmt: skip


def test_a_declared_dialect() -> None:
    form = record_format(SALES, KafkaSettings(format_options={"sales": DIALECT}), "csv")
    lines = [
        f"a;x;1.234,50;{AT};ja;plain".encode(),
        f'b;"x;y";0,5;{AT};nein;"quoted; and ""so"" \nof two lines"\r\n'.encode(),
        f"\ufeffc;;;{AT};;".encode(),
        f"d;;9.999,0;{AT};;".encode(),
        f"e;;1;{AT};vielleicht;".encode(),
        b"f;1;2",
        f'g;"open;1;{AT};;'.encode(),
        None,
        b"",
        f"h;;1,5;{AT};;caf\xe9".encode("latin-1"),
    ]
    checked = form.decode(pa.array(lines, pa.binary()), NOW, 0)
    assert checked.reasons.to_pylist() == [
        None, None, None, "out_of_range", "wrong_type", "malformed", "malformed", "malformed", "malformed", "invalid_utf8",
    ]  # fmt: skip
    rows = [tuple(row[name] for name in ("id", "amount", "paid", "note")) for row in checked.valid.to_pylist()]
    assert rows == [("a", 1234.5, True, "plain"), ("b", 0.5, False, 'quoted; and "so" \nof two lines'), ("c", None, None, None)]
    for line, reason in zip(lines, checked.reasons.to_pylist(), strict=True):
        assert form.decode(pa.array([line], pa.binary()), NOW, 0).reasons.to_pylist() == [reason], "each by itself"
    again = form.decode(form.encode(checked.valid), NOW, 0)
    assert again.valid.equals(checked.valid)


def test_a_zero_byte_among_many_lines() -> None:
    """Arrow's parser, given many lines, takes it for a quote, and its line for one of fewer values."""
    lines = [f"i{n},1.5,true,n,{AT}" for n in range(6000)]
    lines[5000] = f"i\x00,1.5,true,\x00n,{AT}"
    columns = {"columns": ["id", "amount", "paid", "note", "at"]}
    form = record_format(SALES, KafkaSettings(format_options={"sales": columns}), "csv")
    checked = form.decode(pa.array([line.encode() for line in lines], pa.binary()), NOW, 0)
    assert checked.valid.num_rows == 6000
    assert checked.valid.column("id").to_pylist()[4999:5002] == ["i4999", "i\x00", "i5001"]


def test_dialects_that_are_none() -> None:
    for options, words in (
        ({"delimiter": ";;"}, r"kafka\.format_options\.sales: Csv: delimiter ';;' is no single ASCII character"),
        ({"columns": ["x", "y"]}, r"kafka\.format_options\.sales: none of the columns of source 'sales'"),
        ({"delimeter": ";"}, r"kafka\.format_options\.sales\.delimeter: .*known keys: delimiter, columns"),
    ):
        with pytest.raises(ConfigError, match=words):
            record_format(SALES, KafkaSettings(format_options={"sales": options}), "csv")


def test_what_is_not_said_of_the_topic_is_as_in_files() -> None:
    """The dialect is written once; the names of a line are those of its paths, and the encoding holds for lines, too."""
    fields = [
        Field("id", "string", required=True, path="Zähler"), Field("amount", "float64", path="Wert"),
        Field("key", "string", path=RecordKey()),
    ]  # fmt: skip
    time = Field("at", "timestamp", path="Zeit", parse=TimeFormat("%d.%m.%Y %H:%M", zone="Europe/Paris"))
    files = Csv(delimiter=";", decimal=",", encoding="latin-1", nulls=["-"])
    source = EventSource(name="meters", fields=fields, event_time=time, tie_breaker="id", topic="meters", file_format=files)

    def read(lines: list[bytes], **options: Any) -> Checked:
        form = record_format(source, KafkaSettings(format_options={"meters": options}), "csv")
        return form.decode(pa.array(lines, pa.binary()), NOW, 0)

    checked = read(["13.11.2023 10:00;zähler-1;1,5".encode("latin-1"), "13.11.2023 10:00;b;-".encode("latin-1")])
    assert [(r["id"], r["amount"]) for r in checked.valid.to_pylist()] == [("zähler-1", 1.5), ("b", None)]
    checked = read(["2.5,ü,13.11.2023 10:00".encode()], delimiter=",", columns=["Wert", "Zähler", "Zeit"], decimal=".", encoding="utf-8")
    assert [(r["id"], r["amount"]) for r in checked.valid.to_pylist()] == [("ü", 2.5)]
    assert str(read([b"abc"], encoding="utf-16").details[0]).startswith("it is not utf-16, as is declared")
