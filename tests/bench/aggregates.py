"""What sums cost by the numbers that are summed, what windows cost by how many and how long they are: CPU time, beside Polars or a limit.

A thousand keys over fifteen days, so most tiles hold one event and every event makes rows: the worst case of the engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tests.bench.report import Part, Took, best_of
from tests.bench.windows import DEPARTURES, OVERS, agree, feature_group, polars, tandem
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import FeatureGroup, days, hours
from transforms.tile_tiers import Tiles

EVENTS, KEYS, DAYS = 150_000, 1_000, 15
START = 1_700_000_100_000_000
HOP = 5
WARM = "warm; CPU of all threads, two rounds in turn"
Float = npt.NDArray[np.float64]

NUMBERS: dict[str, Callable[[np.random.Generator, int], Float]] = {
    "integers": lambda r, n: r.integers(0, 1000, n).astype(float),
    "cents": lambda r, n: np.round(r.lognormal(3, 1.5, n), 2),
    "full mantissas": lambda r, n: r.normal(0, 100, n),
    "60 decades": lambda r, n: r.normal(size=n) * 10.0 ** r.uniform(-30, 30, n),
    "cents, one 1.7e308": lambda r, n: np.where(np.arange(n) == n // 2, 1.7e308, np.round(r.lognormal(3, 1.5, n), 2)),
    "cents, one 5e-324": lambda r, n: np.where(np.arange(n) == n // 2, 5e-324, np.round(r.lognormal(3, 1.5, n), 2)),
}
HOURS = (1, 3, 24, 2, 6, 12, 4, 8, 18, 36)


def _events(times: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], values: Float) -> pa.RecordBatch:
    names, n = pa.array([f"key{i:05}" for i in range(KEYS)]), len(times)
    columns: dict[str, Any] = {
        "departed_at": pa.array(times, pa.timestamp("us", tz="UTC")),
        "flight_id": pa.array(np.arange(n)).cast(pa.string()),
        "carrier": names.take(pa.array(keys)),
        "origin": names.take(pa.array(keys)),
        "dest": names.take(pa.array(keys)),
        "dep_delay": pa.array(values),
    }
    return pa.RecordBatch.from_arrays([columns[f.name] for f in DEPARTURES.arrow_schema], schema=DEPARTURES.arrow_schema)


def _log(n: int, numbers: str, keys: int = KEYS) -> pa.RecordBatch:
    r = np.random.default_rng(1)
    times = np.sort(r.integers(0, DAYS * 86_400_000_000, n)) + START
    return _events(times, r.integers(0, keys, n), NUMBERS[numbers](r, n))


def _check_means(events: pa.RecordBatch, rows: pa.RecordBatch, over: str) -> None:
    """Means of some rows are those of :func:`math.fsum`, which rounds the exact sum once. Raises ValueError."""
    times = events.column(0).cast(pa.int64()).to_numpy()
    keys = events.column(events.schema.get_field_index("carrier")).to_numpy(zero_copy_only=False)
    values = events.column(events.schema.get_field_index("dep_delay")).to_numpy()
    width = OVERS[over] // timedelta(microseconds=1)
    for row in rows.take(pa.array(np.linspace(0, rows.num_rows - 1, 60).astype(int))).to_pylist():
        until = round(row["event_timestamp"].timestamp() * 1e6)
        lo, hi = np.searchsorted(times, [until - width, until])
        mine = values[lo:hi][keys[lo:hi] == row["carrier"]]
        want = math.fsum(mine) / len(mine) if len(mine) else None
        if want != row[f"dep_delay_mean_{over}"]:
            raise ValueError(f"mean over {over} of {row['carrier']} at {until} is {row[f'dep_delay_mean_{over}']}, not {want}")


def _numbers(n: int) -> Part:
    group = feature_group("carrier", HOP)
    logs = {name: _log(n, name) for name in NUMBERS}
    for name, events in logs.items():
        rows = tandem(events, group)
        _check_means(events, rows, "24h")
        if name == "integers":
            frame = pl.from_arrow(pa.Table.from_batches([events]))
            assert isinstance(frame, pl.DataFrame)
            agree(rows, polars(frame, "carrier", f"{HOP}m"), "carrier")
    ways: dict[str, Callable[[], Any]] = {f"tandem, {name}": partial(tandem, events, group) for name, events in logs.items()}
    for name in ("integers", "cents"):
        frame = pl.from_arrow(pa.Table.from_batches([logs[name]]))
        assert isinstance(frame, pl.DataFrame)
        ways[f"polars {pl.__version__}, {name}"] = partial(polars, frame, "carrier", f"{HOP}m")
    took = best_of(2, ways, time.process_time)
    part = Part(
        f"CPU of tile + merge + rows by the numbers: count, mean, std, min, max over {', '.join(OVERS)}, {KEYS:,} keys, hop {HOP} min,"
        f" {n:,} events, {rows.num_rows:,} rows",
        "events",
        WARM,
    )
    for name, seconds in took.items():
        part.add(name, seconds, n)
    part.notes.append(
        "means of a sample equal math.fsum's to the bit; Polars' sums are floats added in some order, its CPU is that of all threads"
    )
    return part


def _windows(n: int) -> Part:
    events = _log(n, "integers")
    frame = pl.from_arrow(pa.Table.from_batches([events]))
    assert isinstance(frame, pl.DataFrame)
    ways: dict[str, Callable[[], Any]] = {}
    counts = {}
    for count in (1, 3, 10):
        overs = {f"{h}h": hours(h) for h in HOURS[:count]}
        group = feature_group("carrier", HOP, overs=overs)
        rows = tandem(events, group)
        counts[count] = rows.num_rows
        agree(rows, polars(frame, "carrier", f"{HOP}m", overs), "carrier", overs)
        del rows
        ways[f"tandem, {count}"] = partial(tandem, events, group)
        ways[f"polars, {count}"] = partial(polars, frame, "carrier", f"{HOP}m", overs)
    took = best_of(2, ways, time.process_time)
    part = Part(f"CPU of tile + merge + rows by the number of windows: five aggregates, {n:,} events", "events", WARM)
    for name, seconds in took.items():
        count = int(name.rpartition(" ")[2])
        part.add(f"{name} window{'s' if count > 1 else ''}", seconds, n, f"{counts[count]:,} rows, {counts[count] * count * 5:,} values")
    return part


def _hops(n: int) -> Part:
    keys = 20
    events = _log(n, "integers", keys)
    frame = pl.from_arrow(pa.Table.from_batches([events]))
    assert isinstance(frame, pl.DataFrame)
    ways: dict[str, Callable[[], Any]] = {}
    counts = {}
    for hop in (1, 5, 15, 60):
        group = feature_group("carrier", hop)
        rows = tandem(events, group)
        counts[str(hop)] = rows.num_rows
        agree(rows, polars(frame, "carrier", f"{hop}m"), "carrier")
        ways[f"tandem, {hop}"] = partial(tandem, events, group)
        ways[f"polars, {hop}"] = partial(polars, frame, "carrier", f"{hop}m")
    part = Part(
        f"CPU of tile + merge + rows by the hop: five aggregates over {', '.join(OVERS)}, {keys} keys, {n:,} events", "events", WARM
    )
    for name, seconds in best_of(2, ways, time.process_time).items():
        part.add(f"{name} min", seconds, n, f"{counts[name.rpartition(' ')[2]]:,} rows")
    return part


def _dense(first: int, upto: int, keys: int) -> pa.RecordBatch:
    """An event of each key in each hop of ``first .. upto - 1``."""
    r, hop = np.random.default_rng(first), HOP * 60_000_000
    n = (upto - first) * keys
    times = np.repeat(np.arange(first, upto), keys) * hop + r.integers(0, hop, n)
    return _events(times, np.tile(np.arange(keys), upto - first), NUMBERS["cents"](r, n))


def _due(lengths: dict[str, timedelta], keys: int) -> Part:
    part = Part(
        f"CPU per row due in the stream: five aggregates over one window, {keys} keys, hop {HOP} min",
        "rows",
        "warm; CPU, boundaries that follow each other",
    )
    hop = HOP * 60_000_000
    for name, over in lengths.items():
        group = feature_group("carrier", HOP, overs={name: over})
        now = START // hop
        tiles = Tiles(group)
        held = over // timedelta(microseconds=hop)
        tiles.add(merge([tile(_dense(h, min(h + 500, now + 1), keys), group) for h in range(now - held, now + 1, 500)], group))
        took = []
        for _ in range(16):
            now += 1
            fresh = tile(_dense(now, now + 1, keys), group)
            begun = time.process_time()
            tiles.add(fresh)
            rows = tiles.rows((now) * hop, (now + 1) * hop)
            took.append(time.process_time() - begun)
        begun = time.process_time()
        anew = _anew(tiles, group, now * hop, (now + 1) * hop)
        folded = time.process_time() - begun
        if rows.num_rows != keys or repr(rows.to_pydict()) != repr(anew.to_pydict()):
            raise ValueError(f"rows over {name} are not those made anew")
        fine, coarse = (sum(p.tiles.nbytes for ps in each for p in ps.parts) for each in ([tiles], tiles.tiers))
        extra = f"{(fine + coarse) / keys / held:,.0f} bytes for each key and hop, {coarse / fine:.0%} more for tiers"
        part.add(f"window {name}", Took([sum(took[8:]) / 8, max(took[8:])]), keys, f"{extra}; median {sorted(took)[8] / keys * 1e6:.0f} us")
        part.add(f"window {name}, folded anew", folded, keys, "the same row from all of its tiles")
    part.notes.append("the mean of eight boundaries, which follow each other, after eight others; rows equal those folded anew to the bit")
    return part


def _anew(tiles: Tiles, group: FeatureGroup, after: int, upto: int) -> pa.RecordBatch:
    return rows_between(merge([p.tiles for p in tiles.parts], group), group, after, upto)


def run(quick: bool = False) -> list[Part]:
    """Four parts."""
    n = EVENTS // 3 if quick else EVENTS
    lengths = {"1h": hours(1), "24h": hours(24), "7d": days(7), "30d": days(30), "90d": days(90)}
    if quick:
        lengths = {name: lengths[name] for name in ("1h", "24h", "7d")}
    return [_numbers(n), _windows(n // 3), _hops(n // 3), _due(lengths, 200)]
