"""StreamStatus for people and Prometheus, from the parts' reports."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.status import StreamStatus, Tracker, line
from pipelines.streaming.stream_metrics import StreamMetrics, serve
from tests.integration.http_server import exchange
from transforms.errors import ConfigError


@pytest.fixture
def control(tmp_path):
    return JobState(tmp_path / "main")


def poll(counts, next_=10, end=15, **more):
    return {"source": "departures", "partition": 0, "start": 0, "next": next_, "end": end, "counts": counts, "stopped": False, **more}


def test_totals_go_on_when_a_worker_begins_at_zero_again(control):
    tracker = Tracker(control)
    control.report("poll-departures-0", poll({"events": 10, "rejected/bad_json": 2, "late": 1}))
    control.report("sink-0", {"rows": {"g": 5}, "written": 4, "stale": 1, "seconds_waiting": 1.5})
    tracker.look()
    control.report("poll-departures-0", poll({"events": 3, "rejected/bad_json": 1}, next_=13))
    control.report("sink-0", {"rows": {"g": 2}, "written": 2})
    now = tracker.look()
    assert (now.events, now.rows, now.written, now.stale) == (13, 7, 6, 1)
    assert now.rejected == {("departures", "bad_json"): 3}
    assert now.late == {"departures": 1}
    assert now.lag == {("departures", 0): 2}
    assert now.sink_seconds["waiting"] == 1.5


def test_the_least_of_the_shards_counts_and_none_is_none(control):
    for shard, (mark, output_watermark) in enumerate([(5_000_000, 4_000_000), (3_000_000, None)]):
        progress = {"partitions": {}, "watermark": {"departures": mark}, "output_watermark": {"g": output_watermark, "h": mark}}
        control.save_checkpoint(shard, progress)
    now = Tracker(control).look()
    assert now.watermark == {"departures": 3_000_000}
    assert now.output_watermark == {"h": 3_000_000}


def test_reports_of_parts_that_say_little_are_no_problem(control):
    control.report("poll-departures-0", {"away": True})
    control.report("shard-0", {})
    control.report("sink-0", {"waiting_for": "online store"})
    now = Tracker(control).look()
    assert now.away == ("departures-0",) and now.waiting == ("online store",)
    assert "unavailable: departures-0; waiting for online store" in line(now)


def test_the_line():
    p = StreamStatus(
        events=1200, events_per_second=310.4, lag={("d", 0): 7}, rows=90, rejected={("d", "bad"): 2}, late={"d": 0},
        watermark={"d": 1_357_000_000_000_000}, paused=("d/0",), silent_seconds=12.3,
    )  # fmt: skip
    assert line(p) == (
        "1,200 events, 310/s; 7 behind; 90 rows, 0/s; event time 2013-01-01 00:26; 2 rejected; paused: d/0; no news for 12 s"
    )
    assert line(StreamStatus()) == "0 events, 0/s; 0 behind; 0 rows, 0/s"


def test_metrics_listen_where_they_are_told_to():
    port, end = serve(StreamMetrics(StreamStatus), 0, host="127.0.0.2")
    try:
        assert b"tandem_stream_" in urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=10).read()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
    finally:
        end()
    with pytest.raises(ConfigError, match=r"stream.metrics_port 0 on 192.0.2.1: "):
        serve(StreamMetrics(StreamStatus), 0, host="192.0.2.1")


def test_metrics_can_be_scraped(control):
    now = StreamStatus(
        read={"d": 9}, rejected={("d", "bad"): 2}, late={"d": 1}, rows_of={"g": 4}, written=3, stale=1, lag={("d", 0): 7},
        watermark={"d": 1_500_000}, sink_seconds={"store": 0.5},
    )  # fmt: skip
    port, end = serve(StreamMetrics(lambda: now, lambda: 2), 0)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        with pytest.raises(ConfigError, match=f"metrics_port {port}"):
            serve(StreamMetrics(lambda: now), port)
    finally:
        end()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert all(name.startswith("tandem_stream_") and family.documentation for name, family in families.items())
    samples = {(s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}
    assert samples["tandem_stream_events_total", ("d",)] == 9
    assert samples["tandem_stream_rejected_total", ("bad", "d")] == 2
    assert samples["tandem_stream_online_rows_total", ("stale",)] == 1
    assert samples["tandem_stream_lag_records", ("0", "d")] == 7
    assert samples["tandem_stream_watermark_seconds", ("d",)] == 1.5
    assert samples["tandem_stream_restarts_total", ()] == 2


def test_who_asks_for_metrics_names_a_host_or_is_refused():
    """RFC 9112, 3.2; and the answer is taken for nothing but the text that it says it is."""
    port, end = serve(StreamMetrics(StreamStatus), 0)
    try:
        for head, status in (
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
            (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
            (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\nHost: x y\r\n\r\n", b"400"),
        ):
            answer = exchange(port, head)
            assert answer.split(b" ")[1] == status, (head, answer)
            assert answer.lower().count(b"x-content-type-options: nosniff") == 1
    finally:
        end()
