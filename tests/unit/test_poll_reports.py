"""What is said of a broker that does not answer: each reason once a silence, whatever numbers are in it."""

from __future__ import annotations

from pathlib import Path

from pipelines.streaming.stages.poll_reports import MOST_REASONS, PollReports
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
