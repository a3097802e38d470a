"""Arrays as TensorFlow tensors, for code that runs for months.

A tensor that Python makes of a numpy array (``tf.constant``, ``tf.convert_to_tensor``) leaves some 340 bytes behind each time that nothing
ever frees (measured on TensorFlow 2.16, Python 3.11): megabytes a minute for a stream or a busy server. Tensors made here leave nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["bytes_tensor", "number_tensor", "one_nan", "tensors_of"]

_ALIGNMENT = 64
"""Of buffers that TensorFlow makes itself; its kernels rely on it."""


def number_tensor(values: npt.NDArray[Any]) -> Any:
    """An eager tensor of the shape, dtype (float32, float64, int64, uint8) and values of an array, which is copied."""
    import tensorflow as tf

    room = np.empty(values.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    out = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    out[...] = values
    return tf.experimental.dlpack.from_dlpack(out.__dlpack__())


def bytes_tensor(values: pa.Array, shape: tuple[int, ...] | None = None) -> Any:
    """An eager string tensor of N binary or string values without nulls, of shape [N] or ``shape``. Any bytes come through."""
    import tensorflow as tf

    values = values.cast(pa.binary())
    n = len(values)
    _, offsets_buffer, data = values.buffers()
    offsets = (
        np.frombuffer(offsets_buffer, np.int32)[values.offset : values.offset + n + 1].astype(np.int64) if n else np.zeros(1, np.int64)
    )
    begin, end = int(offsets[0]), int(offsets[-1])
    content = np.frombuffer(data, np.uint8)[begin:end] if end > begin else np.zeros(1, np.uint8)
    # The one op that makes a string of a tensor: a message whose last field is the tensor's content. Each value is a part of it.
    message = tf.raw_ops.SerializeTensor(tensor=number_tensor(content))
    positions = offsets[:-1] - begin + _header(len(content))
    lengths = np.diff(offsets)
    shape = (n,) if shape is None else shape
    return tf.raw_ops.Substr(input=message, pos=number_tensor(positions.reshape(shape)), len=number_tensor(lengths.reshape(shape)))


def tensors_of(arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
    """Eager tensors of arrays of numbers, or of objects that are all bytes."""
    return [bytes_tensor(pa.array(a.ravel(), pa.binary()), a.shape) if a.dtype == object else number_tensor(a) for a in arrays]


def _header(size: int) -> int:
    """The bytes before the content in a serialized TensorProto of ``size`` uint8: dtype, shape with one dimension, tag and length
    (field numbers: tensorflow/core/framework/tensor.proto).
    """

    def varint(n: int) -> int:
        return max(1, -(-n.bit_length() // 7))

    dimension = 1 + varint(size)
    shape = 1 + varint(dimension) + dimension
    return 2 + 1 + varint(shape) + shape + 1 + varint(size)


def one_nan(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of an array, each that is not a number with the same bits.

    Of two such operands libraries keep the one's or the other's bits, one library also by how many values there are. So what leaves a graph
    has one form of it, whoever computed it.
    """
    if values.dtype.kind != "f" or not (odd := np.isnan(values)).any():
        return values
    return np.where(odd, values.dtype.type(np.nan), values)
