"""The page at ``/docs``: the OpenAPI document as plain HTML, without a script or anything from another host."""

from __future__ import annotations

import html
import json
from typing import Any

__all__ = ["BODIES", "docs_page"]


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

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
code,pre{font-family:ui-monospace,monospace;font-size:13px}pre{background:#f3f5f7;padding:.7rem;overflow:auto;border-radius:6px}
h3{margin:1.6rem 0 .2rem}b{display:inline-block;min-width:3.2rem;color:#0b6b4f}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"""


def docs_page(openapi: dict[str, Any]) -> str:
    """One HTML page that describes every path of an OpenAPI document."""
    groups: dict[str, list[str]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation.get("tags", ["Other"])[0], []).append(_operation(path, method, operation))
    body = "".join(f"<h2>{html.escape(tag)}</h2>{''.join(parts)}" for tag, parts in groups.items())
    title, summary = html.escape(openapi["info"]["title"]), html.escape(openapi["info"].get("summary", ""))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{summary} The same as JSON: <a href=openapi.json>openapi.json</a>.</p>{body}</html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    out = [f"<h3><b>{method.upper()}</b> <code>{html.escape(path)}</code></h3><p>{html.escape(operation.get('description', ''))}</p>"]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        if "example" in media:
            out.append(f"<pre>{html.escape(json.dumps(media['example'], indent=1))}</pre>")
    answers = sorted(operation.get("responses", {}).items())
    rows = "".join(f"<tr><td>{code}<td>{html.escape(answer.get('description', ''))}" for code, answer in answers)
    return "".join(out) + f"<table>{rows}</table>"
