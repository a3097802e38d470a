"""The body of a request as JSON: keys once, and a cost that grows with the body (SECURITY H2)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.json_body import parse_object
from serving.protocol import RequestField, online_request, v1_instances, v2_instances
from serving.request_errors import BadRequestError, InvalidRequestError

text = st.text(st.sampled_from('a:"\\{}[],\n ü'), max_size=6)
values = st.recursive(st.none() | st.integers(-5, 5) | text, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


@given(st.dictionaries(text, values), st.booleans(), st.sampled_from([None, 1]))
def test_whatever_has_each_key_once_is_read(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@given(st.dictionaries(text, values, min_size=1), st.data())
def test_a_key_twice_at_any_depth_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    """SECURITY low (repeated keys): the last one won."""
    key = data.draw(st.sampled_from(sorted(value)))
    inner = json.dumps(value)[:-1] + f", {json.dumps(key)}: 1}}"
    for body in (inner, f'{{"instances": [1, {{"x": {inner}}}]}}', f'{{"entities": {inner}, "b": [{{}}, "\\\\\\""]}}'):
        with pytest.raises(BadRequestError, match="a duplicate key"):
            parse_object(body.encode())


def steps(work: Callable[[], Any]) -> int:
    """How many lines of Python and calls (of C functions too) some work takes: what grows with the input, whatever the machine does."""
    count = 0

    def traced(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return traced

    sys.settrace(traced)
    sys.setprofile(traced)
    try:
        work()
    except (BadRequestError, InvalidRequestError):
        pass
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return count


class Counted(str):
    """Text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    def __lt__(self, other: str) -> bool:
        Counted.compared += 1
        return str.__lt__(self, other)

    __hash__ = str.__hash__


FIELDS = [RequestField("a", "string"), RequestField("b", "int64", nullable=True)]


def names(n: int) -> Sequence[str]:
    return [Counted(f"v:f{i}") for i in range(n)] + [Counted("v:f0")]


SHAPES: dict[str, Callable[[int], Callable[[], Any]]] = {
    "features, one of them twice": lambda n: lambda: online_request({"features": names(n), "entities": {"a": [1]}}, n),
    "all features twice": lambda n: lambda: online_request({"features": [*names(n), *names(n)], "entities": {"a": [1]}}, n),
    "keys of a body": lambda n: lambda: online_request(dict.fromkeys(names(n), 1), n),
    "entity keys": lambda n: lambda: online_request({"features": ["v:f"], "entities": {k: [1] for k in names(n)}}, n),
    "instances": lambda n: lambda: v1_instances({"instances": [{"a": "x"}] * n}, FIELDS, n),
    "keys of an instance": lambda n: lambda: v1_instances({"instances": [{"a": "x", **dict.fromkeys(names(n))}]}, FIELDS, n),
    "input columns": lambda n: lambda: v1_instances({"inputs": {"a": ["x"] * n, "b": [1.0] * n}}, FIELDS, n),
    "tensors": lambda n: lambda: v2_instances({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [n], "data": ["x"] * n}]}, FIELDS, n),
    "JSON with a key twice": lambda n: lambda: parse_object(b'{"a": [' + b"{}," * n + b'{"b": 1, "b": 2}]}'),
    "JSON of quotes and backslashes": lambda n: lambda: parse_object(b'{"a": "' + b'\\\\\\"' * n + b'"}'),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_cost_of_a_parser_grows_with_its_input(shape: Callable[[int], Callable[[], Any]]) -> None:
    """SECURITY H2: twice the input is about twice the steps and comparisons, never four times."""
    cost = []
    for n in (2_000, 4_000):
        work, Counted.compared = shape(n), 0
        cost.append(steps(work) + Counted.compared)
    assert cost[1] <= 2.5 * cost[0] + 500, cost
