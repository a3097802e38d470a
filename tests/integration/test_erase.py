"""``tandem erase``: a subject is gone from every file and store, whatever its format; the others are not."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
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
from pipelines.lake.audit import AuditLog
from pipelines.streaming.state.log_segments import frame_head
from pipelines.streaming.state.row_log import read_rows
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.orders_world import Orders
from tests.integration.stream_world import ROOT, StreamWorld, environment, events, make_stream_world
from tests.pickled_parquet import write_pickled
from transforms.errors import ConfigError, DataError

pytestmark = pytest.mark.timeout(400)
GONE, STAYS = "z3", "z4"
# Longer than anything that is there by chance: the byte search is for this.
NAME = {GONE: "zone-to-be-forgotten", STAYS: "zone-that-stays"}


def renamed(event: bytes) -> bytes:
    value = json.loads(event)
    return json.dumps({**value, "zone": NAME.get(value["zone"], value["zone"])}).encode()


def search(folder: Path, text: str) -> list[str]:
    """Where a text is, by other means than the product's: bytes, unpacked, and every cell of Parquet. The passwords of services are not.
    Of saved tiles, whose files are never written twice, the folder."""
    found = [path.parent if path.suffix == ".tiles" else path for path in folder.rglob("*") if path.is_file() and in_file(path, text)]
    return sorted({path.relative_to(folder).as_posix().removesuffix("-wal") for path in found})


def in_file(path: Path, text: str) -> bool:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data += gzip.decompress(data)
    if path.suffix == ".zst":
        data += pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    if path.suffix == ".tiles":
        data += repr(tile_tables(data)).encode()
    return text.encode() in data or (path.suffix == ".parquet" and text in repr(pq.ParquetFile(path).read().to_pylist()))


def tile_tables(data: bytes) -> list[Any]:
    """What a file of saved tiles holds: behind the mark of each Arrow stream in it, decompressed."""
    out = []
    for piece in data.split(b"TDM1")[1:]:
        at = piece.find(b"\xff\xff\xff\xff")
        with suppress(pa.ArrowInvalid, OSError):
            out.append(pa.ipc.open_stream(piece[at:]).read_next_batch().to_pylist())
    return [rows for rows in out if rows]


def table(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def world(tmp_path: Path) -> StreamWorld:
    """A stream that ran, and everything else that a data folder has, with the subject in each."""
    made = make_stream_world(tmp_path / "world")
    log = [renamed(e) for e in events(400)]
    made.produce(log)
    manifest = run_stream(made.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)
    assert manifest["code"] == 0
    data, gone, stays = made.data, NAME[GONE], NAME[STAYS]
    folder = data / "events" / "trips"
    folder.mkdir(parents=True)
    lines = b"".join(e + b"\n" for e in log)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "broken.jsonl").write_bytes(b'{"zone": "' + gone.encode() + b'", \n' + log[0] + b"\n")
    with pa.CompressedOutputStream(str(folder / "c.ndjson.zst"), "zstd") as out:
        out.write(lines)
    rows = [json.loads(e) for e in log]
    for place in (
        folder / "date=2023-11-14" / "d.parquet",
        data / "offline" / "zones" / "run=batch-1" / "date=2023-11-14" / "p.parquet",
    ):
        table(place, zone=[r["zone"] for r in rows], fare=[r["fare"] for r in rows])
    table(folder / f"zone={gone}" / "e.parquet", fare=[1.0, 2.0])
    table(data / "offline" / "other" / "run=batch-1" / "p.parquet", trip=["t1", "t2"], last_zone=[gone, stays], some=[[gone], [stays]])
    letters = data / "runs" / "batch-1" / "dead_letters" / "trips" / "l.parquet"
    table(letters, source=["trips"] * 3, payload=[b'{"zone": "%s"}' % gone.encode(), b"\xff " + gone.encode(), b'{"zone": "x"}'])
    table(data / "training" / "set1" / "train" / "part-0.parquet", zone=[gone, stays], label=[0.0, 1.0])
    table(
        data / "requests" / "date=2024-01-01" / "r.parquet",
        tandem_request=["a", "b"],
        tandem_row=[0, 0],
        tandem_at=[1, 2],
        zone=[gone, stays],
    )
    table(data / "labels" / "m" / "part-000000.parquet", tandem_request=["a", "b"], tandem_row=[0, 0], tandem_at=[1, 2], label=[1.0, 0.0])
    (data / "tfx" / "examples").mkdir(parents=True)
    (data / "tfx" / "examples" / "data.gz").write_bytes(gzip.compress(b"record " + gone.encode()))
    (data / "tfx" / "examples" / "other.gz").write_bytes(gzip.compress(b"record " + stays.encode()))
    manifests: list[tuple[str, str, dict[str, Any]]] = [
        ("runs", "batch-1", {}),
        ("training", "set1", {"inputs": ["run=batch-1"]}),
        ("runs", "train-1", {"set": "set1"}),
        ("runs", "apply-0", {"of": "batch-0"}),
    ]
    for kind, name, more in manifests:
        (data / kind / name).mkdir(parents=True, exist_ok=True)
        (data / kind / name / "manifest.json").write_text(json.dumps({"id": name, "kind": "batch", "status": "complete", **more}))
    return made


def online(world: StreamWorld, zone: str) -> bool:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from pipelines.feature_store.store import open_store, ordered_store

    store = open_store(world.repo())
    view = next(v for v in store.list_feature_views() if [c.name for c in v.entity_columns] == ["zone"])
    key = EntityKey(join_keys=["zone"], entity_values=[Value(string_val=zone)])
    return ordered_store(store).read_stored(store.config, view, [ordered_store(store).entity_key(store.config, key)], [])[0] is not None


def test_nothing_of_a_subject_is_left_and_all_of_the_others_is(world: StreamWorld) -> None:
    """Issue 13, section 3."""
    data, gone, stays = world.data, NAME[GONE], NAME[STAYS]
    before, others = search(data, gone), search(data, stays)
    assert len(before) > 12 and online(world, gone) and online(world, stays)
    subject = Subject.parse([f"zone={gone}"])
    dry = erase(world.repo(), subject, dry_run=True)
    assert search(data, gone) == before and dry.found and not dry.marked, "a dry run changes nothing"
    events_before = len((data / "events" / "trips" / "a.jsonl").read_bytes().splitlines())
    report = erase(world.repo(), subject)
    assert report.remains == [] == dry.remains and report.found == dry.found
    assert (sorted(dry.rewritten), sorted(dry.deleted)) == (sorted(report.rewritten), sorted(report.deleted))
    assert search(data, gone) == [] and not [p for p in data.rglob("*") if gone in p.name]
    assert not online(world, gone) and online(world, stays)
    assert search(data, stays) == others, "others are where they were"
    for place in (
        "events/trips",
        "offline/zones",
        "offline/other",
        "runs",
        "training/set1",
        "requests",
        "labels",
        "tfx",
        "online/zones",
        "online/pairs",
    ):
        assert any(found.startswith(place) for found in report.found), (place, report.found)
    kept = (data / "events" / "trips" / "a.jsonl").read_bytes().splitlines()
    assert len(kept) == len(gzip.decompress((data / "events" / "trips" / "b.jsonl.gz").read_bytes()).splitlines())
    assert 0 < len(kept) < events_before and all(json.loads(line)["zone"] != gone for line in kept)
    assert pq.read_table(data / "labels" / "m" / "part-000000.parquet")["tandem_request"].to_pylist() == ["b"]
    marks = {
        n: json.loads((data / n / "manifest.json").read_text()).get("erased")
        for n in ("runs/batch-1", "training/set1", "runs/train-1", "runs/apply-0")
    }
    assert [marks["runs/batch-1"][0]["what"], marks["runs/train-1"][0]["what"]] == ["rows", "built from erased rows"]
    assert marks["training/set1"] and marks["runs/apply-0"] is None
    again = erase(world.repo(), subject)
    assert not again.found and not again.rewritten


def test_a_dry_run_foretells_what_a_killed_stream_left_open(world: StreamWorld) -> None:
    """Segments of its log that nobody sealed: the rows are counted, and nothing remains of them."""
    gone, stays = NAME[GONE], NAME[STAYS]
    for sealed in world.data.glob("stream/main/rows/zones/*.parquet"):
        _open_again(sealed)
    assert not list(world.data.glob("stream/main/rows/zones/*.parquet"))
    _open_again(sealed := world.data / "stream/main/rows/zones/others.parquet", pa.table({"zone": [stays], "x": [1.0]}))
    subject = Subject.parse([f"zone={gone}"])
    killed = world.data / ".dry-run-killed" / "stream" / "main"  # what a dry run that was killed left: no file of the data folder
    killed.mkdir(parents=True)
    (killed / "copy.jsonl").write_text(json.dumps({"zone": gone}))
    dry, opened = erase(world.repo(), subject, dry_run=True), search(world.data / "stream", gone)
    assert opened and not sealed.exists(), "a dry run changes nothing"
    report = erase(world.repo(), subject)
    assert dry.found == report.found and dry.found["stream/main"] > 0
    assert not list(world.data.glob(".dry-run-*"))
    assert (sorted(dry.rewritten), sorted(dry.deleted), dry.remains) == (sorted(report.rewritten), sorted(report.deleted), report.remains)


def _open_again(sealed: Path, rows: pa.Table | None = None) -> None:
    """A segment of these rows, else of those of a sealed one, as a kill leaves it: torn at its end."""
    table = (pq.read_table(sealed) if rows is None else rows).combine_chunks()
    payloads = [table.schema.serialize(), *(batch.serialize() for batch in table.to_batches())]
    data = b"".join(frame_head(each) + each.to_pybytes() for each in payloads)
    sealed.with_suffix(".log").write_bytes(data + frame_head(payloads[0])[:7])
    sealed.unlink(missing_ok=True)


def test_a_stream_goes_on_from_its_tiles_without_the_subject(world: StreamWorld) -> None:
    data, gone, stays = world.data, NAME[GONE], NAME[STAYS]
    saved = list(data.glob("stream/*/tiles/*/*.tiles"))
    assert saved and all(in_file(path, gone) and in_file(path, stays) for path in saved)
    report = erase(world.repo(), Subject.parse([f"zone={gone}"]))
    assert report.found["stream/main"] > 0 and report.remains == []
    left = list(data.glob("stream/*/tiles/*/*.tiles"))
    assert len(left) == len(saved) and not search(data, gone)
    world.produce([renamed(e) for e in events(20, 5_000)])
    said: list[str] = []
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), said.append)["code"] == 0
    assert any("with its windows" in line for line in said) and not any("damaged" in line for line in said)
    counts = {row["zone"]: row for row in read_rows(data / "stream" / "main", "zones").to_pylist() if row["zone"] == stays}
    assert counts, "the others go on"


def test_by_the_command_line(world: StreamWorld) -> None:
    words = world.command("erase", "--entity", f"zone={NAME[GONE]}", "--reason", "asked to", "--json")
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"]["requests"] == 1 and "topics are not erased (trips" in " ".join(done.stderr.split())
    assert search(world.data, NAME[GONE]) == []
    found = AuditLog(world.data / "audit").check()
    assert not found.problem and [e.outcome for e in found.entries if e.action == "erase"] == ["begun", "done"]
    model = world.data / "graphs" / "zones" / "vocabulary"
    model.write_text(NAME[STAYS])
    words = world.command("erase", "--entity", f"zone={NAME[STAYS]}")
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 3 and "still contains it: graphs/zones/vocabulary" in " ".join(done.stderr.split())


def test_every_form_in_which_an_event_is_read_is_erased(tmp_path: Path) -> None:
    """Issue 13, section 3: what the contract reads as this key is about it: escapes, numbers with an exponent, float columns, folders with
    percent signs, any case of a suffix, files that links lead to."""
    made = Orders(tmp_path / "w")
    folder, outside = made.data / "events/orders", tmp_path / "outside"
    city, rest = "M\u00fcn/ster", {"amount": 1.0, "at": "2024-05-01T10:00:00Z"}
    others = json.dumps({"order_id": "o2", "shop": 101, "city": "b", **rest})
    forms = ["100", "100.0", "1e2", '"100"']
    events = [f'{{"order_id": "o1", "shop": {form}, "city": "M\\u00fcn\\/ster", "amount": 1.0}}' for form in forms]
    (folder / "date=2024-05-01").mkdir(parents=True)
    (outside / "shop=0100").mkdir(parents=True)
    lines = "\n".join([*events, others, ""])
    (folder / "date=2024-05-01" / "a.JSONL").write_text(lines)
    (outside / "b.jsonl").write_text(lines)
    (folder / "linked.jsonl").symlink_to(outside / "b.jsonl")
    table(outside / "shop=0100" / "c.parquet", order_id=["o1", "o2"], city=[city, "b"])
    (folder / "links").symlink_to(outside, target_is_directory=True)
    table(folder / "D.PARQUET", shop=[100.0, 101.0, None], city=[city, city, city])
    table(folder / "city=M%C3%BCn%2Fster" / "e.parquet", shop=pa.array([100, 101]))
    subject = Subject.parse(["shop=100", f"city={city}"])
    report = erase(made.repo(), subject)
    assert report.remains == [] and report.found == {"events/orders": 4 + 4 + 1 + 1 + 1}
    assert (folder / "linked.jsonl").is_symlink()
    for path in (folder / "date=2024-05-01" / "a.JSONL", outside / "b.jsonl"):
        assert path.read_text() == others + "\n"
    assert [pq.ParquetFile(p).metadata.num_rows for p in (outside / "shop=0100/c.parquet", folder / "D.PARQUET")] == [1, 2]
    assert pq.ParquetFile(folder / "city=M%C3%BCn%2Fster" / "e.parquet").read().column("shop").to_pylist() == [101]
    with pytest.raises(DataError, match="--entity shop='x': shop is int64, and this is not one"):
        erase(made.repo(), Subject.parse(["shop=x"]))
    for dry_run in (True, False):  # a slip passed for forgotten
        with pytest.raises(DataError, match=r"--entity shp=\.\.\.: nothing has such a key; the sources have amount, channel, city"):
            erase(made.repo(), Subject.parse(["shp=100"]), dry_run)


@pytest.mark.parametrize("slip", ["chanel=web", "ity=b", "citys=b"])
def test_a_slip_in_a_keys_name_erases_nothing_though_its_value_stands_elsewhere(tmp_path: Path, slip: str) -> None:
    """A table without the key's column is searched for the value alone: the mistyped key took other entities' rows."""
    made = Orders(tmp_path / "w")
    path = made.data / "offline/shop_orders/run=r/p.parquet"
    path.parent.mkdir(parents=True)
    table(path, shop=[100, 101], channel_last_24h=["web", "b"])
    before = path.read_bytes()
    for _ in range(2):  # what the first try left in the audit log is no word for it
        with pytest.raises(DataError, match=rf"--entity {slip.split('=')[0]}=\.\.\.: nothing has such a key"):
            erase(made.repo(), Subject.parse([slip]))
        (made.data / "audit").mkdir(exist_ok=True)
        (made.data / "audit" / "audit.jsonl").write_text(f'{{"subject": "{slip.split("=")[0]}#12"}}')
    assert path.read_bytes() == before


def test_a_key_of_definitions_that_are_gone_is_erased_from_the_files_that_have_it(tmp_path: Path) -> None:
    made = Orders(tmp_path / "w")
    path = made.data / "offline/old_group/run=r/p.parquet"
    path.parent.mkdir(parents=True)
    table(path, customer=["ann", "bob"], count_1h=[1, 1])
    assert erase(made.repo(), Subject.parse(["customer=ann"])).found == {"offline/old_group": 1}
    assert pq.read_table(path).column("customer").to_pylist() == ["bob"]


@pytest.mark.parametrize("word", ["name", "version", "run", "user", "hello"])
def test_a_word_that_files_hold_is_no_key(tmp_path: Path, word: str) -> None:
    """What a model says of itself, a run's manifest, a report, and the text of an event: none of these is a record's column or key."""
    made = Orders(tmp_path / "w")
    own = json.dumps({"name": "late", "version": 1, "run": "r", "user": "hello"})
    places = ("models/late/1/tandem.json", "graphs/g/1/graph.json", "runs/r/report.json", "monitor/m/report.json", "runs/r/manifest.json")
    for place in places:
        (made.data / place).parent.mkdir(parents=True, exist_ok=True)
        (made.data / place).write_text(own)
    (made.data / "models/late/name=late").mkdir()
    table(made.data / "models/late/name=late/version.parquet", name=["late"], version=[1], run=["r"], user=["x"], hello=["x"])
    events = made.data / "events/orders"
    events.mkdir(parents=True, exist_ok=True)
    texts = ["hello user of mine, name the run", json.dumps(own), f"{word}=b"]
    (events / "a.jsonl").write_text("".join(json.dumps({"order_id": "o", "shop": 1, "city": text}) + "\n" for text in texts))
    table(events / "b.parquet", city=texts[::2])  # a cell that is JSON as a whole would be a payload
    path = made.data / "offline/shop_orders/run=r/p.parquet"
    path.parent.mkdir(parents=True)
    table(path, shop=[100, 101], channel_last_24h=["web", "b"])
    before = path.read_bytes()
    with pytest.raises(DataError, match=rf"--entity {word}=\.\.\.: nothing has such a key"):
        erase(made.repo(), Subject.parse([f"{word}=web"]))
    assert path.read_bytes() == before


GONE_KEYS: dict[str, Callable[[Path], Any]] = {
    "lines.jsonl.gz": lambda p: p.write_bytes(gzip.compress(b'{"order_id": "o", "who": {"customer": "ann"}}\n')),
    "payloads.parquet": lambda p: table(p, payload=[b'{"customer": "ann"}', b"\xff"]),
    "customer=ann/rows.parquet": lambda p: table(p, order_id=["o"]),
    "rows.arrow": lambda p: feather.write_feather(pa.table({"customer": ["ann", "bob"]}), p),
    "rows.avro": lambda p: p.write_bytes(avro({"customer": "ann"})),
}


def avro(record: dict[str, str]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "r", "fields": [{"name": n, "type": "string"} for n in record]}, [record])
    return out.getvalue()


@pytest.mark.parametrize("name", GONE_KEYS)
def test_a_key_is_known_by_the_files_of_each_format_that_have_it(tmp_path: Path, name: str) -> None:
    made = Orders(tmp_path / "w")
    path = made.data / "events/orders" / name
    path.parent.mkdir(parents=True)
    GONE_KEYS[name](path)
    assert erase(made.repo(), Subject.parse(["customer=ann"])).found == {"events/orders": 1}
    with pytest.raises(DataError, match="nothing has such a key"):
        erase(made.repo(), Subject.parse(["custom=ann"]))


def test_a_key_is_known_by_the_header_of_a_file_with_delimiters(tmp_path: Path) -> None:
    made = Orders(tmp_path / "w")
    text = made.repo_path.joinpath("features.py").read_text().replace('files="events/orders"', 'files="events/orders", file_format=Csv()')
    made.repo_path.joinpath("features.py").write_text(f"from tandem.transforms.definitions import Csv\n{text}")
    path = made.data / "events/orders/a.csv"
    path.parent.mkdir(parents=True)
    path.write_text("order_id,shop,customer,city\no1,1,annabel,the user name\no2,1,bob,b\n")
    with pytest.raises(DataError, match="nothing has such a key"):
        erase(made.repo(), Subject.parse(["user=annabel"]))
    erase(made.repo(), Subject.parse(["customer=annabel"]), dry_run=True)  # taken for a key


def test_what_stands_elsewhere_is_erased_there(tmp_path: Path) -> None:
    """Issue 13, section 3: folders of the data folder that are links to another disk, links into a store of contents whose files have no
    suffix, a log of events and a request log outside; a link that leads back to where it lies ends no search."""
    made, disk = Orders(tmp_path / "w"), tmp_path / "disk"
    text = made.repo_path.joinpath("features.py").read_text().replace('files="events/orders"', 'files="../logs/orders"')
    made.repo_path.joinpath("features.py").write_text(text)
    with open(made.repo_path / "tandem.yaml", "a") as settings:
        settings.write(f"serve: {{request_log: {disk / 'asked'}}}\nstream: {{checkpoints: 's3://flink/here'}}\n")
    key, other = 7_000_001, 7_000_002
    events, logs, contents = made.data / "events", made.path / "logs" / "orders", disk / "contents"
    for folder in (made.data, logs, contents, disk / "offline", disk / "tfx"):
        folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"order_id": f"o{n}", "shop": n, "city": "b"}) + "\n" for n in (key, other))
    (logs / "a.jsonl").write_text(lines)
    (contents / "5f2e").write_text(lines)
    table(contents / "81ab", shop=[key, other], city=["a", "b"])
    (logs / "b.jsonl").symlink_to(contents / "5f2e")
    (logs / "c.parquet").symlink_to(contents / "81ab")
    (made.data / "offline").symlink_to(disk / "offline", target_is_directory=True)
    (made.data / "tfx").symlink_to(disk / "tfx", target_is_directory=True)
    table(disk / "offline/shop_orders/run=r/p.parquet", shop=[key, other], count_1h=[1, 1])
    (disk / "tfx" / "copy").write_text(f"shop {key}")
    (disk / "tfx" / "back").symlink_to(made.data, target_is_directory=True)
    answer: dict[str, list[Any]] = {"tandem_request": ["a", "b"], "tandem_row": [0, 0], "tandem_at": [1, 2]}
    table(disk / "asked/date=2024-01-01/r.parquet", **answer, shop=[key, other])
    table(made.data / "labels/m/p.parquet", **answer, label=[1.0, 0.0])
    (made.data / "runs" / "r").mkdir(parents=True)
    (made.data / "runs" / "r" / "manifest.json").write_text('{"id": "r", "kind": "batch", "status": "complete"}')
    assert not events.exists()
    subject = Subject.parse([f"shop={key}"])
    found = {"events/orders": 3, "offline/shop_orders": 1, "tfx": 1, "requests": 1, "labels": 1}
    assert erase(made.repo(), subject, dry_run=True).found == found
    report = erase(made.repo(), subject)
    assert report.found == found and report.remains == [] and "tfx/copy" in report.deleted
    assert any("Flink has left in stream.checkpoints (s3://flink/here)" in note for note in report.notes)
    assert (logs / "b.jsonl").is_symlink() and (logs / "b.jsonl").read_text() == (logs / "a.jsonl").read_text() == lines.splitlines(True)[1]
    for path in (logs / "c.parquet", disk / "offline/shop_orders/run=r/p.parquet", disk / "asked/date=2024-01-01/r.parquet"):
        assert pq.ParquetFile(path).read().column("shop").to_pylist() == [other]
    assert (logs / "c.parquet").is_symlink() and json.loads((made.data / "runs/r/manifest.json").read_text())["erased"]
    assert search(tmp_path, str(key)) == [] and not erase(made.repo(), subject).found


@pytest.mark.parametrize("name", ["bad.parquet", "cut.parquet", "bad.arrow", "bad.avro", "bad.jsonl.gz", "bad.jsonl.zst"])
def test_a_file_that_nobody_can_read_hinders_nothing_and_is_named(tmp_path: Path, name: str) -> None:
    """Damaged, cut off, of another format than its name says, or with a type that would run code (SECURITY C2): the rest is erased."""
    made = Orders(tmp_path / "w")
    folder = made.data / "events/orders"
    table(folder / "a.parquet", shop=[1, 2], city=["city-to-be-forgotten", "b"])
    if name == "bad.parquet":
        write_pickled(pa.table({"shop": [2]}), folder / name, tmp_path / "proof")
    else:
        (folder / name).write_bytes(b"PAR1 cut off" if name == "cut.parquet" else b"ARROW1\0\0 of something else")
    report = erase(made.repo(), Subject.parse(["city=city-to-be-forgotten"]))
    assert report.found == {"events/orders": 1} and report.remains == [] and not (tmp_path / "proof").exists()
    if name != "bad.parquet" or int(pa.__version__.split(".")[0]) < 14:
        assert report.unread == [f"events/orders/{name}"]
        said = f"cannot be read, so only their raw bytes were searched: events/orders/{name}; repair them and erase again, or delete them"
        assert said in report.notes
        done = CliRunner().invoke(app, ["erase", "--entity", "city=city-to-be-forgotten", "--repo", str(made.repo_path)])
        assert done.exit_code == 3, "nobody knows that nothing remains"


def test_a_value_of_few_bytes_takes_nothing_of_others(tmp_path: Path) -> None:
    """Issue 13, section 3: ``shop=1`` is told by its key wherever there are records; the byte is in every file, and says nothing there."""
    made = Orders(tmp_path / "w")
    data, ours, theirs = made.data, {"order_id": "o1", "shop": 1, "city": "b"}, {"order_id": "1", "shop": 10, "city": "1"}
    (data / "events/orders").mkdir(parents=True)
    twice = '{"order_id": "o3", "shop": 2, "shop": 1}'
    cut = ['{"order_id": "1", "shop": 10, ', '{"order_id": "o2", "shop": 1, ']
    (data / "events/orders/a.jsonl").write_text("\n".join([json.dumps(ours), json.dumps(theirs), twice, *cut, ""]))
    # Another entity's rows: they count 1 and have seen shop 1 last, or not.
    table(
        data / "offline/city_orders/run=r/p.parquet",
        city=["a", "1", "c"],
        count_24h=[1, 1, 1],
        tandem_revision=[1, 1, 1],
        last_shop=[7, 1, 3],
    )
    texts: dict[str, str | bytes] = {
        "verify/v/report.html": "<p>1 of 1 rows</p>",
        "verify/v/cells.json": '{"shop": 10, "rows": 1}',
        "verify/v/ours.json": '{"shop": 1, "rows": 12}',
        "verify/v/page.html": "<td>shop=1</td>",
        "tfx/theirs.gz": gzip.compress(b"\x0a\x0e\x0a\x0c\x0a\x04shop\x12\x04\x1a\x02\x0a\x00"),
        "tfx/ours.gz": gzip.compress(b"\x0a\x0f\x0a\x0d\x0a\x04shop\x12\x05\x1a\x03\x0a\x01\x01"),
    }
    for name, text in texts.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(text.encode() if isinstance(text, str) else text)
    report = erase(made.repo(), Subject.parse(["shop=1"]))
    assert (data / "events/orders/a.jsonl").read_text().splitlines() == [json.dumps(theirs), cut[0]]
    assert pq.ParquetFile(data / "offline/city_orders/run=r/p.parquet").read().column("city").to_pylist() == ["a", "c"]
    assert sorted(report.deleted) == ["tfx/ours.gz", "verify/v/ours.json", "verify/v/page.html"]
    assert report.remains == [] and not erase(made.repo(), Subject.parse(["shop=1"])).found


def test_a_text_of_few_bytes(tmp_path: Path) -> None:
    """As a number: ``city=b`` does not take what has a b in it, nor a feature of another field that is ``b``."""
    made = Orders(tmp_path / "w")
    table(made.data / "offline/shop_orders/run=r/p.parquet", shop=[1, 2], last_city=["b", "c"])
    (made.data / "verify").mkdir()
    (made.data / "verify/a.html").write_text("<b>bits and bytes</b>")
    (made.data / "verify/b.html").write_text('city: "b"')
    report = erase(made.repo(), Subject.parse(["city=b"]))
    assert report.deleted == ["verify/b.html"] and report.remains == []
    assert pq.ParquetFile(made.data / "offline/shop_orders/run=r/p.parquet").read().column("shop").to_pylist() == [2]


def test_mistakes_are_one_line() -> None:
    for given in (["zone"], ["=x"], ["zone="], ["a=1", "a=2"], []):
        with pytest.raises(ConfigError, match="--entity"):
            Subject.parse(given)


def test_a_running_stream_is_stopped_first(tmp_path: Path) -> None:
    from pipelines.streaming.driver import Driver

    world = make_stream_world(tmp_path / "world")
    with Driver(world.stream).held(), pytest.raises(DataError, match="stream 'main' is running and would write the rows again"):
        erase(world.repo(), Subject.parse(["zone=x"]))
