"""Trace ids: W3C Trace Context by OpenTelemetry's API, and spans to a collector where the environment configures one.

A process begins in the trace that ``TRACEPARENT`` names, or in one of its own; a span is the parent of what is done within it, in this
process and, by the same variable, in those that it starts. With the SDK (extra ``[otlp]``) and an ``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_TRACES_EXPORTER=otlp`` spans are sent; without, they are ids and nothing else. Light at
import.
"""

from __future__ import annotations

import atexit
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["VARIABLE", "begin", "finish", "ids", "on", "span", "traceparent"]

VARIABLE = "TRACEPARENT"
"""What hands a trace from process to process."""
_STATE = "TRACESTATE"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_provider: Any = None
_process: Any = None  # the context of work outside of any other span, threads included
_random = random.SystemRandom()


def exports() -> bool:
    """Whether the environment asks for spans to be sent."""
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return (
        asked != "none"
        and os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"
        and (asked == "otlp" or any(os.environ.get(name) for name in _ENDPOINTS))
    )


def on() -> bool:
    """Whether this process has a trace."""
    return _process is not None


def begin(name: str = "tandem") -> None:
    """Begin, or go on with, a trace, by a span ``name`` that lasts as long as the process; twice is as good as once.

    Where spans are to be sent and the SDK is missing it says so: an environment that is set for all programs of a machine stops none.
    """
    global _process, _provider
    if _process is not None:
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if exports():
        _provider = _exporting()
    above = TraceContextTextMapPropagator().extract({"traceparent": os.environ.get(VARIABLE, ""), "tracestate": os.environ.get(_STATE, "")})
    made = _plain(above) if _provider is None else _provider.get_tracer("tandem").start_span(name, above)
    _process = trace.set_span_in_context(made, above)
    os.environ[VARIABLE] = traceparent() or ""
    atexit.register(finish)


def _exporting() -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        line = "warning: OTEL_* asks for spans to be sent; that needs pip install 'tandem-features[otlp]' (or set OTEL_SDK_DISABLED=true)"
        print(line, file=sys.stderr)
        return None
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or "tandem"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def finish() -> None:
    """End the process's span and send what is not sent yet: at the end, or before another program takes this one's place."""
    if _provider is not None:
        from opentelemetry import trace

        trace.get_current_span(_process).end()
        _provider.force_flush(5_000)


def _plain(context: Any) -> Any:
    """A span that is its ids alone, in the trace of ``context`` or in a new one."""
    from opentelemetry import trace

    parent = trace.get_current_span(context).get_span_context()
    number = parent.trace_id if parent.is_valid else _random.getrandbits(128) or 1
    here = trace.SpanContext(number, _random.getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state)
    return trace.NonRecordingSpan(here)


@contextmanager
def span(name: str, headers: Mapping[str, str] | None = None, **attributes: Any) -> Iterator[Any]:
    """A span around the work inside, of the trace that ``headers`` (of a request, in lower case) name, else of the one we are in.

    Yields OpenTelemetry's span. Without a trace (:func:`on`) nothing happens.
    """
    if _process is None:
        yield None
        return
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    above = context.get_current() if trace.get_current_span().get_span_context().is_valid else _process
    if headers is not None:  # a request without a trace of its own begins one
        above = TraceContextTextMapPropagator().extract(headers, context.Context())
    if _provider is None:
        made = _plain(above)
    else:
        kind = trace.SpanKind.INTERNAL if headers is None else trace.SpanKind.SERVER
        made = _provider.get_tracer("tandem").start_span(name, above, kind, attributes)
    with trace.use_span(made, end_on_exit=True, record_exception=True):
        yield made


def ids() -> dict[str, str]:
    """``trace_id`` and ``span_id`` in hexadecimal, of where we are; empty where there is no trace."""
    found = _here()
    return {} if found is None else {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"}


def traceparent() -> str | None:
    """The header (and :data:`VARIABLE`) that hands our trace on; None where there is none."""
    found = _here()
    return None if found is None else f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def _here() -> Any:
    if _process is None:
        return None
    from opentelemetry import trace

    for where in (None, _process):
        found = trace.get_current_span(where).get_span_context()
        if found.is_valid:
            return found
    return None
