"""Arrow IPC files of few bytes that say that they hold many: refused before anything is decoded."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.sources.file_formats import arrow_sizes
from pipelines.sources.file_formats.arrow_file import ArrowFile
from pipelines.sources.file_formats.file_format import UnreadableFileError
from tandem.testing.memory import grown
from transforms.definitions import EventSource, Field

SOURCE = EventSource(name="orders", fields=[Field("k", "string", required=True)], event_time="at", tie_breaker="k", files="events/orders")
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_sizes, "MOST_BYTES", LIMIT)


def written(table: pa.Table, as_file: bool, compression: str | None, rows: int | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression, unify_dictionaries=as_file)
    with (pa.ipc.new_file if as_file else pa.ipc.new_stream)(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def read(tmp_path: Path, data: bytes) -> int:
    path = tmp_path / "a.arrow"
    path.write_bytes(data)
    return sum(batch.rows.num_rows for batch in ArrowFile(SOURCE).read(lambda: open(path, "rb"), 65_536, {}) if batch.rows is not None)


def column(kind: str, n: int) -> pa.Table:
    texts = pa.array(["a" * 100] * n)
    made: dict[str, Any] = {
        "texts": texts, "numbers": pa.array([0] * n), "lists": pa.array([[0] * 10] * n), "structs": pa.array([{"x": "b" * 99}] * n),
        "words": texts.dictionary_encode(),
    }  # fmt: skip
    return pa.table({"k": made[kind]})


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("kind", ["texts", "numbers", "lists", "structs"])
def test_a_compressed_bomb_is_refused_and_not_decoded(tmp_path: Path, as_file: bool, compression: str, kind: str) -> None:
    bomb = written(column(kind, 200_000), as_file, compression)
    assert len(bomb) < LIMIT
    with grown() as most:
        with pytest.raises(UnreadableFileError, match="GB when decoded, above the limit"):
            read(tmp_path, bomb)
        assert most() < 16 * LIMIT  # of the gigabyte, not a little of what the allocator takes at a time
    assert read(tmp_path, written(column(kind, 20_000), as_file, compression, rows=2_000)) == 20_000


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("compression", ["zstd", None])
def test_rows_of_nothing_are_bounded(tmp_path: Path, as_file: bool, compression: str | None) -> None:
    """Each would be a dead letter."""
    with pytest.raises(UnreadableFileError, match="GB when decoded"):
        read(tmp_path, written(pa.table({"k": pa.nulls(1_000_000)}), as_file, compression))


def test_a_dictionary_that_is_a_bomb(tmp_path: Path) -> None:
    words = pa.array([f"{i}" + "a" * 2_000 for i in range(1_000)]).dictionary_encode()
    for as_file in (True, False):
        with pytest.raises(UnreadableFileError, match="GB when decoded"):
            read(tmp_path, written(pa.table({"k": words}), as_file, "zstd"))


@pytest.mark.parametrize("as_file", [True, False])
def test_many_dictionaries_that_are_a_bomb_together(tmp_path: Path, as_file: bool) -> None:
    """Each is below the limit, and all are held at once, as long as the file is read."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 10, pa.int32()), pa.array([f"{i}" + "a" * 2_000 for i in range(400)]))
    assert read(tmp_path, written(pa.table({"k": words}), as_file, "zstd")) == 10
    bomb = written(pa.table({f"k{i}": words for i in range(40)}), as_file, "zstd")
    with grown() as most:
        with pytest.raises(UnreadableFileError, match=r"dictionaries take .* when decoded, above the limit"):
            read(tmp_path, bomb)
        assert most() < 16 * LIMIT


def test_dictionaries_that_take_the_place_of_each_other_count_once(tmp_path: Path) -> None:
    sink = io.BytesIO()
    batches = [pa.table({"k": pa.array([f"{n}-{i}" + "a" * 2_000 for i in range(300)]).dictionary_encode()}) for n in range(10)]
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for each in batches:
            writer.write_table(each)
    assert read(tmp_path, sink.getvalue()) == 3_000


def test_what_is_large_as_it_lies_is_read(tmp_path: Path) -> None:
    """A file of its own size is no bomb."""
    table = pa.table({"k": [f"{i:0100d}" for i in range(20_000)], "n": list(range(20_000))})
    for as_file in (True, False):
        assert read(tmp_path, written(table, as_file, None)) == 20_000


@pytest.mark.parametrize("as_file", [True, False])
def test_damage_anywhere_is_left_to_arrow(tmp_path: Path, as_file: bool) -> None:
    data, rng = written(column("words", 500), as_file, "zstd"), random.Random(5)
    for _ in range(200):
        broken = bytearray(data[: rng.randrange(8, len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path = tmp_path / "a.arrow"
        path.write_bytes(broken)
        with open(path, "rb") as f, contextlib.suppress(ValueError):
            arrow_sizes.check_batches(f, as_file)
