"""Which flights arrive late: the labelled requests, and the model over them. Light: Feast imports it too."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tandem.pipelines.training.definition import Model, Threshold
from tandem.transforms.definitions import Field, hours

LATE_MINUTES = 15
ASKED_BEFORE = timedelta(hours=1)
LOCAL = "America/New_York"
"""All three origins keep New York's time."""


def _events(data: Path, source: str, columns: list[str]) -> pa.Table:
    files = sorted((data / "events" / source).glob("date=*/*.parquet"))
    return ds.dataset([str(f) for f in files], format="parquet").to_table(columns=columns)


def late_flights(data: Path, start: datetime, end: datetime) -> pa.Table:
    """One row per flight that landed, asked one hour before its scheduled departure, with ``late`` = 1 from 15 minutes on.

    Cancelled and diverted flights never get an arrival delay, so they have no label and are left out: the model
    answers for flights that land where they should.
    """
    schedule = _events(data, "schedule", ["flight_id", "carrier", "origin", "dest", "tailnum", "scheduled_departure", "distance"])
    arrivals = _events(data, "arrivals", ["flight_id", "arr_delay"])
    arrivals = arrivals.filter(arrivals.column("arr_delay").is_valid())
    departure = schedule.column("scheduled_departure").cast(pa.timestamp("us", tz="UTC"))
    us = departure.cast(pa.int64()).to_numpy()
    asked = us - ASKED_BEFORE // timedelta(microseconds=1)
    keep = (asked >= round(start.timestamp() * 1e6)) & (asked < round(end.timestamp() * 1e6))
    local = departure.to_pandas().dt.tz_convert(LOCAL)
    table = (
        schedule.append_column("event_timestamp", pa.array(asked).cast(pa.timestamp("us", tz="UTC")))
        .append_column("departure_minute", pa.array((local.dt.hour * 60 + local.dt.minute).to_numpy(np.int64)))
        .append_column("weekday", pa.array(local.dt.weekday.to_numpy(np.int64)))
        .filter(pa.array(keep))
        .join(arrivals, "flight_id", join_type="inner")
    )
    table = table.filter(pc.is_valid(table.column("tailnum")))
    late = pc.greater_equal(table.column("arr_delay"), LATE_MINUTES).cast(pa.float64())
    return table.append_column("late", late).sort_by([("event_timestamp", "ascending"), ("flight_id", "ascending")])


late_flights_model = Model(
    name="late_flights",
    description="Will this flight arrive 15 minutes or more late? Asked one hour before its scheduled departure.",
    spine="labels:late_flights",
    label="late",
    entity_keys=["origin", "carrier", "dest", "tailnum"],
    request_fields=[
        Field("carrier", "string", required=True),
        Field("origin", "string", required=True),
        Field("dest", "string", required=True),
        Field("distance", "float64", unit="miles", required=True),
        Field("departure_minute", "int64", unit="min", required=True, min=0, max=1439, description="local minute of the day"),
        Field("weekday", "int64", required=True, min=0, max=6, description="local; Monday is 0"),
    ],
    features="late_flights",
    split=(0.7, 0.85),
    label_delay=hours(24),
    thresholds=[
        Threshold("auc", bound=0.6, slack_to_blessed=0.005, slack_to_plain=0.0, slice_bound=0.55, slack_per_slice=0.03),
        Threshold("log_loss", slack_to_blessed=0.005, slack_to_plain=0.0, slack_per_slice=0.03),
    ],
    slices=["origin", "carrier"],
    params={"units": 96, "dropout": 0.15, "learning_rate": 1e-3, "epochs": 12},
)
