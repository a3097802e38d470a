"""``tandem infer``: of each public shape of data, a definition that says what the data is and runs as it is."""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.infer_source import infer_files
from pipelines.inference.names import identifier, taken_from
from pipelines.inference.proposal import propose
from pipelines.inference.topic_records import sample_payloads
from pipelines.sources.event_files import events, list_files
from tests.shapes.makers import SHAPES
from tests.unit.inferred import inferred, of_records
from transforms.contract import check_json
from transforms.definitions import EventSource, FeatureGroup, Field, coalesce, col
from transforms.errors import DataError
from transforms.fields import check_name
from transforms.instants import micros_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    for name, shape in SHAPES.items():
        shape.write(data / "events" / name, 1_000)
    (data / "events" / "order_items").symlink_to(data / "events" / "orders")
    return data


EXPECTED: dict[str, tuple[str, ...]] = {
    "nyc_taxi": (
        'event_time="tpep_pickup_datetime"', 'Field("vendor_id", "int64", required=True, path="VendorID")',
        "QUESTION: these times have no zone",
        'Field("store_and_fwd_flag", "string"', 'Field("pu_location_id", "int64", required=True, path="PULocationID")',
    ),
    "ieee_cis": (
        "QUESTION: TransactionDT is seconds since a day", 'Field(f"v{i}", "float64", path=f"V{i}") for i in range(1, 340)',
        'tie_breaker="transaction_id"',
    ),
    "criteo": ('quote=None', 'header=False, columns=[f"column_{i}" for i in range(1, 43)]',
        'event_time=Field("column_1", "timestamp", parse=Epoch("s"))',
    ),
    "iot": ('event_time=Field("ts", "timestamp", parse=Epoch("ms"))',
            'Field("device_id", "int64", required=True, path="deviceId"', 'tie_breaker="seq"'),
    "clicks": (
        'event_time=Field("event_time", "timestamp", path="eventTime")', 'domain=["addToCart", "pageView"]', 'path="user.isMember"',
        'Field("tags", "list<string>"',
    ),
    "orders": ("parse=Decimal(scale=2)", 'path="customer.id"', "items: a list of objects; infer --explode items"),
    "order_items": ('explode="items"', 'Field("sku", "string", required=True, path="items[].sku")',
                    'path="items[].unitPrice", parse=Decimal(scale=2)', 'tie_breaker="items_index"', 'path=ElementIndex()'),
    "local_times": (
        'TimeFormat("%d.%m.%Y %H:%M:%S", zone="Europe/Paris", ambiguous="earlier", missing="later")', 'decimal=","', 'encoding="iso8859-1"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_said_of_each_shape(shapes: Path, name: str) -> None:
    text, values = inferred(shapes, name, group=True) if name != "ieee_cis" else (_text(shapes, name), {})
    for part in EXPECTED[name]:
        assert part in text
    assert max(map(len, text.splitlines())) <= 180
    if values:
        assert sum(isinstance(v, EventSource) for v in values.values()) == sum(isinstance(v, FeatureGroup) for v in values.values()) == 1
    assert text == (_text(shapes, name) if name == "ieee_cis" else inferred(shapes, name, group=True)[0])  # the same every time


def _text(data: Path, name: str) -> str:
    return infer_files(data / "events" / name, name=name, data=data).text


@pytest.mark.parametrize("name", EXPECTED)
def test_each_definition_takes_all_that_it_was_inferred_from(shapes: Path, name: str) -> None:
    source = inferred(shapes, name)[1][name]
    now = micros_of(datetime(2026, 1, 1, tzinfo=UTC))
    found = [pair for f in list_files(shapes, source, None, None) for pair in events(f.path, source, now, 0, partitions=f.partitions)]
    assert [letter for _, letters in found for letter in letters.to_pylist()] == []
    assert sum(valid.num_rows for valid, _ in found) >= 1_000


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    return path


def test_nulls_types_and_ranges(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {
            "id": i, "at": f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}Z", "big": 2**63 + i, "mixed": [1, "x"][i % 2], "empty": None,
            "odd": [True, "x"][i % 2],
            "code": f"0{i}",
            "textual": str(i), "note": "n" if i else None, "when_ms": 1_714_557_660_000 + i, "flag": i % 2 == 0, "a.b": 1, "vec": [0.5, 1],
        }
        for i in range(300)
    ]  # fmt: skip
    text = infer_files(lines(tmp_path / "Order Log.jsonl", records)).text
    for part in (
        'order_log = EventSource(', 'files="events/order_log"', 'event_time="at"',
        'Field("textual", "int64", required=True, parse=Number()),  # 0 to 299; min=0, if it is never negative; unique',
        'Field("note", "string"),  # always "n"; seldom null', 'Field("code", "string", required=True),  # unique',
        'Field("when_ms", "timestamp", required=True, parse=Epoch("ms"))',
        'Field("a_b", "int64", required=True, path=["a.b"]),  # always 1; min=0, if it is never negative',
        'Field("vec", "list<float>", required=True)',
        "# whole numbers that an int64 does not hold (beyond 2^63): a text without loss; unique",
        'Field("big", "string", required=True, parse=Text())',
        'Field("mixed", "string", required=True, parse=Text()),  # a text in some records and a number in others; 2 different',
        "# left out, values of several types (bool, str): odd",
        "# left out, null in all records that were looked at: empty",
    ):  # fmt: skip
        assert part in text


def test_what_is_the_same_today_is_no_rule(tmp_path: Path) -> None:
    """A version, an address or an empty text that every record has is no domain: with the next release all would be dead letters."""
    values = {
        "lib": "js-3.1", "specversion": "1.0", "version": "2.5.0.Final", "ip": "10.0.0.1", "schema": "/rc/1.0.0", "note": "",
        "unit": "EUR",
    }  # fmt: skip
    records = [{"id": i, "at": f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}Z", **values} for i in range(300)]
    text = infer_files(lines(tmp_path / "log.jsonl", records)).text
    for name, value in values.items():
        assert f'Field("{name}", "string", required=True),  # always "{value}"\n' in text
    assert "domain" not in text


@pytest.mark.parametrize(
    ("word", "known"),
    [
        (lambda i: "abc"[i % 3], ["a", "b", "c"]),
        (lambda i: "ab"[i % 2] if i < 290 else "c", None),  # a new one came near the end: others will
        (lambda i: "ab"[i // 150], None),
        (lambda i: "a" if i != 7 else "b", None),  # seen once: so are others that were not
        (lambda i: "abcdefghijklmnopqrstuvwxyz"[i % 26], None),
        (lambda i: "ab"[i % 2] if i < 150 else None, None),
    ],
)
def test_a_domain_is_of_words_that_recur_and_to_which_nothing_is_added(
    tmp_path: Path, word: Callable[[int], str | None], known: list[str] | None
) -> None:
    records = [{"id": i, "at": f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}Z", "kind": word(i), "currency": word(i)} for i in range(300)]
    found = {c.called: c.domain for c in infer_files(lines(tmp_path / "log.jsonl", records)).proposal.columns}
    assert found["kind"] == known and found["currency"] is None  # of a list that is longer than any sample shows


@pytest.mark.parametrize("rows", [99, 100])
def test_what_every_event_must_have_is_a_question_of_few_records(tmp_path: Path, rows: int) -> None:
    """But for what the definition itself needs."""
    records = [
        {"id": f"e{i}", "at": f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}Z", "user": f"u{i % 7}", "amount": i / 2} for i in range(rows)
    ]
    text = infer_files(lines(tmp_path / "log.jsonl", records), group=True).text
    assert ("# QUESTION: what must every event have? 99 records cannot tell" in text) == (rows == 99)
    assert ('Field("amount", "float64", required=True)' in text) == (rows == 100)
    assert 'Field("id", "string", required=True)' in text and 'Field("user", "string", required=True)' in text


def test_only_quantities_have_a_least_value(tmp_path: Path) -> None:
    """An id of -1 is a guest, what was bought may be given back: neither was seen, and neither is a mistake."""
    names = {"userId": False, "quantity": False, "utcOffset": False, "amount": False, "itemCount": True, "page_size": True}
    records = [{"id": f"e{i}", "at": f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}Z", **dict.fromkeys(names, i)} for i in range(200)]
    text = infer_files(lines(tmp_path / "log.jsonl", records)).text
    fields = {name: next(line for line in text.splitlines() if f'path="{name}"' in line or f'"{name}"' in line) for name in names}
    assert {name: "min=0)" in line for name, line in fields.items()} == names


def test_what_is_an_object_only_at_times_is_no_field(tmp_path: Path) -> None:
    """Each definition takes the records that it was inferred from, whatever forms one place has among them."""
    forms: list[dict[str, Any]] = [
        {"params": [], "user": "u1", "tags": ["a"], "deep": {"x": {"y": 1}}}, {"params": {"a": 1}, "user": {"id": 7}, "tags": [{"k": 1}]},
        {"params": None, "user": None, "tags": [], "deep": {"x": 5}}, {"deep": None},
    ]  # fmt: skip
    records = [{"id": i, "at": 1_714_557_660_000_000 + i, "fine": {"z": i} if i % 2 else None, **forms[i % 4]} for i in range(80)]
    made = infer_files(lines(tmp_path / "log.jsonl", records))
    found: dict[str, Any] = {}
    exec(compile(made.text, "log.py", "exec"), found)
    checked = check_json([json.dumps(r).encode() for r in records], found["log"], 2 * 10**15, 0)
    assert checked.details.drop_null().to_pylist() == []
    assert {f.name for f in found["log"].fields} == {"id", "fine_z"}
    for name in ("params", "user", "tags", "deep.x"):
        assert f"left out, as {name} is not of one form in all records: " in made.text


def test_disorder_is_measured_within_each_file(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    base = 1_714_557_600_000_000
    for n in (1, 0):  # a later file that holds earlier events is no disorder
        times = [base + n * 86_400_000_000 + i * 1_000_000 for i in range(500)]
        times[250] -= 7_000_000
        table = pa.table({"id": list(range(500)), "at": pa.array(times, pa.timestamp("us", "UTC"))})
        pq.write_table(table, folder / f"{2 - n}.parquet")
    text = infer_files(folder).text
    assert "behind the newest event before it: p99 0 s, p99.9 6 s, max 6 s" in text
    assert "allowed_lateness=seconds(10)," in text
    shuffled = tmp_path / "shuffled.parquet"
    pq.write_table(
        pa.table(
            {
                "id": list(range(400)),
                "at": pa.array([base + (i * 7_919 % 400) * 3_600_000_000 for i in range(400)], pa.timestamp("us", "UTC")),
            }
        ),
        shuffled,
    )
    assert "QUESTION: the records are not in order of time" in infer_files(shuffled).text


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ({}, {}, "holds no event files"), ({"a.xml": "<a/>"}, {}, "holds no event files"),
        ({"a.jsonl": '{"x": 1}\n'}, {}, "no column holds a time in every record; choose one with --event-time"),
        ({"a.jsonl": '{"at": "2024-05-01T00:00:00Z"}\n'}, {}, "a tie breaker needs one"),
        ({"a.jsonl": "nonsense\n"}, {}, "holds no records"),
        ({"a.jsonl": '{"x": 1}\n'}, {"event_time": "y"}, "--event-time y: no such column"),
        ({"a.jsonl": '{"x": 86399999999999}\n'}, {"event_time": "x"}, "--event-time x: 86399999999999 .* neither seconds nor an epoch"),
        ({"a.jsonl": '{"x": 1}\n'}, {"explode": "items"}, "--explode items: no record has a list there"),
        ({"a.jsonl": '{"x": 1}\n'.encode("utf-16")[:-1]}, {}, "a.jsonl: it is not utf-16, as its byte order mark says"),
        ({"a.jsonl.gz": gzip.compress(b'{"x": 1}\n') + b"rest"}, {}, r"a.jsonl.gz cannot be decompressed: .*; repair the file"),
        ({"a.jsonl.gz": gzip.compress(b'{"x": 1}\n' * 99)[:-9]}, {}, r"a.jsonl.gz cannot be decompressed: .*; repair the file"),
        ({"a.jsonl.zst": b"nonsense"}, {}, r"a.jsonl.zst cannot be decompressed: .*; repair the file"),
        ({"a.csv": "x,y\n1,2\n", "b.parquet": ""}, {}, "files of several kinds"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_one_line(tmp_path: Path, files: dict[str, str | bytes], more: dict[str, Any], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message) as caught:
        infer_files(tmp_path, **more)
    assert "\n" not in str(caught.value)


def test_topics_of_other_than_json() -> None:
    assert sample_payloads([b'{"a": {"b": 1}}', b"\x00\x01", None])[0].columns == {("a", "b"): [1]}
    with pytest.raises(DataError, match="none of the 2 records is a JSON object"):
        sample_payloads([b"\x00", b"[1]"])


def test_each_partition_and_each_file_begins_anew(tmp_path: Path) -> None:
    """Behind the first comes the second from its beginning, which is no disorder: also where some records are none, and elements events."""
    lines = [
        json.dumps({"at": f"2024-05-01T{h:02}:{m:02}:00Z", "items": [{"sku": f"{h}.{m}.{i}"} for i in range(m % 3)]})
        for h in range(9)
        for m in range(60)
    ]
    for part in "ab":
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    disorder = infer_files(tmp_path, explode="items").proposal.disorder
    assert disorder.most == 0 and disorder.measured
    payloads: list[bytes | None] = [*(line.encode() for line in lines), b"none", None]
    sample, _ = sample_payloads(payloads * 3, "items", parts=[len(payloads)] * 3)
    assert len(sample.parts) == 3 and len(set(sample.parts)) == 1 and sum(sample.parts) == sample.rows
    assert propose(sample).disorder.most == 0


def test_what_tells_things_apart_has_no_domain_and_is_no_number() -> None:
    """There will be others than were seen: tomorrow's customer would be a dead letter."""
    payloads: list[bytes | None] = [
        json.dumps({
            "at": f"2024-05-01T10:{i % 60:02}:00Z", "seq": i, "user": f"u{i % 5}", "vehicleId": "ab"[i % 2], "card": "4111",
            "state": "xy"[i % 2], "account_balance": str(i),
        }).encode() for i in range(300)
    ]  # fmt: skip
    found = {c.called: c for c in propose(sample_payloads(payloads)[0]).columns}
    assert {name: c.domain for name, c in found.items() if c.domain} == {"state": ["x", "y"]}
    assert (found["card"].dtype, found["account_balance"].parse) == ("string", "Number()")


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (("createdAt", "$date"), "created_at"), (("_id", "$oid"), "id"), (("properties", "$browser"), "properties_browser"),
        (("$os",), "os"), (("$date",), "date"),
    ],
)  # fmt: skip
def test_names_that_begin_with_a_dollar(steps: tuple[str, ...], wanted: str) -> None:
    """MongoDB's are types, all others names."""
    assert taken_from(steps, set()) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("VendorID", "vendor_id"), ("PULocationID", "pu_location_id"), ("orderId", "order_id"), ("C1", "c1"), ("Größe (€)", "groesse_eur"),
        ("2nd", "field_2nd"), ("__x", "x"), ("日本", "field"), ("event_timestamp", "event_timestamp_value"), ("HTTPStatus", "http_status"),
    ],
)  # fmt: skip
def test_names(name: str, wanted: str) -> None:
    assert identifier(name) == wanted


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=10))
def test_any_names_become_different_ones_that_fields_may_have(names: list[str]) -> None:
    taken: set[str] = set()
    made = [taken_from((name,), taken) for name in names]
    assert len(set(made)) == len(names)
    for one in made:
        check_name("field", one)


def test_bytes_in_texts_are_asked_for(tmp_path: Path) -> None:
    """Debezium's decimals; words of as many letters are none."""
    packed = [base64.b64encode((1_000 + 77 * n).to_bytes(3 if n % 2 else 2, "big")).decode() for n in range(60)]
    records = [{"id": n, "ts": 1_714_557_600 + n, "amount": packed[n], "word": f"w{n:03}"} for n in range(60)]
    text, _ = of_records(tmp_path, records)
    assert text.count("base64") == 1 and text.index("base64") < text.index('Field("word"')


def test_one_field_whose_name_changed_is_asked_for(tmp_path: Path) -> None:
    """New York's taxis: airport_fee in one month, Airport_fee in the next."""
    records = [{"id": n, "ts": 1_714_557_600 + n, **({"fee": 1.5 + n} if n < 40 else {"Fee": 2.5 + n})} for n in range(80)]
    text, values = of_records(tmp_path, records)
    assert 'QUESTION: fee under another name? value=coalesce(col("fee"), col("fee_2")) is both' in text
    both = [*values["things"].fields, Field("either", "float64", value=coalesce(col("fee"), col("fee_2")))]
    checked = check_json([json.dumps(r).encode() for r in records], replace(values["things"], fields=both), 2 * 10**15, 0)
    assert checked.valid.column("either").null_count == 0
    apart, _ = of_records(tmp_path, [{"id": n, "ts": 1_714_557_600 + n, "fee": 1.5, "Fee": 2.5} for n in range(80)], "apart")
    assert "under another name" not in apart


def test_maps_that_stand_as_lists_of_entries_are_stepped_into(tmp_path: Path) -> None:
    """GA4's event_params; lists of other objects are lists."""
    records = [
        {
            "id": n, "ts": 1_714_557_600 + n, "items": [{"sku": "a", "price": 1}],
            "params": [{"key": "page", "value": {"text": f"p{n}"}}, *([{"key": "a.b", "value": {"number": n}}] if n % 2 else [])],
        }
        for n in range(80)
    ]  # fmt: skip
    text, values = of_records(tmp_path, records)
    assert 'path="params.page.text"' in text and 'path=["params", "a.b", "number"]' in text and "items: a list of objects" in text
    checked = check_json([json.dumps(r).encode() for r in records], values["things"], 2 * 10**15, 0)
    assert checked.valid.num_rows == 80 and checked.valid.column("page_text").to_pylist()[:2] == ["p0", "p1"]


def test_a_first_repository_is_made_with_the_modes_of_the_users_own_files(tmp_path: Path) -> None:
    """README's first command named a folder that is not there yet, and ended with an errno after all its work; the definition was readable
    by nobody else, as people's data is."""
    (tmp_path / "clicks.jsonl").write_text('{"id": "a", "at": "2024-05-01T10:00:00Z"}\n{"id": "b", "at": "2024-05-01T11:00:00Z"}\n')
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "pipelines.cli",
        "infer",
        str(tmp_path / "clicks.jsonl"),
        "--repo",
        str(tmp_path / "new"),
    ]
    command += ["--output", str(tmp_path / "new" / "features.py")]
    code = f"import os, subprocess, sys; os.umask(0o022); sys.exit(subprocess.run({command!r}, cwd={str(ROOT)!r}).returncode)"
    environment = {k: v for k, v in os.environ.items() if k != "TANDEM_UMASK"}
    first, again = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False) for _ in "12"
    )
    assert first.returncode == 0, first.stderr
    assert [stat.S_IMODE((tmp_path / "new" / p).stat().st_mode) for p in ("", "features.py")] == [0o755, 0o644]
    assert again.returncode == 1 and "already exists" in again.stderr and "looking at" not in again.stderr, "before any work"


def test_a_file_that_is_not_there_is_told_as_one_and_not_as_a_topic_alone(tmp_path: Path) -> None:
    from pipelines.cli.infer import infer

    (tmp_path / "tandem.yaml").write_text("data: data\n")
    with pytest.raises(DataError, match=r"^orders\.csv is not a file or folder, and cannot be read as a topic: kafka\.bootstrap_servers"):
        infer("orders.csv", repo=tmp_path)


@pytest.mark.parametrize(("days", "line"), [(1, "looking at clicks.jsonl"), (3, "looking at 3 files"), (31, "looking at 20 files of 31")])
def test_files_are_counted_and_not_listed(tmp_path: Path, days: int, line: str) -> None:
    for day in range(1, days + 1):
        folder = tmp_path / f"date=2024-05-{day:02}"
        folder.mkdir()
        (folder / "clicks.jsonl").write_text(f'{{"id": "c{day}", "at": "2024-05-{day:02}T10:00:00Z"}}\n')
    said: list[str] = []
    infer_files(tmp_path, name="clicks", say=said.append)
    assert said == [line]


def test_a_folders_column_is_not_required_as_records_of_a_topic_have_none(tmp_path: Path) -> None:
    for region, own in (("eu", ""), ("us", ', "region": "us-east"')):
        folder = tmp_path / f"site={region}x" / f"region={region}"
        folder.mkdir(parents=True)
        lines = [f'{{"id": "{region}{i}", "at": "2024-05-01T10:{i:02}:00Z", "kwh": {i}.5{own}}}\n' for i in range(50)]
        (folder / "a.jsonl").write_text("".join(lines))
    text = infer_files(tmp_path, name="meters").text
    assert 'Field("site", "string"' in text and 'Field("site", "string", required=True' not in text
    assert 'Field("region", "string", required=True' not in text  # half of the records have it from their folder alone
    assert 'Field("kwh", "float64", required=True' in text
    assert text.count("from the folder; records of a topic have none") == 2
