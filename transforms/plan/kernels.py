"""TensorFlow's own kernels, called one by one on eager tensors, for operations whose bits depend on how they are written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.plan.nodes import Node, UnsupportedError
from transforms.tensors import bytes_tensor, number_tensor

__all__ = ["EACH", "WORD_KERNELS", "as_tensor", "kernel", "word_kernel"]

_OF_EACH = """Acos Acosh Asin Asinh Atan Atan2 Atanh Cos Cosh Digamma Elu Erf Erfc Erfinv Exp Expm1 FloorMod Lgamma LeakyRelu Log Log1p Pow
Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh Xdivy Xlogy ClipByValue"""
_OF_SEVERAL = "AddN BatchMatMulV2 BiasAdd LogSoftmax MatMul Max Mean Min Prod Softmax Sum"
EACH = frozenset(_OF_EACH.split())
"""Operations on each number alone."""
KERNELS = EACH | frozenset(_OF_SEVERAL.split())
"""Operations on numbers, without state, with one output."""
WORD_KERNELS = frozenset(
    ["StringToHashBucketFast", "StringToHashBucketStrong", "StaticRegexReplace", "StringLength", "StringLower", "StringUpper"]
)
"""Operations on each text alone."""
_KEPT_WORDS, _KEPT_LENGTH = 20_000, 200
"""How many results of such an operation are remembered, of texts of how many bytes at most."""


def kernel(node: Node, any_operation: bool = False) -> Callable[..., Any]:
    """The function of the node's tensors that runs its kernel, eagerly or inside a ``tf.function``.

    Raises UnsupportedError for an operation that is not in KERNELS, unless ``any_operation``.
    """
    if node.op not in KERNELS and not any_operation:
        raise UnsupportedError(f"{node.op} is not known")
    listed = {"AddN": len(node.inputs), "Pack": len(node.inputs), "ConcatV2": len(node.inputs) - 1}.get(node.op, 0)
    operation, inputs, attributes = _operation(node, len(node.inputs) - listed + 1 if listed else len(node.inputs))

    def call(*tensors: Any) -> Any:
        given = (list(tensors[:listed]), *tensors[listed:]) if listed else tensors
        return operation(**dict(zip(inputs, given, strict=True)), **attributes)

    return call


def word_kernel(node: Node) -> Callable[..., Any]:
    """The function of an array of texts that gives what the node's kernel gives. It remembers results, for tensors of texts are dear.

    Raises UnsupportedError for an operation that is not in WORD_KERNELS.
    """
    if node.op not in WORD_KERNELS:
        raise UnsupportedError(f"{node.op} is not known")
    operation, (name,), attributes = _operation(node, 1)
    known: dict[bytes, Any] = {}

    def call(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
        asked = words.ravel().tolist()
        new = [w for w in dict.fromkeys(asked) if w not in known]
        results: dict[bytes, Any] = known
        if new:
            made = operation(**{name: bytes_tensor(pa.array(new, pa.binary()))}, **attributes).numpy()
            results = {w: known[w] for w in asked if w in known} | dict(zip(new, made, strict=True))
            if len(known) + len(new) > _KEPT_WORDS:
                known.clear()
            known.update((w, v) for w, v in zip(new[:_KEPT_WORDS], made, strict=False) if len(w) <= _KEPT_LENGTH)
        return _filled([results[w] for w in asked], words.shape)

    empty = operation(**{name: bytes_tensor(pa.array([b""], pa.binary()))}, **attributes).numpy()

    def _filled(values: list[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        out = np.empty(len(values), empty.dtype)
        out[:] = values
        return out.reshape(shape)

    return call


def _operation(node: Node, taken: int) -> tuple[Callable[..., Any], list[str], dict[str, Any]]:
    """The operation, the names of its first ``taken`` parameters, which are its inputs, and its attributes."""
    import tensorflow as tf

    operation = getattr(tf.raw_ops, node.op, None)
    if operation is None:
        raise UnsupportedError(f"{node.op} is not public")
    names = [name for name in inspect.signature(operation).parameters if name != "name"]
    return operation, names[:taken], {name: _value(node.attr[name]) for name in names[taken:] if name in node.attr}


def _value(attribute: Any) -> Any:
    kind = attribute.WhichOneof("value")
    if kind == "list":
        return list(attribute.list.i) or list(attribute.list.f)
    if kind not in ("b", "i", "f", "s", "type"):
        raise UnsupportedError(f"an attribute of kind {kind}")
    return getattr(attribute, kind)


def as_tensor(values: Any) -> Any:
    """An eager tensor of an array of numbers or truth values."""
    values = np.asarray(values)
    if (values.dtype.kind == "i" and values.dtype != np.int64) or values.dtype.kind == "b":
        import tensorflow as tf

        return tf.constant(values)
    return number_tensor(values)
