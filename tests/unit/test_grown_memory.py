"""What the contract suites call memory: its peak, whoever takes it, and nothing of before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from tandem.testing.memory import grown

MIB = 1 << 20


@pytest.mark.parametrize(
    "take", [lambda: bytearray(b"1") * (96 * MIB), lambda: pa.py_buffer(b"1" * (96 * MIB)), lambda: pa.nulls(96 * MIB, pa.int8())]
)
def test_a_peak_that_is_over_counts(take: Callable[[], Any]) -> None:
    with grown() as most:
        take()
        assert most() > 64 * MIB


def test_a_peak_of_before_does_not() -> None:
    before = bytearray(256 * MIB)
    del before
    with grown() as most:
        assert len(bytearray(100_000)) == 100_000
        assert most() < 16 * MIB
