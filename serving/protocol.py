"""Bodies of requests: bytes in, checked columns out. Pure functions, no HTTP and no store.

Every mistake in a body is one :class:`~transforms.errors.TandemError` whose line names the place, the value and the
fix. Values are checked by column, so that a request of 10,000 rows costs a few passes over lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from serving.errors import BadRequestError, InvalidRequestError, TooLargeError
from transforms.instants import instant, micros_of

__all__ = [
    "OnlineRequest",
    "RequestField",
    "checked_column",
    "format_timestamp",
    "online_request",
    "parse_object",
    "rows_to_columns",
    "v1_instances",
    "v2_instances",
]

_INT64 = 2**63


@dataclass(frozen=True)
class RequestField:
    """A field that a caller sends: its name, dtype (of ``transforms.definitions``) and whether null is a value of it."""

    name: str
    dtype: str
    nullable: bool = False


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. NaN, Infinity, numbers beyond float64, invalid UTF-8 and deep nesting are refused."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        where = f"line {e.lineno} column {e.colno}"
        raise BadRequestError(f"the body is not valid JSON: {e.msg} ({where}); send one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise BadRequestError(f'the body is {_kind(value)}; send a JSON object such as {{"instances": [{{...}}]}}')
    return value


def v1_instances(body: Mapping[str, Any], fields: Sequence[RequestField], limit: int) -> tuple[dict[str, list[Any]], int]:
    """Columns and number of rows of a TF-Serving predict body in row format, ``{"instances": [{field: value}]}``."""
    _only_keys(body, ("instances", "signature_name"))
    if body.get("signature_name", "serving_default") != "serving_default":
        raise InvalidRequestError(f"signature_name {_short(body['signature_name'])}: the model has only 'serving_default'")
    instances = _list_of(body, "instances", limit)
    return rows_to_columns(instances, fields), len(instances)


def rows_to_columns(instances: Sequence[Any], fields: Sequence[RequestField]) -> dict[str, list[Any]]:
    """One checked list of N values per field, from N objects that hold exactly the fields (nullable ones may be left out)."""
    expected = {f.name for f in fields}
    required = {f.name for f in fields if not f.nullable}
    for i, row in enumerate(instances):
        if not isinstance(row, dict):
            raise InvalidRequestError(f"instances[{i}] is {_kind(row)}; send an object with {_names(expected)}")
        keys = row.keys()
        if keys == expected:
            continue
        missing, unknown = required - keys, keys - expected
        if missing:
            raise InvalidRequestError(f"instances[{i}] lacks {_names(missing)}; every instance needs {_names(required)}")
        if unknown:
            raise InvalidRequestError(f"instances[{i}] has the unknown field {_names(unknown)}; the model takes {_names(expected)}")
    return {f.name: checked_column([row.get(f.name) for row in instances], f, f"instances[{{i}}].{f.name}") for f in fields}


def v2_instances(body: Mapping[str, Any], fields: Sequence[RequestField], limit: int) -> tuple[dict[str, list[Any]], int]:
    """Columns and number of rows of an Open Inference v2 infer body; each input is a tensor of shape [n] or [n, 1]."""
    _only_keys(body, ("id", "parameters", "inputs", "outputs"))
    known = {f.name: f for f in fields}
    data: dict[str, list[Any]] = {}
    for i, tensor in enumerate(_list_of(body, "inputs", 10_000)):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise InvalidRequestError(f"inputs[{i}] needs a name, shape, datatype and data")
        name = tensor["name"]
        if name not in known:
            raise InvalidRequestError(f"inputs[{i}]: unknown input {_short(name)}; the model takes {_names(known)}")
        if name in data:
            raise InvalidRequestError(f"inputs[{i}]: input {name!r} is there twice")
        values, datatype = tensor.get("data"), V2_TYPES[known[name].dtype]
        if tensor.get("datatype") != datatype:
            raise InvalidRequestError(f"input {name!r}: datatype {_short(tensor.get('datatype'))} should be {datatype!r}")
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"input {name!r}: data must be a list of at least one value")
        n = len(values)
        if n > limit:
            raise TooLargeError(f"input {name!r}: data has {n} values, more than {limit}; split the request")
        if tensor.get("shape") not in ([n], [n, 1]):
            raise InvalidRequestError(f"input {name!r}: shape {_short(tensor.get('shape'))} should be [{n}] or [{n}, 1]")
        if all(isinstance(v, list) and len(v) == 1 for v in values):
            values = [v[0] for v in values]
        data[name] = checked_column(values, known[name], f"input {name!r}, value {{i}}")
    missing = {f.name for f in fields if not f.nullable} - data.keys()
    if missing:
        raise InvalidRequestError(f"inputs lack {_names(missing)}; the model takes {_names(known)}")
    sizes = {len(v) for v in data.values()}
    if len(sizes) != 1:
        raise InvalidRequestError(f"inputs have different lengths {sorted(sizes)}; give each the same number of values")
    n = sizes.pop()
    return {f.name: data.get(f.name, [None] * n) for f in fields}, n


V2_TYPES = {"string": "BYTES", "int64": "INT64", "float64": "FP64", "bool": "BOOL", "timestamp": "BYTES"}
"""Open Inference datatypes of our dtypes."""


@dataclass(frozen=True)
class OnlineRequest:
    """A request for online features: a feature service or references ``view:feature``, and N values per entity key."""

    feature_service: str | None
    features: tuple[str, ...]
    entities: dict[str, list[Any]]
    rows: int
    full_feature_names: bool


def online_request(body: Mapping[str, Any], limit: int) -> OnlineRequest:
    """The request in a body of Feast's feature server; entity values are checked later, when their types are known."""
    _only_keys(body, ("features", "feature_service", "entities", "full_feature_names"))
    service, refs = body.get("feature_service"), body.get("features")
    if (service is None) == (refs is None):
        raise InvalidRequestError('give either "feature_service" or "features", and not both')
    if service is not None and not isinstance(service, str):
        raise InvalidRequestError(f"feature_service is {_kind(service)}; give its name as a string")
    if refs is not None and (not isinstance(refs, list) or not refs or not all(isinstance(r, str) and r.count(":") == 1 for r in refs)):
        raise InvalidRequestError('features must be a list of one or more "view:feature" strings')
    if refs is not None and len(refs) != len(set(refs)):
        raise InvalidRequestError(f"features: {_names([r for r in set(refs) if refs.count(r) > 1])} is there twice; ask for it once")
    entities = body.get("entities")
    if not isinstance(entities, dict) or not entities:
        raise InvalidRequestError('entities must be an object of lists, such as {"origin": ["JFK", "LGA"]}')
    for key, values in entities.items():
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"entities.{_plain(key)} must be a list of at least one value")
        if len(values) > limit:
            raise TooLargeError(f"entities.{_plain(key)} has {len(values)} values, more than {limit}; split the request")
    sizes = {len(v) for v in entities.values()}
    if len(sizes) != 1:
        raise InvalidRequestError(f"entities have lists of different lengths {sorted(sizes)}; give each key the same number of values")
    full = body.get("full_feature_names", False)
    if not isinstance(full, bool):
        raise InvalidRequestError(f"full_feature_names is {_kind(full)}; give true or false")
    return OnlineRequest(service, tuple(refs or ()), entities, sizes.pop(), full)


def checked_column(values: list[Any], field: RequestField, where: str) -> list[Any]:
    """``values`` as Python values of the field's dtype; timestamps become int64 microseconds of UTC.

    ``where`` is a format string with ``{i}`` for the row, used in errors. Whole numbers are taken for a float64 field; nothing
    else is converted.
    """
    kinds = set(map(type, values))
    if type(None) in kinds:
        if not field.nullable:
            raise InvalidRequestError(f"{where.format(i=values.index(None))} is null; give a {field.dtype} value")
        kinds.discard(type(None))
    if field.dtype == "timestamp":
        return [None if v is None else _timestamp(v, where, i) for i, v in enumerate(values)]
    allowed = _PYTHON[field.dtype]
    if not kinds <= allowed:
        i, bad = next((i, v) for i, v in enumerate(values) if v is not None and type(v) not in allowed)
        raise InvalidRequestError(f"{where.format(i=i)} is {_short(bad)} ({_kind(bad)}); give a {field.dtype} value")
    if int in kinds and field.dtype == "int64":
        for i, v in enumerate(values):
            if v is not None and not -_INT64 <= v < _INT64:
                raise InvalidRequestError(f"{where.format(i=i)} is {_short(v)}, beyond 64 bits; give an int64 value")
    if field.dtype == "float64" and kinds:
        if int in kinds:
            values = [None if v is None else float(v) for v in values]
        if not all(v is None or math.isfinite(v) for v in values):
            raise InvalidRequestError(f"{where.format(i=0)} is not finite; give a float64 value")
    return values


def format_timestamp(us: int) -> str:
    """RFC 3339 of microseconds since the epoch, in UTC, with as many fractional digits (0, 3 or 6) as protobuf's JSON uses."""
    text = instant(us).replace(tzinfo=None)
    spec = "seconds" if us % 1_000_000 == 0 else "milliseconds" if us % 1000 == 0 else "microseconds"
    return text.isoformat(timespec=spec) + "Z"


_PYTHON: dict[str, set[type]] = {"string": {str}, "int64": {int}, "float64": {int, float}, "bool": {bool}}


def _timestamp(value: Any, where: str, i: int) -> int:
    if isinstance(value, str) and len(value) <= 64:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is not None and at.tzinfo is not None:
            return micros_of(at)
    raise InvalidRequestError(f"{where.format(i=i)} is {_short(value)}; give a timestamp with its offset, such as '2013-07-01T12:00:00Z'")


def _only_keys(body: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = [k for k in body if k not in allowed]
    if unknown:
        raise BadRequestError(f"unknown key {_names(unknown)} in the body; it may hold {_names(allowed)}")


def _list_of(body: Mapping[str, Any], key: str, limit: int) -> list[Any]:
    value = body.get(key)
    if not isinstance(value, list) or not value:
        problem = "is missing" if key not in body else "is empty" if value == [] else f"is {_kind(value)}"
        raise InvalidRequestError(f'"{key}" {problem}; give a list of at least one object')
    if len(value) > limit:
        raise TooLargeError(f'"{key}" has {len(value)} entries, more than {limit}; split the request')
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    return names[type(value)]


def _short(value: Any) -> str:
    """``value`` on one line of at most 60 characters."""
    text = repr(value[:61]) if isinstance(value, str) else f"{_kind(value)}" if isinstance(value, (list, dict)) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(name: str) -> str:
    return _short(name)[1:-1]


def _names(names: Iterable[str]) -> str:
    """At most eight names, sorted, quoted, each cut to a length that is read."""
    ordered = sorted(names)
    return ", ".join(_short(n) for n in ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")
