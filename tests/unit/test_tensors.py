"""Tensors that leave nothing behind: any bytes, any shape, and no memory lost in many calls."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.tensors import bytes_tensor, number_tensor


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 3))
def test_any_bytes_come_through(values: list[bytes], cut: int) -> None:
    array = pa.array(values, pa.binary()).slice(min(cut, len(values)))
    tensor = bytes_tensor(array)
    assert tensor.shape == (len(array),) and tensor.numpy().tolist() == array.to_pylist()


@pytest.mark.parametrize("size", [1, 127, 128, 129, 16_383, 16_384, 3_000_000])
def test_every_length_of_the_message(size: int) -> None:
    values = [b"a" * (size - 1), b"b"]
    assert bytes_tensor(pa.array(values, pa.binary()), (2, 1)).numpy().tolist() == [[values[0]], [b"b"]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(0,), (3,), (0, 2), (5, 2)])
def test_numbers(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    tensor = number_tensor(values)
    assert tensor.dtype.name == dtype and tensor.shape == shape
    assert tensor.numpy().tobytes() == values.tobytes()
    values[...] = 7  # a copy: what is changed later does not come along
    assert not tensor.shape.num_elements() or tensor.numpy().flat[0] == 0


MANY_TENSORS = """
from pathlib import Path

import numpy as np
import pyarrow as pa

from transforms.tensors import bytes_tensor, number_tensor

numbers, texts = np.zeros(32, np.float32), pa.array([b"N12345"] * 32, pa.binary())


def resident():
    (line,) = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def many(calls):
    for _ in range(calls):
        number_tensor(numbers)
        bytes_tensor(texts)


many(2000)
before = resident()
many(6000)
print(resident() - before)
"""


def test_nothing_is_left_behind() -> None:
    """In a process of its own: what other tests left in this one (pools, caches, threads) moves its memory, too."""
    done = subprocess.run([sys.executable, "-c", MANY_TENSORS], check=True, capture_output=True, text=True, timeout=300)
    assert int(done.stdout) < 6000 * 3 * 100  # tf.constant would leave about 340 bytes for each of the tensors
