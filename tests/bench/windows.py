"""Events to feature rows: Tandem against Polars that gives the same rows, and against a Beam pipeline that goes event by event."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from feature_repo.flights_events import flight_logs
from tests.bench.report import Part, best_of
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import (
    Count,
    CountDistinct,
    Entity,
    EventSource,
    FeatureGroup,
    Field,
    LastN,
    Max,
    Mean,
    Min,
    Quantile,
    Std,
    hours,
    minutes,
)

DEPARTURES = EventSource(
    name="departures",
    fields=[
        Field("flight_id", "string", required=True),
        Field("carrier", "string", required=True),
        Field("origin", "string", required=True),
        Field("dest", "string", required=True),
        Field("dep_delay", "float64"),
    ],
    event_time="departed_at",
    tie_breaker="flight_id",
)
OVERS = {"1h": hours(1), "3h": hours(3), "24h": hours(24)}
MOMENTS = ["count", "dep_delay_mean", "dep_delay_std", "dep_delay_min", "dep_delay_max"]


def feature_group(key: str, hop: int, sketches: bool = False, overs: Mapping[str, timedelta] = OVERS) -> FeatureGroup:
    over = list(overs.values())
    kinds: Any = (
        [CountDistinct("dest", over=over), Quantile("dep_delay", q=0.9, over=over), LastN("dest", n=3, over=over)]
        if sketches
        else [Count(over=over), *(kind("dep_delay", over=over) for kind in (Mean, Std, Min, Max))]
    )
    name = f"{key}_{'sketches' if sketches else 'traffic'}"
    return FeatureGroup(name=name, source=DEPARTURES, entity=Entity(key), hop=minutes(hop), ttl=hours(24), aggregates=kinds)


@lru_cache
def departures() -> pa.RecordBatch:
    """The departures of 2013, as the contract types them."""
    table = flight_logs()["departures"].sort_by("departed_at").select(DEPARTURES.arrow_schema.names)
    return table.cast(DEPARTURES.arrow_schema).combine_chunks().to_batches()[0]


def tandem(events: pa.RecordBatch, group: FeatureGroup) -> pa.RecordBatch:
    """Every row of all time, the way a batch run makes them: tiles of parts of the events, merged, then windows."""
    step = -(-events.num_rows // 4)
    tiles = [tile(events.slice(i, step), group) for i in range(0, events.num_rows, step)]
    return rows_between(merge(tiles, group), group, -(2**60), 2**60)


def polars(events: pl.DataFrame, key: str, hop: str, overs: Mapping[str, timedelta] = OVERS) -> pl.DataFrame:
    """The same rows in Polars: tiles by group_by, boundaries by concat, windows by rolling kernels per key."""
    value = pl.col("dep_delay")
    tiles = events.group_by(key, (pl.col("departed_at").dt.truncate(hop).dt.offset_by(hop)).alias("at")).agg(
        pl.len().cast(pl.Int64).alias("events"),
        value.count().cast(pl.Int64).alias("n"),
        value.sum().alias("sum"),
        (value * value).sum().alias("squares"),
        value.min().alias("min"),
        value.max().alias("max"),
    )
    when = pl.concat([tiles.select(key, "at"), *(tiles.select(key, pl.col("at").dt.offset_by(over)) for over in overs)])
    rows = when.unique().join(tiles, on=[key, "at"], how="left").sort(key, "at")
    folded = []
    for over in overs:
        folded += [
            *(pl.col(c).rolling_sum_by("at", over).over(key).alias(f"{c}_{over}") for c in ("events", "n", "sum", "squares")),
            pl.col("min").rolling_min_by("at", over).over(key).alias(f"dep_delay_min_{over}"),
            pl.col("max").rolling_max_by("at", over).over(key).alias(f"dep_delay_max_{over}"),
        ]
    rows = rows.select(key, "at", *folded)
    out = []
    for over in overs:
        n, total, squares = (pl.col(f"{c}_{over}").fill_null(0) for c in ("n", "sum", "squares"))
        some = n > 0
        mean, spread = total / n, (n * squares - total * total) / (n * n)
        out += [
            pl.col(f"events_{over}").fill_null(0).alias(f"count_{over}"),
            pl.when(some).then(mean).alias(f"dep_delay_mean_{over}"),
            pl.when(some).then(spread.sqrt()).alias(f"dep_delay_std_{over}"),
            pl.col(f"dep_delay_min_{over}"),
            pl.col(f"dep_delay_max_{over}"),
        ]
    return rows.select(key, "at", *out)


def agree(ours: pa.RecordBatch, theirs: pl.DataFrame, key: str, overs: Mapping[str, timedelta] = OVERS) -> None:
    """Raise ValueError unless both hold the same rows and values."""
    mine = pl.from_arrow(pa.Table.from_batches([ours]))
    assert isinstance(mine, pl.DataFrame)
    if mine.height != theirs.height:
        raise ValueError(f"Tandem has {mine.height} rows, Polars {theirs.height}")
    if not (mine[key].equals(theirs[key]) and mine["event_timestamp"].to_physical().equals(theirs["at"].to_physical())):
        raise ValueError("the rows are not at the same keys and times")
    for name in (f"{m}_{over}" for m in MOMENTS for over in overs):
        a, b = mine[name], theirs[name]
        if a.null_count() != b.null_count() or not a.is_null().equals(b.is_null()):
            raise ValueError(f"{name}: nulls differ")
        x, y = a.drop_nulls().to_numpy(), b.drop_nulls().to_numpy()
        if not np.allclose(x, y, rtol=1e-9, atol=1e-9):
            raise ValueError(f"{name}: values differ by up to {np.abs(x - y).max()}")


def _per_event(events: list[dict[str, Any]], key: str, hop: int) -> float:
    """Seconds of a pipeline as most feature code is written: dicts, keyed, one combiner over sliding windows."""
    import apache_beam as typed_beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms.window import SlidingWindows, TimestampedValue

    beam: Any = typed_beam

    class Moments(beam.CombineFn):
        def create_accumulator(self) -> list[float]:
            return [0, 0.0, 0.0, math.inf, -math.inf]

        def add_input(self, a: list[float], x: float) -> list[float]:
            return [a[0] + 1, a[1] + x, a[2] + x * x, min(a[3], x), max(a[4], x)]

        def merge_accumulators(self, parts: Any) -> list[float]:
            n, s, q, low, high = zip(*parts, strict=True)
            return [sum(n), sum(s), sum(q), min(low), max(high)]

        def extract_output(self, a: list[float]) -> dict[str, float]:
            return {
                "count": a[0],
                "mean": a[1] / a[0],
                "std": math.sqrt(max(a[0] * a[2] - a[1] * a[1], 0)) / a[0],
                "min": a[3],
                "max": a[4],
            }

    start = time.perf_counter()
    with beam.Pipeline("DirectRunner", options=PipelineOptions([])) as p:
        keyed = (
            p | beam.Create(events) | "At" >> beam.Map(lambda e: TimestampedValue((e[key], e["dep_delay"]), e["departed_at"].timestamp()))
        )
        for name, over in OVERS.items():
            _ = (
                keyed
                | f"Over {name}" >> beam.WindowInto(SlidingWindows(over.total_seconds(), hop * 60))
                | f"Moments {name}" >> beam.CombinePerKey(Moments())
            )
    return time.perf_counter() - start


def run(quick: bool = False) -> list[Part]:
    """Both groups against Polars; the airline's against Beam; the sketches alone."""
    events = departures()
    if quick:
        events = events.slice(0, events.num_rows // 4)
    frame = pl.from_arrow(pa.Table.from_batches([events]))
    assert isinstance(frame, pl.DataFrame)
    n, out = events.num_rows, []
    for key, hop in (("origin", 5), ("carrier", 15)):
        group = feature_group(key, hop)
        ours = tandem(events, group)
        agree(ours, polars(frame, key, f"{hop}m"), key)
        took = best_of(3, {"tandem": partial(tandem, events, group), "polars": partial(polars, frame, key, f"{hop}m")})
        title = (
            f"tile + merge + windows by {key}: count, mean, std, min, max over {', '.join(OVERS)}, hop {hop} min, {ours.num_rows:,} rows"
        )
        part = Part(title, "events", "warm; wall time, three rounds in turn")
        part.add("tandem", took["tandem"], n)
        part.add(f"polars {pl.__version__}", took["polars"], n)
        part.notes.append(f"all {ours.num_rows:,} rows of both agree to 1e-9; Polars uses {pl.thread_pool_size()} threads, Tandem one")
        if key == "carrier":
            subset = [e for e in events.slice(0, 1_100).to_pylist() if e["dep_delay"] is not None]
            small, large = subset[:100], subset[100:]
            fixed = min(_per_event(small, key, hop) for _ in range(2))
            took_large = min(_per_event(large, key, hop) for _ in range(2))
            few = events.slice(0, 1_100)
            few_took = best_of(3, {"tandem": partial(tandem, few, group)})["tandem"]
            part.add("tandem, the events that Beam gets", few_took, few.num_rows, "its fixed cost included")
            part.add("beam, event by event", max(took_large - fixed, 1e-9), len(large) - len(small), "its fixed cost left out")
            part.notes.append("Beam: Python DirectRunner, dicts, SlidingWindows, one CombineFn; rows for unchanged windows too")
        out.append(part)
    sketches = feature_group("origin", 5, sketches=True)
    ways = {"tandem": partial(tandem, events, sketches), "moments": partial(tandem, events, feature_group("origin", 5))}
    took = best_of(1, ways)
    part = Part(
        "tile + merge + windows by origin: distinct (HLL), quantile, last 3 over 1h, 3h, 24h, hop 5 min",
        "events",
        "warm; wall time, one round",
    )
    part.add("tandem", took["tandem"], n)
    part.add(
        "tandem, the same rows of count, mean, std, min, max", took["moments"], n, "no rival: Polars has no rolling distinct or last N"
    )
    out.append(part)
    return out
