"""Logs as JSON with trace ids: of commands, runs, a stream and a server's requests. Each in a process of its own, as standard error is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.lake.processes import free_ports
from pipelines.lake.runs import list_runs
from tests.integration.http_server import NO_TLS
from tests.integration.serving_world import GOOD, make_world, settings
from transforms.own_program import module_command, tandem_command

ROOT = Path(__file__).resolve().parents[2]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_") and k not in ("TRACEPARENT", "TANDEM_LOG_FORMAT")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def said(text: str) -> list[dict[str, Any]]:
    """The lines of standard error: each is one object, with a time, a level and an event."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"timestamp", "level", "event"} <= line.keys(), line
        assert line["timestamp"].endswith("Z"), line
    return lines


def ran(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(tandem_command(*words), cwd=ROOT, env=environment(**more), capture_output=True, text=True)


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_an_error_is_one_object_without_secrets(how: str, tmp_path: Path) -> None:
    words = ["runs", "--repo", f"{tmp_path}/password=hunter22"]
    words += ["--log-format", "json"] if how == "flag" else []
    done = ran(*words, **({"TANDEM_LOG_FORMAT": "json"} if how == "environment" else {}))
    (line,) = said(done.stderr)
    assert done.returncode == 1 and done.stdout == ""
    assert line["level"] == "error" and "no such folder" in line["event"] and "hunter22" not in done.stderr
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"]) and re.fullmatch("[0-9a-f]{16}", line["span_id"])


def test_text_is_what_it_was_and_another_format_is_none(tmp_path: Path) -> None:
    plain = ran("runs", "--repo", str(tmp_path / "nowhere"))
    assert (
        plain.stderr.startswith("error: ")
        and plain.stderr == ran("runs", "--repo", str(tmp_path / "nowhere"), "--log-format", "text").stderr
    )
    assert ran("runs", TANDEM_LOG_FORMAT="xml").stderr == "error: TANDEM_LOG_FORMAT 'xml': write text or json\n"
    wrong = ran("runs", "--log-format", "xml")
    assert wrong.returncode == 2 and "'xml' is unknown; use text or json" in wrong.stderr


def test_a_run_goes_on_with_the_trace_it_was_given(tmp_path: Path) -> None:
    """The commands' lines, the run's manifest and what it starts have one trace; results on standard output are results."""
    repo = tmp_path / "shop"
    assert ran("init", str(repo)).returncode == 0
    done = ran("events", "--repo", str(repo), "--json", "--log-format", "json", TRACEPARENT=GIVEN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    lines = said(done.stderr)
    assert lines and {line["trace_id"] for line in lines} == {TRACE}
    assert SPAN not in {line["span_id"] for line in lines}
    (run,) = list_runs(repo / "data")
    assert run.record.trace == TRACE and {line.get("run", run.id) for line in lines} == {run.id}
    assert f"trace {TRACE}" in re.sub(" +", " ", ran("runs", "show", "latest", "--repo", str(repo)).stdout)


CODE = """
import logging, subprocess, sys, threading, warnings
from serving import json_logs, tracing
json_logs.set_up("a test")
print("half ", end="", file=sys.stderr)
print("a line\\n\\x1b[31mand another\\x1b[0m", file=sys.stderr)
print('{"event": "ours already", "level": "info", "timestamp": "2026-01-01T00:00:00Z"}', file=sys.stderr)
log = logging.getLogger("tandem.test")
log.info("for %s", "people", extra={"api_key": "k" * 30, "url": "redis://u:pw@h/0"})
with tracing.span("outer"):
    outer = tracing.ids()
    with tracing.span("inner"):
        assert tracing.ids()["trace_id"] == outer["trace_id"] and tracing.ids()["span_id"] != outer["span_id"]
        log.warning("inside", extra=outer | {"above": outer["span_id"]})
    assert tracing.ids() == outer
thread = threading.Thread(target=log.error, args=("on a thread",))
thread.start(); thread.join()
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it failed")
raise KeyError("unexpected")
"""


def test_whatever_reaches_standard_error_is_an_event() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment(TANDEM_LOG_FORMAT="json"), capture_output=True, text=True)
    lines = said(done.stderr)
    assert [line["event"] for line in lines] == [
        "half a line", "and another", "ours already", "for people", "inside", "on a thread", "it failed", "KeyError: 'unexpected'",
    ]  # fmt: skip
    _, _, ours, people, inside, thread, failed, last = lines
    assert "trace_id" not in ours, "a line of a child passes as it is"
    assert people["api_key"] == "***" and people["url"] == "redis://u:***@h/0" and people["logger"] == "tandem.test"
    assert inside["level"] == "warning" and inside["span_id"] != inside["above"]
    assert thread["trace_id"] == people["trace_id"], "threads are in the process's trace"
    assert "ZeroDivisionError" in failed["exception"] and last["level"] == "critical" and "Traceback" in last["exception"]


NATIVE = """
import os, subprocess, sys
from serving import json_logs
json_logs.set_up("a test")
json_logs.say("ours")
os.write(2, b"WARNING: said before anybody could have it quiet\\nwith password=hunter22, ")
os.write(2, b"and \\xff\\n")
if sys.argv[1:] == ["aborts"]:
    os.write(2, b"a check failed")
    os.abort()
subprocess.run([sys.executable, "-c", sys.argv[1], "aborts"], stderr=sys.stderr)
"""


def test_so_does_what_native_code_writes_on_the_descriptor_to_the_last_words_of_a_crash() -> None:
    command, given = [sys.executable, "-c", NATIVE, NATIVE], environment(TANDEM_LOG_FORMAT="json", TRACEPARENT=GIVEN)
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    lines = said(done.stderr)
    words = ["WARNING: said before anybody could have it quiet", "with password=***, and \\xff"]
    assert sorted(line["event"] for line in lines) == sorted(["ours", *words] * 2 + ["a check failed"])
    assert {line["trace_id"] for line in lines} == {TRACE}


STREAM = """
from tandem.quick_imports import quicken_imports
quicken_imports()
import sys
from pathlib import Path
from serving import json_logs
json_logs.set_up("tandem stream")
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.stream_world import events, make_stream_world
world = make_stream_world(Path(sys.argv[1]), partitions=1)
world.produce(events(300))
print(run_stream(world.repo(), StreamOptions(runner="direct", until="latest"))["id"])
"""


def test_a_stream_says_which_run_and_trace_it_is(tmp_path: Path) -> None:
    given = environment(TANDEM_LOG_FORMAT="json", TRACEPARENT=GIVEN)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STREAM, str(tmp_path)], cwd=ROOT, env=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines, run = said(done.stderr), done.stdout.split()[-1]
    ours = [line["event"] for line in lines if line.get("run") == run]
    assert any("reading from offset 0" in line for line in ours), ours
    assert {line["trace_id"] for line in lines} == {TRACE}


def test_a_server_answers_within_the_trace_of_the_request(tmp_path: Path) -> None:
    make_world(tmp_path, 1)
    (port,) = free_ports(1)
    given = settings(tmp_path, port=port, workers=2).model_dump_json()
    with open(tmp_path / "said", "w") as out:
        server = subprocess.Popen(module_command("serving", given), stdout=out, stderr=out, env=environment(TANDEM_LOG_FORMAT="json"))
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 180
        while True:
            try:
                if httpx.get(f"{address}/v2/health/ready", timeout=10, verify=NO_TLS).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert server.poll() is None and time.monotonic() < end, (tmp_path / "said").read_text()
            time.sleep(0.1)
        predict = f"{address}/v1/models/delay:predict"
        good = httpx.post(
            predict, json={"instances": [GOOD]}, headers={"traceparent": GIVEN, "authorization": "Bearer hunter2222222"}, verify=NO_TLS
        )
        bad = httpx.post(predict, json={"instances": [{}]}, verify=NO_TLS)
        away = httpx.get(f"{address}/v1/models/none", headers={"traceparent": "nonsense"}, verify=NO_TLS)
        assert (good.status_code, bad.status_code, away.status_code) == (200, 422, 404)
        assert good.headers["traceresponse"].startswith(f"00-{TRACE}-") and SPAN not in good.headers["traceresponse"]
    finally:
        server.terminate()
        server.wait(60)
    text = (tmp_path / "said").read_text()
    lines = said(text)
    asked = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"]) for line in asked] == [
        ("POST", "/v1/models/{name}:predict", 200), ("POST", "/v1/models/{name}:predict", 422), ("GET", "/v1/models/{name}", 404),
    ]  # fmt: skip
    first = asked[0]
    assert first["trace_id"] == TRACE and first["request_id"] == good.headers["x-request-id"] and 0 < first["seconds"] < 60
    assert f"-{first['span_id']}-" in good.headers["traceresponse"]
    assert len({line["trace_id"] for line in asked}) == 3, "a request without a usable trace begins one"
    assert any("Uvicorn running on" in line["event"] for line in lines) and "hunter2222222" not in text
