"""The HTTP server: TF-Serving, Open Inference v2 and Feast's feature server, as thin adapters over the dataplane."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import prometheus_client  # noqa: F401  # before Feast: importing its metrics makes all counters of the process files of theirs
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from serving.dataplane import Dataplane, Prediction, group_summary
from serving.docs import BODIES, docs_page
from serving.errors import MediaTypeError, NotFoundError, OverloadedError, TimedOutError, TooLargeError, status_of
from serving.metrics import Metrics
from serving.models import LoadedModel
from serving.protocol import V2_TYPES, RequestField, online_request, parse_object, v1_instances, v2_instances
from serving.settings import ServingSettings
from transforms.errors import TandemError

__all__ = ["create_app", "run"]

log = logging.getLogger("tandem.serving")

_TAKEN_AS_JSON = ("application/json", "", "application/x-www-form-urlencoded", "text/json", "text/plain", "application/octet-stream")
"""TF-Serving heeds no content type, so its users send none, or what ``curl -d`` says. What names another format is refused."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Parse = Callable[[dict[str, Any], list[RequestField], int], tuple[dict[str, list[Any]], int]]
Render = Callable[[Prediction], dict[str, Any]]


def create_app(settings: ServingSettings, *, now_us: Callable[[], int] | None = None) -> FastAPI:
    """The application. Models, registry and online store are opened when it starts (its lifespan), not by a request.

    ``now_us`` is the clock (microseconds since the epoch) that ages and TTLs go by.
    """
    plane = Dataplane(settings, now_us=now_us)
    admission = _AdmissionControl(settings, plane.metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, plane.open)
        yield
        admission.close()
        await asyncio.get_running_loop().run_in_executor(None, plane.close)

    app = FastAPI(
        title="Tandem",
        summary="Features and predictions, from the numbers that training saw.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.dataplane = plane
    _answer_errors(app)
    app.add_middleware(_Measured, metrics=plane.metrics)

    async def predict(request: Request, name: str, version: str | None, parse: Parse, render: Render) -> Response:
        def work(body: bytes, request_id: str) -> _Answer:
            model = plane.models.get(name, version)
            columns, rows = parse(parse_object(body), plane.fields(model), settings.max_instances)
            prediction = plane.predict(model, columns, rows, request_id, "predict" if parse is v1_instances else "infer")
            plane.metrics.instances.labels(_route(request)).inc(rows)
            shadow = None if version is not None else partial(plane.shadow, prediction)  # who asks for a version means that version
            return _Answer(_json(render(prediction)), shadow)

        plane.models.state(name)  # an unknown model is refused before a body is read
        return await admission.answer(request, work)

    @app.post("/v1/models/{name}/versions/{version}:predict", tags=["TF-Serving"], openapi_extra=BODIES["predict"])
    async def predict_version(request: Request, name: str, version: str) -> Response:
        """Predictions of one loaded version, in TF-Serving's row format."""
        return await predict(request, name, version, v1_instances, _v1_answer)

    @app.post("/v1/models/{name}:predict", tags=["TF-Serving"], openapi_extra=BODIES["predict"])
    async def predict_current(request: Request, name: str) -> Response:
        """Predictions in TF-Serving's row format, with the model's version, fingerprints, and each row's feature ages."""
        return await predict(request, name, None, v1_instances, _v1_answer)

    @app.get("/v1/models/{name}", tags=["TF-Serving"])
    async def model_status(name: str) -> Response:
        """The state of every version known, newest first."""
        return _response({"model_version_status": _version_status(plane, name, None)})

    @app.get("/v1/models/{name}/versions/{version}", tags=["TF-Serving"])
    async def version_status(name: str, version: str) -> Response:
        """The state of one version."""
        return _response({"model_version_status": _version_status(plane, name, version)})

    @app.post("/get-online-features", tags=["Feast"], openapi_extra=BODIES["features"])
    async def get_online_features(request: Request) -> Response:
        """Online features with statuses, event timestamps and ages, in the format of Feast's feature server."""

        def work(body: bytes, request_id: str) -> _Answer:
            asked = online_request(parse_object(body), settings.max_instances)
            answer = plane.online_features(asked, request_id)
            plane.metrics.instances.labels(_route(request)).inc(asked.rows)
            return _Answer(_json(answer))

        return await admission.answer(request, work)

    @app.get("/v2", tags=["Open Inference"])
    async def server_metadata() -> Response:
        """The server's name, version and extensions."""
        return _response({"name": "tandem", "version": _version(), "extensions": []})

    @app.get("/v2/health/live", tags=["Open Inference"])
    async def live() -> Response:
        """Whether the process answers."""
        return _response({"live": True})

    @app.get("/v2/health/ready", tags=["Open Inference"])
    async def ready() -> Response:
        """Whether every model and the feature registry can answer; 503 with the reasons if not. Warnings: a champion that is not taken."""
        problems, warnings = plane.problems(), plane.warnings()
        details = {**({"reasons": problems} if problems else {}), **({"warnings": warnings} if warnings else {})}
        return _response({"ready": not problems, **details}, 503 if problems else 200)

    @app.get("/v2/models/{name}", tags=["Open Inference"])
    async def model_metadata(name: str) -> Response:
        """What the served version takes and gives."""
        return _response(_v2_metadata(plane, name, None))

    @app.get("/v2/models/{name}/versions/{version}", tags=["Open Inference"])
    async def version_metadata(name: str, version: str) -> Response:
        """What one loaded version takes and gives."""
        return _response(_v2_metadata(plane, name, version))

    @app.get("/v2/models/{name}/ready", tags=["Open Inference"])
    async def model_ready(name: str) -> Response:
        """Whether the model has a version that answers."""
        state = plane.models.state(name)
        reason, warning = state.reason, state.warning
        details = {**({"reason": reason} if reason else {}), **({"warning": warning} if warning and not reason else {})}
        return _response({"name": name, "ready": not reason, **details}, 503 if reason else 200)

    @app.get("/v2/models/{name}/versions/{version}/ready", tags=["Open Inference"])
    async def version_ready(name: str, version: str) -> Response:
        """Whether one version answers."""
        plane.models.get(name, version)
        return _response({"name": name, "ready": True})

    @app.post("/v2/models/{name}/infer", tags=["Open Inference"], openapi_extra=BODIES["infer"])
    async def infer(request: Request, name: str) -> Response:
        """Predictions from named tensors of shape [n]."""
        return await predict(request, name, None, v2_instances, _v2_answer)

    @app.post("/v2/models/{name}/versions/{version}/infer", tags=["Open Inference"], openapi_extra=BODIES["infer"])
    async def infer_version(request: Request, name: str, version: str) -> Response:
        """Predictions of one loaded version from named tensors of shape [n]."""
        return await predict(request, name, version, v2_instances, _v2_answer)

    @app.get("/metrics", tags=["Operation"])
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(plane.metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    return app


def run(settings: ServingSettings) -> None:
    """Serve until interrupted; requests under way are finished first."""
    import uvicorn

    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="info",
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(settings.timeout_seconds)),
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    content: bytes
    after: Callable[[], None] | None = None
    """Called on the event loop once the answer is sent; must not block."""


class _AdmissionControl:
    """Admission control: takes a request's body within limits and has it answered by a thread, within the time limit, or refuses it."""

    def __init__(self, settings: ServingSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="tandem-answer")
        self._free = settings.threads + settings.max_waiting

    async def answer(self, request: Request, work: Callable[[bytes, str], _Answer]) -> Response:
        """The answer of ``work(body, request id)``; it carries the id as ``X-Request-Id``."""
        limit = self._settings.timeout_seconds
        deadline = time.monotonic() + limit
        try:
            body = await asyncio.wait_for(self._body(request), limit)
        except TimeoutError:
            raise TimedOutError(f"the body did not arrive within {limit:g} s; send it again") from None
        if self._free <= 0:
            raise OverloadedError("the server is busy; try again")
        self._free -= 1  # only touched on the event loop
        request_id = _request_id(request)
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, body, request_id)
        future.add_done_callback(self._done)
        try:
            answer = await asyncio.wait_for(asyncio.shield(future), max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise TimedOutError(f"no answer within {limit:g} s; try again") from None
        after = None if answer.after is None else _After(answer.after)
        return Response(answer.content, media_type="application/json", headers={"X-Request-Id": request_id}, background=after)

    def _done(self, future: asyncio.Future[_Answer]) -> None:
        self._free += 1
        if not future.cancelled():
            future.exception()  # after a time-out nobody else asks for it

    async def _body(self, request: Request) -> bytes:
        media = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media not in _TAKEN_AS_JSON and not media.endswith("+json"):
            raise MediaTypeError(f"content-type {media[:60]!r} is not JSON; send application/json")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise MediaTypeError("compressed bodies are not taken; send the JSON as it is")
        most = self._settings.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and len(declared) < 20 and int(declared) > most:
            raise TooLargeError(f"the body has {declared} bytes, more than {most}; split the request")
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise TooLargeError(f"the body has more than {most} bytes; split the request")
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _After(BackgroundTask):
    """A step after the answer is sent, on the event loop itself: a thread of its own would cost more than the step."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step

    async def __call__(self) -> None:
        self._step()


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
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(route, str(status[0])).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)


def _answer_errors(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        status = status_of(error)
        headers = {"Retry-After": "1"} if status == 503 else None
        return _response({"error": " ".join(str(error).split())}, status, headers)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        texts = {404: "no such path; see /docs", 405: f"{request.method} is not allowed here; see /docs"}
        text = texts.get(error.status_code, str(error.detail))
        return _response({"error": text}, error.status_code, dict(error.headers or {}))

    async def defect(request: Request, error: Exception) -> Response:
        log.error("a defect: %s %s", request.method, _route(request), exc_info=error)
        return _response({"error": "internal error; the server's log has the details"}, 500)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        TandemError: known,
        HTTPException: http,
        Exception: defect,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _route(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", "unknown"))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tandem-features")
    except PackageNotFoundError:
        return "unknown"


def _model_summary(model: LoadedModel) -> dict[str, Any]:
    spec = model.spec
    return {"name": spec.name, "version": spec.version, "run": spec.run, "fingerprints": spec.fingerprints}


def _v1_answer(prediction: Prediction) -> dict[str, Any]:
    return {"predictions": prediction.values, "model": _model_summary(prediction.model), "features": group_summary(prediction)}


def _v2_answer(prediction: Prediction) -> dict[str, Any]:
    spec = prediction.model.spec
    return {
        "model_name": spec.name,
        "model_version": str(spec.version),
        "outputs": [{"name": spec.output, "datatype": "FP32", "shape": [len(prediction.values)], "data": prediction.values}],
        "parameters": {"fingerprints": spec.fingerprints, "features": group_summary(prediction)},
    }


def _v2_metadata(plane: Dataplane, name: str, version: str | None) -> dict[str, Any]:
    model = plane.models.get(name, version)
    aliases = plane.models.state(name).aliases
    named = {} if aliases is None else {"aliases": {"champion": aliases.champion, "challenger": aliases.challenger}}
    return {
        "name": name,
        "platform": "tensorflow_savedmodel",
        "versions": [str(v) for v in sorted(plane.models.state(name).loaded, reverse=True)],
        "inputs": [{"name": f.name, "datatype": V2_TYPES[f.dtype], "shape": [-1]} for f in plane.fields(model)],
        "outputs": [{"name": model.spec.output, "datatype": "FP32", "shape": [-1]}],
        "parameters": {**_model_summary(model), "feature_service": model.spec.feature_service, **named},
    }


def _version_status(plane: Dataplane, name: str, version: str | None) -> list[dict[str, Any]]:
    state = plane.models.state(name)
    rows = {v: {"version": str(v), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}} for v in state.loaded}
    for v, why in state.problems.items():
        rows[v] = {"version": str(v), "state": "END", "status": {"error_code": "FAILED_PRECONDITION", "error_message": why}}
    out = [rows[v] for v in sorted(rows, reverse=True) if version is None or str(v) == version]
    if version is not None and not out:
        raise NotFoundError(f"model {name!r} has no version {version[:20]!r}")
    return out


def _other(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=_other, option=orjson.OPT_SERIALIZE_NUMPY)


def _response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_json(value), status, headers, media_type="application/json")
