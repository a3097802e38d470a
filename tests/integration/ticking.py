"""A small graph with state for tests of the engine: counts ticks per key, and tells by files who counted and how far."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.flink.flink_streaming_impulse_source import FlinkStreamingImpulseSource
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

KEYS = 3


class Count(beam.DoFn):
    """(key, _) -> nothing; ``folder/<key>.json`` holds the count of its state and the process that counted."""

    NUMBER = ReadModifyWriteStateSpec("number", VarIntCoder())

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, item, number=beam.DoFn.StateParam(NUMBER)) -> None:
        key, _ = item
        if (self.folder / "bad").exists():
            raise ValueError("told to fail")
        n = (number.read() or 0) + 1
        number.write(n)
        path = self.folder / f"{key}.json"
        path.with_suffix(".part").write_text(json.dumps({"n": n, "pid": os.getpid()}))
        path.with_suffix(".part").rename(path)


def _spread(_) -> Iterator[tuple[str, int]]:
    for key in range(KEYS):
        yield f"k{key}", 0


def graph(folder: Path) -> Callable[[beam.Pipeline], None]:
    """The function that puts the graph into a pipeline."""

    def build(pipeline: beam.Pipeline) -> None:
        ticks = FlinkStreamingImpulseSource()
        ticks.config = {"interval_ms": 50}
        _ = (
            pipeline
            | "Ticks" >> ticks
            | "Spread" >> beam.FlatMap(_spread).with_output_types(tuple[str, int])
            | "Count" >> beam.ParDo(Count(folder))
        )

    return build


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """key -> (count, process)."""
    out = {}
    for path in folder.glob("k*.json"):
        value = json.loads(path.read_text())
        out[path.stem] = value["n"], value["pid"]
    return out


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
