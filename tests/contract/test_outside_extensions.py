"""What the outside package brings, each held to the contract suite of its kind and found by its entry point alone."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inference.topic_records import sample_payloads
from pipelines.project.config import KafkaSettings, load_settings
from pipelines.project.extensions import FORMATS
from pipelines.sources.formats.record_format import record_format
from tandem.testing.file_formats import FileFormatContract
from tandem.testing.formats import NOW, SOURCES, RecordFormatContract, events
from tandem.testing.online_store import OnlineStoreContract
from tandem.testing.tables import Place, TableContract
from tandem.testing.tracker import ReadBack, TrackedRun, TrackerContract
from transforms.errors import ConfigError
from transforms.tables import Table

ROOT = Path(__file__).parents[2]
STORE = "tandem_outside.store.OneTableOnlineStore"
pytestmark = pytest.mark.usefixtures("outside_package")


class TestStore(OnlineStoreContract):
    @pytest.fixture
    def store_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"type": STORE, "path": str(tmp_path / "rows.db")}

    @pytest.fixture
    def unusable_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        (tmp_path / "file").write_text("")
        return {"type": STORE, "path": str(tmp_path / "file" / "rows.db")}


class TestFormat(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "outside_csv"

    @pytest.fixture(params=[",", ";"])
    def kafka_settings(self, request: pytest.FixtureRequest) -> KafkaSettings:
        return KafkaSettings(format_options={s.name: {"delimiter": request.param} for s in SOURCES.values()})


class TestFileFormat(FileFormatContract):
    suffix = "fixed"
    first_row = 1  # the names of the columns are line 0
    texts = ("x", "naïve ✈ 𝄞", 'a"b', "a,b;c  d", "\\", "null", "None", "0", "1e5", "true", "x" * 300)

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        write_fixed_width(path, events)


def write_fixed_width(path: Path, events: pa.RecordBatch) -> None:
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in events.columns]
    cells = [[n, *map(cell, c.to_pylist())] for n, c in zip(events.schema.names, columns, strict=True)]
    widths = [max(map(len, column)) + 1 for column in cells]
    lines = ["".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + "\n" for line in zip(*cells, strict=True)]
    path.write_bytes("".join(lines).encode())


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def test_infer_samples_topics_by_it() -> None:
    payloads = [f"{n},2024-05-01T10:{n:02}:00Z,{n / 2}".encode() for n in range(30)]
    sample, form = sample_payloads(payloads, name="orders", form="outside_csv")
    assert (form, sample.rows) == ("outside_csv", 30)
    assert list(sample.columns) == [("column_1",), ("column_2",), ("column_3",)]


class Folder(Place):
    """Of JSON documents."""

    secrets = ("hunter22",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "documents"
        self.folder.mkdir()

    def table(self) -> Table:
        from tandem_outside.documents import Documents

        kinds = {"a_float64": "double", "a_bool": "bool", "a_string": "string", "flight": "string"}
        return Documents(str(self.folder), {n: kinds.get(n, "int64") for n in ("at", "a_int64", "a_timestamp", *kinds)})

    def fill(self, rows: pa.Table) -> None:
        for old in self.folder.iterdir():
            old.unlink()
        columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in rows.columns]
        for n, row in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
            (self.folder / f"{n:06}.json").write_text(json.dumps(dict(zip(rows.schema.names, row, strict=True))))

    def gone(self) -> None:
        shutil.rmtree(self.folder)


class TestTable(TableContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Folder(tmp_path)


FILES_AND_TABLE = """
from tandem.transforms.definitions import *
from tandem_outside.documents import Documents

FIELDS = [Field("i", "int64", required=True), Field("shop", "string", required=True), Field("paid", "float64", min=0)]
read = EventSource(name="read", event_time="at", tie_breaker="i", fields=FIELDS, files="events/read")
kept = EventSource(
    name="kept", event_time="at", tie_breaker="i", fields=FIELDS,
    table=Documents(FOLDER, {"at": "int64", "i": "int64", "shop": "string", "paid": "double"}),
)
shop = Entity("shop")
windows = {"entity": shop, "hop": minutes(30), "ttl": hours(2)}
a = FeatureGroup(name="a", source=read, aggregates=[Count(over=hours(1)), Mean("paid", over=hours(1))], **windows)
b = FeatureGroup(name="b", source=kept, aggregates=[Count(over=hours(1)), Mean("paid", over=hours(1))], **windows)
"""


def test_tandem_batch_reads_its_files_and_its_table(tmp_path: Path, outside_package: Path) -> None:
    """The same events in a compressed file of lines of fixed width and in a folder of documents: the same rows of features."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(outside_package)]), "COLUMNS": "200"}
    start = 1_704_067_200_000_000
    rows = [{"i": i, "at": start + i * 60_000_000, "shop": f"s{i % 3}", "paid": None if i % 7 == 0 else i / 4} for i in range(200)]
    bad = {**rows[5], "i": 900, "paid": -1.0}
    folder, data, repo = tmp_path / "documents", tmp_path / "data", tmp_path / "feature_repo"
    (data / "events" / "read").mkdir(parents=True)
    write_fixed_width(tmp_path / "day.fixed", pa.RecordBatch.from_pylist([*rows, bad]))
    (data / "events" / "read" / "day.fixed.gz").write_bytes(gzip.compress((tmp_path / "day.fixed").read_bytes() + b"cut of"))
    for place, text in (
        (repo / "features.py", FILES_AND_TABLE.replace("FOLDER", repr(str(folder)))),
        (repo / "tandem.yaml", "data: ../data\ntracking: {trackers: []}\n"),
        *((folder / f"{row['i']}.json", json.dumps(row)) for row in [*rows, bad]),
    ):
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    words = ["batch", "--repo", str(repo), "--start", "2024-01-01", "--end", "2024-01-02"]
    done = subprocess.run([sys.executable, "-m", "tandem", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept: 201 rows" in done.stdout + done.stderr
    (run,) = (path for path in (data / "runs").iterdir() if path.name.startswith("batch-"))
    letters = [
        row for file in sorted((run / "dead_letters").rglob("*.parquet")) for row in pq.read_table(file, partitioning=None).to_pylist()
    ]
    told = sorted((d["source"], d["reason"], d["file"], d["row"]) for d in letters)
    assert told[1:] == [
        ("read", "malformed", "events/read/day.fixed.gz", 202),
        ("read", "out_of_range", "events/read/day.fixed.gz", 201),
    ]
    assert told[0][:3] == ("kept", "out_of_range", "tables/kept/part-00000.parquet")
    columns = ["shop", "event_timestamp", "count_1h", "paid_mean_1h"]
    files = [sorted((data / "offline" / name).rglob("*.parquet")) for name in "ab"]
    made = [[row for file in some for row in pq.read_table(file, columns=columns, partitioning=None).to_pylist()] for some in files]
    assert len(made[0]) > 20 and made[0] == made[1]


class TestTracker(TrackerContract):
    draws = False

    @pytest.fixture
    def tracker_name(self) -> str:
        return "outside"

    @pytest.fixture
    def read_back(self) -> ReadBack:
        from tandem_outside.tracker import runs

        states = {"running": "RUNNING", "complete": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

        def read(data: Path) -> dict[str, TrackedRun]:
            return {
                name: TrackedRun(
                    status=states[line["status"]],
                    parent=line["parent"],
                    params=line["params"],
                    metrics=line["metrics"],
                    steps={metric: dict(points) for metric, points in line["series"].items()},
                    tags=line["tags"],
                    files=set(line["files"]),
                    bundles={n: (kind, aliases) for n, (kind, aliases) in line["made"].items()},
                )
                for name, line in runs(data).items()
            }

        return read


def test_tandem_yaml_may_name_what_it_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_TRACKING__TRACKERS", raising=False)
    text = "kafka: {formats: {few: outside_csv}, format_options: {few: {delimiter: '|'}}}\ntracking: {trackers: [outside]}\n"
    (tmp_path / "tandem.yaml").write_text(text)
    settings = load_settings(tmp_path)
    assert settings.tracking.trackers == ["outside"]
    few = SOURCES["a number identifies"]
    form = record_format(few, settings.kafka)
    sent = events(few, 2)
    assert all(p.count(b"|") == 1 for p in form.encode(sent).to_pylist())
    assert form.decode(form.encode(sent), NOW, 0).valid.equals(sent)
    with pytest.raises(ConfigError, match=r"format_options\.few\.limit.*known keys: delimiter"):
        record_format(few, KafkaSettings(formats={"few": "outside_csv"}, format_options={"few": {"limit": 3}}))
    with pytest.raises(ConfigError, match="known: avro, csv, json, json_schema, outside_csv, protobuf"):
        FORMATS.find("xml")


def test_its_command_is_one_of_tandem(tmp_path: Path, outside_package: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(outside_package)]), "COLUMNS": "200"}

    def tandem(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "tandem", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    listed = tandem("--help")
    assert listed.returncode == 0
    assert "outside-groups" in listed.stdout and "List the feature groups of a repository." in listed.stdout
    assert "outside-broken" not in listed.stdout
    said = [line for line in listed.stderr.splitlines() if "is ignored" in line]
    assert len(said) == 2 and all("of tandem-outside is ignored" in line for line in said)
    assert "tandem already has a command of that name" in said[0] and "no_such_module" in said[1]
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "features.py").write_text(
        "from tandem.transforms.definitions import *\n"
        "e = EventSource(name='e', event_time='at', tie_breaker='i', fields=[Field('i', 'string', required=True)], files='events/e')\n"
        "seen = FeatureGroup(name='seen', source=e, entity=Entity('i'), hop=minutes(5), ttl=hours(1), aggregates=[Count(over=hours(1))])\n"
    )
    done = tandem("outside-groups")
    assert (done.returncode, done.stdout) == (0, "seen\n"), done.stderr
