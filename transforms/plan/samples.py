"""Values on which a plan is held against its function: those at which arithmetic bends, and what the function itself knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SEED", "fractions", "usual", "wholes", "words"]

Array = npt.NDArray[Any]
SEED = 20130101
_FRACTIONS = (
    "0 -0 1 -1 0.5 -0.5 1.5 2.5 3 7 nan inf -inf 1e-40 -1e-40 1e-45 1.17549435e-38 -1.17549435e-38 3.4028235e38 -3.4028235e38 "
    "16777216 16777217 2147483648 9223372036854775807 -9223372036854775808 1e30 -1e30 1e-30 0.1 0.2 0.3 100 1000 1e6 -0.99999994 -1.0000001"
)
_WHOLES = (
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    10,
    60,
    100,
    1000,
    1439,
    1440,
    86_400,
    2**24 + 1,
    2**31 - 1,
    2**31,
    -(2**31),
    2**53 + 1,
    2**63 - 1,
    -(2**63),
)
_WORDS = (b"", b" ", b"a", b"A", b"null", b"nan", b"0", b"-1", " Ä ß ".encode(), "日本".encode(), b" two words ", b"\t\n", b"x" * 300)


def fractions(count: int, random: np.random.Generator, known: Iterable[float] = ()) -> Array:
    """``count`` float32 in any order: edges, numbers that a function ``known``-s, their neighbours, and random ones of many sizes."""
    edges = np.array(_FRACTIONS.split(), np.float64).astype(np.float32)
    mine = np.array(list(known), np.float32)
    mine = np.concatenate([mine, np.nextafter(mine, np.float32(np.inf)), np.nextafter(mine, np.float32(-np.inf))])
    loose = (random.normal(0, 1, count) * 10.0 ** random.integers(-3, 5, count)).astype(np.float32)
    loose = np.where(random.random(count) < 0.3, np.abs(np.rint(loose)), loose).astype(np.float32)
    return random.permutation(np.concatenate([edges, mine[: count // 4], loose])[:count])


def usual(count: int, random: np.random.Generator) -> Array:
    """``count`` float32 of one size, none of them odd: what lets the last bits of a network's answer show."""
    out: Array = np.abs(random.normal(0, 1, count) * 10.0 ** random.integers(-1, 3)).astype(np.float32)
    return out


def wholes(count: int, random: np.random.Generator) -> Array:
    """``count`` int64: edges, small and large."""
    loose = random.integers(-100, 2000, count)
    return random.permutation(np.concatenate([np.array(_WHOLES, np.int64), loose])[:count])


def words(count: int, random: np.random.Generator, known: Sequence[bytes] = ()) -> list[bytes]:
    """``count`` texts: odd ones, words that the function ``known``-s and words that nobody knows."""
    pool = [*_WORDS, *known[:200], *(w + b"?" for w in known[:20]), *(b"N%dTN" % n for n in range(20))]
    return [pool[i] for i in random.integers(0, len(pool), count).tolist()]
