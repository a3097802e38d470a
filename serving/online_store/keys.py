"""Entities to Feast's serialization of their keys (version 3): many of one shape at once, others one by one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from feast.value_type import ValueType

__all__ = ["KeyMatrix", "key_head", "key_packer", "key_part", "key_parts", "part_value"]

_FEW = 24
"""Up to so many keys are made one by one faster than by numpy's calls."""


class KeyMatrix(Sequence[bytes]):
    """N keys of one length. Immutable."""

    def __init__(self, matrix: npt.NDArray[np.uint8]) -> None:
        """``matrix``: uint8 [N, length of a key]."""
        self._matrix = matrix
        self.width = matrix.shape[1]

    def __len__(self) -> int:
        return len(self._matrix)

    @overload
    def __getitem__(self, place: int) -> bytes: ...

    @overload
    def __getitem__(self, place: slice) -> KeyMatrix: ...

    def __getitem__(self, place: int | slice) -> bytes | KeyMatrix:
        return KeyMatrix(self._matrix[place]) if isinstance(place, slice) else self._matrix[place].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, width = self._matrix.tobytes(), self.width
        return (data[at : at + width] for at in range(0, len(data), width))

    def between(self, head: bytes, tail: bytes) -> bytes:
        """All of them, each with ``head`` before it and ``tail`` behind it."""
        return _joined(len(self), head, self._matrix, tail).tobytes()


def _joined(n: int, *parts: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 [n, ...]: in each row all parts, bytes the same in every one."""
    sizes = [len(p) if isinstance(p, bytes) else p.shape[1] for p in parts]
    made, at = np.empty((n, sum(sizes)), np.uint8), 0
    for part, size in zip(parts, sizes):
        made[:, at : at + size] = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        at += size
    return made


def key_head(names: Sequence[str]) -> bytes:
    """What a key begins with: the names of its join keys, sorted."""
    return struct.pack("<I", len(names)) + b"".join(_packed_text(name) for name in sorted(names))


def key_part(value: str | int, kind: ValueType) -> bytes:
    """What a key has of one of its values, a text or a whole number. Raises OverflowError for a number that its type cannot hold."""
    if isinstance(value, str):
        return _packed_text(value)
    width = 4 if kind == ValueType.INT32 else 8
    return struct.pack("<II", kind.value, width) + value.to_bytes(width, "little", signed=True)


def key_parts(key: bytes, names: Sequence[str]) -> tuple[dict[str, bytes], bytes]:
    """What a key with the join keys ``names`` has of each of them (:func:`key_part`), by name, and what stands behind it. What is no such
    key gives parts that are none."""
    at, out = len(key_head(names)), dict[str, bytes]()
    for name in sorted(names):  # each value is its type, its length and its bytes
        end = at + 8 + int.from_bytes(key[at + 4 : at + 8], "little")
        out[name], at = key[at:end], end
    return out, key[at:]


def part_value(part: bytes) -> str | int | bytes:
    """The value of a :func:`key_part`: a text, a whole number, or the bytes of one of another type."""
    kind, data = int.from_bytes(part[:4], "little"), part[8:]
    if kind == ValueType.STRING.value:
        return data.decode()
    return int.from_bytes(data, "little", signed=True) if kind in (ValueType.INT32.value, ValueType.INT64.value) else data


def key_packer(names: Sequence[str], kinds: Sequence[ValueType], suffix: bytes) -> Callable[[Sequence[Any]], Sequence[bytes]] | None:
    """Entities (values, or tuples of them) with the join keys ``names`` to Feast's serialization of their keys and ``suffix``; None where
    that is not all (keys of 32 bits have limits)."""
    if not kinds or any(kind not in (ValueType.STRING, ValueType.INT64) for kind in kinds):
        return None
    order = sorted(range(len(kinds)), key=lambda i: names[i])
    head = key_head(names)
    if len(order) > 1:
        parts = [_packed_number if kinds[i] == ValueType.INT64 else _packed_text for i in order]
        return lambda rows: [b"".join([head, *(part(row[i]) for part, i in zip(parts, order)), suffix]) for row in rows]
    if kinds[0] == ValueType.INT64:
        return _numbers(head + struct.pack("<II", ValueType.INT64.value, 8), suffix)
    return _texts(head + struct.pack("<I", ValueType.STRING.value), suffix)


def _numbers(head: bytes, suffix: bytes) -> Callable[[Sequence[Any]], Sequence[bytes]]:
    number = struct.Struct("<q").pack

    def pack(values: Sequence[Any]) -> Sequence[bytes]:
        n = len(values)
        if n <= _FEW:
            return [head + number(v) + suffix for v in values]
        return KeyMatrix(_joined(n, head, np.array(values, "<i8").view(np.uint8).reshape(n, 8), suffix))

    return pack


def _texts(head: bytes, suffix: bytes) -> Callable[[Sequence[Any]], Sequence[bytes]]:
    size = struct.Struct("<I").pack

    def pack(values: Sequence[Any]) -> Sequence[bytes]:
        n = len(values)
        if n > _FEW and len(lengths := set(map(len, values))) == 1:
            width, data = lengths.pop(), "".join(values).encode()
            if width and len(data) == n * width:  # a byte for each character
                return KeyMatrix(_joined(n, head + size(width), np.frombuffer(data, np.uint8).reshape(n, width), suffix))
        return [b"%b%b%b%b" % (head, size(len(v)), v, suffix) for v in map(str.encode, values)]

    return pack


def _packed_number(value: int) -> bytes:
    return struct.pack("<IIq", ValueType.INT64.value, 8, value)


def _packed_text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<II", ValueType.STRING.value, len(data)) + data
