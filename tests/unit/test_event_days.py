"""On which days a log has events, for the watch: the calendar makes no data, nor does a clock that was wrong, nor the name of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.event_files import events
from pipelines.watch.event_days import EventDays, event_days
from transforms.definitions import EventSource, Field, col

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


@pytest.mark.parametrize("broken", [None, 7, "x", {}, ["x"], [None], [1.5], [True]])
def test_what_was_kept_and_is_no_list_of_days_is_found_again(tmp_path: Path, broken: Any) -> None:
    write(tmp_path, "o.jsonl", HISTORY)
    event_days(tmp_path, [SOURCE], NOW, keep=True)
    (kept,) = (p for p in tmp_path.rglob("*") if p.is_file() and "days" in p.name)
    whole = json.loads(kept.read_text())
    (entry,) = whole["orders"]["files"].values()
    before, entry["days"] = entry["days"], broken
    kept.write_text(json.dumps(whole))
    assert len(days(tmp_path).days) == len(before) == 10
    event_days(tmp_path, [SOURCE], NOW, keep=True)
    (entry,) = json.loads(kept.read_text())["orders"]["files"].values()
    assert entry["days"] == before


def calendar(first: str, count: int) -> list[str]:
    return [f"{(utc(first) + timedelta(days=n)):%Y-%m-%d}T08:00:00Z" for n in range(count)]


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize(
    "wrong",
    [
        ["2023-06-01T10:00:00Z"],
        ["1970-01-01T00:00:01Z", "2000-01-01T10:00:00Z", *calendar("2022-01-01", 6)],
        ["1970-01-01T00:00:01Z", "1983-01-01T10:00:00Z", "2016-01-01T10:00:00Z", "2019-01-01T10:00:00Z"],
        [*calendar("2016-01-01", 2), *calendar("2018-01-01", 2), *calendar("2020-01-01", 2), *calendar("2022-01-01", 2)],
    ],
)
def test_a_wrong_clock_makes_no_days(tmp_path: Path, dated: bool, wrong: list[str]) -> None:
    """A history that ended years ago, and a few events of clocks that were years ahead or never set: no end, and no first day."""
    for at in [*HISTORY, *wrong]:
        write(tmp_path, f"date={at[:10]}/o.jsonl" if dated else f"{at[:10]}.jsonl", [at])
    found = days(tmp_path)
    assert (found.first, found.end, len(found.days)) == (utc("2013-01-01"), utc("2013-01-11"), 10)
    assert found.since(utc("2013-01-11")) == 0 and found.since(utc("2013-01-10")) == 1
    assert found.since(utc("2013-01-09") + timedelta(hours=1)) == 1, "of a day that was learnt from in part nothing is new"


def test_a_short_history_after_wrong_clocks_is_what_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        "o.jsonl",
        ["1970-01-01T00:00:01Z", *(f"{year}-01-01T00:00:00Z" for year in (1980, 1990, 2000)), *calendar("2013-01-01", 3)],
    )
    assert (days(tmp_path).first, days(tmp_path).end) == (utc("2013-01-01"), utc("2013-01-04"))


def test_a_log_that_goes_on_after_years_is_no_wrong_clock(tmp_path: Path) -> None:
    """From its seventh day on; and where nothing says which of two days is wrong, both are days."""
    write(tmp_path, "before.jsonl", HISTORY)
    write(tmp_path, "after.jsonl", calendar("2023-01-01", 7))
    found = days(tmp_path)
    assert (found.first, found.end, len(found.days)) == (utc("2013-01-01"), utc("2023-01-08"), 17)
    assert [found.last(n) for n in (1, 7, 8, 17, 18)] == [
        utc("2023-01-07"), utc("2023-01-01"), utc("2013-01-10"), utc("2013-01-01"), utc("2013-01-01"),
    ]  # fmt: skip
    write(tmp_path, "before.jsonl", HISTORY[:1])
    write(tmp_path, "after.jsonl", calendar("2023-01-01", 1))
    assert len(days(tmp_path).days) == 2


def test_folders_between_are_days_only_by_their_events(tmp_path: Path) -> None:
    """Empty daily files between two days with events were 22 days of new data."""
    for day in range(1, 29):
        at = f"2013-05-{day:02}T08:00:00Z"
        write(tmp_path, f"date={at[:10]}/o.jsonl", [at] if day in (1, 2, 3, 4, 5, 28) else [])
    write(tmp_path, "date=2013-05-10/late.jsonl", ["2013-05-09T08:00:00Z"])
    write(tmp_path, "date=2013-05-11/more.jsonl", ["2013-05-11T23:59:59.999999Z"])
    found = days(tmp_path)
    assert (found.first, found.end, len(found.days)) == (utc("2013-05-01"), utc("2013-05-29"), 7)
    assert found.since(utc("2013-05-06")) == 2


def kept(data: Path, now: str, *sources: EventSource) -> tuple[datetime, int] | None:
    """End and number of days, by what a look before may have kept; the same as a look that knows nothing finds."""
    found = event_days(data, sources, utc(now), keep=True)
    (data / "watch").rename(data / "aside")
    assert event_days(data, sources, utc(now)) == found
    (data / "aside").rename(data / "watch")
    return None if found is None else (found.end, len(found.days))


def test_what_a_look_kept_holds_for_every_moment(tmp_path: Path) -> None:
    """--as-of an early moment left out what came later, and that was kept for all looks after it."""
    write(tmp_path, "o.jsonl", calendar("2013-05-01", 20))
    write(tmp_path, "date=2013-05-22/o.jsonl", calendar("2013-05-22", 1))
    for now, end, count in (("2013-05-08", "08", 7), ("2013-05-25", "23", 21), ("2013-05-22T09:00", "21", 20), ("2013-05-02", "02", 1)):
        assert kept(tmp_path, now, SOURCE) == (utc(f"2013-05-{end}"), count)


def test_what_a_look_kept_is_of_one_source_and_contract(tmp_path: Path) -> None:
    """Two sources over one folder, told apart by ``where``, had the days of the one that was asked first."""
    early, late = (
        replace(SOURCE, name=name, fields=[*SOURCE.fields, Field("kind", "string")], where=col("kind") == name)
        for name in ("early", "late")
    )
    path = write(tmp_path, "o.jsonl", [])
    times = calendar("2013-05-01", 20)
    path.write_text(
        "".join(json.dumps({"order_id": str(i), "at": at, "kind": "early" if i < 5 else "late"}) + "\n" for i, at in enumerate(times))
    )
    for sources in ((late, early), (early, late)):
        assert kept(tmp_path, "2013-06-01", *sources) is None, "they have no day in common"
        assert (
            kept(tmp_path, "2013-06-01", sources[0]) == {"early": (utc("2013-05-06"), 5), "late": (utc("2013-05-21"), 15)}[sources[0].name]
        )
    wrong = replace(SOURCE, fields=[*SOURCE.fields, Field("kind", "string", domain=["none"], required=True)])
    assert kept(tmp_path, "2013-06-01", wrong) is None
    assert kept(tmp_path, "2013-06-01", SOURCE) == (utc("2013-05-21"), 20), "a contract that was corrected is asked anew"


def test_a_file_that_changes_is_read_again_and_one_that_is_gone_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "date=2013-05-01/o.jsonl", calendar("2013-05-01", 1))
    gone = write(tmp_path, "o.jsonl", calendar("2013-05-02", 3))
    assert kept(tmp_path, "2013-06-01", SOURCE) == (utc("2013-05-05"), 4)
    read: list[str] = []

    def noted(path: str, *words: Any, **named: Any) -> Iterator[Any]:
        read.append(path)
        return events(path, *words, **named)

    monkeypatch.setattr("pipelines.watch.event_days.events", noted)
    event_days(tmp_path, [SOURCE], utc("2013-06-01"), keep=True)
    assert read == []
    changed = write(tmp_path, "o.jsonl", calendar("2013-05-02", 4))
    event_days(tmp_path, [SOURCE], utc("2013-06-01"), keep=True)
    assert read == [str(changed)]
    gone.unlink()
    assert kept(tmp_path, "2013-06-01", SOURCE) == (utc("2013-05-02"), 1)
    assert not [p for p in (tmp_path / "watch").iterdir() if "o.jsonl" in p.read_text().replace("date=2013-05-01/o.jsonl", "")]


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
