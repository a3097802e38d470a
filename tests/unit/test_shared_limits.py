"""Limits that several processes share say what one process' own would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.limits import PrincipalLimits
from serving.metrics_files import MetricsFile, retire, summed_page
from serving.request_errors import RateLimitedError
from serving.settings import LimitSettings
from serving.shared_buckets import SharedLimits, shared_table

RATES = st.none() | st.sampled_from([0.5, 1.0, 20.0])


@given(
    everybody=st.builds(LimitSettings, requests_per_second=RATES, rows_per_second=RATES, burst_seconds=st.sampled_from([1.0, 10.0])),
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.sampled_from([0.0, 0.3, 7.0])), max_size=40),
)
def test_two_tables_over_one_memory_are_one(everybody: LimitSettings, steps: list[tuple[str, int, float]]) -> None:
    now = [100.0]
    own = {"b": LimitSettings(requests_per_second=2, burst_seconds=2)}
    fd = shared_table()
    shared = [SharedLimits(fd, everybody, own, lambda: now[0]) for _ in range(2)]
    alone = PrincipalLimits(everybody, own, lambda: now[0])
    for i, (caller, rows, seconds) in enumerate(steps):
        now[0] += seconds
        answers = [_asked(limits, caller, rows) for limits in (shared[i % 2], alone)]
        assert answers[0] == answers[1]


def _asked(limits: Any, caller: str, rows: int) -> str:
    try:
        limits.admit(caller, caller)
    except RateLimitedError as error:
        return str(error)
    limits.charge(caller, caller, rows)
    return ""


def test_more_callers_than_the_table_holds() -> None:
    limits = SharedLimits(shared_table(), LimitSettings(requests_per_second=0.001, burst_seconds=1000))
    for i in range(40_000):
        limits.admit(f"caller {i}", "")
    limits.admit("the last", "")
    with pytest.raises(RateLimitedError, match=r"more than 0\.001 requests per second"):
        limits.admit("the last", "")


def test_numbers_of_processes_are_added_also_of_those_that_ended(tmp_path: Path) -> None:
    def process(name: str, asked: int, ready: int) -> MetricsFile:
        r = CollectorRegistry()
        Counter("tandem_requests", "Requests.", ["route"], registry=r).labels("/x").inc(asked)
        Histogram("tandem_request_seconds", "Time.", buckets=(1.0,), registry=r).observe(asked)
        Gauge("tandem_ready", "Ready.", registry=r).set(ready)
        Gauge("tandem_model_version", "Version.", ["model"], registry=r).labels("delay").set(3)
        made = MetricsFile(r, tmp_path, name)
        made.write()
        return made

    one, _ = process("0-1", 2, 1), process("1-2", 5, 0)
    page = one.page().decode()
    for line in (
        'tandem_requests_total{route="/x"} 7.0',
        'tandem_request_seconds_bucket{le="1.0"} 0.0',
        'tandem_request_seconds_bucket{le="+Inf"} 2.0',
        "tandem_request_seconds_sum 7.0",
        "tandem_ready 0.0",
        'tandem_model_version{model="delay"} 3.0',
    ):
        assert line in page.splitlines()
    retire(tmp_path, "1-2")
    retire(tmp_path, "1-2")
    page = summed_page(tmp_path).decode()
    assert 'tandem_requests_total{route="/x"} 7.0' in page.splitlines(), "counters never fall"
    assert "tandem_ready 1.0" in page.splitlines(), "what is gone is not what is wrong"
    (tmp_path / "0-3.json").write_text("half a fi")
    assert summed_page(tmp_path).decode() == page
    assert json.loads((tmp_path / "ended.json").read_text())
