"""SECURITY H1: Parquet files whose pages take more than their end says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from io import BytesIO, FileIO
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.file_formats import sizes
from pipelines.sources.file_formats.file_format import UnreadableFileError
from pipelines.sources.file_formats.parquet_file import ParquetFile
from tandem.testing.memory import grown
from tests.unit.made_parquet import (
    DELTA_BYTE_ARRAY,
    DICTIONARY,
    PLAIN,
    PLAIN_DICTIONARY,
    UNCOMPRESSED,
    ZSTD,
    one_text,
    page,
    parquet,
    texts_apart,
)
from transforms.definitions import EventSource, Field

SOURCE = EventSource(name="orders", fields=[Field("k", "string", required=True)], event_time="at", tie_breaker="k", files="events/orders")
MIB = 1 << 20
LIMIT = 8 * MIB


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MOST_BYTES", LIMIT)


def read(folder: Path, data: bytes) -> list[str]:
    path = folder / "a.parquet"
    path.write_bytes(data)
    batches = ParquetFile(SOURCE).read(partial(FileIO, path), 65_536, {})
    return [text for batch in batches if batch.rows is not None for text in batch.rows.column(0).to_pylist()]


def plain(text: bytes, rows: int = 1) -> bytes:
    return (struct.pack("<I", len(text)) + text) * rows


def dictionary_of(text: bytes, rows: int) -> list[bytes]:
    indices = b"\1" + bytes([rows << 1 & 127 | 128, rows >> 6]) + b"\0"  # one bit each, one run of the first
    return [page(plain(text), 1, DICTIONARY), page(indices, rows, PLAIN_DICTIONARY)]


FILES = {
    "one large page": lambda size: parquet([page(plain(b"x" * size), 1, PLAIN)], 1, [PLAIN]),
    "a large dictionary": lambda size: parquet(dictionary_of(b"x" * size, 100), 100, [PLAIN_DICTIONARY]),
    "a dictionary that is not told": lambda size: parquet(dictionary_of(b"x" * (size // 100), 100), 100, [PLAIN]),
    "one text again and again": lambda size: parquet([page(one_text(b"x" * (size // 100), 100), 100, DELTA_BYTE_ARRAY)], 100, [7]),
    "the same, not told": lambda size: parquet([page(one_text(b"x" * (size // 100), 100), 100, DELTA_BYTE_ARRAY)], 100, [PLAIN]),
    "the same, not compressed": lambda size: parquet(
        [page(one_text(b"x" * (size // 100), 100), 100, DELTA_BYTE_ARRAY, UNCOMPRESSED)], 100, [7], UNCOMPRESSED
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_pages_are_believed_and_not_the_end_alone(tmp_path: Path, what: str) -> None:
    bomb = FILES[what](64 * MIB)
    assert len(bomb) < 20_000 or "not compressed" in what
    with grown() as most:
        with pytest.raises(UnreadableFileError, match=r"row group 0 \(\d+ rows\) takes .* above the limit"):
            read(tmp_path, bomb)
        assert most() < 4 * LIMIT
    found = read(tmp_path, FILES[what](MIB // 32))
    assert set("".join(found)) == {"x"} and len(found) in (1, 100)


def test_what_writers_make_is_as_its_end_says(tmp_path: Path) -> None:
    """The two descriptions agree, by page versions, codecs and encodings."""
    table = pa.table(
        {"city": [f"c{i % 7}" * 9 for i in range(30_000)], "n": list(range(30_000)), "l": [["a"] * (i % 3) for i in range(30_000)]}
    )
    for version in ("1.0", "2.0"):
        for codec in ("zstd", "gzip", "snappy", "brotli"):
            path = tmp_path / "b.parquet"
            pq.write_table(table, path, compression=codec, data_page_version=version, data_page_size=4096, use_dictionary=["city"])
            with pa.OSFile(str(path)) as opened:
                file = pq.ParquetFile(opened)
                for i in range(len(file.schema)):
                    chunk = file.metadata.row_group(0).column(i)
                    pages = list(sizes._pages(opened, chunk))
                    assert len(pages) > 1 or chunk.num_values == 0
                    # The end counts what stands before the pages, too.
                    assert 0 <= chunk.total_uncompressed_size - sum(size for _, size, _ in pages) <= 200 * len(pages)


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_damaged_pages_are_left_to_arrow(tmp_path: Path, cut: int) -> None:
    made = page(plain(b"abc"), 1, PLAIN, ZSTD)
    with pytest.raises(UnreadableFileError):
        read(tmp_path, parquet([made[:cut] + b"\xff" * 40 + made[cut:]], 1, [PLAIN]))


def written(texts: list[str], **options: Any) -> bytes:
    sink = BytesIO()
    pq.write_table(pa.table({"k": texts}), sink, **options)
    return sink.getvalue()


HONEST: dict[str, Callable[[list[str]], bytes]] = {
    "DELTA_BYTE_ARRAY": lambda texts: parquet(
        [page(texts_apart([text.encode() for text in texts]), len(texts), DELTA_BYTE_ARRAY)], len(texts), [DELTA_BYTE_ARRAY]
    ),
    "a dictionary that falls back to PLAIN": written,
    "PLAIN": lambda texts: written(texts, use_dictionary=False),
}


@pytest.mark.parametrize("how", HONEST)
def test_texts_that_stand_in_the_pages_are_counted_once(tmp_path: Path, how: str) -> None:
    """A column takes what it is when decoded, or its pages if these are more: not both."""
    rng = Random(7)
    texts = [rng.randbytes(50).hex() for _ in range(60_000)]  # 6.0 MB, of nothing alike
    assert read(tmp_path, HONEST[how](texts)) == texts
    with pytest.raises(UnreadableFileError, match=r"row group 0 \(120000 rows\) takes .* above the limit"):
        read(tmp_path, HONEST[how](texts + texts))


def test_columns_of_one_name_are_counted_each(tmp_path: Path) -> None:
    rng = Random(7)
    texts = pa.array([rng.randbytes(50).hex() for _ in range(60_000)])
    pq.write_table(pa.table([texts, texts], ["k", "k"]), tmp_path / "b.parquet")
    with pytest.raises(UnreadableFileError, match="above the limit"):
        read(tmp_path, (tmp_path / "b.parquet").read_bytes())
