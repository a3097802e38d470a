"""TensorFlow's operations as numpy calls that give the same bits: what is exact by definition, and no more.

Each entry of :data:`NUMPY` takes a node (and, by position, those of its inputs that are constant) and returns the function of its input
arrays, or raises UnsupportedError. Strings are object arrays of bytes. An argument for which TensorFlow would fail raises an error here, so
that TensorFlow is asked and says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.plan.nodes import Node, UnsupportedError

__all__ = ["NUMPY", "Array", "Constants", "built", "dtype_of", "filled", "plain"]

Array = npt.NDArray[Any]
Constants = Mapping[int, Any]
Builder = Callable[[Node, Constants], Callable[..., Any]]

_TYPES: dict[int, type[Any]] = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_, 7: np.object_}
"""DataType numbers of TensorFlow (tensorflow/core/framework/types.proto)."""
NUMPY: dict[str, Builder] = {}


def dtype_of(node: Node, attribute: str) -> np.dtype[Any]:
    """The numpy dtype of a type attribute; object for strings. Raises UnsupportedError for other types than those of features."""
    number = node.attr[attribute].type
    if number not in _TYPES:
        raise UnsupportedError(f"{node.op} of data type {number}")
    return np.dtype(_TYPES[number])


def _always(function: Callable[..., Any], node: Node, constants: Constants) -> Callable[..., Any]:
    return function


def plain(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function itself stands for the operations ``names``, whatever their attributes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            NUMPY[name] = partial(_always, function)
        return function

    return register


def built(*names: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        for name in names:
            NUMPY[name] = builder
        return builder

    return register


# ------------------------------------------------------------------------------------------------------- arithmetic

_UFUNCS: dict[str, Callable[..., Any]] = {
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "LogicalNot": np.logical_not,
    "Neg": np.negative,
    "Abs": np.abs,
    "Square": np.square,
    "Sqrt": np.sqrt,
    "IsNan": np.isnan,
    "IsInf": np.isinf,
    "IsFinite": np.isfinite,
    "SelectV2": np.where,
}
for _name, _function in _UFUNCS.items():
    plain(_name)(_function)


def _numbers(names: tuple[str, ...], *kinds: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As :func:`plain`, for these data types (attribute T) alone."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def build(node: Node, constants: Constants) -> Callable[..., Any]:
            if dtype_of(node, "T").type not in kinds:
                raise UnsupportedError(f"{node.op} of {dtype_of(node, 'T')}")
            return function

        for name in names:
            NUMPY[name] = build
        return function

    return register


_FLOATS, _INTEGERS = (np.float32, np.float64), (np.int32, np.int64)


@_numbers(("Add",), *_FLOATS, *_INTEGERS)
def _add(a: Array, b: Array) -> Array:
    return a + b


@_numbers(("Div",), *_FLOATS)
def _div(a: Array, b: Array) -> Array:
    return a / b


@_numbers(("Floor",), *_FLOATS)
def _floor(a: Array) -> Array:
    return np.floor(a)


@_numbers(("Ceil",), *_FLOATS)
def _ceil(a: Array) -> Array:
    return np.ceil(a)


@plain("Equal")
def _equal(a: Array, b: Array) -> Array:
    return np.asarray(a == b, np.bool_)


@plain("NotEqual")
def _not_equal(a: Array, b: Array) -> Array:
    return np.asarray(a != b, np.bool_)


def _settled(a: Array) -> Array:
    """Denormals, which count as zero here, as the zero that a kernel would return."""
    return a * a.dtype.type(1) if a.dtype.kind == "f" else a


@plain("Maximum")
def _maximum(a: Array, b: Array) -> Array:
    a, b = _settled(a), _settled(b)
    return _unless_nan(a, np.where(a > b, a, b))  # of zeros of both signs the second, unlike np.maximum


@plain("Minimum")
def _minimum(a: Array, b: Array) -> Array:
    a, b = _settled(a), _settled(b)
    return _unless_nan(a, np.where(a < b, a, b))


def _unless_nan(a: Array, other: Array) -> Array:
    return np.where(a != a, a, other) if a.dtype.kind == "f" else other


@plain("SquaredDifference")
def _squared_difference(a: Array, b: Array) -> Array:
    out: Array = np.square(a - b)
    return out


@plain("DivNoNan")
def _div_no_nan(a: Array, b: Array) -> Array:
    return np.where(b == 0, a.dtype.type(0), a / b)


@plain("MulNoNan")
def _mul_no_nan(a: Array, b: Array) -> Array:
    return np.where(b == 0, a.dtype.type(0), a * b)


def _divisible(b: Array) -> None:
    if not np.all(b):
        raise ZeroDivisionError


@built("FloorDiv")
def _floor_div(node: Node, constants: Constants) -> Callable[..., Any]:
    def whole(a: Array, b: Array) -> Array:
        _divisible(b)
        return a // b

    def real(a: Array, b: Array) -> Array:
        return np.floor(a / b)

    return whole if dtype_of(node, "T").kind == "i" else real


@_numbers(("FloorMod",), *_INTEGERS)
def _floor_mod(a: Array, b: Array) -> Array:
    _divisible(b)
    return a % b


@built("Cast")
def _cast(node: Node, constants: Constants) -> Callable[..., Any]:
    source, target = dtype_of(node, "SrcT"), dtype_of(node, "DstT")
    if "O" in (source.kind, target.kind) or node.attr["Truncate"].b:
        raise UnsupportedError(f"a cast of {source} to {target}")
    return lambda a: a.astype(target)


@plain("Select")
def _select(condition: Array, a: Array, b: Array) -> Array:
    if condition.ndim == 1 and a.ndim > 1:  # chooses whole rows
        condition = condition.reshape([-1] + [1] * (a.ndim - 1))
    return np.where(condition, a, b)


# ---------------------------------------------------------------------------------------------------- of whole numbers

_WHOLE: dict[str, Callable[..., Any]] = {"Sum": np.sum, "Prod": np.prod, "Max": np.max, "Min": np.min, "All": np.all, "Any": np.any}


def _reduction(node: Node, constants: Constants) -> Callable[..., Any]:
    function, keep = _WHOLE[node.op], node.attr["keep_dims"].b
    kind = np.dtype(np.bool_) if node.op in ("All", "Any") else dtype_of(node, "T")
    if kind.kind == "f" or 1 not in constants:
        raise UnsupportedError(f"{node.op} of {kind}")
    axis = tuple(np.atleast_1d(constants[1]).tolist())
    if node.op in ("Max", "Min"):

        def extreme(a: Array, _: Array) -> Array:
            return np.asarray(function(a, axis=axis, keepdims=keep))  # of nothing: an error, and TensorFlow is asked

        return extreme
    return lambda a, _: np.asarray(function(a, axis=axis, keepdims=keep)).astype(kind)


for _name in _WHOLE:
    NUMPY[_name] = _reduction


# ----------------------------------------------------------------------------------------------------------- shapes


@plain("Identity", "StopGradient", "PreventGradient", "Snapshot", "PlaceholderWithDefault", "ReadVariableOp", "EnsureShape")
def _identity(a: Array) -> Array:
    return a


@built("Shape")
def _shape(node: Node, constants: Constants) -> Callable[..., Any]:
    kind = dtype_of(node, "out_type")
    return lambda a: np.array(a.shape, kind)


@built("Size")
def _size(node: Node, constants: Constants) -> Callable[..., Any]:
    kind = dtype_of(node, "out_type")
    return lambda a: np.array(a.size, kind)


@plain("Rank")
def _rank(a: Array) -> Array:
    return np.array(a.ndim, np.int32)


@built("Reshape")
def _reshape(node: Node, constants: Constants) -> Callable[..., Any]:
    if 1 in constants:
        fixed = tuple(constants[1].tolist())
        return lambda a, _: _reshaped(a, fixed)
    return lambda a, shape: _reshaped(a, tuple(shape.tolist()))


def _reshaped(a: Array, shape: tuple[int, ...]) -> Array:
    if a.size or -1 not in shape or 0 not in shape:
        return a.reshape(shape)
    # Of nothing numpy infers no size beside another that is 0; TensorFlow does, by the sizes that are not 0.
    have = math.prod(n for n in a.shape if n)
    return a.reshape([have // math.prod(n for n in shape if n > 0) if n == -1 else n for n in shape])


@built("ExpandDims")
def _expand_dims(node: Node, constants: Constants) -> Callable[..., Any]:
    return lambda a, axis: np.expand_dims(a, int(axis))


@built("Squeeze")
def _squeeze(node: Node, constants: Constants) -> Callable[..., Any]:
    axis = tuple(node.attr["squeeze_dims"].list.i) or None
    return lambda a: np.squeeze(a, axis)


@plain("ConcatV2")
def _concat(*arrays: Array) -> Array:
    return np.concatenate(arrays[:-1], axis=int(arrays[-1]))


@built("Pack")
def _pack(node: Node, constants: Constants) -> Callable[..., Any]:
    axis, kind = node.attr["axis"].i, dtype_of(node, "T")

    def pack(*arrays: Array) -> Array:
        if np.ndim(arrays[0]) == 0:
            return np.array(arrays, kind)
        return np.stack(arrays, axis)

    return pack


@built("Unpack")
def _unpack(node: Node, constants: Constants) -> Callable[..., Any]:
    axis = node.attr["axis"].i
    return lambda a: tuple(np.moveaxis(a, axis, 0))


@built("StridedSlice")
def _strided_slice(node: Node, constants: Constants) -> Callable[..., Any]:
    masks = {name: node.attr[f"{name}_mask"].i for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    if masks["ellipsis"] or masks["new_axis"] or not {1, 2, 3} <= set(constants):
        raise UnsupportedError("a slice of a kind that is not known")
    items: list[Any] = []
    for i, (begin, end, step) in enumerate(zip(*(constants[k].tolist() for k in (1, 2, 3)), strict=True)):
        bit = 1 << i
        if masks["shrink_axis"] & bit:
            items.append(begin)
        else:
            items.append(slice(None if masks["begin"] & bit else begin, None if masks["end"] & bit else end, step))
    at = tuple(items)
    return lambda a, *_: a[at]


@plain("Slice")
def _slice(a: Array, begin: Array, size: Array) -> Array:
    return a[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin.tolist(), size.tolist(), strict=True))]


@plain("Fill")
def filled(shape: Array, value: Array) -> Array:
    out: Array = np.empty(tuple(shape.tolist()), np.asarray(value).dtype)
    out[...] = value
    return out


@plain("ZerosLike")
def _zeros_like(a: Array) -> Array:
    if a.dtype == object:
        return np.full(a.shape, b"", object)
    return np.zeros_like(a)


@_numbers(("OnesLike",), *_FLOATS, *_INTEGERS, np.bool_)
def _ones_like(a: Array) -> Array:
    return np.ones_like(a)


@plain("Tile")
def _tile(a: Array, times: Array) -> Array:
    return np.tile(a, tuple(times.tolist()))


@plain("BroadcastTo")
def _broadcast_to(a: Array, shape: Array) -> Array:
    return np.broadcast_to(a, tuple(shape.tolist()))


@plain("Transpose")
def _transpose(a: Array, axes: Array) -> Array:
    return np.transpose(a, axes.tolist())


@built("Range")
def _range(node: Node, constants: Constants) -> Callable[..., Any]:
    kind = dtype_of(node, "Tidx")
    if kind.kind != "i":
        raise UnsupportedError("a range of fractions")
    return lambda start, limit, step: np.arange(int(start), int(limit), int(step), dtype=kind)
