"""Reports on disk: older ones are read, newer ones refused in one line, foreign ones passed over; their JSON is their fields."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake.report_records import Report, newest_first
from pipelines.lineage.trace_record import Trace
from pipelines.monitoring.checks import Check
from pipelines.monitoring.monitor_report import MonitorReport
from pipelines.verify.verify_report import VerifyReport
from pipelines.watch.job_metrics import JobMetrics, page
from pipelines.watch.observations import findings, latest_report
from transforms.errors import DataError

KINDS = (VerifyReport, MonitorReport, Trace)
CHECK: dict[str, Any] = {"name": "skew", "feature": "temp", "value": 0.5, "threshold": 0.2, "status": "fail", "detail": "far"}


def write(data: Path, what: str, at: int, said: Any) -> Path:
    path = data / what / f"r{at}" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    os.utime(path, (at, at))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_its_fields_in_order_after_its_format(kind: type[Report]) -> None:
    said = kind().to_dict()
    assert list(said) == ["format", *(f.name for f in fields(kind))] and said["format"] == 1
    assert kind.of(json.loads(json.dumps(said))) == kind()


def test_keys_that_are_an_interface() -> None:
    assert set(VerifyReport().to_dict()) == {
        "format", "verdict", "headline", "unexplained", "problems", "notices", "values", "rows", "groups", "sources", "online", "stores",
        "served", "time", "range", "stream", "batch", "started", "seconds", "folder", "scratch", "command", "code", "versions",
    }  # fmt: skip
    assert set(MonitorReport().to_dict()) == {
        "format", "verdict", "headline", "model", "version", "versions", "training_set", "window", "before", "rows", "rows_before",
        "checks", "features", "views", "prediction", "labels", "quality", "recomputed", "days", "chance", "lineage", "notices",
        "settings", "run", "created", "written", "folder", "seconds", "command", "code", "libraries",
    }  # fmt: skip
    assert MonitorReport(checks=[Check(**CHECK)]).to_dict()["checks"] == [CHECK]


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_report_has_defaults_and_more_than_is_known_is_passed_over(kind: type[Report]) -> None:
    assert kind.of({}) == kind() == kind.of({"format": 1, "of_tomorrow": 3})
    assert kind.of(dict.fromkeys(f.name for f in fields(kind))) == kind()


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_format_is_one_line(kind: type[Report]) -> None:
    with pytest.raises(DataError, match=r"^x/report.json is of a newer Tandem \(format 2, this one knows 1\); use that one$"):
        kind.of({"format": 2}, "x/report.json")


def test_a_newer_trace_within_a_report_is_refused_too() -> None:
    assert MonitorReport.of({"lineage": {"request": "r", "row": 3}}).lineage == Trace(request="r", row=3)
    with pytest.raises(DataError, match="of a newer Tandem"):
        MonitorReport.of({"lineage": {"format": 2}})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (VerifyReport, {"format": "two"}),
        (VerifyReport, {"format": True}),
        (VerifyReport, {"unexplained": "none"}),
        (VerifyReport, {"unexplained": True}),
        (VerifyReport, {"stream": "main"}),
        (MonitorReport, {"checks": {}}),
        (MonitorReport, {"checks": ["skew"]}),
        (MonitorReport, {"checks": [{"name": "skew"}]}),
        (MonitorReport, {"checks": [{**CHECK, "status": "splendid"}]}),
        (MonitorReport, {"verdict": 1}),
    ],
)
def test_what_is_no_report_is_one_line_and_passed_over_among_others(tmp_path: Path, kind: type[Report], said: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^x: .* no report of Tandem's$"):
        kind.of(said, "x")
    write(tmp_path, "some", 3, said)
    write(tmp_path, "some", 2, '{"torn": ')
    kept = write(tmp_path, "some", 1, {"folder": "here"})
    assert [path for path, _ in newest_first(tmp_path / "some", kind)] == [kept]


def test_the_newest_report_of_a_model_counts_and_a_newer_format_stops_the_search(tmp_path: Path) -> None:
    write(tmp_path, "monitor", 1, {"model": "m", "version": 1, "checks": [CHECK]})  # as before there was a format
    newest = write(tmp_path, "monitor", 2, {"format": 1, "model": "m", "version": 2, "checks": [CHECK, {**CHECK, "name": "unit"}]})
    write(tmp_path, "monitor", 3, {"model": "another"})
    found = latest_report(tmp_path, "m")
    assert found is not None and found[0] == newest
    assert (findings(found[1]).version, findings(found[1]).drifted, findings(found[1]).broken) == (2, ("temp",), ("unit temp",))
    write(tmp_path, "monitor", 4, {"format": 2, "model": "m"})
    with pytest.raises(DataError, match=r"monitor/r4/report.json is of a newer Tandem"):
        latest_report(tmp_path, "m")


def test_metrics_show_the_newest_proof_of_each_stream(tmp_path: Path) -> None:
    write(tmp_path, "verify", 1, {"unexplained": 7, "stream": {"name": "main"}})
    write(tmp_path, "verify", 2, {"unexplained": 0, "stream": {"name": "main"}})
    write(tmp_path, "verify", 3, {"unexplained": 2, "stream": {"name": "side"}})
    text = page(JobMetrics(tmp_path)).decode()
    assert 'tandem_verify_unexplained{stream="main"} 0.0' in text and 'tandem_verify_unexplained{stream="side"} 2.0' in text
    write(tmp_path, "verify", 4, {"format": 2, "unexplained": 0, "stream": {"name": "side"}})
    assert 'tandem_verify_unexplained{stream="side"}' not in page(JobMetrics(tmp_path)).decode()  # what it said before counts no more


NOW = 1_700_000_000
FIELD = {VerifyReport: "started", MonitorReport: "written"}


@pytest.mark.parametrize("kind", FIELD)
def test_a_report_is_as_old_as_it_says_and_its_file_speaks_for_one_that_does_not(
    tmp_path: Path, kind: type[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each report: how long before now its maker's clock and its file server's had it made, in seconds (ahead: below 0), newest first."""
    monkeypatch.setattr("time.time_ns", lambda: NOW * 10**9)
    asked: list[tuple[float | str | None, float]] = [
        (-59, 9_000),  # a clock that is a little ahead is believed
        (10, -500),  # a file server that runs ahead: it was the oldest of all
        (20, 5),
        (30.5, 7),
        (30.75, 6),
        (None, 40),  # of before reports said it
        ("yesterday", 50),
        ("2023-11-14T22:12:20", 55),  # without a zone: nobody knows when
        (-100, 60),  # its maker's clock was set back since, and its file's time is right
        (70, 80),
        (70, 90),  # of one moment, as its file is
        (-8_000, -500_000),  # nobody knows when
        (None, -400_000),
    ]
    for n, (said, file) in enumerate(asked):
        made = datetime.fromtimestamp(NOW - said, UTC).isoformat() if isinstance(said, int | float) else said
        path = write(tmp_path, "some", n, {"folder": str(n), **({} if made is None else {FIELD[kind]: made})})
        os.utime(path, (NOW - file,) * 2)
    found = [int(path.parent.name[1:]) for path, _ in newest_first(tmp_path / "some", kind)]
    assert found == list(range(len(asked)))
    again = write(tmp_path, "some", 99, {FIELD[kind]: datetime.fromtimestamp(NOW - 99_999, UTC).isoformat()})
    assert [path for path, _ in newest_first(tmp_path / "some", kind)].index(again) == len(asked) - 2
    again.write_text(json.dumps({FIELD[kind]: datetime.fromtimestamp(NOW, UTC).isoformat()}))  # written anew
    os.utime(again, (NOW, NOW))
    assert [path for path, _ in newest_first(tmp_path / "some", kind)].index(again) == 1


def test_a_newer_format_of_a_file_server_that_runs_ahead_stops_the_search_in_its_turn(tmp_path: Path) -> None:
    ahead = time.time() + 3_600
    newer = write(tmp_path, "some", 1, {"format": 2, "written": "2024-05-01T10:00:02Z"})
    fresh = write(tmp_path, "some", 2, {"written": "2024-05-01T10:00:03Z"})
    write(tmp_path, "some", 3, {"written": "2024-05-01T10:00:01Z"})
    os.utime(newer, (ahead, ahead))
    found = newest_first(tmp_path / "some", MonitorReport)
    assert next(found)[0] == fresh
    with pytest.raises(DataError, match="of a newer Tandem"):
        next(found)
