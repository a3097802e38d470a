"""The page at ``/docs``: the OpenAPI document as plain HTML, without a script or anything from another host."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["BODIES", "docs_page", "docs_view"]


def _body(example: dict[str, Any], properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    error = {"content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}}
    reasons = {
        "400": "Not the protocol's JSON",
        "404": "No such model, version or feature",
        "413": "Too many instances, or too large a body",
        "415": "Not JSON",
        "422": "A value is missing, of the wrong type or out of range",
        "503": "Not now: no model, no store, or another fingerprint",
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {code: {"description": text, **error} for code, text in reasons.items()},
    }


_ROWS = {"type": "array", "minItems": 1, "items": {"type": "object"}}

BODIES: dict[str, dict[str, Any]] = {
    "predict": _body(
        {"instances": [{"origin": "JFK", "carrier": "B6"}]},
        {
            "instances": {**_ROWS, "description": "Entity keys and request fields, one object per row."},
            "signature_name": {"const": "serving_default"},
        },
        ["instances"],
    ),
    "features": _body(
        {"features": ["origin_traffic:count_1h"], "entities": {"origin": ["JFK", "LGA"]}, "full_feature_names": False},
        {
            "features": {"type": "array", "items": {"type": "string"}, "description": "view:feature"},
            "feature_service": {"type": "string"},
            "entities": {"type": "object", "additionalProperties": {"type": "array"}},
            "full_feature_names": {"type": "boolean"},
        },
        ["entities"],
    ),
    "infer": _body(
        {"inputs": [{"name": "origin", "datatype": "BYTES", "shape": [2], "data": ["JFK", "LGA"]}]},
        {"id": {"type": "string"}, "inputs": _ROWS, "outputs": {"type": "array"}, "parameters": {"type": "object"}},
        ["inputs"],
    ),
}
"""What the OpenAPI document says about the bodies of requests, which the server parses itself."""


def docs_page(openapi: dict[str, Any]) -> str:
    """One HTML page that describes every path of an OpenAPI document."""
    templates = Environment(
        loader=PackageLoader("serving"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("docs.html").render(docs_view(openapi))


def docs_view(openapi: dict[str, Any]) -> dict[str, Any]:
    """What that page shows: a title, a summary, and the operations by their tags."""
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
