"""``tandem infer`` and times: which column is an event's, dates that are none, times of a day, texts and numbers that are moments."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.inference.proposal import Proposal, propose
from pipelines.inference.sampling import Sample
from pipelines.inference.topic_records import sample_payloads
from pipelines.inference.writing import definition
from tests.unit.inferred import inferred, of_records
from transforms.contract import check_json
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.instants import micros_of


def test_a_time_by_its_unit_and_one_that_is_said_to_be_it() -> None:
    """A number whose name ends in a unit is a time if it is one in that unit; any other is one if whoever asks says so."""
    at = 1_714_557_660
    payloads: list[bytes | None] = [
        json.dumps({"event_ms": (at + i) * 1_000, "dwell_ms": i, "clock_us": (at + i) * 1_000, "reading": at + i, "id": i}).encode()
        for i in range(300)
    ]
    found = {c.called: (c.dtype, c.parse) for c in propose(sample_payloads(payloads)[0]).columns}
    assert found["dwell_ms"] == found["clock_us"] == found["reading"] == ("int64", "")
    made = propose(sample_payloads(payloads)[0])
    assert (made.event_time.called, made.event_time.parse) == ("event_ms", 'Epoch("ms")')
    made = propose(sample_payloads(payloads)[0], event_time="reading")
    assert (made.event_time.called, made.event_time.parse, made.offset) == ("reading", 'Epoch("s")', False)


@pytest.mark.parametrize("name", ["t", "T", "column_3"])
@pytest.mark.parametrize(("scale", "parse"), [(1, 'Epoch("s")'), (1.0, 'Epoch("s")'), (1e3, 'Epoch("ms")'), (1_000_000, 'Epoch("us")')])
def test_a_name_that_says_nothing_is_a_time_by_its_values(tmp_path: Path, name: str, scale: float, parse: str) -> None:
    """What is written for it takes every record, at the moment that it says."""
    at = [1_714_557_660 + i + (0.125 * (i % 8) if isinstance(scale, float) else 0) for i in range(300)]
    records = [{name: second * scale, "amount": n % 7 + 0.5, "id": f"e{n}"} for n, second in enumerate(at)]
    text, made = of_records(tmp_path, records)
    assert f'event_time=Field("{name.lower()}", "timestamp"' in text and f"parse={parse}" in text
    checked = check_json([json.dumps(record).encode() for record in records], made["things"], 2 * 10**15, 0)
    assert checked.valid.column(0).cast(pa.int64()).to_pylist() == [round(second * 1_000_000) for second in at]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("t", [20.5 + i % 9 for i in range(300)]),
        ("t", [i * 1_000 for i in range(300)]),
        ("t", [120_000_000 + i * 10 for i in range(300)]),
        ("x", [1_714_557_000 + i for i in range(300)]),
    ],
)
def test_a_letter_is_no_time_of_other_values(name: str, values: list[float]) -> None:
    """A temperature, counters (also one that microseconds since midnight could be), and another letter, whatever it holds."""
    payloads: list[bytes | None] = [json.dumps({name: v, "at": 1_714_557_660 + i, "id": i}).encode() for i, v in enumerate(values)]
    made = propose(sample_payloads(payloads)[0])
    column = {c.called: c for c in made.columns}[name]
    assert made.event_time.called == "at" and column.parse == "" and not column.of_day


@pytest.mark.parametrize("name", ["i", "u", "t"])
def test_a_counter_of_one_letter_tells_records_apart(name: str) -> None:
    payloads: list[bytes | None] = [json.dumps({name: 100_000_000 + i, "a": 0.5, "at": 1_714_557_660}).encode() for i in range(300)]
    made = propose(sample_payloads(payloads)[0])
    assert made.event_time.called == "at" and made.tie_breaker.called == name


def test_a_t_of_records_out_of_order_is_a_time() -> None:
    payloads: list[bytes | None] = [json.dumps({"t": 1_714_557_660.5 + (i * 7919) % 300, "id": i}).encode() for i in range(300)]
    made = propose(sample_payloads(payloads)[0])
    assert (made.event_time.called, made.event_time.parse) == ("t", 'Epoch("s")')


def test_no_event_lies_before_1970() -> None:
    payloads: list[bytes | None] = [
        json.dumps({"at": f"1960-01-{1 + i % 28:02}T00:00:00Z", "sent": f"2024-05-{1 + i % 28:02}T10:00:00Z", "id": i}).encode()
        for i in range(99)
    ]
    assert propose(sample_payloads(payloads)[0]).event_time.called == "sent"
    with pytest.raises(
        DataError, match=r"at begins at 1960-01-01 00:00:00 UTC, and most of it is not after 1970-01-01 00:00:00 UTC .* --event-time"
    ):
        propose(sample_payloads(payloads)[0], event_time="at")


@pytest.mark.parametrize("asked", [None, "at"])
def test_a_date_that_is_none_is_told_and_left_out(asked: str | None) -> None:
    """1900-01-01 is what databases hold for "no date": one ended the whole look, or made disorder of a hundred years."""

    def of(early: int) -> Sample:
        times = [f"2024-05-01T10:{i % 60:02}:00Z" for i in range(60)]
        times[10 : 10 + early] = ["1900-01-01T00:00:00Z"] * early
        return sample_payloads([json.dumps({"at": at, "id": i}).encode() for i, at in enumerate(times)])[0]

    def written(made: Proposal) -> str:
        return " ".join(definition(made, "orders", "events/orders", "", False, "").replace("#", "").split())

    for early in (1, 30):
        made = propose(of(early), event_time=asked)
        assert (made.event_time.called, made.disorder.measured, made.disorder.most) == ("at", True, 0)
        assert (made.event_time.low, made.event_time.high) == ("2024-05-01 10:00:00", "2024-05-01 10:59:00")
        text = written(made)
        told = f"QUESTION: no date? {early} of 60 records are not after 1970-01-01 00:00:00 UTC and will be dead letters"
        assert f"{told} (nonpositive_timestamp)" in text
        assert "1900" not in text
    assert "QUESTION: no date" not in written(propose(of(0), event_time=asked))
    with pytest.raises(DataError, match=r"at begins at 1900-01-01 00:00:00 UTC, and most of it is not after 1970-01-01 00:00:00 UTC"):
        propose(of(31), event_time=asked)


@pytest.mark.parametrize("none", ["1900-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
@pytest.mark.parametrize("early", [0, 1, 3, 4, 109])
def test_a_time_that_loses_records_comes_behind_one_that_does_not(none: str, early: int) -> None:
    """Unless it is one of a hundred at most. 1970-01-01 is no date either, and not before itself."""
    records = [
        {"id": i, "first_seen": f"2020-01-{1 + i // 14:02}T00:{i % 60:02}:00Z", "last_changed": f"2020-02-01T{i // 60:02}:{i % 60:02}:00Z"}
        for i in range(392)
    ]
    for record in records[:early]:
        record["first_seen"] = none
    made = propose(sample_payloads([json.dumps(r).encode() for r in records])[0])
    assert made.event_time.called == ("last_changed" if early > 3 else "first_seen")
    told = f"QUESTION: or first_seen? {early} of 392 records are not after 1970-01-01 00:00:00 UTC"
    assert (told in definition(made, "orders", "events/orders", "", False, "")) is (early > 3)
    only = propose(sample_payloads([json.dumps({k: v for k, v in r.items() if k != "last_changed"}).encode() for r in records])[0])
    text = definition(only, "orders", "events/orders", "", False, "")
    assert only.event_time.called == "first_seen"
    assert (f"{early} of 392 records are not after 1970-01-01 00:00:00 UTC and will be dead letters" in text) is (early > 0)
    assert "before 1970" not in text


def daily(unit: int, days: list[str]) -> tuple[Sample, list[str]]:
    """A record at midnight and others of each of 28 days, with the day of each and its units since midnight; and what the days are."""
    told = days + [f"2020-01-{1 + i // 14:02}" for i in range(len(days), 28 * 14)]
    records = [{"id": i, "day": day, "time": i % 14 * 6_000 * unit} for i, day in enumerate(told)]
    return sample_payloads([json.dumps(r).encode() for r in records])[0], told


@pytest.mark.parametrize("unit", [1_000_000, 1_000_000_000])
@pytest.mark.parametrize("asked", [None, "time"])
@pytest.mark.parametrize("early", [0, 39])
def test_a_time_of_the_day_is_one_of_its_day(unit: int, asked: str | None, early: int) -> None:
    """Midnight (0) was told as a moment before 1970 and left out of the disorder, of which each midnight made a day; and a day that is no
    date was not told."""
    made = propose(daily(unit, ["1900-01-01"] * early)[0], event_time=asked)
    assert made.day is not None
    assert (made.event_time.called, made.event_time.low, made.event_time.high) == ("time", 0, 13 * 6_000 * unit)
    assert (made.disorder.measured, made.disorder.most) == (True, 0)
    assert (made.day.low, made.day.high) == (f"2020-01-{1 + early // 14:02} 00:00:00", "2020-01-28 00:00:00")
    text = definition(made, "orders", "events/orders", "", False, "")
    assert "1900" not in text
    assert ("QUESTION: no date? 39 of 392 records" in text) is (early > 0) is ("no date" in text)


def test_the_midnight_of_1970_is_no_moment_of_an_event_but_its_day_has_others() -> None:
    made = propose(daily(1_000_000, ["1970-01-01"] * 14)[0])
    assert made.day is not None
    assert made.day.low == "1970-01-01 00:00:00"
    assert "QUESTION: no date? 1 of 392 records" in " ".join(made.day.notes)


def test_a_time_of_the_day_is_none_of_a_day_before_1970() -> None:
    """A birthday beside it does not tell its day."""
    sample, _ = daily(1_000_000, ["1960-02-01"] * 28 * 14)
    assert propose(sample, event_time="time").day is None


@pytest.mark.parametrize(("unit", "of_second"), [("us", 1_000_000), ("ns", 1_000_000_000)])
@pytest.mark.parametrize("dated", [False, True])
def test_times_of_a_day_are_asked_for(tmp_path: Path, unit: str, of_second: int, dated: bool) -> None:
    """As an exchange's messages have them (ITCH): nanoseconds since midnight."""
    folder = tmp_path / "events" / "trades"
    folder.mkdir(parents=True)
    begin, more = 34_200, {"date": "2024-03-01"} if dated else {}
    lines = [{"timestamp": begin * of_second + n * of_second // 7, "ref": f"r{n}", "price": n / 4, **more} for n in range(300)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text, values = inferred(tmp_path, "trades")
    of = "midnight of date; of which zone" if dated else "a midnight; of which day"
    assert f"QUESTION: timestamp is {unit} since {of}" in text
    source: EventSource = values["trades"]
    checked = check_json([json.dumps(line).encode() for line in lines], source, micros_of(datetime(2030, 1, 1, tzinfo=UTC)), 0)
    day = datetime(2024, 3, 1, tzinfo=UTC) if dated else datetime(2020, 1, 1, tzinfo=UTC)
    at = checked.valid.column(0).cast(pa.int64()).to_pylist()
    assert at == [micros_of(day) + line["timestamp"] * 1_000_000 // of_second for line in lines]  # type: ignore[operator]


@pytest.mark.parametrize(
    "values",
    [
        [n * 40_000_000_000 for n in range(300)],  # beyond a day of nanoseconds
        [86_400_000_000_000 - n * 10**9 for n in range(300)],  # a clock that goes back
        [n * 50_000 for n in range(300)],  # seconds of half a year
    ],
)
def test_numbers_that_are_no_times_of_a_day(tmp_path: Path, values: list[int]) -> None:
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    lines = [{"at": f"2024-03-01T10:{n // 60:02}:{n % 60:02}Z", "ts": v, "ref": f"r{n}"} for n, v in enumerate(values)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text, _ = inferred(tmp_path, "things")
    assert "midnight" not in text and 'event_time="at"' in text


@pytest.mark.parametrize(
    ("text", "parse"),
    [
        (lambda n: f"{1_714_557_600 + 13 * n}.{n % 1000:03}", 'Epoch("s", text=True)'),
        (lambda n: str(1_714_557_600 + n), 'Epoch("s", text=True)'),
        (lambda n: str(1_714_557_600_123 + n), 'Epoch("ms", text=True)'),
        (lambda n: str(1_714_557_600_123_456_789 + n), 'Epoch("ns", text=True)'),
    ],
)  # fmt: skip
def test_texts_of_epochs_are_times(tmp_path: Path, text: Any, parse: str) -> None:
    records = [{"id": n, "ts": text(n), "seq": str(n)} for n in range(300)]
    found, values = of_records(tmp_path, records)
    assert f'event_time=Field("ts", "timestamp", parse={parse})' in found and 'Field("seq", "int64", required=True, parse=Number()' in found
    checked = check_json([json.dumps(r).encode() for r in records], values["things"], 2 * 10**15, 0)
    assert checked.valid.num_rows == 300


def test_a_time_that_tells_more_than_the_day_is_the_events(tmp_path: Path) -> None:
    """GA4's export: a day in digits before the moment."""
    records = [{"event_date": f"2024050{1 + n // 200}", "event_timestamp": 1_714_557_600_000_000 + 37_000_000 * n} for n in range(400)]
    text, values = of_records(tmp_path, [{**r, "id": f"a{n}"} for n, r in enumerate(records)])
    assert values["things"].event_time_field.path == ("event_timestamp",)
    assert 'parse=TimeFormat("%Y%m%d", zone="UTC")' in text
    days = [{"event_date": r["event_date"], "event_no": n, "id": f"a{n}"} for n, r in enumerate(records)]
    assert 'event_time=Field("event_date", "timestamp", parse=TimeFormat("%Y%m%d", zone="UTC"))' in of_records(tmp_path, days, "by_day")[0]
