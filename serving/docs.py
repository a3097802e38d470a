"""The page at ``/docs``: the models, services and views of this server, and the OpenAPI document, as plain HTML with examples of its own.

No script, and nothing from another host.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from serving.dataplane import Dataplane
from serving.principals import Principal
from serving.protocol import V2_TYPES, RequestField
from transforms.errors import TandemError
from transforms.fields import RESERVED

__all__ = ["BODIES", "describe", "docs_page", "docs_view", "examples", "own_things", "page_headers"]

_ERROR = {"content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}}
_REFUSED = {
    "401": "Missing or invalid credential (if the server requires authentication)",
    "403": "Outside the caller's scopes",
    "404": "No such model, version, feature or service",
    "503": "Temporarily unavailable: no model, no store, fingerprint mismatch, overload or timeout; see Retry-After",
}
_BODY_REFUSED = {
    "400": "Invalid JSON for this protocol, or a duplicate key",
    "413": "Too many rows, or too large a body",
    "415": "Not JSON",
    "422": "A value is missing, of the wrong type or out of range",
    "429": "Rate limit of the caller exceeded; see Retry-After",
}
_OPEN = ("/v2/health/live", "/v2/health/ready")


def _body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_ROWS = {"type": "array", "minItems": 1, "items": {"type": "object"}}

BODIES: dict[str, dict[str, Any]] = {
    "predict": _body(
        {
            "instances": {**_ROWS, "description": "Entity keys and request fields, one object per row."},
            "inputs": {"type": "object", "additionalProperties": {"type": "array"}, "description": "The same by columns."},
            "signature_name": {"const": "serving_default"},
        },
        [],
    ),
    "features": _body(
        {
            "features": {"type": "array", "items": {"type": "string"}, "description": "view:feature"},
            "feature_service": {"type": "string"},
            "entities": {"type": "object", "additionalProperties": {"type": "array"}},
            "full_feature_names": {"type": "boolean"},
        },
        ["entities"],
    ),
    "infer": _body(
        {"id": {"type": "string"}, "inputs": _ROWS, "outputs": {"type": "array"}, "parameters": {"type": "object"}},
        ["inputs"],
    ),
}
"""What the OpenAPI document says about the bodies of requests, which the server parses itself."""

_VALUES: dict[str, tuple[Any, Any]] = {
    "string": ("a", "b"),
    "int64": (1, 2),
    "float64": (1.5, 2.5),
    "bool": (True, False),
    "timestamp": ("2024-05-01T10:00:00Z", "2024-05-01T11:00:00Z"),
}


def describe(openapi: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the answers that refuse, and with ``own`` examples of :func:`examples`, where there are any."""
    out = copy.deepcopy(openapi)
    out.get("components", {}).get("schemas", {}).pop("HTTPValidationError", None)
    out.get("components", {}).get("schemas", {}).pop("ValidationError", None)
    for path, methods in out["paths"].items():
        for operation in methods.values():
            refused = {} if path in _OPEN else {k: v for k, v in _REFUSED.items() if k not in ("404", "503") or "{" in path or k == "503"}
            if path == "/get-online-features":
                refused = dict(_REFUSED)
            body = operation.get("requestBody")
            if body is not None:
                refused |= _BODY_REFUSED
                kind = "predict" if path.endswith(":predict") else "infer" if path.endswith("/infer") else "features"
                if kind in own:
                    body["content"]["application/json"]["example"] = own[kind]
            elif path == "/v2/health/ready":
                refused = {"503": "Not ready"}
            elif path in ("/v2", "/metrics"):
                refused.pop("503", None)
            answers = {code: answer for code, answer in operation["responses"].items() if code == "200"}
            operation["responses"] = {**answers, **{code: {"description": text, **_ERROR} for code, text in sorted(refused.items())}}
    return out


def examples(plane: Dataplane, principal: Principal) -> dict[str, Any]:
    """Bodies for what this server has, of its first model and service that ``principal`` may ask for: ``predict``, ``infer``, ``features``
    as far as there is something, and ``model``, the model's name."""
    out: dict[str, Any] = {}
    for name, state in plane.models.states.items():
        if state.current is None or not principal.may("model", name):
            continue
        try:
            fields = plane.fields(state.current)
        except TandemError:
            continue
        out["model"] = name
        out["predict"] = {"instances": [_row(fields, 0), _row(fields, 1)]}
        out["infer"] = {
            "inputs": [{"name": f.name, "datatype": V2_TYPES[f.dtype], "shape": [2], "data": list(_VALUES[f.dtype])} for f in fields]
        }
        break
    try:
        catalog = plane.features.catalog
        for name, view in catalog.views.items():
            asked = [f"{name}:{feature}" for feature in view.types if feature not in RESERVED][:2]
            if asked and principal.may("view", name):
                keys = catalog.key_fields(catalog.references(asked))
                out["features"] = {"features": asked, "entities": {f.name: list(_VALUES[f.dtype]) for f in keys} or {"any": ["a", "b"]}}
                break
    except TandemError:
        pass  # the registry is not there yet
    return out


def _row(fields: list[RequestField], i: int) -> dict[str, Any]:
    return {f.name: _VALUES[f.dtype][i] for f in fields}


def own_things(plane: Dataplane, principal: Principal) -> dict[str, Any]:
    """What the page lists: models, feature services and views, as far as ``principal`` may ask for them."""
    models = []
    for name, state in plane.models.states.items():
        if not principal.may("model", name):
            continue
        current = state.current
        try:
            fields = [] if current is None else plane.fields(current)
        except TandemError:
            fields = []
        models.append(
            {
                "name": name,
                "version": None if current is None else current.spec.version,
                "others": sorted((v for v in state.loaded if current is None or v != current.spec.version), reverse=True),
                "why": state.reason,
                "fields": [(f.name, f.dtype + (", may be null" if f.nullable else "")) for f in fields],
                "output": "" if current is None else current.spec.output,
                "service": "" if current is None else current.spec.feature_service,
            }
        )
    views: list[dict[str, Any]] = []
    services: list[dict[str, Any]] = []
    try:
        catalog = plane.features.catalog
        for name, view in catalog.views.items():
            if principal.may("view", name):
                shown = [f for f in view.types if f not in RESERVED]
                views.append({"name": name, "keys": list(view.keys), "features": shown})
        for name, found in catalog.services.items():
            used = catalog.views_of(name)
            if used and all(principal.may("view", v) for v in used):
                services.append({"name": name, "features": [] if isinstance(found, str) else [f"{v}:{f}" for v, f in found.pairs]})
    except TandemError:
        pass
    return {"models": models, "views": views, "services": services}


def docs_page(openapi: dict[str, Any], own: dict[str, Any]) -> str:
    """One HTML page: what this server has (``own``, see :func:`own_things`), then every path of an OpenAPI document."""
    templates = Environment(
        loader=PackageLoader("serving"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("docs.html").render({**docs_view(openapi), **own})


def page_headers(page: str) -> dict[str, str]:
    """The headers of an answer with this page: a browser takes its own styles and nothing else, and shows it in no other page's frame."""
    digests = [
        base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() for own in re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    ]
    styles = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    policy = f"default-src 'none'; style-src {styles}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}


def docs_view(openapi: dict[str, Any]) -> dict[str, Any]:
    """What that page shows of the document: a title, a summary, and the operations by their tags."""
    tags: dict[str, list[dict[str, Any]]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            tags.setdefault(operation.get("tags", ["Other"])[0], []).append(_operation(path, method, operation))
    return {"title": openapi["info"]["title"], "summary": openapi["info"].get("summary", ""), "tags": tags}


def _operation(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    media = operation.get("requestBody", {}).get("content", {}).values()
    return {
        "method": method.upper(),
        "path": path,
        "text": operation.get("description", ""),
        "examples": [json.dumps(m["example"], indent=1) for m in media if "example" in m],
        "answers": [(code, a.get("description", "")) for code, a in sorted(operation.get("responses", {}).items())],
    }
