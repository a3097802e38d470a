"""Real drift, and none: a model trained on nine summer weeks of real flights is monitored in the summer after, in winter, and while a
producer sends delays in seconds instead of minutes. The rows are batch's, the answers the pushed model's own, as of each request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.project.repository import load_repo
from tests.integration.answers import answer

ROOT = Path(__file__).resolve().parents[2]
SUMMER = (datetime(2013, 8, 5, tzinfo=UTC), datetime(2013, 8, 12, tzinfo=UTC))
BROKEN = (datetime(2013, 8, 13, tzinfo=UTC), datetime(2013, 8, 19, tzinfo=UTC))
WINTER = (datetime(2013, 12, 2, tzinfo=UTC), datetime(2013, 12, 9, tzinfo=UTC))


class Flights:
    """A copy of the feature repository over part of 2013."""

    def __init__(self, folder: Path) -> None:
        self.repo = folder / "feature_repo"
        self.data = folder / "data"
        shutil.copytree(ROOT / "feature_repo", self.repo, ignore=shutil.ignore_patterns("__pycache__"))

    def tandem(self, *words: str, code: int = 0, **environment: str) -> str:
        command = [sys.executable, "-m", "pipelines.cli", *words, "--repo", str(self.repo)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1800)
        assert done.returncode == code, done.stderr[-3000:] + done.stdout[-3000:]
        return done.stdout

    def monitor(self, window: tuple[datetime, datetime], code: int) -> dict[str, Any]:
        since, until = (f"{t:%Y-%m-%d}" for t in window)
        result: dict[str, Any] = json.loads(self.tandem("monitor", "--since", since, "--until", until, "--json", code=code))
        return result

    def answer(self, window: tuple[datetime, datetime]) -> int:
        """The model answers every request of the window."""
        loaded = load_repo(self.repo)
        return answer(loaded, loaded.attribute("labels:late_flights_model"), 1, *window)

    def break_producer(self, window: tuple[datetime, datetime]) -> None:
        """From the window's first day on, delays at departure come in seconds."""
        for path in sorted((self.data / "events" / "departures").glob("date=*/*.parquet")):
            if f"{window[0]:%Y-%m-%d}" <= path.parent.name.removeprefix("date=") <= f"{window[1]:%Y-%m-%d}":
                table = pq.ParquetFile(path).read()
                seconds = pc.multiply(table.column("dep_delay"), 60.0)
                table = table.set_column(table.schema.get_field_index("dep_delay"), "dep_delay", seconds)
                pq.write_table(table, path, coerce_timestamps="us")


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Flights:
    made = Flights(tmp_path_factory.mktemp("drift"))
    made.tandem("events", "--start", "2013-05-27", "--end", "2013-08-20")
    made.tandem("events", "--start", "2013-11-28", "--end", "2013-12-10")
    made.break_producer(BROKEN)
    made.tandem("batch", "--start", "2013-06-01", "--end", "2013-08-12")
    made.tandem("apply")
    # The contract refuses the worst (more than 3,000 "minutes"); a limit of 1 % on the share of rejects would already stop this job.
    made.tandem("batch", "--pinned", "--start", "2013-08-12", "--end", "2013-08-19", TANDEM_BATCH__MAX_REJECT_SHARE="0.9")
    made.tandem("batch", "--pinned", "--start", "2013-11-30", "--end", "2013-12-09")
    made.tandem("train", "--start", "2013-06-02", "--end", "2013-08-04")
    for window in (SUMMER, BROKEN, WINTER):
        assert made.answer(window) > 4000
    return made


def failed(result: dict[str, Any], name: str) -> list[str]:
    return [c["feature"] for c in result["checks"] if c["name"] == name and c["status"] == "fail"]


def test_another_summer_week_is_quiet(flights: Flights) -> None:
    result = flights.monitor(SUMMER, code=0)
    assert result["verdict"] in ("ok", "warn"), result["headline"]
    assert not [c for c in result["checks"] if c["status"] == "fail"]
    assert sum(c["name"] == "skew" and c["status"] == "ok" for c in result["checks"]) > 45
    assert {c["name"] for c in result["checks"]} >= {
        "skew",
        "nulls",
        "unknown",
        "ages",
        "calibration",
        "auc",
        "log_loss",
        "recomputed",
        "stale",
    }
    assert all(r["kinds"] == {"equal": r["answers"]} for r in result["recomputed"].values())  # served values are the event log's
    assert Path(result["page"]).is_file() and result["labels"]["labelled"] == result["rows"]


def test_winter_is_found_and_named(flights: Flights) -> None:
    result = flights.monitor(WINTER, code=1)
    assert result["verdict"] == "fail" and "origin_weather__temp_last_6h" in failed(result, "skew")
    assert "origin_weather__temp_last_6h" in result["headline"]
    assert not failed(result, "unit"), "winter is no other unit"
    assert "origin" not in failed(result, "skew") and not failed(result, "nulls")


def test_a_producer_that_sends_seconds_for_minutes_is_caught_and_named(flights: Flights) -> None:
    result = flights.monitor(BROKEN, code=1)
    assert "departures.dep_delay" in failed(result, "unit")
    check = next(c for c in result["checks"] if c["name"] == "unit" and c["feature"] == "departures.dep_delay")
    assert "looks like seconds for minutes" in check["detail"] and check["value"] == pytest.approx(60)
    assert result["headline"].startswith("departures.dep_delay looks like seconds for minutes")
    assert failed(result, "unit") == ["departures.dep_delay"], "arrivals are as they were"
    assert "origin_traffic__dep_delay_mean_1h" in failed(result, "skew") and not any(f.startswith("route_") for f in failed(result, "skew"))
