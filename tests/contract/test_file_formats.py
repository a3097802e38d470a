"""Each of our formats of event files is held to the contract that ships."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, ClassVar

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.project.extensions import FILE_FORMATS
from tandem.testing.file_formats import FileFormatContract
from tests.pickled_parquet import write_pickled
from transforms.contract import encode_json
from transforms.file_formats import Csv

NULL = "\\N"


def of_one_value(path: Path) -> None:
    """A row group of 40 billion bytes, of which its file has a few thousand."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 400_000, pa.int32()), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"flight": values}), path)


def that_runs_code(path: Path) -> None:
    write_pickled(pa.table({"flight": ["a"]}), path, path.with_name("proof"))


class TestParquet(FileFormatContract):
    suffix = "parquet"
    whole = True
    hostile = (of_one_value, that_runs_code)

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        pq.write_table(pa.Table.from_batches([events]), path, row_group_size=64)


class TestArrowFile(FileFormatContract):
    suffix = "arrow"
    whole = True

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        with pa.ipc.new_file(str(path), events.schema) as writer:
            writer.write_table(pa.Table.from_batches([events]), max_chunksize=64)


class TestJsonLines(FileFormatContract):
    suffix = "jsonl"

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        path.write_bytes(b"".join(line + b"\n" for line in encode_json(events).to_pylist()))


class TestAvro(FileFormatContract):
    suffix = "avro"
    whole = True
    TYPES: ClassVar = {"string": "string", "double": "double", "int64": "long", "bool": "boolean"}

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        kinds = {f.name: self.TYPES.get(str(f.type), {"type": "long", "logicalType": "timestamp-micros"}) for f in events.schema}
        fields = [{"name": name, "type": ["null", kind]} for name, kind in kinds.items()]
        times = [f.name for f in events.schema if pa.types.is_timestamp(f.type)]
        rows = integers(events).to_pylist()
        plain = [{**f, "type": ["null", "long"]} if f["name"] in times else f for f in fields]
        with open(path, "wb") as f:
            fastavro.writer(f, {"type": "record", "name": "event", "fields": plain}, rows, codec="deflate", sync_interval=2000)


class TestCsv(FileFormatContract):
    suffix = "csv"
    dialect = Csv(nulls=[NULL])
    tells_cut_records = False
    first_row = 1

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        with open(path, "w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(events.schema.names)
            writer.writerows([NULL if v is None else text(v) for v in row.values()] for row in integers(events).to_pylist())


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def integers(events: pa.RecordBatch) -> pa.Table:
    """Events whose timestamps are microseconds."""
    table = pa.Table.from_batches([events])
    return table.cast(pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in table.schema]))


def test_every_format_of_ours_is_held_to_it() -> None:
    held = {type_.suffix for type_ in FileFormatContract.__subclasses__() if type_.__module__ == __name__}
    assert {FILE_FORMATS.load(name) for name in held} == {FILE_FORMATS.load(name) for name in FILE_FORMATS.own}
