"""The batch job's PTransforms: each wires labelled steps of :mod:`pipelines.batch.steps`, and has as little logic as that allows.

An element is a ``pyarrow.RecordBatch``, a file's path or, across a shuffle, Arrow IPC bytes keyed by (slice start, shard). Every step that
writes replaces its own file by an equal one when a runner repeats it, so the whole is exactly once in effect on any runner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apache_beam as beam

from pipelines.batch import steps
from pipelines.batch.divide import Divide, LookAt, in_parts, read_of
from pipelines.sources.event_files import EventFile
from transforms.definitions import EventSource, FeatureGroup

__all__ = ["ApplyTransformGraph", "EventLog", "FeatureRows", "ReadEventLog", "WindowFeatures"]


class EventLog(NamedTuple):
    """What :class:`ReadEventLog` gives: valid batches of the source's schema; (name of a file or part, table of rejects); (name, count)
    pairs; ((source, file name, its folder's day), (first, last event time)) of each file or part."""

    valid: Any
    invalid: Any
    stats: Any
    spans: Any


class FeatureRows(NamedTuple):
    """What :class:`WindowFeatures` gives: paths of Parquet files of feature rows; (name, count) pairs."""

    rows: Any
    stats: Any


@dataclass
class ReadEventLog(beam.PTransform[Any, Any]):
    """Pipeline -> :class:`EventLog` of ``files``: events of ``source`` with event times in [begin, end), microseconds.

    Rejects go to ``dead_letters`` (a Parquet file for each event file that has any) and are ``invalid`` besides. An event more than
    ``max_future`` microseconds ahead of ``now`` is a reject. ``begins``: file name -> a later begin for this file. Files above
    ``split_bytes`` are read in parts, where they can be (None: none is); a part with rejects has a file of dead letters of its own.
    """

    source: EventSource
    files: Sequence[EventFile]
    begin: int
    end: int
    now: int
    max_future: int
    dead_letters: str
    begins: Mapping[str, int] = field(default_factory=dict)
    split_bytes: int | None = None

    def expand(self, pipeline: Any) -> EventLog:
        """Divide, read, judge, write dead letters."""
        name, most = self.source.name, self.split_bytes
        large = [] if most is None else [f for f in self.files if in_parts(f, self.source, most)]
        whole = set(self.files).difference(large)
        files = pipeline | f"Files of {name}" >> beam.Create([f for f in self.files if f in whole])
        if most is not None and large:
            files = (files, *self.parts(pipeline, large, most)) | f"Files and parts of {name}" >> beam.Flatten()
        read = (
            files
            | f"Spread {name}" >> beam.Reshuffle()
            | f"Read {name}"
            >> beam.ParDo(steps.ReadEvents(self.source, self.begin, self.end, self.now, self.max_future, self.begins)).with_outputs(
                "invalid", "stats", "spans", main="valid"
            )
        )
        _ = read.invalid | f"Dead letters of {name}" >> beam.ParDo(steps.WriteDeadLetters(f"{self.dead_letters}/{name}"))
        return EventLog(read.valid, read.invalid, read.stats, read.spans)

    def parts(self, pipeline: Any, large: list[EventFile], most: int) -> tuple[Any, Any]:
        """What is to be read of large files: those that are one part, and the parts of the others, each of which somebody looked at."""
        name = self.source.name
        parts = (
            pipeline
            | f"Large files of {name}" >> beam.Create(large)
            | f"Spread large files of {name}" >> beam.Reshuffle()
            | f"Divide {name}" >> beam.ParDo(Divide(self.source, most)).with_outputs("whole", main="parts")
        )
        looked = (
            parts.parts
            | f"Spread parts of {name}" >> beam.Reshuffle()
            | f"Look at {name}" >> beam.ParDo(LookAt(self.source))
            | f"Looks of each file of {name}" >> beam.GroupByKey()
            | f"Parts to read of {name}" >> beam.FlatMap(read_of)
        )
        return parts.whole, looked


@dataclass
class WindowFeatures(beam.PTransform[Any, Any]):
    """Valid events -> :class:`FeatureRows` of ``group`` with ``start`` < boundary <= ``end`` (microseconds).

    Entities are spread over ``shards``; a shard's rows of ``slice_length`` microseconds are one file below ``rows``. What a stream that
    goes on at ``end`` starts with is kept below ``tiles``. ``before``: files of tiles of events that are not among the events given.
    """

    group: FeatureGroup
    shards: int
    slice_length: int
    start: int
    end: int
    rows: str
    tiles: str
    before: Sequence[str] = ()

    def expand(self, events: Any) -> FeatureRows:
        """Tile, shuffle by (slice, shard), window."""
        name = self.group.name
        place = self.group, self.shards, self.slice_length, self.start, self.end
        tiles = events | f"Tile {name}" >> beam.ParDo(steps.Tile(*place))
        if self.before:
            earlier = (
                events.pipeline
                | f"Tile files of {name}" >> beam.Create(list(self.before))
                | f"Spread tile files of {name}" >> beam.Reshuffle()
                | f"Earlier tiles of {name}" >> beam.ParDo(steps.EarlierTiles(*place))
            )
            tiles = (tiles, earlier) | f"All tiles of {name}" >> beam.Flatten()
        made = (
            tiles
            | f"Shuffle {name}" >> beam.GroupByKey()
            | f"Window {name}"
            >> beam.ParDo(steps.WindowRows(self.group, self.slice_length, self.start, self.end, self.rows, self.tiles)).with_outputs(
                "stats", main="rows"
            )
        )
        return FeatureRows(made.rows, made.stats)


@dataclass
class ApplyTransformGraph(beam.PTransform[Any, Any]):
    """Pipeline -> :class:`FeatureRows` of the same ``files`` of rows below ``target``, with the outputs of the graph in the folder
    ``graph``, its fingerprint, and ``created`` (microseconds). Counted are values that are NaN or infinite, by ``<name>/<feature>``."""

    name: str
    files: Sequence[str]
    graph: str
    source: str
    target: str
    created: int

    def expand(self, pipeline: Any) -> Any:
        """Spread the files, transform each."""
        made = (
            pipeline
            | f"Rows of {self.name}" >> beam.Create(list(self.files))
            | f"Spread {self.name}" >> beam.Reshuffle()
            | f"Transform {self.name}"
            >> beam.ParDo(steps.TransformFile(self.graph, self.source, self.target, self.created)).with_outputs("stats", main="rows")
        )
        stats = made.stats | f"Name stats of {self.name}" >> beam.Map(_of_group, self.name)
        return FeatureRows(made.rows, stats)


def _of_group(stat: tuple[str, int], group: str) -> tuple[str, int]:
    return f"{group}/{stat[0]}", stat[1]
