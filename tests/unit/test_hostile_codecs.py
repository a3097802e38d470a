"""SECURITY H1, H2: packed bytes that are cheap to make: ever so many members, windows of gigabytes; nests of any depth in event files."""

from __future__ import annotations

import bz2
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.sources.event_files import events
from pipelines.sources.file_formats.compressed_file import look_through
from pipelines.sources.file_formats.file_format import UnreadableFileError
from pipelines.sources.kafka.compression import expand
from tests.unit.test_json_body import steps
from transforms.definitions import EventSource, Field
from transforms.errors import DataError

NOW = 1_800_000_000_000_000
SOURCE = EventSource(
    "orders", [Field("id", "string", required=True), Field("x", "string", path="a.b[0].c")], event_time="at", tie_breaker="id", files="o"
)
GOOD = '{"id": "a", "at": "2024-05-01T00:00:00Z"}'
LIMIT = 64 << 20


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def lz4(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="lz4", asbytes=True))


def linear(work: Callable[[int], object], n: int) -> None:
    """What it costs grows with the input, and no faster."""
    work(n)  # what is made once
    once, twice = steps(lambda: work(n)), steps(lambda: work(2 * n))
    assert twice <= 2.2 * once + 200, (once, twice)


@pytest.mark.parametrize("content", [b"", b"{}\n"])
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstd)])
def test_ever_so_many_members_cost_what_they_are(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], content: bytes) -> None:
    def look(n: int) -> None:
        path = tmp_path / f"{n}{suffix}"
        path.write_bytes(pack(content) * n)
        look_through(path)

    linear(look, 2_000)


@pytest.mark.parametrize(("codec", "pack"), [(1, gzip.compress), (3, lz4), (4, zstd)])
def test_a_batch_of_ever_so_many_members_costs_what_they_are(codec: int, pack: Callable[[bytes], bytes]) -> None:
    linear(lambda n: expand(codec, memoryview(pack(b"a") * n), LIMIT), 2_000)
    assert expand(codec, memoryview(pack(b"a") * 100), LIMIT) == b"a" * 100


def window(power: int) -> bytes:
    """A frame of zstd of 100 bytes that says that it needs 2^power bytes to be read."""
    block = 100 << 3 | 1 << 1 | 1  # size, a repeated byte, the last one
    return b"\x28\xb5\x2f\xfd" + bytes([0, (power - 10) << 3]) + struct.pack("<I", block)[:3] + b"a"


def test_a_window_of_gigabytes_is_refused(tmp_path: Path) -> None:
    """Up to 128 MB are what the library takes; those are not touched before they are needed."""
    path = tmp_path / "o.zst"
    for power in (20, 27):
        assert expand(4, memoryview(window(power) * 50), LIMIT) == b"a" * 5_000
    for power in (28, 31, 41):
        path.write_bytes(window(power))
        with pytest.raises(UnreadableFileError, match="requires too much memory") as refused:
            look_through(path)
        with pytest.raises(DataError, match="requires too much memory"):
            expand(4, memoryview(window(power)), LIMIT)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("opens", "closes"), [("[", ""), ("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_a_nest_in_a_file_is_a_dead_letter_and_costs_its_length(tmp_path: Path, opens: str, closes: str, whole: bool) -> None:
    """In lines, and in a document that is an array of records."""

    def read(n: int) -> list[tuple[str, str | None]]:
        nest = GOOD[:-1] + ', "deep": ' + opens * n + ("1" + closes * n if closes else "") + "}"
        path = tmp_path / ("o.json" if whole else "o.jsonl")
        path.write_text(f"[{GOOD}, {nest}]" if whole else f"{GOOD}\n{nest}\n")
        letters = [letter for _, rejected in events(path, SOURCE, NOW, 0) for letter in rejected.to_pylist()]
        return [(letter["reason"], letter["detail"]) for letter in letters]

    assert read(100_000) == [("malformed", "nested deeper than 64 levels")]
    linear(read, 20_000)
