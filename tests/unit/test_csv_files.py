"""Text files with delimiters: every dialect that is declared, judged record by record; nothing is guessed."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inference.text_dialect import text_records
from pipelines.replay.event_log import EventLog
from pipelines.sources.event_files import events, inventory
from pipelines.sources.file_formats.cells import cell, typed_column
from pipelines.sources.file_formats.csv_lines import Splitter
from tests.examples import examples
from transforms.contract import check_json
from transforms.definitions import Base64, Csv, Date, Decimal, Enum, EventSource, Field, Hex
from transforms.errors import DefinitionError

DAY = 86_400_000_000
NOW = 20_000 * DAY
AT = NOW - DAY
FIELDS = [
    Field("order_id", "string", required=True), Field("n", "int64"), Field("price", "float64"), Field("paid", "bool"),
    Field("sent", "timestamp"), Field("note", "string"),
]  # fmt: skip


def source(dialect: Csv | None = None) -> EventSource:
    return EventSource(
        name="orders", fields=FIELDS, event_time="at", tie_breaker="order_id", files="events/orders", file_format=dialect or Csv()
    )


def harvest(root: Path, data: bytes | str, dialect: Csv | None = None, name: str = "a.csv", **more: Any) -> tuple[list[Any], list[Any]]:
    """The events of one file, and (row, reason, detail, payload) of its dead letters."""
    path = root / "events" / "orders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    src = source(dialect)
    found = inventory(root, src, None, None)
    pairs = [pair for f in found.files for pair in events(f.path, src, NOW, 0, name=f.name, partitions=f.partitions, **more)]
    letters = [d for _, b in pairs for d in b.to_pylist()]
    return [e for v, _ in pairs for e in v.to_pylist()], [(d["row"], d["reason"], d["detail"], d["payload"]) for d in letters]


def test_a_plain_file(tmp_path: Path) -> None:
    text = f"order_id,at,n,price,paid,sent,more\na,{AT},7,1.50,true,2024-05-01T10:00:00Z,x\nb,{AT},,,FALSE,,\nc,{AT},5.0, 2e3 ,,{AT},y\n"
    got, letters = harvest(tmp_path, text)
    assert letters == []
    got.sort(key=lambda e: e["order_id"])
    assert [(e["order_id"], e["n"], e["price"], e["paid"], e["sent"] is None, e["note"]) for e in got] == [
        ("a", 7, 1.5, True, False, None), ("b", None, None, False, True, None), ("c", 5, 2000.0, None, False, None),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 100])
def test_bad_records_are_dead_letters_of_their_own(tmp_path: Path, size: int) -> None:
    rows = [
        f"a,{AT},1,2,true", f"b,{AT},one,2,true", f"c,{AT},1,2", f"d,{AT},1,2,true,9", f'e,{AT},1,2,"tr"ue',
        f"f,{AT},1,1e999,true", f"g,{AT},9223372036854775808,2,true", f"h,{AT},1,2,maybe", f",{AT},1,2,true", f"i,{AT},1,2,true",
        f"j,{AT},1.5,2,true", "", f"k,{AT},1,9007199254740993,true", f"l,{AT},1,nan,true",
    ]  # fmt: skip
    got, letters = harvest(tmp_path, "order_id,at,n,price,paid\r\n" + "\r\n".join(rows) + "\r\n", batch_rows=size)
    assert sorted(e["order_id"] for e in got) == ["a", "i"]
    assert sorted((row, reason) for row, reason, *_ in letters) == [
        (2, "wrong_type"), (3, "malformed"), (4, "malformed"), (5, "malformed"), (6, "infinite"), (7, "overflow"), (8, "wrong_type"),
        (9, "missing_field"), (11, "wrong_type"), (13, "overflow"), (14, "nan"),
    ]  # fmt: skip
    assert {row: payload for row, *_, payload in letters}[2] == rows[1].encode()
    details = {row: detail for row, _, detail, _ in letters}
    assert details[3] == "it has 4 values, where there are 5 columns"
    assert details[2] == "n='one' is no int64"
    assert details[5] == "',' expected after '\"'"


def test_quotes_line_breaks_and_what_is_never_closed(tmp_path: Path) -> None:
    text = f'order_id,at,note\na,{AT},"two\nlines, and ""more"""\nb,{AT},5" pipe\nc,{AT},""\nd,{AT},"never closed\ne,{AT},plain\n'
    got, letters = harvest(tmp_path, text)
    assert [(e["order_id"], e["note"]) for e in got] == [("a", 'two\nlines, and "more"'), ("b", '5" pipe'), ("c", None), ("e", "plain")]
    assert [(row, reason) for row, reason, *_ in letters] == [(5, "malformed")]
    assert "never closed" in letters[0][2]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (Csv(delimiter=";", decimal=",", thousands="."), "order_id;at;n;price\na;{at};1.234;1.234,5\n"),
        (Csv(delimiter=";", decimal=",", thousands="\u202f"), "order_id;at;n;price\na;{at};1\u202f234;1\u202f234,5\n"),
        (Csv(delimiter=";", decimal=",", thousands="\xa0"), "order_id;at;n;price\na;{at};1\xa0234;1\xa0234,5\n"),
        (Csv(delimiter="\t", nulls=["\\N"]), "order_id\tat\tn\tprice\tnote\na\t{at}\t1234\t1234.5\t\\N\n"),
        (Csv(delimiter="|", quote="'"), "order_id|at|n|price|note\n'a'|{at}|1234|'1234.5'|'|'\n"),
        (Csv(escape="\\", quote=None, delimiter=","), "order_id,at,n,price,note\na,{at},1234,1234.5,x\\,y\n"),
        (Csv(escape="\\"), 'order_id,at,n,price,note\na,{at},1234,1234.5,"x\\",\\"y\n"\n'),
        (Csv(header=False, columns=["order_id", "x", "at", "n", "price"]), "a,?,{at},1234,1234.5\n"),
        (Csv(skip=2, comment="#"), "made by\nsomebody\n# a line\norder_id,at,n,price\n# more\na,{at},1234,1234.5\n"),
        (Csv(true=["J"], false=["N"]), "order_id,at,n,price,paid\na,{at},1234,1234.5,j\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_dialects(tmp_path: Path, dialect: Csv, text: str, end: str) -> None:
    got, letters = harvest(tmp_path, text.format(at=AT).replace("\n", end), dialect)
    assert letters == []
    assert [(e["order_id"], e["n"], e["price"]) for e in got] == [("a", 1234, 1234.5)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\N", None), (r'"\N"', None), (r"\\N", r"\N"), (r'"\\N"', r"\N"), (r'"q,\N,z"', "q,N,z"), (r"x\,\N", "x,N"), (r"\Nx", "Nx"),
        (r"\\", "\\"), ("NULL", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("line", ["{w},{at},a", "a,{at},{w}", "{w},{at},a,{w},\\N"])
def test_an_escaped_spelling_of_null_is_one_where_it_is_a_whole_value(
    tmp_path: Path, written: str, meant: str | None, end: str, line: str
) -> None:
    names = {"{w},{at},a": "note,at,order_id", "a,{at},{w}": "order_id,at,note"}.get(line, "note,at,order_id,more,last")
    text = f"{names}{end}{line.format(w=written, at=AT)}{end}"
    dialect = Csv(escape="\\", nulls=["\\N", "NULL"])
    got, letters = harvest(tmp_path, text, dialect)
    assert letters == [] and [(e["order_id"], e["note"]) for e in got] == [("a", meant)]
    assert [r["note"] for r in text_records(text.splitlines(keepends=True), dialect)] == [meant]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("utf-8", lambda t: codecs.BOM_UTF8 + t.encode()), ("utf-16", lambda t: t.encode("utf-16")),
        ("latin-1", lambda t: t.encode("latin-1")),
        ("utf-16-le", lambda t: t.encode("utf-16-le")), ("cp1252", lambda t: t.encode("cp1252")), ("utf-32", lambda t: t.encode("utf-32")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [None, gzip.compress, bz2.compress])
def test_encodings(tmp_path: Path, encoding: str, data: Callable[[str], bytes], pack: Any) -> None:
    text = data(f"order_id,at,note\nü,{AT},é\n" + "".join(f"{i},{AT},ß\n" for i in range(20_000)))
    name = {None: "a.csv", gzip.compress: "a.csv.gz", bz2.compress: "a.csv.bz2"}[pack]
    got, letters = harvest(tmp_path, pack(text) if pack else text, Csv(encoding=encoding), name)
    assert letters == []
    assert (len(got), got[0]["order_id"], got[0]["note"]) == (20_001, "ü", "é")


def test_bytes_that_are_no_utf8_are_one_record(tmp_path: Path) -> None:
    data = f"order_id,at,note\na,{AT},x\nb,{AT},".encode() + b"\xff\n" + f'c,{AT},"'.encode() + b'\xfe"\n'
    got, letters = harvest(tmp_path, data)
    assert [e["order_id"] for e in got] == ["a"]
    assert [(row, reason) for row, reason, *_ in letters] == [(2, "invalid_utf8"), (3, "invalid_utf8")]


@pytest.mark.parametrize(
    ("data", "dialect", "detail"),
    [
        (b"order_id;at;n\na;1;2\n", Csv(), "with delimiter ',' its header has 'order_id;at;n'; declare Csv(delimiter=';')"),
        (b"orderId,time\na,1\n", Csv(), "its header has 'orderId', 'time'; correct Csv(delimiter=, header=, columns=) or the names"),
        ("order_id,at\n".encode("utf-16"), Csv(), "byte order mark of UTF-16, and utf-8 is declared; declare Csv(encoding='utf-16')"),
        (b"order_id,at\n\x81,1\n", Csv(encoding="cp1252"), "it is not cp1252, as is declared"),
        (b"order_id,at,at\na,1,2\n", Csv(), "the column 'at' more than once"),
        (b'"order_id,at\n', Csv(), "its header"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_dialect_says_what_was_seen(tmp_path: Path, data: bytes, dialect: Csv, detail: str) -> None:
    got, letters = harvest(tmp_path, data, dialect)
    assert (got, [(row, reason, payload) for row, reason, _, payload in letters]) == ([], [(None, "unreadable_file", None)])
    assert detail in letters[0][2]
    assert "\n" not in letters[0][2]


def test_other_files_go_on_and_folders_are_columns(tmp_path: Path) -> None:
    harvest(tmp_path, b"nothing;here\n", name="bad.csv")
    got, letters = harvest(tmp_path, f"order_id,at\na,{AT}\nb,x\n", name="note=hi/n=7/a.tsv")
    assert [(e["order_id"], e["note"], e["n"]) for e in got] == [("a", "hi", 7)]
    assert [reason for _, reason, *_ in letters] == ["unreadable_file", "wrong_type_timestamp"]


def test_empty_files_and_a_header_alone(tmp_path: Path) -> None:
    for data in (b"", b"\n\n", b"order_id,at\n"):
        assert harvest(tmp_path, data) == ([], [])


def test_numbers_that_a_field_reads_itself_are_of_the_dialect_too(tmp_path: Path) -> None:
    money = Field("cents", "int64", path="Betrag", parse=Decimal(scale=2))
    src = EventSource(
        name="orders", fields=[FIELDS[0], money], event_time="at", tie_breaker="order_id", files="events/orders",
        file_format=Csv(delimiter=";", decimal=",", thousands="."),
    )  # fmt: skip
    harvest(tmp_path, f'order_id;at;Betrag\na;{AT};1.234,56\nb;{AT};1,234\n"c";{AT};0,1\n')
    (file,) = inventory(tmp_path, src, None, None).files
    pairs = list(events(file.path, src, NOW, 0))
    assert sorted((e["order_id"], e["cents"]) for v, _ in pairs for e in v.to_pylist()) == [("a", 123_456), ("c", 10)]
    assert [d["reason"] for _, b in pairs for d in b.to_pylist()] == ["overflow"]


@pytest.mark.parametrize("quoted", [False, True])
def test_texts_that_a_field_reads_itself_are_texts_and_no_bytes(tmp_path: Path, quoted: bool) -> None:
    """As the same texts in JSON; an Enum of numbers has the numbers that texts are."""
    fields = [
        Field("id", "string", required=True), Field("h", "string", parse=Hex()), Field("n", "int64", path="h", parse=Hex()),
        Field("b", "string", parse=Base64()), Field("t", "string", path="b", parse=Base64(text=True)),
        Field("d", "timestamp", parse=Date()), Field("e", "string", parse=Enum({1: "one", -2: "two"})),
    ]  # fmt: skip
    orders = EventSource("orders", fields, event_time="at", tie_breaker="id", file_format=Csv(), files="events/orders")
    texts = [
        ("DEADBEEF", "aGVsbG8", "2024-02-29", "1"),
        ("0xff", "w7w=", "2023-01-01", "-2"),
        ("xy", "?", "2023-02-30", "3"),
        ("", "", "", ""),
    ]
    path, mark = tmp_path / "a.csv", '"' if quoted else ""
    path.write_text("id,at,h,b,d,e\n" + "".join(f"{n},{AT},{','.join(mark + v + mark for v in row)}\n" for n, row in enumerate(texts)))
    lines = [{"id": str(n), "at": AT, **{k: v or None for k, v in zip("hbde", row, strict=True)}} for n, row in enumerate(texts)]
    lines = [line | {"e": line["e"] and int(line["e"])} for line in lines]
    want = check_json([json.dumps(line).encode() for line in lines], orders, NOW, 0)
    pairs = list(events(path, orders, NOW, 0))
    assert (
        sorted((e for v, _ in pairs for e in v.to_pylist()), key=lambda e: e["id"]) == want.valid.to_pylist() and want.valid.num_rows == 3
    )
    assert [d["reason"] for _, b in pairs for d in b.to_pylist()] == want.reasons.drop_null().to_pylist()


def test_a_replay_sends_json(tmp_path: Path) -> None:
    harvest(tmp_path, f"order_id,at,n\na,{AT},7\nbad,{AT},x\n")
    log = EventLog(tmp_path, [source()], None, None, now_us=NOW, max_future_us=0)
    sent = [p.as_py() for part in log.slices() for t in part.events.values() for p in t.column("payload")]
    assert sent == [b'{"order_id":"a","at":%d,"n":7}' % AT, b'{"order_id":"bad","at":%d,"n":"x"}' % AT]


CELLS = st.one_of(
    st.text(alphabet="0123456789+-.eE ,n\xa0", max_size=9), st.integers(-(2**65), 2**65).map(str), st.floats().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(["true", "False", "NaN", "inf", "ü", "5.", ".5", "+1", "1.0"]),
)  # fmt: skip


@given(
    st.lists(st.none() | CELLS, max_size=20),
    st.sampled_from(["int64", "float64", "bool", "timestamp"]),
    st.sampled_from([None, ".", "\xa0"]),
)
@settings(max_examples=examples(300))
def test_a_column_reads_as_each_of_its_cells(texts: list[str | None], dtype: str, thousands: str | None) -> None:
    dialect = Csv(delimiter=";", decimal=",", thousands=thousands) if thousands else Csv(delimiter=";")
    column, good = typed_column(pa.array([None if t is None else t.encode() for t in texts], pa.binary()), dtype, dialect)
    got = column.to_pylist()
    for row, text in enumerate(texts):
        alone = cell(text, dtype, dialect)
        if good[row] and not isinstance(got[row], bytes):
            assert repr(got[row]) == repr(float(alone) if dtype == "float64" and alone is not None else alone)
        elif good[row]:
            assert isinstance(alone, str)


@given(st.lists(st.lists(st.text(alphabet='ab",\n\r ;', max_size=5), min_size=2, max_size=4), min_size=1, max_size=8), st.booleans())
@settings(max_examples=examples(300))
def test_what_pythons_writer_writes_is_read(rows: list[list[str]], every: bool) -> None:
    rows = [["x", *row] for row in rows]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL).writerows(rows)
    splitter = Splitter(Csv())
    found = list(splitter.records(io.BytesIO(out.getvalue().encode()), 0, 1 << 20))
    assert [wrong for *_, wrong in found] == [""] * len(rows)
    assert [splitter.values(text) for _, text, _ in found] == rows


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"delimiter": ";;"}, "delimiter ';;' is no single ASCII character"), ({"quote": ","}, "is the quote or the escape, too"),
        ({"thousands": "\n"}, "thousands .* is no single"),
        ({"decimal": "\xa0"}, "decimal .* is no single ASCII"), ({"thousands": "\u00b7"}, "thousands .* is no single ASCII"),
        ({"decimal": ",", "thousands": ",", "delimiter": ";"}, "decimal and thousands are both"), ({"header": False}, "say one of both"),
        ({"columns": ["a"]}, "say one of both"), ({"header": False, "columns": ["a", "a"]}, "is there twice"),
        ({"encoding": "utf-7000"}, "there is no encoding 'utf-7000'"), ({"nulls": "NA"}, "no list of texts"),
        ({"skip": -1}, "not a number of lines"),
        ({"suffixes": ["csv"]}, "each is a dot and the end of a name"),
    ],
)  # fmt: skip
def test_mistakes_in_a_dialect_are_one_line(more: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        Csv(**more)
    assert "\n" not in str(caught.value)
    with pytest.raises(DefinitionError, match="no dialect of files"):
        EventSource(name="s", fields=[Field("a", "string", required=True)], event_time="at", tie_breaker="a", file_format="csv")  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [b'a"b,"c\n', b'"\n', b',"\n', b'"""\n', b'x,"y\n', b'""","\n', b'a"b,"c' + b"d" * 200 + b"\n"])
def test_lines_that_open_a_value_cost_one_look_each(line: bytes) -> None:
    """SECURITY H2's kind: of 56 KB of lines that each open a quoted value all lines behind each were looked at, for half a minute."""
    looks: list[int] = []

    class Counting(Splitter):
        def _open(self, line: bytes, inside: bool) -> bool:
            looks[-1] += 1
            return super()._open(line, inside)

    for n in (2_000, 4_000):
        looks.append(0)
        numbers = [number for number, _, _ in Counting(Csv()).records(io.BytesIO(line * n), 0, 16 << 20)]
        assert numbers == sorted(set(numbers))
    assert looks[1] <= 2 * 4_000
    assert looks[1] <= 2.1 * looks[0] + 4


@given(
    st.lists(
        st.sampled_from([b'a"b,"c', b'"', b',"', b'"""', b'x,"y', b"plain,1", b'"whole",2', b"", b'a,"b ""c""', b'c" d,"']), max_size=30
    )
)
def test_records_are_those_that_a_look_from_each_line_finds(lines: list[bytes]) -> None:
    """By a splitter that looks anew from each line."""
    splitter = Splitter(Csv())
    at, expected = 0, []
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
            continue
        end = at
        if splitter._open(line, False):
            end = next((i for i in range(at + 1, len(lines)) if not splitter._open(lines[i], True)), -1)
        if end < 0:
            expected.append((at, line, False))
            at += 1
        else:
            expected.append((at, b"\n".join(lines[at : end + 1]), True))
            at = end + 1
    found = splitter.records(io.BytesIO(b"".join(line + b"\n" for line in lines)), 0, 16 << 20)
    assert [(number, text, not wrong) for number, text, wrong in found] == expected
