"""Spans to a collector: a process with OpenTelemetry's SDK and its OTLP exporter, configured by ``OTEL_*`` alone."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.scale.containers import ROOT
from tests.scale.tools import python_tools

OTLP = ("opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2", "structlog==26.1.0")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WORK = """
import sys
from serving import json_logs, tracing
json_logs.set_up("tandem batch")
with tracing.span("run batch", run="batch-1"):
    print("working", file=sys.stderr)
"""
READ = """
import json, sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
asked = ExportTraceServiceRequest.FromString(sys.stdin.buffer.read())
print(json.dumps([
    [s.name, *(x.hex() for x in (s.trace_id, s.span_id, s.parent_span_id)),
     {a.key: a.value.string_value for a in r.resource.attributes}["service.name"]]
    for r in asked.resource_spans for scope in r.scope_spans for s in scope.spans
]))
"""


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Its address, and what was sent to it: paths and bodies."""
    got: list[tuple[str, bytes]] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()


def test_spans_are_sent_where_the_environment_says_so() -> None:
    python = python_tools("otlp", OTLP) / "python"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    with collector() as (address, got):
        environment = {
            **kept, "PYTHONPATH": str(ROOT), "TANDEM_LOG_FORMAT": "json", "TRACEPARENT": f"00-{TRACE}-{SPAN}-01",
            "OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_SERVICE_NAME": "shop",
        }  # fmt: skip
        done = subprocess.run([python, "-c", WORK], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert {path for path, _ in got} == {"/v1/traces"}
        told = [json.loads(subprocess.run([python, "-c", READ], input=body, capture_output=True, check=True).stdout) for _, body in got]
        quiet = subprocess.run([python, "-c", WORK], env={**environment, "OTEL_SDK_DISABLED": "true"}, capture_output=True, text=True)
        assert quiet.returncode == 0 and len(got) == len(told)
    spans = {name: rest for one in told for name, *rest in one}
    assert spans["tandem batch"][0] == spans["run batch"][0] == TRACE and spans["tandem batch"][2] == SPAN
    assert spans["run batch"][2] == spans["tandem batch"][1], "the run is below the process"
    assert {service for _, _, _, service in spans.values()} == {"shop"}
    assert json.loads(done.stderr.splitlines()[-1])["span_id"] == spans["run batch"][1], "the log names the span"
