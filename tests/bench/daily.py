"""A day after a long history: a batch run of that day, read anew back to the longest window, and one that goes on with the run before."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.batch_job import run_batch
from pipelines.project.repository import load_repo
from tests.bench.report import Part

NOW = datetime(2031, 1, 1, tzinfo=UTC)
"""Long after the files were written, so that what was recorded need not be hashed."""
DEFINITIONS = """
from tandem.transforms.definitions import Count, CountDistinct, Entity, EventSource, FeatureGroup, Field, Mean, Std, days, hours, minutes

clicks = EventSource(
    name="clicks", event_time="at", tie_breaker="id", files="events/clicks", out_of_orderness=minutes(1), allowed_lateness=hours(1),
    fields=[Field("id", "int64", required=True), Field("user", "int64", required=True), Field("amount", "float64")],
)
users = FeatureGroup(
    name="users", source=clicks, entity=Entity("user"), hop=hours(1), ttl=days(2),
    aggregates=[Count(over=[days(1), days(90)]), Mean("amount", over=days(90)), Std("amount", over=days(30)),
                CountDistinct("id", over=days(7))],
)
"""


def _world(folder: Path, days: int, events: int, users: int) -> tuple[Path, datetime]:
    repo, data = folder / "repo", folder / "data"
    repo.mkdir()
    (repo / "tandem.yaml").write_text("data: ../data\ndefinitions: features\nbatch: {shards: 4}\n")
    (repo / "features.py").write_text(DEFINITIONS)
    chance, first = random.Random(1), datetime(2024, 1, 1, tzinfo=UTC)
    for day in range(days):
        at = first + timedelta(days=day)
        begin = int(at.timestamp()) * 1_000_000
        table = pa.table(
            {
                "at": pa.array([begin + chance.randrange(86_400_000_000) for _ in range(events)], pa.timestamp("us", "UTC")),
                "id": pa.array(range(day * events, (day + 1) * events), pa.int64()),
                "user": pa.array([chance.randrange(users) for _ in range(events)], pa.int64()),
                "amount": pa.array([round(chance.expovariate(0.05), 2) for _ in range(events)]),
            }
        )
        place = data / f"events/clicks/date={at:%Y-%m-%d}"
        place.mkdir(parents=True)
        pq.write_table(table, place / "all.parquet")
    return repo, first + timedelta(days=days - 1)


def run(quick: bool = False) -> list[Part]:
    """Three months of history, then a day; processor seconds of this process, which does all of the work."""
    days, events, users = (20, 2_000, 500) if quick else (100, 20_000, 100)
    with tempfile.TemporaryDirectory() as folder:
        path, last = _world(Path(folder), days, events, users)
        sys.modules.pop("features", None)
        repo = load_repo(path)
        took: dict[str, tuple[float, str]] = {}

        def timed(name: str, start: datetime | None, end: datetime, hour: int, **how: Any) -> dict[str, Any]:
            begun = time.process_time()
            made = run_batch(repo, start, end, now=NOW + timedelta(hours=hour), **how).run.manifest
            files = sum(len(f) for f in made["inputs"].values())
            took[name] = time.process_time() - begun, f"{sum(made['events'].values()):,} events of {files} files read"
            return made

        history = timed("the history", last - timedelta(days=days - 5), last, 0)
        day = last + timedelta(days=1)
        whole = timed("the day, read back to its longest window", last, day, 1)
        going = timed("the day, --from-run", None, day, 2, from_run=history["id"])
        assert going["rows"] == whole["rows"] and going["tiles"] == whole["tiles"]
    part = Part(
        f"A day of {events:,} events after {days - 1} days, windows up to 90 days, {users:,} users",
        "events",
        "warm; CPU of the process, one round",
    )
    for name in reversed(took):
        part.add(name, took[name][0], events, took[name][1])
    return [part]
