"""The sales' features in Beam as most feature code is written: a dict per event, state per entity, Feast's own Redis store at the end.

It has the advantages that do not belong to the comparison: Tandem's reader and engine settings, a shared model of windows that keeps
partials, state in memory-friendly form, and rows written in batches at the end of each bundle.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder, VarIntCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from tests.bench.rivals.entity_windows import NAMES, EntityWindows

RECORDS = 2_000
TICK_MS = 50


def stock(redis: str) -> tuple[Any, Any, Any]:
    """Feast's Redis store, its configuration and the view."""
    from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.types import Float64, Int64, String

    config = RepoConfig(
        project="sales",
        registry="none",
        provider="local",
        entity_key_serialization_version=3,
        online_store={"type": "redis", "connection_string": redis},
        offline_store="dask",
    )
    schema = [Field(name="seller", dtype=String), *(Field(name=n, dtype=Int64 if n.startswith("count") else Float64) for n in NAMES)]
    entity = Entity(name="seller", join_keys=["seller"], value_type=ValueType.STRING)
    view = FeatureView(
        name="sellers", entities=[entity], schema=schema, source=FileSource(path="none.parquet", timestamp_field="event_timestamp")
    )
    return RedisOnlineStore(), config, view


class Read(beam.DoFn):
    """(partition, tick) -> payloads."""

    OFFSET = ReadModifyWriteStateSpec("offset", VarIntCoder())

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        self.client, self.topic = client, topic

    def setup(self) -> None:
        from pipelines.sources.kafka.partition_reader import KafkaPartitionReader

        self.reader = KafkaPartitionReader(dict(self.client))

    def process(self, item: tuple[int, int], offset: Any = beam.DoFn.StateParam(OFFSET)) -> Iterator[bytes]:
        partition, _ = item
        polled = self.reader.poll(self.topic, partition, offset.read() or 0, RECORDS, 20)
        yield from polled.payloads.to_pylist()
        offset.write(polled.next_offset)


def parse(payload: bytes) -> tuple[str, dict[str, Any]]:
    """The event by its seller, checked a little."""
    event = json.loads(payload)
    if not isinstance(event["amount"], float) or not isinstance(event["sold_at"], int):
        raise ValueError(f"not a sale: {payload!r}")
    return event["seller"], event


class Windows(beam.DoFn):
    """(seller, event) -> (seller, boundary, features)."""

    STATE = ReadModifyWriteStateSpec("windows", BytesCoder())

    def process(self, item: tuple[str, dict[str, Any]], state: Any = beam.DoFn.StateParam(STATE)) -> Iterator[Any]:
        seller, event = item
        kept = state.read()
        windows: EntityWindows = pickle.loads(kept) if kept else EntityWindows()
        for boundary, features in windows.add(event["sold_at"], event["amount"]):
            yield seller, boundary, features
        state.write(pickle.dumps(windows, protocol=5))


class Write(beam.DoFn):
    """Rows -> Feast's own writer, a batch per bundle."""

    def __init__(self, redis: str) -> None:
        self.redis = redis

    def setup(self) -> None:
        self.store, self.config, self.view = stock(self.redis)

    def start_bundle(self) -> None:
        self.rows: list[Any] = []

    def process(self, row: Any) -> None:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        seller, boundary, features = row
        key = EntityKey(join_keys=["seller"], entity_values=[Value(string_val=seller)])
        values = {
            n: Value(int64_val=v) if n.startswith("count") else Value(double_val=v) if v is not None else Value()
            for n, v in features.items()
        }
        self.rows.append((key, values, datetime.fromtimestamp(boundary / 1e6, UTC), None))

    def finish_bundle(self) -> None:
        if self.rows:
            self.store.online_write_batch(self.config, self.view, self.rows, None)


def build(pipeline: beam.Pipeline, client: dict[str, Any], topic: str, partitions: int, redis: str) -> None:
    """The graph."""
    from apache_beam.io.flink.flink_streaming_impulse_source import FlinkStreamingImpulseSource

    ticks = FlinkStreamingImpulseSource()
    ticks.config = {"interval_ms": TICK_MS}
    _ = (
        pipeline
        | "Ticks" >> ticks
        | "Partitions" >> beam.FlatMap(lambda _: [(n, 0) for n in range(partitions)]).with_output_types(tuple[int, int])
        | "Read" >> beam.ParDo(Read(client, topic)).with_output_types(bytes)
        | "Parse" >> beam.Map(parse).with_output_types(tuple[str, dict[str, Any]])
        | "Windows" >> beam.ParDo(Windows()).with_output_types(Any)
        | "Write" >> beam.ParDo(Write(redis))
    )
