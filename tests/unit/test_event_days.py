"""On which days a log has events, for the watch: the calendar makes no data, nor does a clock that was wrong, nor the name of a folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.watch.event_days import EventDays, event_days
from transforms.definitions import EventSource, Field

SOURCE = EventSource(
    name="orders", fields=[Field("order_id", "string", required=True)], event_time="at", tie_breaker="order_id", files="events/orders"
)
NOW = datetime(2025, 1, 1, 6, tzinfo=UTC)
HISTORY = [f"2013-01-{day:02}T08:00:00Z" for day in range(1, 11)]


def write(data: Path, file: str, times: list[str]) -> Path:
    path = data / "events" / "orders" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"order_id": str(i), "at": at}) + "\n" for i, at in enumerate(times)))
    return path


def days(data: Path, now: datetime = NOW) -> EventDays:
    found = event_days(data, [SOURCE], now)
    assert found is not None
    return found


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_what_cannot_be_kept_is_found_all_the_same(tmp_path: Path) -> None:
    """``tandem watch status`` over a read-only data folder ended with an error, though it only looks."""
    write(tmp_path, "o.jsonl", HISTORY)
    (tmp_path / "watch").write_text("where the folder would be")
    found = event_days(tmp_path, [SOURCE], NOW, keep=True)
    assert found is not None and (found.first, found.end, len(found.days)) == (utc("2013-01-01"), utc("2013-01-11"), 10)


def test_only_who_keeps_it_writes(tmp_path: Path) -> None:
    write(tmp_path, "o.jsonl", HISTORY)
    days(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["events"]
    event_days(tmp_path, [SOURCE], NOW, keep=True)
    assert [p.name for p in tmp_path.iterdir()] != ["events"]


@pytest.mark.parametrize("dated", [True, False])
def test_one_wrong_clock_is_one_day(tmp_path: Path, dated: bool) -> None:
    """A history that ended years ago, and one event of a clock that was years ahead: no thousands of days of new data."""
    for at in [*HISTORY, "2023-06-01T10:00:00Z"]:
        write(tmp_path, f"date={at[:10]}/o.jsonl" if dated else f"{at[:10]}.jsonl", [at])
    found = days(tmp_path)
    assert (found.first, found.end) == (utc("2013-01-01"), utc("2023-06-02"))
    assert found.since(utc("2013-01-11")) == 1 and found.since(utc("2013-01-10")) == 2
    assert found.since(utc("2013-01-09") + timedelta(hours=1)) == 2, "of a day that was learnt from in part nothing is new"


def test_a_folder_is_a_day_only_by_its_events(tmp_path: Path) -> None:
    """Folders by the day of loading, folders made ahead, files of no event that the contract takes, and a folder of tomorrow."""
    for at in HISTORY:
        write(tmp_path, f"date={at[:10]}/o.jsonl", [at])
    write(tmp_path, "date=2024-12-30/loaded.jsonl", HISTORY)
    write(tmp_path, "date=2024-12-31/empty.jsonl", [])
    write(tmp_path, "date=2024-12-29/bad.jsonl", []).write_text("{}\nno json\n")
    write(tmp_path, "date=2026-05-05/ahead.jsonl", ["2026-05-05T00:00:00Z"])
    write(tmp_path, "date=2012-12-01/early.jsonl", HISTORY)
    found = days(tmp_path)
    assert (found.first, found.end, len(found.days)) == (utc("2013-01-01"), utc("2013-01-11"), 10)


def test_days_are_those_that_every_source_reaches(tmp_path: Path) -> None:
    other = EventSource(
        name="o", fields=[Field("order_id", "string", required=True)], event_time="at", tie_breaker="order_id", files="events/o"
    )
    write(tmp_path, "o.jsonl", HISTORY)
    write(tmp_path, "../o/o.jsonl", [HISTORY[2], HISTORY[6]])
    found = event_days(tmp_path, [SOURCE, other], NOW)
    assert found is not None and (found.first, found.end, len(found.days)) == (utc("2013-01-03"), utc("2013-01-08"), 5)
    write(tmp_path, "../o/o.jsonl", ["2014-01-01T00:00:00Z"])
    assert event_days(tmp_path, [SOURCE, other], NOW) is None
