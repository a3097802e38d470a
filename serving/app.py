"""The HTTP server: TF-Serving, Open Inference v2 and Feast's feature server, as thin adapters over the dataplane."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client  # noqa: F401  # before Feast: importing its metrics makes all counters of the process files of theirs
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from serving.access import Access, Guard
from serving.admission import Admission, Answer
from serving.answers import as_json, own_version, response, v1_answer, v1_metadata, v2_answer, v2_metadata, version_status
from serving.context import RequestContext
from serving.dataplane import Dataplane, Prediction
from serving.direct_requests import Direct, count_request
from serving.docs import BODIES, describe, docs_page, examples, own_things, page_headers
from serving.json_body import parse_object
from serving.limits import Limits, PrincipalLimits
from serving.metrics import Metrics
from serving.metrics_files import MetricsFile
from serving.principals import ANYBODY, Principal
from serving.protocol import NO_BINARY, RequestField, online_request, v1_instances, v2_instances, v2_names
from serving.request_errors import ClientGoneError, InvalidRequestError, RateLimitedError, UnauthenticatedError, status_of
from serving.settings import ServingSettings
from serving.traced import Traced
from transforms.errors import TandemError

__all__ = ["create_app"]

log = logging.getLogger("tandem.serving")

_QUICK_VALUES = 25_000
"""Values that one answer may have and be made on the event loop: other requests wait some milliseconds meanwhile."""
Parse = Callable[[dict[str, Any], list[RequestField], int], tuple[dict[str, list[Any]], int]]
Render = Callable[[Prediction, dict[str, Any]], dict[str, Any]]
"""The answer to a prediction, and to the body that asked for it."""


def create_app(
    settings: ServingSettings,
    *,
    now_us: Callable[[], int] | None = None,
    limits: Limits | None = None,
    metrics_folder: tuple[Path, str] | None = None,
) -> FastAPI:
    """The application. Models, registry and online store are opened when it starts (its lifespan), not by a request.

    ``now_us`` is the clock (microseconds since the epoch) that ages and TTLs go by. ``limits``: what counts callers' requests and rows,
    where several processes share it; ``metrics_folder``: where they bring their numbers together, and what this one is called there.
    """
    access = Access(settings)
    plane = Dataplane(settings, now_us=now_us)
    admission = Admission(settings, limits or PrincipalLimits(settings.limits, settings.principal_limits))
    numbers = None if metrics_folder is None else MetricsFile(plane.metrics.registry, *metrics_folder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, access.open)
        await asyncio.get_running_loop().run_in_executor(None, plane.open)
        plane.features.attend()
        if numbers is not None:
            numbers.start()
        yield
        admission.close()
        plane.features.unattend()
        await asyncio.get_running_loop().run_in_executor(None, plane.close)
        access.close()
        if numbers is not None:
            numbers.close()

    app = _Application(
        title="Tandem",
        summary="Online features and predictions, computed by the same code as the training data.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.dataplane = plane
    _answer_errors(app)
    app.add_middleware(Guard, access=access, refuse=_refusal)
    app.add_middleware(_Measured, metrics=plane.metrics)

    async def predict(request: Request, name: str, version: str | None, parse: Parse, render: Render) -> Response:
        _principal(request).need("model", name)

        def work(body: bytes, context: RequestContext) -> Answer:
            model = plane.models.get(name, version)
            if "inference-header-content-length" in request.headers:
                raise InvalidRequestError(NO_BINARY)
            asked = parse_object(body)
            if parse is v2_instances:
                v2_names(asked, model.spec.name, model.spec.version, model.spec.output)
            columns, rows = parse(asked, plane.fields(model), settings.max_instances)
            context.charge(rows)
            prediction = plane.predict(model, columns, rows, context, "predict" if parse is v1_instances else "infer")
            plane.metrics.instances.labels(_route(request)).inc(rows)
            shadow = None if version is not None else partial(plane.shadow, prediction)  # who asks for a version means that version
            return Answer(as_json(render(prediction, asked)), shadow)

        plane.models.state(name)  # an unknown model is refused before a body is read
        return await admission.answer(request, work)

    @app.post("/v1/models/{name}/versions/{version}:predict", tags=["TF-Serving"], openapi_extra=BODIES["predict"])
    async def predict_version(request: Request, name: str, version: str) -> Response:
        """Predictions of one loaded version, in TF-Serving's row or column format."""
        return await predict(request, name, version, v1_instances, v1_answer)

    @app.post("/v1/models/{name}:predict", tags=["TF-Serving"], openapi_extra=BODIES["predict"])
    async def predict_current(request: Request, name: str) -> Response:
        """Predictions in TF-Serving's row or column format, with the model's version, fingerprints, and each row's feature ages."""
        return await predict(request, name, None, v1_instances, v1_answer)

    @app.get("/v1/models/{name}:{verb}", include_in_schema=False)
    @app.get("/v1/models/{name}/versions/{version}:{verb}", include_in_schema=False)
    async def posted_alone() -> Response:
        """What is asked of a model by POST; without this the state of a model called ``NAME:predict`` would be asked for."""
        raise HTTPException(405, headers={"Allow": "POST"})

    @app.get("/v1/models/{name}", tags=["TF-Serving"])
    async def model_status(request: Request, name: str) -> Response:
        """The state of every version known, newest first."""
        _principal(request).need("model", name)
        return response({"model_version_status": version_status(plane, name, None)})

    @app.get("/v1/models/{name}/metadata", tags=["TF-Serving"])
    async def v1_model_metadata(request: Request, name: str) -> Response:
        """The signature of the version being served: what an instance holds, and what comes back."""
        _principal(request).need("model", name)
        return response(v1_metadata(plane, name, None))

    @app.get("/v1/models/{name}/versions/{version}/metadata", tags=["TF-Serving"])
    async def v1_version_metadata(request: Request, name: str, version: str) -> Response:
        """The signature of one loaded version."""
        _principal(request).need("model", name)
        return response(v1_metadata(plane, name, version))

    @app.get("/v1/models/{name}/versions/{version}", tags=["TF-Serving"])
    async def one_version_status(request: Request, name: str, version: str) -> Response:
        """The state of one version."""
        _principal(request).need("model", name)
        return response({"model_version_status": version_status(plane, name, version)})

    @app.post("/get-online-features", tags=["Feast"], openapi_extra=BODIES["features"])
    async def get_online_features(request: Request) -> Response:
        """Online features with statuses, event timestamps and ages, in the format of Feast's feature server."""

        def work(body: bytes, context: RequestContext) -> Answer:
            asked = online_request(parse_object(body), settings.max_instances)
            context.charge(asked.rows)
            answer = plane.online_features(asked, context)
            entities.inc(asked.rows)
            return Answer(answer)

        def quick(body: bytes, context: RequestContext) -> Awaitable[Answer | None] | None:
            request = online_request(parse_object(body), settings.max_instances)
            context.charge(request.rows)
            asked = plane.asked(request, context.principal)
            reading = None if asked.values > _QUICK_VALUES else plane.online_features_soon(asked, context)
            return None if reading is None else quick_answer(reading, asked.rows)

        return await admission.answer(request, work, quick)

    entities = plane.metrics.instances.labels("/get-online-features")

    async def quick_answer(reading: Awaitable[bytes | None], rows: int) -> Answer | None:
        answer = await reading
        if answer is None:
            return None
        entities.inc(rows)
        return Answer(answer)

    @app.get("/v2", tags=["Open Inference"])
    async def server_metadata() -> Response:
        """The server's name, version and extensions."""
        return response({"name": "tandem", "version": own_version(), "extensions": []})

    @app.get("/v2/health/live", tags=["Open Inference"])
    async def live() -> Response:
        """Whether the process answers."""
        return response({"live": True})

    @app.get("/v2/health/ready", tags=["Open Inference"])
    async def ready(request: Request) -> Response:
        """Whether every model and the feature registry can answer; 503 if not. Who may ask for something is told the reasons, and warnings
        such as a champion that is not taken."""
        problems, warnings = plane.problems(), plane.warnings() + access.warnings()
        if not _principal(request).scopes:
            return response({"ready": not problems}, 503 if problems else 200)
        details = {**({"reasons": problems} if problems else {}), **({"warnings": warnings} if warnings else {})}
        return response({"ready": not problems, **details}, 503 if problems else 200)

    @app.get("/v2/models/{name}", tags=["Open Inference"])
    async def model_metadata(request: Request, name: str) -> Response:
        """What the served version takes and gives."""
        _principal(request).need("model", name)
        return response(v2_metadata(plane, name, None))

    @app.get("/v2/models/{name}/versions/{version}", tags=["Open Inference"])
    async def version_metadata(request: Request, name: str, version: str) -> Response:
        """What one loaded version takes and gives."""
        _principal(request).need("model", name)
        return response(v2_metadata(plane, name, version))

    @app.get("/v2/models/{name}/ready", tags=["Open Inference"])
    async def model_ready(request: Request, name: str) -> Response:
        """Whether the model has a version that answers."""
        _principal(request).need("model", name)
        state = plane.models.state(name)
        reason, warning = state.reason, state.warning
        details = {**({"reason": reason} if reason else {}), **({"warning": warning} if warning and not reason else {})}
        return response({"name": name, "ready": not reason, **details}, 503 if reason else 200)

    @app.get("/v2/models/{name}/versions/{version}/ready", tags=["Open Inference"])
    async def version_ready(request: Request, name: str, version: str) -> Response:
        """Whether one version answers."""
        _principal(request).need("model", name)
        plane.models.get(name, version)
        return response({"name": name, "ready": True})

    @app.post("/v2/models/{name}/infer", tags=["Open Inference"], openapi_extra=BODIES["infer"])
    async def infer(request: Request, name: str) -> Response:
        """Predictions from named tensors of shape [n]."""
        return await predict(request, name, None, v2_instances, v2_answer)

    @app.post("/v2/models/{name}/versions/{version}/infer", tags=["Open Inference"], openapi_extra=BODIES["infer"])
    async def infer_version(request: Request, name: str, version: str) -> Response:
        """Predictions of one loaded version from named tensors of shape [n]."""
        return await predict(request, name, version, v2_instances, v2_answer)

    @app.get("/metrics", tags=["Operation"])
    async def metrics(request: Request) -> Response:
        """Prometheus metrics."""
        _principal(request).need("admin")
        page = plane.metrics.page() if numbers is None else await asyncio.get_running_loop().run_in_executor(None, numbers.page)
        return Response(page, media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        asks = _principal(request)
        page = docs_page(describe(app.openapi(), examples(plane, asks)), own_things(plane, asks))
        return HTMLResponse(page, headers=page_headers(page))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return response(describe(app.openapi(), examples(plane, _principal(request))))

    app.traced = Traced(app._answer) if Traced.wanted() else None
    app.direct = Direct(app.router.routes, access, plane.metrics, _refused)
    return app


class _Application(FastAPI):
    """FastAPI, and before all of it what answers most requests."""

    direct: Direct | None = None
    traced: Traced | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (self._answer if self.traced is None else self.traced)(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if self.direct is None or not await self.direct.answer(scope, receive, send):
            await super().__call__(scope, receive, send)


class _Measured:
    """ASGI middleware: counts and times every request by its route's pattern (never by its path)."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), [500]

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            count_request(self._metrics, scope, status[0], time.perf_counter() - begun)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, TandemError):
        log.error("internal error: %s %s", request.method, _route(request), exc_info=error)
        return response({"error": "internal error; the server's log has the details"}, 500)
    if isinstance(error, ClientGoneError):
        log.info("%s %s: %s", request.method, _route(request), error)
    return _refusal(error)


def _answer_errors(app: FastAPI) -> None:
    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        texts = {404: "no such path; see /docs", 405: f"{request.method} is not allowed here; see /docs"}
        text = texts.get(error.status_code, str(error.detail))
        return response({"error": text}, error.status_code, dict(error.headers or {}))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        TandemError: _refused,
        HTTPException: http,
        Exception: _refused,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _refusal(error: Exception) -> Response:
    status, headers = status_of(error), {}
    if status == 503:
        headers["Retry-After"] = "1"
    elif isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(math.ceil(error.retry_seconds))
    elif isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Basic realm="tandem: any name, a key as password", charset="UTF-8"'
    return response({"error": " ".join(str(error).split())}, status, headers)


def _principal(request: Request) -> Principal:
    found: Principal = request.scope["state"].get("principal", ANYBODY)
    return found


def _route(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", "unknown"))
