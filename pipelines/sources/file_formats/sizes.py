"""What a file's columns take in memory, told before they are decoded.

Few bytes may stand for any number of them: a run length says a value a billion times, a dictionary a long text. Sizes are taken from the
file's own description; where only the indices tell how often a text is meant, these are read, and not the texts.

A Parquet file describes itself twice: in its end, and before each page, by which Arrow allocates. Both are looked at; of a file that is
read from far away only its end, as each page would be a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["MOST_BYTES", "bytes_of", "check_meant", "check_sizes", "group_sizes"]

MOST_BYTES = 2 << 30
"""Of one row group or record batch, decoded. Writers make row groups of some 100 MB."""
_WIDTH = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 4, "FIXED_LEN_BYTE_ARRAY": 4}
_is_run_end_encoded, _is_list_view, _is_large_list_view, _is_string_view, _is_binary_view = (
    getattr(pa.types, f"is_{name}", lambda kind: False)
    for name in ("run_end_encoded", "list_view", "large_list_view", "string_view", "binary_view")
)


def check_sizes(file: pq.ParquetFile, opened: Any) -> None:
    """Raises ValueError for a file with a row group of more than :data:`MOST_BYTES`. ``opened`` is what ``file`` was opened from."""
    for _ in group_sizes(file, opened, MOST_BYTES):
        pass


def group_sizes(file: pq.ParquetFile, opened: Any, told: int) -> Iterator[int]:
    """The bytes of each row group, decoded; see :func:`check_sizes`. Of one that cannot have more than ``told``, texts that are there once
    and are meant more often are not counted."""
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = [_chunk(opened, leaves[i].path, group.column(i)) for i in range(group.num_columns)]
        taken = [c.values * _WIDTH[c.kind] + c.pages for c in chunks]
        texts = [i for i, c in enumerate(chunks) if c.kind == "BYTE_ARRAY" and c.dictionary]
        if (size := sum(taken)) <= MOST_BYTES and size + sum(chunks[i].values * chunks[i].pages for i in texts) > told:
            dictionaries = pq.ParquetFile(opened, read_dictionary=[chunks[i].path for i in texts])
            for i in texts:  # instead of its pages: where texts stand in these themselves, they are the same bytes
                columns = dictionaries.read_row_group(number, [chunks[i].path]).columns
                taken[i] = max(taken[i], sum(_text_bytes(each) for column in columns for each in column.chunks))
        for i, (chunk, leaf) in enumerate(zip(chunks, leaves, strict=True)):
            others = sum(taken) - taken[i]
            more = chunk.prefixed and not leaf.max_repetition_level and others + chunk.values * chunk.largest > told
            if more and others + taken[i] <= MOST_BYTES:
                taken[i] = max(taken[i], sum(_bytes_in_turn(opened, number, chunk, MOST_BYTES - others)))
        size = sum(taken)
        _check(size, f"row group {number} ({group.num_rows} rows)", "write smaller row groups")
        yield size


@dataclass(frozen=True)
class _Chunk:
    """A column of a row group: how many ``values``, the bytes of all its ``pages`` and of the ``largest`` when decompressed, whether it has
    a ``dictionary``, and whether values are told by what they share with the one before (``prefixed``)."""

    path: str
    kind: str
    values: int
    pages: int
    largest: int
    dictionary: bool
    prefixed: bool


_DICTIONARY_PAGE, _DELTA_BYTE_ARRAY = 2, 7
_MOST_HEADER = 16 << 20
"""Bytes of what stands before a page; Arrow reads no longer one."""


def _chunk(opened: Any, path: str, chunk: Any) -> _Chunk:
    pages = [] if chunk.compression == "UNCOMPRESSED" and chunk.physical_type != "BYTE_ARRAY" else list(_pages(opened, chunk))
    return _Chunk(
        path,
        chunk.physical_type,
        chunk.num_values,
        max(chunk.total_uncompressed_size, sum(size for _, size, _ in pages)),
        max((size for _, size, _ in pages), default=chunk.total_uncompressed_size),
        any("DICTIONARY" in e for e in chunk.encodings) or any(kind == _DICTIONARY_PAGE for kind, _, _ in pages),
        "DELTA_BYTE_ARRAY" in chunk.encodings or any(encoding == _DELTA_BYTE_ARRAY for _, _, encoding in pages),
    )


def _pages(opened: Any, chunk: Any) -> Iterator[tuple[int, int, int]]:
    """Each page of a column as what stands before it says: its kind, its bytes when decompressed, the encoding of its values. Ends at what
    is damaged, which Arrow tells; nothing of a file that is not on this machine's disks."""
    if not isinstance(opened, pa.OSFile):
        return
    at, first = chunk.data_page_offset, chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    if first is not None and 0 < first < at:
        at = first
    end, most = at + chunk.total_compressed_size, 256
    while at < end:
        opened.seek(at)
        data = opened.read(min(most, end - at))
        try:
            page, used = _struct(data, 0)
        except IndexError:
            if most >= min(end - at, _MOST_HEADER):
                return
            most *= 16
            continue
        size, packed = page.get(2, 0), page.get(3, 0)
        if packed < 0:
            return
        yield page.get(1, -1), max(size, 0), page.get((5, 2), page.get((8, 4), -1))
        at, most = at + used + packed, 256


def _struct(data: bytes, at: int) -> tuple[dict[Any, int], int]:
    """(the whole numbers of a struct in Thrift's compact protocol, by their fields, of a struct within by both; where it ends). Raises
    IndexError where it goes on behind the bytes, or is nested as no page's is."""
    out: dict[Any, int] = {}
    path: list[int] = []
    field = 0
    while True:
        byte, at = data[at], at + 1
        if byte == 0:
            if not path:
                return out, at
            field = path.pop()
            continue
        kind = byte & 15
        if byte >> 4:
            field += byte >> 4
        else:
            field, at = _number(data, at)
        if kind in (4, 5, 6):
            out[(*path, field) if path else field], at = _number(data, at)
        elif kind == 3:
            at += 1
        elif kind == 7:
            at += 8
        elif kind == 8:
            length, at = _plain(data, at)
            at += length
        elif kind == 12 and len(path) < 4:
            path.append(field)
            field = 0
        elif kind not in (1, 2):  # lists and maps: no page has any
            raise IndexError
        if at > len(data):
            raise IndexError


def _plain(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            return value, at
        shift += 7


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _plain(data, at)
    return (value >> 1) ^ -(value & 1), at


def _bytes_in_turn(opened: Any, group: int, chunk: _Chunk, most: int) -> Iterator[int]:
    """What so many rows of a column take, whose values can each be as large as a page, some rows at a time: until they are too many."""
    for batch in pq.ParquetFile(opened).iter_batches(max(1, MOST_BYTES // max(4 * chunk.largest, 1)), [group], [chunk.path]):
        size = bytes_of(batch)
        yield size
        most -= size
        if most < 0:
            return


def check_meant(table: pa.Table) -> None:
    """Raises ValueError for a table whose dictionaries, run lengths and views stand for more than :data:`MOST_BYTES`."""
    size = sum(_text_bytes(chunk) for column in table.columns for chunk in column.chunks)
    _check(size, f"a record batch of {table.num_rows} rows", "write smaller batches")


def bytes_of(data: Any) -> int:
    """The bytes of an array or a record batch. Of one with views in it, for which Arrow tells no ranges of bytes, those of all its buffers:
    of a slice more than are its own."""
    try:
        return int(data.nbytes)
    except pa.ArrowException:
        return int(data.get_total_buffer_size())


def _check(size: int, what: str, fix: str) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{what} takes {size / 1e9:.1f} GB when decoded, above the limit of {MOST_BYTES / 1e9:.1f} GB; {fix}")


def _text_bytes(array: Any) -> int:
    """Bytes of the texts that dictionaries stand for, and of what run lengths and views stand for: many may be of the same."""
    kind = array.type
    if _is_run_end_encoded(kind):
        return len(array) * 8 + _text_bytes(array.values)
    if _is_list_view(kind) or _is_large_list_view(kind):
        return int(_weights(array).sum())
    if _is_string_view(kind) or _is_binary_view(kind):
        return int(_weights(array).sum())
    if pa.types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return len(array) * 8
        lengths = np.diff(_ends(array.dictionary))
        used = np.bincount(array.indices.drop_null().to_numpy(zero_copy_only=False), minlength=len(lengths))
        return int((used * lengths).sum())
    if pa.types.is_struct(kind):
        return sum(_text_bytes(each) for each in array.flatten())
    if pa.types.is_map(kind):
        return _text_bytes(array.keys) + _text_bytes(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _text_bytes(array.flatten())
    return 0


def _weights(array: Any) -> Any:
    """The bytes of each of N elements: float64 [N]. One may be all that many views are of, so each has its own."""
    kind, n = array.type, len(array)
    if _is_text(kind):
        return np.diff(_ends(array)).astype(np.float64)
    if _is_string_view(kind) or _is_binary_view(kind):
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), _lengths(array), 0).astype(np.float64)
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        lengths = np.append(_weights(array.dictionary), 0.0)
        return lengths[array.indices.fill_null(len(lengths) - 1).to_numpy(zero_copy_only=False)]
    if pa.types.is_struct(kind):
        return sum((_weights(each) for each in array.flatten()), np.zeros(n))
    if _is_list_view(kind) or _is_large_list_view(kind):
        starts, sizes = (each.to_numpy(zero_copy_only=False).astype(np.int64) for each in (array.offsets, array.sizes))
        here = array.is_valid().to_numpy(zero_copy_only=False)  # where a null points to means nothing
        return _of_ranges(_weights(array.values), np.where(here, starts, 0), np.where(here, sizes, 0))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        inner = _weights(array.keys) + _weights(array.items) if pa.types.is_map(kind) else _weights(array.values)
        return _of_ranges(inner, ends[:-1], np.diff(ends))
    return np.full(n, bytes_of(array) / max(n, 1))


def _of_ranges(weights: Any, starts: Any, sizes: Any) -> Any:
    """What ranges of elements weigh, with the eight bytes that point to each."""
    before = np.append(0.0, np.cumsum(weights))
    return 8.0 * sizes + before[starts + sizes] - before[starts]


def _lengths(views: Any) -> Any:
    """Of views of texts, 16 bytes each, which begin with the text's length."""
    return np.frombuffer(views.buffers()[1], np.int32)[::4][views.offset : views.offset + len(views)]


def _is_text(kind: pa.DataType) -> bool:
    return any(getattr(pa.types, f"is_{name}")(kind) for name in ("string", "binary", "large_string", "large_binary"))


def _ends(texts: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    large = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    ends = np.frombuffer(texts.buffers()[1], np.int64 if large else np.int32)
    return cast("np.ndarray[Any, np.dtype[np.int64]]", ends[texts.offset : texts.offset + len(texts) + 1].astype(np.int64))
