"""A span and a line of the log for each request, where logs are JSON or spans are sent; else the application is asked as ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from serving import json_logs, tracing
from serving.principals import ANYBODY

__all__ = ["Traced"]

log = logging.getLogger("tandem.access")

_OFTEN = ("/metrics", "/v2/health/live", "/v2/health/ready")
"""Routes that machines ask every few seconds: a line of each says nothing."""
_HEADERS = (b"traceparent", b"tracestate")


class Traced:
    """Answers within the trace that a request's ``traceparent`` names, or one of its own, which the answer's ``traceresponse`` tells."""

    def __init__(self, answer: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._answer = answer

    @staticmethod
    def wanted() -> bool:
        """Whether this process has traces."""
        return tracing.on()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._answer(scope, receive, send)
            return
        begun, status, request_id = time.perf_counter(), 500, ""
        given = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        with tracing.span(scope["method"], given) as span:
            response = (tracing.traceparent() or "").encode()

            async def sent(message: Any) -> None:
                nonlocal status, request_id
                if message["type"] == "http.response.start":
                    status = message["status"]
                    headers = message.setdefault("headers", [])
                    request_id = next((value.decode() for name, value in headers if name.lower() == b"x-request-id"), "")
                    message = {**message, "headers": [*headers, (b"traceresponse", response)]}
                await send(message)

            try:
                await self._answer(scope, receive, sent)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")
                self._say(span, scope, route, status, request_id, time.perf_counter() - begun)

    @staticmethod
    def _say(span: Any, scope: Any, route: str, status: int, request_id: str, seconds: float) -> None:
        method, principal = scope["method"], scope.get("state", {}).get("principal", ANYBODY).name
        if span.is_recording():
            span.update_name(f"{method} {route}")
            span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
        if not json_logs.on() or (route in _OFTEN and status < 400):
            return
        said = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6)}
        said |= {name: value for name, value in (("request_id", request_id), ("principal", principal)) if value}
        log.log(logging.WARNING if status >= 500 else logging.INFO, "request", extra=said)
