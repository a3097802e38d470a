"""What the server answers, as JSON: each protocol's own words for predictions, models and versions."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

from serving.dataplane import Dataplane, Prediction, group_summary
from serving.models import LoadedModel
from serving.protocol import V2_TYPES
from serving.request_errors import NotFoundError

__all__ = ["as_json", "own_version", "response", "v1_answer", "v1_metadata", "v2_answer", "v2_metadata", "version_status"]


def own_version() -> str:
    """The version of the package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tandem-features")
    except PackageNotFoundError:
        return "unknown"


def _model_summary(model: LoadedModel) -> dict[str, Any]:
    spec = model.spec
    return {"name": spec.name, "version": spec.version, "run": spec.run, "fingerprints": spec.fingerprints}


def v1_answer(prediction: Prediction, body: Mapping[str, Any]) -> dict[str, Any]:
    """TF-Serving's answer: ``predictions``, or ``outputs`` to a body in column format; our own keys beside it. ``not_finite``, where there
    are some: the rows where null stands for a number that JSON does not have."""
    return {
        "outputs" if "inputs" in body else "predictions": prediction.values,
        **({"not_finite": list(prediction.odd)} if prediction.odd else {}),
        "model": _model_summary(prediction.model),
        "features": group_summary(prediction),
    }


def v2_answer(prediction: Prediction, body: Mapping[str, Any]) -> dict[str, Any]:
    """Open Inference's answer, with the request's own ``id`` if it had one. Parameters are texts (of JSON): the protocol has no lists."""
    spec = prediction.model.spec
    odd = {"not_finite": _text(list(prediction.odd))} if prediction.odd else {}
    return {
        **({"id": body["id"]} if "id" in body else {}),
        "model_name": spec.name,
        "model_version": str(spec.version),
        "outputs": [{"name": spec.output, "datatype": "FP32", "shape": [len(prediction.values)], "data": prediction.values}],
        "parameters": {"fingerprints": _text(spec.fingerprints), "features": _text(group_summary(prediction)), **odd},
    }


def _text(value: Any) -> str:
    return as_json(value).decode()


def v2_metadata(plane: Dataplane, name: str, version: str | None) -> dict[str, Any]:
    """What Open Inference says of a model."""
    model = plane.models.get(name, version)
    aliases = plane.models.state(name).aliases
    named = {} if aliases is None else {"aliases": {"champion": aliases.champion, "challenger": aliases.challenger}}
    return {
        "name": name,
        "platform": model.runner.platform,
        "versions": [str(v) for v in sorted(plane.models.state(name).loaded, reverse=True)],
        "inputs": [{"name": f.name, "datatype": V2_TYPES[f.dtype], "shape": [-1]} for f in plane.fields(model)],
        "outputs": [{"name": model.spec.output, "datatype": "FP32", "shape": [-1]}],
        "parameters": {**_model_summary(model), "feature_service": model.spec.feature_service, **named},
    }


def v1_metadata(plane: Dataplane, name: str, version: str | None) -> dict[str, Any]:
    """What TF-Serving says of a model: the signature of its requests (``dim`` -1: the rows), of one loaded version or the one served."""
    model = plane.models.get(name, version)
    spec = model.spec
    signature = {
        "inputs": {f.name: _tensor(f.name, _V1_TYPES[f.dtype]) for f in plane.fields(model)},
        "outputs": {spec.output: _tensor(spec.output, "DT_FLOAT")},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": spec.name, "signature_name": "", "version": str(spec.version)},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


_V1_TYPES = {"string": "DT_STRING", "int64": "DT_INT64", "float64": "DT_DOUBLE", "bool": "DT_BOOL", "timestamp": "DT_STRING"}


def _tensor(name: str, dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}, "name": name}


def version_status(plane: Dataplane, name: str, version: str | None) -> list[dict[str, Any]]:
    """The state of one version known, or of all, newest first. Raises NotFoundError."""
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


def as_json(value: Any) -> bytes:
    """JSON; bytes as base64, NaN as null."""
    return orjson.dumps(value, default=_other, option=orjson.OPT_SERIALIZE_NUMPY)


def response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of JSON."""
    return Response(as_json(value), status, headers, media_type="application/json")
