"""Records of a topic to judged events, in each record format: the decoding alone, in CPU time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from tests.bench.report import Part, best_of
from tests.schema_registry import schema_registry
from transforms.definitions import EventSource, Field
from transforms.schemas import avro_schema

RECORDS = 20_000
NOW = 1_700_000_000_000_000
SALES = EventSource(
    name="sales",
    fields=[
        Field("sale_id", "string", required=True),
        Field("seller", "string", required=True),
        Field("country", "string", domain=["NO", "SE", "DK"]),
        Field("amount", "float64", min=0),
        Field("items", "int64"),
        Field("gift", "bool"),
    ],
    event_time="sold_at",
    tie_breaker="sale_id",
    topic="sales",
)


def _events(n: int) -> pa.RecordBatch:
    r = np.random.default_rng(0)
    columns = [
        pa.array(NOW - 1_000_000 * r.integers(1, 10_000, n)).cast(pa.timestamp("us", "UTC")),
        pa.array([f"sale-{i:08d}" for i in range(n)]),
        pa.array([f"s{i:04d}" for i in r.integers(0, 5000, n)]),
        pa.array(r.choice(["NO", "SE", "DK"], n)),
        pa.array(np.round(r.gamma(2, 30, n), 2), mask=r.random(n) < 0.1),
        pa.array(r.integers(0, 30, n)),
        pa.array(r.random(n) < 0.1),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SALES.arrow_schema)


def _arrow_json(payloads: pa.Array) -> int:
    read = pa_json.read_json(pa.BufferReader(b"\n".join(payloads.to_pylist())), pa_json.ReadOptions(use_threads=False, block_size=1 << 26))
    return int(read.num_rows)


def _arrow_csv(payloads: pa.Array) -> int:
    options = pa_csv.ReadOptions(use_threads=False, autogenerate_column_names=True, block_size=1 << 26)
    return int(pa_csv.read_csv(pa.BufferReader(b"\n".join(payloads.to_pylist())), options).num_rows)


def _fastavro(payloads: pa.Array) -> int:
    schema: Any = fastavro.parse_schema(avro_schema(SALES))
    return len([fastavro.schemaless_reader(io.BytesIO(each[5:]), schema, None) for each in payloads.to_pylist()])


LIMITS: dict[str, tuple[str, Callable[[pa.Array], int]]] = {
    "json": ("Arrow's JSON reader alone: no types asked for, no verdict", _arrow_json),
    "csv": ("Arrow's CSV reader alone: no verdict", _arrow_csv),
    "avro": ("fastavro alone, a dict each: no columns, no verdict", _fastavro),
}
"""What decodes the same bytes and judges nothing."""


def run(quick: bool = False) -> list[Part]:
    """One part, with what decodes the same bytes and judges nothing as the limits."""
    n = RECORDS
    rounds = 5 if quick else 10
    part = Part(f"Decoding {n:,} records of seven fields, with the contract's verdict", "records", f"warm; CPU, {rounds} rounds in turn")
    with schema_registry() as registry:
        kafka, ways = KafkaSettings(schema_registry=registry.url), dict[str, Callable[[], Any]]()
        for name in ("json", "json_schema", "avro", "protobuf", "csv"):
            form = record_format(SALES, kafka, name)
            payloads = form.encode(_events(n))
            assert form.decode(payloads, NOW, 0).valid.num_rows == n
            ways[name] = partial(form.decode, payloads, NOW, 0)
            if name in LIMITS:
                what, limit = LIMITS[name]
                ways[f"{name} by {what}"] = partial(limit, payloads)
                if limit(payloads) != n:
                    raise ValueError(f"{name}: not all records were read")
        for name, seconds in best_of(rounds, ways, time.process_time).items():
            part.add(name, seconds, n)
    return [part]
