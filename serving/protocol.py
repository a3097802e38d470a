"""Bodies of requests: bytes in, checked columns out. Pure functions, no HTTP and no store.

Every mistake in a body is one :class:`~transforms.errors.TandemError` whose line names the place, the value and the
fix. Values are checked by column, so that a request of 10,000 rows costs a few passes over lists.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from serving.json_body import kind_of, shortened
from serving.request_errors import BadRequestError, InvalidRequestError, TooLargeError
from transforms.fields import MAX_TEXT_BYTES
from transforms.instants import micros_of

__all__ = [
    "OnlineRequest",
    "RequestField",
    "checked_column",
    "format_timestamp",
    "online_request",
    "rows_to_columns",
    "v1_instances",
    "v2_instances",
    "v2_names",
]

_INT64 = 2**63
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class RequestField:
    """A field that a caller sends: its name, dtype (of ``transforms.definitions``) and whether null is a value of it."""

    name: str
    dtype: str
    nullable: bool = False


def v1_instances(body: Mapping[str, Any], fields: Sequence[RequestField], limit: int) -> tuple[dict[str, list[Any]], int]:
    """Columns and number of rows of a TF-Serving predict body: in row format, ``{"instances": [{field: value}]}``, or in column format,
    ``{"inputs": {field: [value]}}`` with lists of shape [n] or [n, 1]. A row's value may be a list of one; a model of one field takes the
    values themselves, ``{"instances": [value]}`` or ``{"inputs": [value]}``."""
    _only_keys(body, ("instances", "inputs", "signature_name"))
    if body.get("signature_name", "serving_default") != "serving_default":
        raise InvalidRequestError(f"signature_name {shortened(body['signature_name'])}: the model has only 'serving_default'")
    if "inputs" in body:
        if "instances" in body:
            raise InvalidRequestError('give either "instances" or "inputs", not both')
        inputs = body["inputs"]
        return _v1_inputs({fields[0].name: inputs} if len(fields) == 1 and isinstance(inputs, list) else inputs, fields, limit)
    instances = _list_of(body, "instances", limit)
    if len(fields) == 1 and not any(isinstance(row, dict) for row in instances):
        instances = [{fields[0].name: value} for value in instances]
    return rows_to_columns(instances, fields), len(instances)


def _v1_inputs(inputs: Any, fields: Sequence[RequestField], limit: int) -> tuple[dict[str, list[Any]], int]:
    known = {f.name: f for f in fields}
    if not isinstance(inputs, dict) or not inputs:
        problem = "is empty" if inputs == {} else f"is {kind_of(inputs)}"
        raise InvalidRequestError(f'"inputs" {problem}; give an object with a list of values for each of {_names(known)}')
    if unknown := inputs.keys() - known.keys():
        raise InvalidRequestError(f'"inputs" has the unknown field {_names(unknown)}; the model takes {_names(known)}')
    data: dict[str, list[Any]] = {}
    for name, values in inputs.items():
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"inputs.{name} must be a list of at least one value")
        if len(values) > limit:
            raise TooLargeError(f"inputs.{name} has {len(values)} values, more than {limit}; split the request")
        data[name] = checked_column(_flat(values), known[name], f"inputs.{name}[{{i}}]")
    return _same_length(data, fields)


def _flat(values: list[Any]) -> list[Any]:
    """The values of a tensor of shape [n] or [n, 1]."""
    return [v[0] for v in values] if all(isinstance(v, list) and len(v) == 1 for v in values) else values


def _same_length(data: Mapping[str, list[Any]], fields: Sequence[RequestField]) -> tuple[dict[str, list[Any]], int]:
    if missing := {f.name for f in fields if not f.nullable} - data.keys():
        raise InvalidRequestError(f"inputs lack {_names(missing)}; the model takes {_names(f.name for f in fields)}")
    sizes = {len(v) for v in data.values()}
    if len(sizes) != 1:
        raise InvalidRequestError(f"inputs have different lengths {sorted(sizes)}; give each the same number of values")
    n = sizes.pop()
    return {f.name: data.get(f.name, [None] * n) for f in fields}, n


def rows_to_columns(instances: Sequence[Any], fields: Sequence[RequestField]) -> dict[str, list[Any]]:
    """One checked list of N values per field, from N objects that hold exactly the fields (nullable ones may be left out)."""
    expected = {f.name for f in fields}
    required = {f.name for f in fields if not f.nullable}
    for i, row in enumerate(instances):
        if not isinstance(row, dict):
            raise InvalidRequestError(f"instances[{i}] is {kind_of(row)}; send an object with {_names(expected)}")
        keys = row.keys()
        if keys == expected:
            continue
        missing, unknown = required - keys, keys - expected
        if missing:
            raise InvalidRequestError(f"instances[{i}] lacks {_names(missing)}; every instance needs {_names(required)}")
        if unknown:
            raise InvalidRequestError(f"instances[{i}] has the unknown field {_names(unknown)}; the model takes {_names(expected)}")
    columns = {f.name: _flat([row.get(f.name) for row in instances]) for f in fields}
    return {f.name: checked_column(columns[f.name], f, f"instances[{{i}}].{f.name}") for f in fields}


def v2_instances(body: Mapping[str, Any], fields: Sequence[RequestField], limit: int) -> tuple[dict[str, list[Any]], int]:
    """Columns and number of rows of an Open Inference v2 infer body; each input is a tensor of shape [n] or [n, 1]."""
    _only_keys(body, ("id", "parameters", "inputs", "outputs", "model_name", "model_version"))
    if not isinstance(body.get("id", ""), str):
        raise InvalidRequestError(f"id is {kind_of(body['id'])}; give a string")
    known = {f.name: f for f in fields}
    data: dict[str, list[Any]] = {}
    for i, tensor in enumerate(_list_of(body, "inputs", 10_000)):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise InvalidRequestError(f"inputs[{i}] needs a name, shape, datatype and data")
        name = tensor["name"]
        if name not in known:
            raise InvalidRequestError(f"inputs[{i}]: unknown input {shortened(name)}; the model takes {_names(known)}")
        if name in data:
            raise InvalidRequestError(f"inputs[{i}]: input {name!r} is there twice")
        values, datatype = tensor.get("data"), V2_TYPES[known[name].dtype]
        if values is None and "binary_data_size" in (tensor.get("parameters") or {}):
            raise InvalidRequestError(f"input {name!r}: {NO_BINARY}")
        if tensor.get("datatype") != datatype:
            raise InvalidRequestError(f"input {name!r}: datatype {shortened(tensor.get('datatype'))} should be {datatype!r}")
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"input {name!r}: data must be a list of at least one value")
        n = len(values)
        if n > limit:
            raise TooLargeError(f"input {name!r}: data has {n} values, more than {limit}; split the request")
        if tensor.get("shape") not in ([n], [n, 1]):
            raise InvalidRequestError(f"input {name!r}: shape {shortened(tensor.get('shape'))} should be [{n}] or [{n}, 1]")
        data[name] = checked_column(_flat(values), known[name], f"input {name!r}, value {{i}}")
    return _same_length(data, fields)


NO_BINARY = "binary tensor data is not supported; send data as JSON (tritonclient: set_data_from_numpy(..., binary_data=False))"


def v2_names(body: Mapping[str, Any], model: str, version: int, output: str) -> None:
    """Check what an Open Inference body names beside its inputs: the outputs that it asks for, of which the model has one, and the model
    itself, which KServe's client says in the body, too. Raises InvalidRequestError."""
    for key, ours in (("model_name", model), ("model_version", str(version))):
        if body.get(key) not in (None, "", ours):
            raise InvalidRequestError(f"{key} {shortened(body[key])} of the body does not match the path, {ours!r}; correct one of them")
    asked = body.get("outputs", [])
    for i, one in enumerate(asked if isinstance(asked, list) else [asked]):
        name = one.get("name") if isinstance(one, dict) else one
        if name != output:
            raise InvalidRequestError(f"outputs[{i}]: unknown output {shortened(name)}; the model has {output!r}")


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
    _only_keys(body, ("features", "feature_service", "entities", "full_feature_names", *(k for k in _UNUSED if body.get(k) is None)))
    service, refs = body.get("feature_service"), body.get("features")
    if (service is None) == (refs is None):
        raise InvalidRequestError('give either "feature_service" or "features", not both')
    if service is not None and not isinstance(service, str):
        raise InvalidRequestError(f"feature_service is {kind_of(service)}; give its name as a string")
    if refs is not None and (not isinstance(refs, list) or not refs or not all(isinstance(r, str) and r.count(":") == 1 for r in refs)):
        raise InvalidRequestError('features must be a list of one or more "view:feature" strings')
    if refs is not None and (twice := [r for r, times in Counter(refs).items() if times > 1]):
        raise InvalidRequestError(f"features: {_names(twice)} is requested twice; request it once")
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
        raise InvalidRequestError(f"full_feature_names is {kind_of(full)}; give true or false")
    return OnlineRequest(service, tuple(refs or ()), entities, sizes.pop(), full)


def checked_column(values: list[Any], field: RequestField, where: str) -> list[Any]:
    """``values`` as Python values of the field's dtype; timestamps become int64 microseconds of UTC.

    ``where`` is a format string with ``{i}`` for the row, used in errors. Whole numbers are taken for a float64 field; for an int64 field
    what JavaScript and the JSON of protobuf send: decimal text, and floats without a fraction below 2^53; for float64 decimal text, too.
    Nothing else is converted.
    Texts obey the contract's limit of 64 KiB.
    """
    kinds = set(map(type, values))
    if type(None) in kinds:
        if not field.nullable:
            raise InvalidRequestError(f"{where.format(i=values.index(None))} is null; give {_a(field.dtype)} value")
        kinds.discard(type(None))
    if field.dtype == "timestamp":
        return [None if v is None else _timestamp(v, where, i) for i, v in enumerate(values)]
    if field.dtype == "int64" and not kinds <= {int}:
        values = [v if v is None or type(v) is int else _whole(v) for v in values]
        kinds = set(map(type, values)) - {type(None)}
    if field.dtype == "float64" and str in kinds:
        values = [float(v) if type(v) is str and _REAL.fullmatch(v) else v for v in values]
        kinds = set(map(type, values)) - {type(None)}
    allowed = _PYTHON[field.dtype]
    if not kinds <= allowed:
        i, bad = next((i, v) for i, v in enumerate(values) if v is not None and type(v) not in allowed)
        raise InvalidRequestError(f"{where.format(i=i)} is {shortened(bad)} ({kind_of(bad)}); give {_a(field.dtype)} value")
    whole = int in kinds and field.dtype == "int64"
    if whole and (None in values or not -_INT64 <= min(values) <= max(values) < _INT64):
        for i, v in enumerate(values):
            if v is not None and not -_INT64 <= v < _INT64:
                raise InvalidRequestError(f"{where.format(i=i)} is {shortened(v)}, beyond 64 bits; give an int64 value")
    if field.dtype == "string" and kinds and max(map(len, filter(None, values)), default=0) * 4 > MAX_TEXT_BYTES:
        for i, v in enumerate(values):
            if v is not None and len(v.encode()) > MAX_TEXT_BYTES:
                raise InvalidRequestError(f"{where.format(i=i)} has more than {MAX_TEXT_BYTES} bytes; give a shorter text")
    if field.dtype == "float64" and kinds:
        if int in kinds:
            values = [None if v is None else float(v) for v in values]
        if not all(v is None or math.isfinite(v) for v in values):
            raise InvalidRequestError(f"{where.format(i=0)} is not finite; give a float64 value")
    return values


@lru_cache(maxsize=16_384)
def format_timestamp(us: int) -> str:
    """RFC 3339 of microseconds since the epoch, in UTC, with as many fractional digits (0, 3 or 6) as protobuf's JSON uses.

    What rows are asked for is kept: a group's rows lie on the boundaries of its hop, so many share few times.
    """
    second, rest = divmod(us, 1_000_000)
    text = _second(second)
    if not rest:
        return f"{text}Z"
    return f"{text}.{rest:06d}Z" if rest % 1000 else f"{text}.{rest // 1000:03d}Z"


@lru_cache(maxsize=8192)
def _second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds")


def _whole(value: Any) -> Any:
    """The integer that a JSON value other than an integer stands for; the value itself if it stands for none."""
    if type(value) is str and _DECIMAL.fullmatch(value):
        return int(value)
    if type(value) is float and value.is_integer() and abs(value) < 2**53:  # from there on the float may be a neighbour of what was meant
        return int(value)
    return value


_REAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_DECIMAL = re.compile(r"-?[0-9]{1,19}")
_UNUSED = ("query", "query_embedding", "query_string")
"""What bodies of Feast's clients hold for searches by vector: taken where null."""
_PYTHON: dict[str, set[type]] = {"string": {str}, "int64": {int}, "float64": {int, float}, "bool": {bool}}


def _timestamp(value: Any, where: str, i: int) -> int:
    if isinstance(value, str) and len(value) <= 64:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is not None and at.tzinfo is not None:
            return micros_of(at)
    raise InvalidRequestError(
        f"{where.format(i=i)} is {shortened(value)}; give a timestamp with its offset, such as '2013-07-01T12:00:00Z'"
    )


def _only_keys(body: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = [k for k in body if k not in allowed]
    if unknown:
        raise BadRequestError(f"unknown key {_names(unknown)} in the body; it may hold {_names(allowed)}")


def _list_of(body: Mapping[str, Any], key: str, limit: int) -> list[Any]:
    value = body.get(key)
    if not isinstance(value, list) or not value:
        problem = "is missing" if key not in body else "is empty" if value == [] else f"is {kind_of(value)}"
        raise InvalidRequestError(f'"{key}" {problem}; give a list of at least one object')
    if len(value) > limit:
        raise TooLargeError(f'"{key}" has {len(value)} entries, more than {limit}; split the request')
    return value


def _a(dtype: str) -> str:
    """A dtype behind its article: ``an int64``, ``a string``."""
    return f"an {dtype}" if dtype[0] in "aeiou" else f"a {dtype}"


def _plain(name: str) -> str:
    return shortened(name)[1:-1]


def _names(names: Iterable[str]) -> str:
    """At most eight names, the first in order, quoted, each cut to a length that is read."""
    names = list(names)
    return ", ".join(shortened(n) for n in heapq.nsmallest(8, names)) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
