"""What the contract suites call memory: its peak, whoever takes it, and nothing of before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tandem.testing.memory import grown
from tests.integration.flights import ROOT

MIB = 1 << 20
TAKEN = """
import pyarrow as pa
from tandem.testing.memory import grown

with grown() as most:
    {take}
    print(most())
"""


@pytest.mark.parametrize("take", ['bytearray(b"1") * (96 << 20)', 'pa.py_buffer(b"1" * (96 << 20))', "pa.nulls(96 << 20, pa.int8())"])
def test_a_peak_that_is_over_counts(take: str) -> None:
    """In a process of its own: what a library of this one gives back meanwhile, after other tests, would hide it."""
    done = subprocess.run([sys.executable, "-c", TAKEN.format(take=take)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 64 * MIB


def test_a_peak_of_before_does_not() -> None:
    before = bytearray(256 * MIB)
    del before
    with grown() as most:
        assert len(bytearray(100_000)) == 100_000
        assert most() < 16 * MIB
