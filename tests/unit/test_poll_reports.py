"""What is said of a broker that does not answer: each reason once a silence, whatever numbers are in it."""

from __future__ import annotations

from pathlib import Path

from pipelines.streaming.stages.part_reports import MOST_REASONS
from pipelines.streaming.stages.poll_reports import REPORT_SECONDS, PollReports
from pipelines.streaming.state.job_state import JobState


def test_each_reason_is_said_once_a_silence(tmp_path: Path) -> None:
    job_state = JobState(tmp_path)
    job_state.begin()
    reports = PollReports(job_state)

    def said() -> list[str]:
        return [line.partition(" ")[2] for line in job_state.said()[0]]

    for seconds in range(3, 9):
        reports.away("trips/0", f"no answer for {seconds} s")
    for seconds in range(9, 12):
        reports.away("trips/0", f"no answer for {seconds} s (Handshake failed: certificate has expired)")
    assert [line.partition(": ")[2] for line in said()] == [
        "no answer for 3 s; waiting",
        "no answer for 9 s (Handshake failed: certificate has expired); waiting",
    ]
    for reason in "abcdefgh":
        reports.away("trips/0", reason)
    assert len(said()) == MOST_REASONS
    reports.back("trips/0")
    reports.away("trips/0", "no answer for 3 s")
    assert said()[-1].endswith("no answer for 3 s; waiting") and len(said()) == MOST_REASONS + 2


def test_who_waits_for_a_broker_goes_on_reporting_it(tmp_path: Path) -> None:
    """Else a broker that is away for long would be taken for a worker that is silent, and the engine started anew."""
    job_state = JobState(tmp_path)
    reports = PollReports(job_state)
    reports.away("trips/0", "no answer for 3 s")
    before = job_state.heard()
    reports.away("trips/0", "no answer for 4 s")
    assert job_state.heard() == before, "not with every poll"
    reports.reported["trips/0"] -= REPORT_SECONDS
    reports.away("trips/0", "no answer for 5 s")
    assert job_state.heard() != before and job_state.reports()["poll-trips-0"]["away"] is True
