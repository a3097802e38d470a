"""Records whose events would be too large together, each of which is none too large: judged in parts, in stream and batch alike."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.sources.event_files import events
from pipelines.sources.memory import MemoryBroker
from tests.integration.stages_world import World
from tests.integration.test_empty_records import exploded
from tests.integration.test_stream_stages import END, GOOD, expected, plain
from transforms import mapping
from transforms.definitions import EventSource, FeatureGroup, Field

NOTE = 50


def noted() -> FeatureGroup:
    """Payments of a record that has a note beside them."""
    group = exploded()
    return replace(group, source=replace(group.source, fields=[*group.source.fields, Field("note", "string")]))


def in_records(payloads: list[bytes]) -> list[dict[str, Any]]:
    """Two payments in a record, or three, with a note of 50 bytes."""
    ends = [n for n in range(len(payloads)) if n % 5 in (0, 2)] + [len(payloads)]
    return [{"payments": [json.loads(p) for p in payloads[a:b]], "note": f"{a:0{NOTE}d}"} for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("most", [1, 3 * NOTE, 4 * NOTE, 100 * NOTE])
def test_a_stream_takes_what_fits_and_polls_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Some hundred records of 7 KB came to more than a column of Arrow's can hold, which ended the stream at each start."""
    monkeypatch.setattr(mapping, "MAX_AT_ONCE", most)
    broker = MemoryBroker()
    broker.create_topic("payments", 1)
    world = World(tmp_path, broker, noted())
    records = in_records(GOOD)
    world.send([json.dumps(r).encode() for r in records])
    world.run()
    assert plain(world.rows()) == expected(world, GOOD, END)
    assert world.report()["next"] == len(records) and world.report()["counts"]["events"] == len(records)


def columns(source: EventSource, name: str, path: Path) -> tuple[pa.Table, pa.Table]:
    """The events of a file, and its dead letters."""
    read = list(events(path / name, source, now_us=10**16, max_future_us=0))
    return pa.Table.from_batches([e for e, _ in read]), pa.Table.from_batches([letters for _, letters in read])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.avro"])
def test_a_batch_reads_the_same_events_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from fastavro import parse_schema, writer
    from pyarrow import parquet as pq

    records = in_records(GOOD[:60])
    records[7]["payments"][0]["account"] = None  # a reject among them
    source = noted().source
    if name.endswith("jsonl"):
        lines = [json.dumps(r) for r in records]
        (tmp_path / name).write_text("\n".join([*lines[:9], "no JSON", *lines[9:], ""]))
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name)
    else:
        payment = {"type": "record", "name": "P", "fields": [
            {"name": "id", "type": "string"}, {"name": "account", "type": ["null", "string"]},
            {"name": "amount", "type": ["null", "double"]}, {"name": "paid_at", "type": "long"}]}  # fmt: skip
        fields = [{"name": "payments", "type": {"type": "array", "items": payment}}, {"name": "note", "type": "string"}]
        with open(tmp_path / name, "wb") as file:
            writer(file, parse_schema({"type": "record", "name": "R", "fields": fields}), records)
    whole = columns(source, name, tmp_path)
    assert whole[0].num_rows > 40 and whole[1].num_rows
    judged, calls = mapping._bounded, list[int]()

    def counted(read: mapping.Read, size: Any) -> Any:
        calls.append(len(size))
        return judged(read, size)

    monkeypatch.setattr(mapping, "_bounded", counted)
    monkeypatch.setattr(mapping, "MAX_AT_ONCE", 4 * NOTE)
    parts = columns(source, name, tmp_path)
    assert parts[0].equals(whole[0]) and parts[1].equals(whole[1]) and len(calls) > 20
