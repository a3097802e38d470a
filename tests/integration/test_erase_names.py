"""Which records ``tandem erase`` takes: events by the field of the key's name, in every format alike; of what Tandem makes of them, also
rows of others that keep its value. What holds the same value by chance stays, and is named."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.forgetting.erase import erase
from pipelines.forgetting.subject import Subject
from tests.commands_here import forgotten
from tests.integration.orders_world import Orders, order
from transforms.errors import DefinitionError

ANOTHER = """
from tandem.transforms.definitions import Csv, Last, TopK
payments = EventSource(
    name="payments", event_time="at", tie_breaker="pay_id", files="events/payments",
    fields=[Field("pay_id", "string", required=True), Field("method", "string")]FORMAT,
)
shop_ways = FeatureGroup(
    name="shop_ways", source=orders, entity=Entity("shop"), hop=minutes(5), ttl=days(2),
    aggregates=[Last("channel", over=hours(1), name="way"), TopK("channel", k=2, over=hours(1)), Last("city", over=hours(1))],
)
feast_views(__name__)
"""
Rows = list[dict[str, Any]]


def repository(path: Path, format_: str = "") -> Orders:
    made = Orders(path)
    features = made.repo_path / "features.py"
    features.write_text(features.read_text() + ANOTHER.replace("FORMAT", format_))
    return made


def avro(rows: Rows) -> bytes:
    def kind(name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return "string"
        return {"type": "record", "name": f"r_{name}", "fields": [{"name": n, "type": kind(n, v)} for n, v in value.items()]}

    out = io.BytesIO()
    fastavro.writer(out, kind("top", rows[0]), rows)
    return out.getvalue()


def csv(rows: Rows) -> bytes:
    return "".join(",".join(line) + "\n" for line in [list(rows[0]), *(list(row.values()) for row in rows)]).encode()


def binary(rows: Rows, path: Path) -> None:
    """Texts without their type, as old writers of Parquet have them."""
    pq.write_table(pa.table({name: pa.array([row[name].encode() for row in rows], pa.binary()) for name in rows[0]}), path)


FORMATS: dict[str, Callable[[Rows, Path], Any]] = {
    "a.jsonl": lambda rows, p: p.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "a.jsonl.gz": lambda rows, p: p.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())),
    "a.parquet": lambda rows, p: pq.write_table(pa.Table.from_pylist(rows), p),
    "b.parquet": binary,
    "a.arrow": lambda rows, p: feather.write_feather(pa.Table.from_pylist(rows), p),
    "a.avro": lambda rows, p: p.write_bytes(avro(rows)),
    "a.csv": lambda rows, p: p.write_bytes(csv(rows)),
}


def left(path: Path) -> list[str]:
    """The payments of a file, by other means than the product's."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".parquet":
        found = pq.ParquetFile(path).read().to_pylist()
    elif path.suffix == ".arrow":
        found = feather.read_table(path).to_pylist()
    elif path.suffix == ".avro":
        found = list(fastavro.reader(io.BytesIO(data)))
    elif path.suffix == ".csv":
        head, *lines = data.decode().splitlines()
        found = [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
    else:
        found = [json.loads(line) for line in data.splitlines()]
    return [row["pay_id"].decode() if isinstance(row["pay_id"], bytes) else row["pay_id"] for row in found]


@pytest.mark.parametrize("value", ["web", "mobile"])
@pytest.mark.parametrize("name", FORMATS)
def test_an_event_of_others_that_has_the_value_in_another_field_stays_in_every_format(tmp_path: Path, name: str, value: str) -> None:
    """``channel=web`` took payments whose method is web from Parquet, Arrow and text files, and left them in JSON and Avro."""
    made = repository(tmp_path / "w", ", file_format=Csv()" if name.endswith(".csv") else "")
    path = made.data / "events/payments" / name
    path.parent.mkdir(parents=True)
    FORMATS[name]([{"pay_id": "p1", "method": value}, {"pay_id": "p2", "method": "cash"}, {"pay_id": value, "method": "x"}], path)
    before = path.read_bytes()
    dry = erase(made.repo(), Subject.parse([f"channel={value}"]), dry_run=True)
    report = erase(made.repo(), Subject.parse([f"channel={value}"]))
    assert path.read_bytes() == before and not report.found and not dry.found
    named = [f"events/payments/{name}"] if len(value) > 3 else []
    assert report.remains == dry.remains == named, "what is left to be looked at is said, in a dry run, too"
    assert erase(made.repo(), Subject.parse([f"method={value}"])).found == {"events/payments": 1}
    assert left(path) == ["p2", value]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_field_of_the_keys_name_is_one_though_the_source_does_not_declare_it(tmp_path: Path, name: str, nested: bool) -> None:
    if nested and name in ("a.csv", "b.parquet"):
        pytest.skip("it has no records in records")
    made = repository(tmp_path / "w", ", file_format=Csv()" if name.endswith(".csv") else "")
    path = made.data / "events/payments" / name
    path.parent.mkdir(parents=True)

    def about(pay_id: str, method: str, key: str, value: str) -> dict[str, Any]:
        return {"pay_id": pay_id, "method": method, **({"about": {"who": {key: value}}} if nested else {key: value})}

    for key in ("channel", "customer"):  # a field of another source; one that no source has (any more)
        FORMATS[name]([about("p1", "cash", key, "web"), about("p2", "web", key, "app"), about("p3", "cash", key, "app")], path)
        assert erase(made.repo(), Subject.parse([f"{key}=web"])).found == {"events/payments": 1}
        assert left(path) == ["p2", "p3"]


@pytest.mark.parametrize("key", ["CustomerId", "user id", "k", "kkkkkkk0", "a.b", "items[0]", "Größe", "2nd", "events"])
def test_a_key_may_be_called_as_only_columns_are(tmp_path: Path, key: str) -> None:
    """No field may be called ``CustomerId`` or ``user id``: what came before the file of lines was erased, then the command failed, and
    failed so at every further try."""
    made = repository(tmp_path / "w", ", file_format=Csv()")
    (made.data / "events/payments").mkdir(parents=True)
    paths = [made.data / "events/payments" / f"{n}.{kind}" for n, kind in enumerate(("jsonl", "csv", "jsonl", "arrow", "avro"))]
    for path in paths:
        spelled = key if path.suffix != ".avro" or (key.isalnum() and not key[0].isdigit() and key.isascii()) else "other"
        FORMATS[f"a{path.suffix}"]([{"pay_id": f"p{n}", "method": "x", spelled: f"anna{n}"} for n in (1, 2)], path)
    report = erase(made.repo(), Subject.parse([f"{key}=anna1"]))
    assert [left(path) for path in paths[:4]] == [["p2"]] * 4 and set(report.remains) <= {"events/payments/4.avro"}


def test_a_key_that_files_of_lines_cannot_be_read_by_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    made = repository(tmp_path / "w", ", file_format=Csv()")
    path = made.data / "events/payments/a.jsonl"
    path.parent.mkdir(parents=True)
    FORMATS["a.jsonl"]([{"pay_id": "p1", "[]": "anna1"}], path)
    with pytest.raises(DefinitionError, match="begins with an index"):
        erase(made.repo(), Subject.parse(["[]=anna1"]))
    assert left(path) == ["p1"]


def offline(made: Orders, place: str, **columns: list[Any]) -> Path:
    path = made.data / place
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_of_what_tandem_makes_rows_of_others_that_keep_the_value_go_and_those_that_have_it_by_chance_stay(tmp_path: Path) -> None:
    """A feature is one of its field, whatever it is called; a status, a method or a reason that is the same word is none."""
    made = repository(tmp_path / "w")
    ways = offline(
        made, "offline/shop_ways/run=r/p.parquet", shop=[1, 2, 3, 4], way_1h=["mobile", "app", None, "x"],
        channel_topk_1h=[["x"], ["x", "mobile"], [], ["x"]], city_last_1h=["x", "x", "mobile", "x"],
    )  # fmt: skip
    cities = offline(made, "offline/city_orders/run=r/p.parquet", city=["mobile", "b"], count_24h=[1, 1])
    answers: dict[str, list[Any]] = {"tandem_request": ["a", "b", "c"], "tandem_row": [0, 0, 0], "tandem_at": [1, 2, 3]}
    answers |= {"shop": [1, 2, 3], "tandem_client_request": ["mobile", "y", "z"], "shop_ways__way_1h__status": ["PRESENT"] * 3}
    answers |= {"shop_ways__way_1h": ["x", "mobile", "x"], "shop_ways__city_last_1h": ["x", "x", "mobile"]}
    asked = offline(made, "requests/date=2024-01-01/r.parquet", **answers)
    late = offline(made, "stream/main/late/payments/l.parquet", pay_id=["mobile", "p"], method=["mobile", "cash"])
    files = {ways: "shop", cities: "city", asked: "shop", late: "pay_id"}
    found = erase(made.repo(), Subject.parse(["channel=mobile"])).found
    assert [pq.ParquetFile(p).read().column(key).to_pylist() for p, key in files.items()] == [
        [3, 4],
        ["mobile", "b"],
        [1, 3],
        ["mobile", "p"],
    ]
    assert found == {"offline/shop_ways": 2, "requests": 1}
    assert erase(made.repo(), Subject.parse(["channel=PRESENT"])).found == {}


def test_a_dry_run_foretells_what_remains(tmp_path: Path) -> None:
    """Files that are to be rewritten and all of a stream's were left out: it named nothing, and the run itself five."""
    made = repository(tmp_path / "w", ", file_format=Csv()")
    made.log([order("a", "10:02", city="mobile"), order("b", "10:02", city="bergen", channel="mobile")])
    made.round()
    folder = made.data / "events/payments/date=2024-05-01"
    folder.mkdir(parents=True)
    for name, make in FORMATS.items():  # what holds it by chance beside what is the subject's
        make([{"pay_id": "p1", "method": "mobile", "channel": "x"}, {"pay_id": "p2", "method": "x", "channel": "mobile"}], folder / name)
    alone = folder.parent / "channel=mobile" / "a.jsonl"
    alone.parent.mkdir()
    FORMATS["a.jsonl"]([{"pay_id": "p1"}], alone)
    ours = {"method": ["mobile", "x"], "channel": ["x", "mobile"]}
    offline(made, "stream/main/late/payments/l.parquet", **ours)
    offline(made, "stream/main/flink/checkpoints/c.parquet", **ours)
    answers: dict[str, list[Any]] = {"tandem_request": ["a", "b"], "tandem_row": [0, 0], "tandem_at": [1, 2]}
    offline(made, "requests/date=2024-01-01/r.parquet", **answers, shop=[1, 2], shop_ways__way_1h=["x", "mobile"])
    offline(made, "labels/late/r.parquet", **answers, why=["x", "of mobile"])
    offline(made, "labels/late/s.parquet", **answers, why=["of mobile", "x"])
    (made.data / "graphs/x").mkdir(parents=True, exist_ok=True)
    (made.data / "graphs/x/vocabulary.txt").write_text("mobile\n")

    def files() -> dict[Path, bytes]:
        """But SQLite's index of its log, which whoever reads makes anew."""
        return {path: path.read_bytes() for path in made.data.rglob("*") if path.is_file() and not path.name.endswith("-shm")}

    before = files()
    dry = erase(made.repo(), Subject.parse(["channel=mobile"]), dry_run=True)
    assert files() == before
    report = erase(made.repo(), Subject.parse(["channel=mobile"]))
    assert "online.db" in report.remains, "as the city of others"
    assert sorted(dry.remains) == sorted(report.remains) and dry.found == report.found
    named = {f"events/payments/date=2024-05-01/{name}" for name in FORMATS}
    assert {*report.remains} >= named | {"stream/main/late/payments/l.parquet", "labels/late/s.parquet", "graphs/x/vocabulary.txt"}
    assert not {*report.remains} & {"labels/late/r.parquet", "events/payments/channel=mobile/a.jsonl"}


def test_where_nothing_says_what_a_column_is_its_name_or_four_bytes_do(tmp_path: Path) -> None:
    """Of definitions that are gone, and of what preprocessing made."""
    made = repository(tmp_path / "w")
    path = offline(
        made,
        "offline/gone/run=r/p.parquet",
        terminal=[1, 2, 3, 4],
        last_channel=["web", "x", "x", "x"],
        made_of_it=["x", "web", "mobile", "x"],
    )
    assert erase(made.repo(), Subject.parse(["channel=web"]), dry_run=True).found == {"offline/gone": 1}
    for value, stays in (("web", [2, 3, 4]), ("mobile", [2, 4])):
        report = erase(made.repo(), Subject.parse([f"channel={value}"]))
        assert pq.ParquetFile(path).read().column("terminal").to_pylist() == stays and report.remains == []
    numbers = offline(made, "offline/gone/run=r/n.parquet", terminal=[5, 6], workshop=[7, 7], from_shop=[1, 7])
    erase(made.repo(), Subject.parse(["shop=7"]))
    assert pq.ParquetFile(numbers).read().column("terminal").to_pylist() == [5], "a word of the name, not some letters of it"


def test_the_column_that_a_service_joins_a_key_by_holds_its_values(tmp_path: Path) -> None:
    """Origin and destination, buyer and seller: a training set has the key in both columns, or in one of another name."""
    made = repository(tmp_path / "w")
    with open(made.repo_path / "features.py", "a") as text:
        text.write(
            "from feast import FeatureService\n"
            'used = [view_city_orders, view_city_orders.with_name("to").with_join_key_map({"city": "bound_for"})]\n'
            'trip = FeatureService(name="trip", features=used)\n'
        )
    from pipelines.feature_store.store import apply

    apply(made.repo(), {})
    one = offline(made, "training/one/train/p.parquet", bound_for=["b", "c"], label=[0.0, 1.0])
    both = offline(made, "training/two/train/p.parquet", city=["b", "c", "c"], bound_for=["c", "b", "c"], label=[0.0, 1.0, 2.0])
    report = erase(made.repo(), Subject.parse(["city=b"]))
    assert pq.ParquetFile(one).read().column("label").to_pylist() == [1.0] and report.remains == []
    assert pq.ParquetFile(both).read().column("label").to_pylist() == [2.0]


def test_the_command_says_what_would_and_does_still_hold_it(tmp_path: Path) -> None:
    made = repository(tmp_path / "w")
    path = made.data / "events/payments/a.parquet"
    path.parent.mkdir(parents=True)
    FORMATS["a.parquet"]([{"pay_id": "p1", "method": "mobile"}], path)
    words = ["erase", "--entity", "channel=mobile", "--repo", str(made.repo_path)]
    for more, code, said in ((["--dry-run"], 0, "would still contain it"), ([], 3, "still contains it")):
        with forgotten(made.repo_path):
            done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == code and f"{said}: events/payments/a.parquet" in done.output and "--entity FIELD=VALUE" in done.output
