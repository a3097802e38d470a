"""The event logs of real flights: the whole year, its clocks, its partitions."""

import hashlib
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo import flights_events as events

COUNTS = {"schedule": 336_776, "departures": 328_521, "arrivals": 327_346, "weather": 26_115}


@pytest.fixture(scope="module")
def logs() -> dict[str, pa.Table]:
    return {**events.flight_logs(), "weather": events.weather_log()}


@cache
def raw_flights() -> pd.DataFrame:
    return pd.read_csv(events.raw_file("flights.csv.zip"))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def flight(log: pa.Table, flight_id: str) -> dict:
    rows = log.filter(pc.equal(log["flight_id"], flight_id)).to_pylist()
    assert len(rows) == 1
    return rows[0]


def micros(column: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(column, pa.int64()).to_numpy()


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_the_whole_year_with_its_columns(logs):
    assert {source: log.num_rows for source, log in logs.items()} == COUNTS
    for source, log in logs.items():
        assert log.schema == events.SCHEMAS[source]
        assert log.column(0).null_count == 0
        for field, column in zip(log.schema, log.columns, strict=True):
            if pa.types.is_floating(field.type):
                assert not pc.any(pc.is_nan(column)).as_py(), f"{source}.{field.name} holds NaN instead of null"


def test_flight_ids_are_unique_and_shared(logs):
    ids = {source: set(logs[source]["flight_id"].to_pylist()) for source in ("schedule", "departures", "arrivals")}
    assert all(len(ids[source]) == COUNTS[source] for source in ids)
    assert ids["arrivals"] < ids["departures"] < ids["schedule"]


# Worked out by hand from the clocks: New York is UTC-5 in winter, UTC-4 in summer; Houston one hour behind it, Honolulu UTC-10 always.
@pytest.mark.parametrize(
    ("flight_id", "scheduled", "departed", "arrives", "landed"),
    [
        ("2013-01-01-UA-1545-EWR-IAH", "2013-01-01T10:15", "2013-01-01T10:17", "2013-01-01T14:19", "2013-01-01T14:30"),
        # The night summer time began: due 00:34, landed 89 min later at 02:03 EST = 03:03 EDT.
        ("2013-03-09-B6-35-JFK-PBI", "2013-03-10T02:45", "2013-03-10T04:06", "2013-03-10T05:34", "2013-03-10T07:03"),
    ],
)
def test_hand_checked_flights(logs, flight_id, scheduled, departed, arrives, landed):
    plan = flight(logs["schedule"], flight_id)
    assert plan["scheduled_departure"] - plan["announced_at"] == events.ANNOUNCED_BEFORE
    assert (plan["scheduled_departure"], plan["scheduled_arrival"]) == (at(scheduled), at(arrives))
    assert flight(logs["departures"], flight_id)["departed_at"] == at(departed)
    assert flight(logs["arrivals"], flight_id)["landed_at"] == at(landed)


@pytest.mark.parametrize(
    ("day", "dest", "to_new_york", "to_dest"),
    [
        ("2013-03-09", "HNL", 5, 10),
        ("2013-03-11", "HNL", 4, 10),
        ("2013-11-02", "LAX", 4, 7),
        ("2013-11-04", "LAX", 5, 8),
        ("2013-07-01", "SJU", 4, 4),
        ("2013-12-01", "SJU", 5, 4),
        ("2013-07-01", "PHX", 4, 7),
        ("2013-12-01", "PHX", 5, 7),
    ],
)
def test_utc_on_both_sides_of_summer_time(logs, day, dest, to_new_york, to_dest):
    raw = raw_flights()
    wanted = date.fromisoformat(day)
    raw = raw[(raw["month"] == wanted.month) & (raw["day"] == wanted.day) & (raw["dest"] == dest)]
    assert len(raw) > 0
    for f in raw.itertuples():
        plan = flight(logs["schedule"], f"{day}-{f.carrier}-{f.flight}-{f.origin}-{dest}")
        assert (plan["scheduled_departure"].hour - f.sched_dep_time // 100) % 24 == to_new_york
        assert (plan["scheduled_arrival"].hour - f.sched_arr_time // 100) % 24 == to_dest
        assert plan["scheduled_departure"].minute == f.sched_dep_time % 100
        assert plan["scheduled_arrival"].minute == f.sched_arr_time % 100


def test_clocks_of_the_two_odd_nights():
    clock = pd.Series(pd.to_datetime(["2013-03-10 01:59", "2013-03-10 02:30", "2013-11-03 01:30", "2013-11-03 02:00"]))
    want = ["2013-03-10T06:59", "2013-03-10T07:00", "2013-11-03T05:30", "2013-11-03T07:00"]
    assert list(events.to_utc(clock, "America/New_York")) == [at(t) for t in want]


def test_every_flight_takes_longer_than_its_time_in_the_air(logs):
    arrivals, departures = (logs[s].to_pandas().set_index("flight_id") for s in ("arrivals", "departures"))
    minutes = (arrivals["landed_at"] - departures["departed_at"].reindex(arrivals.index)).dt.total_seconds() / 60
    taxi = minutes - arrivals["air_time"]
    assert taxi.min() >= 5
    assert taxi.max() <= 240
    planned = (micros(logs["schedule"]["scheduled_arrival"]) - micros(logs["schedule"]["scheduled_departure"])) / 60e6
    assert planned.min() >= 50
    assert planned.max() <= 700


def test_clocks_of_departure_follow_from_schedule_and_delay(logs):
    raw = raw_flights()["dep_time"].dropna().to_numpy().astype(int)
    local = logs["departures"]["departed_at"].to_pandas().dt.tz_convert("America/New_York")
    assert np.array_equal((local.dt.hour * 60 + local.dt.minute).to_numpy(), (raw // 100 * 60 + raw % 100) % 1440)


def test_weather_is_dated_when_its_hour_is_over(logs):
    raw = pd.read_csv(events.raw_file("weather.csv"))
    local = logs["weather"]["observed_at"].to_pandas().dt.tz_convert("America/New_York") - pd.Timedelta(hours=1)
    assert np.array_equal(local.dt.hour.to_numpy(), raw["hour"].to_numpy())
    assert np.array_equal(local.dt.day.to_numpy(), raw["day"].to_numpy())
    repeated = [
        r
        for r in logs["weather"].to_pylist()
        if r["origin"] == "JFK" and at("2013-11-03T06:00") <= r["observed_at"] <= at("2013-11-03T07:00")
    ]
    assert [r["temp"] for r in repeated] == [53.96, 51.98]


def test_partitions_of_a_range_hold_their_days_in_order_and_come_again_unchanged(tmp_path):
    seen = []
    counts = events.main(tmp_path, "2013-03-09", "2013-03-12", lambda *step: seen.append(step))
    assert [s for s in seen if s[0] == "arrivals"] == [("arrivals", i, 3) for i in (1, 2, 3)]
    for source in COUNTS:
        files = sorted((tmp_path / "events" / source).rglob("*.parquet"))
        assert [f.parent.name for f in files] == [f"date=2013-03-{d:02}" for d in (9, 10, 11)]
        assert sum(pq.read_metadata(f).num_rows for f in files) == counts[source] > 0
        for file in files:
            table = pq.ParquetFile(file).read()
            assert table.schema == events.SCHEMAS[source]
            assert {str(t.date()) for t in table.column(0).to_pylist()} == {file.parent.name[5:]}
            rows = list(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
            assert rows == sorted(set(rows))
    before, old = digest(tmp_path), next((tmp_path / "events" / "weather").rglob("*.parquet"))
    os.utime(old, (1, 1))
    assert events.main(tmp_path, date(2013, 3, 9), date(2013, 3, 12)) == counts
    assert digest(tmp_path) == before
    assert old.stat().st_mtime == 1, "an identical partition was written again"


def test_a_damaged_partition_is_mended(tmp_path):
    events.main(tmp_path, "2013-05-01", "2013-05-02")
    before = digest(tmp_path)
    broken = next((tmp_path / "events" / "arrivals").rglob("*.parquet"))
    broken.write_bytes(broken.read_bytes()[:1000])
    events.main(tmp_path, "2013-05-01", "2013-05-02")
    assert digest(tmp_path) == before


def test_command_line(tmp_path):
    script = [sys.executable, events.__file__, "--data", str(tmp_path / "data")]
    done = subprocess.run([*script, "--start", "2013-06-01", "--end", "2013-06-02"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(COUNTS)
    assert done.stderr == ""
    wrong = subprocess.run([*script, "--start", "2013-06-02", "--end", "2013-06-02"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr == "error: start 2013-06-02 is not before end 2013-06-02; end is the first day that is left out\n"
