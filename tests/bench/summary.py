"""README's table: which of the measured lines it shows, under which short names. docs/benchmarks.md has all lines.

A row sets Tandem beside a rival or a limit. What is in: every rival and every limit that a part measures, also where it is faster. What is
left out: Tandem beside itself, and sizes between the least and the greatest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.bench.kept import Run
from tests.bench.report import Line, Part

__all__ = ["GROUPS", "Pair", "Row", "pairs", "unmatched"]


@dataclass(frozen=True)
class Row:
    """A comparison, once for each table of ``part`` in whose title ``title`` is found.

    ``title``, ``ours`` and ``theirs`` are regular expressions; the last two match from the start of a line's name. ``what`` may hold the
    groups of ``title``, ``{0}``. ``name`` is what README calls the other line.
    """

    part: str
    title: str
    what: str
    ours: str
    theirs: str
    name: str


@dataclass(frozen=True)
class Pair:
    """What a row shows: two lines of one table."""

    what: str
    part: Part
    ours: Line
    theirs: Line
    name: str
    quick: bool

    @property
    def ratio(self) -> float:
        """The other's time per unit in units of Tandem's: above 1 Tandem is faster."""
        return (self.theirs.seconds / self.theirs.amount) / (self.ours.seconds / self.ours.amount)


_KAFKA = "^Kafka to Redis"
_FRESH = r"^from produced to readable: .* of ([\d,]+) sellers"
_SERVED = r"^(1|100) entities per request over HTTP"

GROUPS: dict[str, tuple[Row, ...]] = {
    "Batch": (
        Row("windows", r"by (\w+): count", "feature rows by {0}, 5 aggregates x 3 windows", "tandem", "polars", "Polars"),
        Row("windows", "by carrier: count", "feature rows by carrier, 1,000 events", "tandem, the events", "beam", "Beam, event by event"),
        Row("aggregates", "by the numbers", "feature rows of whole numbers (CPU)", "tandem, integers", "polars .*integers", "Polars"),
        Row("aggregates", "by the numbers", "feature rows of cents (CPU)", "tandem, cents", "polars .*cents", "Polars"),
        Row("aggregates", "number of windows", "feature rows, 1 window (CPU)", "tandem, 1 window", "polars, 1 window", "Polars"),
        Row("aggregates", "number of windows", "feature rows, 10 windows (CPU)", "tandem, 10 win", "polars, 10 win", "Polars"),
        Row("aggregates", "by the hop", "feature rows, hop of 1 minute (CPU)", "tandem, 1 min", "polars, 1 min", "Polars"),
        Row("aggregates", "by the hop", "feature rows, hop of 60 minutes (CPU)", "tandem, 60 min", "polars, 60 min", "Polars"),
        Row("graph", r"^analyze \+ transform", "TF-Transform, analyze and transform, cold", "tandem", "tft", "tft over dicts"),
        Row("join", "^point-in-time", "point-in-time join, from files", "tandem", "feast", "Feast with DuckDB"),
        Row("join", "^point-in-time", "point-in-time join, from files", "tandem", "pandas", "pandas, already in memory"),
        Row("formats", "^Decoding", "JSON records, checked (CPU)", "json$", "json by Arrow", "Arrow's reader, no checks"),
        Row("formats", "^Decoding", "Avro records, checked (CPU)", "avro$", "avro by fastavro", "fastavro, no checks"),
        Row("formats", "^Decoding", "CSV records, checked (CPU)", "csv$", "csv by Arrow", "Arrow's reader, no checks"),
        Row("mapping", "^Reading", "flat JSON records, mapped (CPU)", "flat", "Arrow's .*flat", "Arrow's reader, no checks"),
        Row("mapping", "^Reading", "nested JSON records, mapped (CPU)", "objects", "Arrow's .*objects", "Arrow's reader, no checks"),
    ),
    "Stream": (
        Row("stream", _KAFKA, "Kafka to Redis on embedded Flink", "tandem, emb", "beam", "Beam per event, same Flink"),
        Row("stream", _KAFKA, "Kafka to Redis on embedded Flink", "tandem, emb", "pyflink", "PyFlink SQL, no store written"),
        Row("stream", _KAFKA, "Kafka to Redis on embedded Flink", "tandem, emb", "bytewax, hand", "bytewax, state by hand"),
        Row("stream", _KAFKA, "Kafka to Redis on embedded Flink", "tandem, emb", "bytewax, its", "bytewax, its windows"),
        Row("worker", "worker, CPU", "the stream's worker alone (CPU)", "base", "the limit", "limit: records read and checked"),
        Row("fresh", _FRESH, "produced to readable, {0} keys, p50", "p50", "the limit.*p50", "limit: consumer that sets a key"),
        Row("fresh", _FRESH, "produced to readable, {0} keys, p99", "p99", "the limit.*p99", "limit: consumer that sets a key"),
    ),
    "Online": (
        Row("online", r"online store \((\w+)\)", "write 2,000 rows ({0})", "tandem", "feast", "Feast's writer"),
        Row("online", r"^(1|100) entities from (redis)", "read a batch of {0} ({1})", "tandem, comp", "packed", "limit: one MGET of Redis"),
        Row("online", r"^(1|100) entities from (\w+)", "read a batch of {0} ({1})", "tandem, comp", "feast SDK over its", "Feast SDK"),
        Row("graph", r"^a graph applied to (1|4,096) row", "transform a batch of {0} (CPU)", "numpy", "TensorFlow", "TensorFlow"),
        Row("graph", r"^one call of (\d+) row", "transform a batch of {0}", "TransformGraph", "tft", "tft layer, eager"),
        Row("predict", r"^predict of (\d+) row", "predict a batch of {0} (CPU)", "tandem: col", "TensorFlow", "limit: TensorFlow alone"),
        Row("predict", r"^predict of (\d+) row", "predict a batch of {0} (CPU)", "tandem: col", "encoding", "encoding and TensorFlow"),
        Row("http", r"^predict of (\d+) inst", "HTTP predict of {0}, p50 (p99)", "tandem", "feast", "Feast and Keras, no HTTP"),
        Row("http", _SERVED, "HTTP features of {0}, 8 clients", "tandem serve, 1", "feast serve", "feast serve"),
        Row("http", _SERVED, "HTTP features of {0}, 8 clients", "tandem serve, 1", "raw ASGI", "limit: raw ASGI"),
    ),
    "Commands": (
        Row("commands", "command's start", "`tandem runs list` (CPU)", "tandem runs", "the limit", "limit: its imports"),
        Row("commands", "tandem check", "`tandem check`, nothing cached (CPU)", "asked anew", "the limit", "limit: its imports"),
    ),
}


def _line(part: Part, name: str) -> Line | None:
    return next((line for line in part.lines if re.match(name, line.name)), None)


def _found(row: Row, kept: Mapping[str, Run]) -> Iterator[Pair]:
    run = kept.get(row.part)
    if run is None:
        return
    for part in run.tables:
        match = re.search(row.title, part.title)
        ours, theirs = _line(part, row.ours), _line(part, row.theirs)
        if match is not None and ours is not None and theirs is not None:
            yield Pair(row.what.format(*match.groups()), part, ours, theirs, row.name, run.quick)


def pairs(kept: Mapping[str, Run]) -> dict[str, list[Pair]]:
    """What the rows show, by group, in their order."""
    return {group: [pair for row in rows for pair in _found(row, kept)] for group, rows in GROUPS.items()}


def unmatched(kept: Mapping[str, Run]) -> list[str]:
    """Rows of measured parts that show nothing: their lines were not measured, or are called something else now."""
    rows = [row for group in GROUPS.values() for row in group if row.part in kept and kept[row.part].tables]
    return [f"{row.part} beside {row.name}" for row in rows if not any(_found(row, kept))]
