"""An Arrow IPC file in parts is the file, whole or damaged; a stream of Arrow has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.batch.divide import in_parts
from tests.unit.file_parts import NOW, file_of, refused_damages, same, source_of


@pytest.fixture(params=[None, "zstd"])
def arrow(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Ten record batches, of which some have columns by dictionaries."""
    return written_arrow(tmp_path / "a.arrow", request.param)


def written_arrow(path: Path, compression: str | None = None, as_file: bool = True) -> Path:
    n = 640
    columns: dict[str, Any] = {
        "key": [f"k{i}" for i in range(n)], "value": [float(i % 100) for i in range(n)],
        "note": pa.array(["x" * (i % 7) for i in range(n)]).dictionary_encode(),
        "at": pa.array([NOW - 9_000_000 + i for i in range(n)], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    table = pa.table(columns)
    opened = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with opened(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=64)
    return path


def test_arrow(arrow: Path) -> None:
    batch = arrow.stat().st_size // 10
    counts = [len(same(arrow, source_of(), most, rows=50)) for most in (1, batch * 3, batch * 100)]
    assert counts[0] == 10 and 3 <= counts[1] <= 5 and counts[2] == 1


def test_damaged_arrow_has_one_verdict(arrow: Path) -> None:
    data = arrow.read_bytes()
    assert refused_damages(arrow, 80, 4) > 10
    for spoilt_whole in (data[:-9], b"", b"FEA1" + data[4:]):
        arrow.write_bytes(spoilt_whole)
        assert [p.within for p in same(arrow, source_of(), 1)] == [None]


def test_a_stream_of_arrow_has_no_footer_and_stays_one(tmp_path: Path) -> None:
    path = written_arrow(tmp_path / "a.arrows", as_file=False)
    assert in_parts(file_of(path), source_of(), 1)
    assert [p.within for p in same(path, source_of(), 1)] == [None]
