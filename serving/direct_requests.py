"""The requests that are answered for a living, past the framework: POSTs of known routes, with the same checks in one function.

What the framework does for each request (middlewares, routing, dependencies, a task's context) costs several times as much as reading an
entity. Everything else goes on to it, and so do the schema and the documentation of these routes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import compile_path

from serving.access import Access
from serving.metrics import Metrics
from serving.principals import ANYBODY
from transforms.errors import TandemError

__all__ = ["Direct", "count_request"]

Refuse = Callable[[Request, Exception], Awaitable[Response]]


class Direct:
    """Answers POSTs of ``routes`` by their endpoints, ``endpoint(request, **path_params)``."""

    def __init__(self, routes: Sequence[Any], access: Access, metrics: Metrics, refuse: Refuse) -> None:
        """``routes``: of FastAPI; those for POST are taken. ``refuse`` makes the answer to an error, of ours or a defect."""
        self._access = access
        self._metrics = metrics
        self._refuse = refuse
        posts = [route for route in routes if isinstance(route, APIRoute) and route.methods == {"POST"}]
        self._plain = {route.path: route for route in posts if "{" not in route.path}
        self._patterns = [(compile_path(route.path)[0], route) for route in posts if "{" in route.path]

    async def answer(self, scope: Any, receive: Any, send: Any) -> bool:
        """Whether the request is one of these; then it is answered. A defect is answered, and raised for the server to say."""
        found = self._found(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            return False
        route, names = found
        begun, status = time.perf_counter(), 500
        scope["route"] = route  # what is counted under
        request = Request(scope, receive, send)
        try:
            try:
                # What Request.state and all that reads it look at, without the object that the framework puts around it.
                scope.setdefault("state", {})["principal"] = ANYBODY if not self._access.asks else await self._access.principal(request)
                response: Response = await route.endpoint(request, **names)
            except TandemError as error:
                response = await self._refuse(request, error)
            except Exception as error:
                await (await self._refuse(request, error))(scope, receive, send)
                raise
            status = response.status_code
            await response(scope, receive, send)
        finally:
            count_request(self._metrics, scope, status, time.perf_counter() - begun)
        return True

    def _found(self, scope: Any) -> tuple[APIRoute, dict[str, str]] | None:
        path = scope["path"]
        if (plain := self._plain.get(path)) is not None:
            return plain, {}
        for pattern, route in self._patterns:
            if (match := pattern.match(path)) is not None:
                return route, match.groupdict()
        return None


def count_request(metrics: Metrics, scope: Any, status: int, seconds: float) -> None:
    """Count a request that was answered, by its route's pattern (never by its path)."""
    route = getattr(scope.get("route"), "path", "unknown")
    principal = scope.get("state", {}).get("principal", ANYBODY).name
    metrics.count_request(route, status, principal, seconds)
