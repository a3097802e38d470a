"""What a file's columns take in memory, told before they are decoded.

Few bytes may stand for any number of them: a run length says a value a billion times, a dictionary a long text. Sizes are taken from the
file's own description; where only the indices tell how often a text is meant, these are read, and not the texts.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["MOST_BYTES", "check_meant", "check_sizes"]

MOST_BYTES = 2 << 30
"""Of one row group or record batch, decoded. Writers make row groups of some 100 MB."""
_WIDTH = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 4, "FIXED_LEN_BYTE_ARRAY": 4}
_is_run_end_encoded = getattr(pa.types, "is_run_end_encoded", lambda kind: False)


def check_sizes(file: pq.ParquetFile, opened: Any) -> None:
    """Raises ValueError for a file with a row group of more than :data:`MOST_BYTES`. ``opened`` is what ``file`` was opened from."""
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = [(leaves[i], group.column(i)) for i in range(group.num_columns)]
        size = sum(c.num_values * _WIDTH[c.physical_type] + c.total_uncompressed_size for _, c in chunks)
        texts = [(path, c) for path, c in chunks if c.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in e for e in c.encodings)]
        if size <= MOST_BYTES < size + sum(c.num_values * c.total_uncompressed_size for _, c in texts):
            paths = [path for path, _ in texts]
            dictionaries = pq.ParquetFile(opened, read_dictionary=paths)
            size += sum(_text_bytes(chunk) for path in paths for chunk in dictionaries.read_row_group(number, [path]).column(0).chunks)
        _check(size, f"row group {number} ({group.num_rows} rows)", "write smaller row groups")


def check_meant(table: pa.Table) -> None:
    """Raises ValueError for a table whose dictionaries and run lengths stand for more than :data:`MOST_BYTES`."""
    size = sum(_text_bytes(chunk) for column in table.columns for chunk in column.chunks)
    _check(size, f"a record batch of {table.num_rows} rows", "write smaller batches")


def _check(size: int, what: str, fix: str) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{what} takes {size / 1e9:.1f} GB when decoded, above the limit of {MOST_BYTES / 1e9:.1f} GB; {fix}")


def _text_bytes(array: Any) -> int:
    """Bytes of the texts that dictionaries stand for, and of what run lengths stand for."""
    kind = array.type
    if _is_run_end_encoded(kind):
        return len(array) * 8 + _text_bytes(array.values)
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


def _is_text(kind: pa.DataType) -> bool:
    return any(getattr(pa.types, f"is_{name}")(kind) for name in ("string", "binary", "large_string", "large_binary"))


def _ends(texts: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    large = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    ends = np.frombuffer(texts.buffers()[1], np.int64 if large else np.int32)
    return cast("np.ndarray[Any, np.dtype[np.int64]]", ends[texts.offset : texts.offset + len(texts) + 1].astype(np.int64))
