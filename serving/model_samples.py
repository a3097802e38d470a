"""Made-up rows on which a model is tried when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.plan.samples import SEED, fractions, usual, wholes, words

__all__ = ["SAMPLE_ROWS", "made_up", "padded", "same_in_any_batch"]

Array = npt.NDArray[Any]
SAMPLE_ROWS = 256
_BLOCK = 16


def made_up(kinds: Mapping[str, str], known_words: Sequence[bytes] = (), known_fractions: Sequence[float] = ()) -> dict[str, Array]:
    """SAMPLE_ROWS values of each input, by its dtype: in the first half anything, in the second nothing odd, so that the last bits show."""
    random, half = np.random.default_rng(SEED), SAMPLE_ROWS // 2
    out: dict[str, Array] = {}
    for name, kind in kinds.items():
        if kind == "string":
            out[name] = np.array([*words(half, random, known_words), *(list(known_words) or [b""]) * half][:SAMPLE_ROWS], object)
        elif kind == "int64":
            out[name] = np.concatenate([wholes(half, random), random.integers(0, 2000, half)])
        else:
            out[name] = np.concatenate([fractions(half, random, known_fractions), usual(half, random)])
    return out


def padded(columns: Mapping[str, Array], start: int, rows: int, lanes: int) -> dict[str, Array]:
    """``rows`` rows from ``start``, and the last one again until there is a multiple of ``lanes``; each of shape [n, 1]."""
    places = np.minimum(np.arange(rows + -rows % lanes), rows - 1) + start
    return {name: values[places].reshape(-1, 1) for name, values in columns.items()}


def same_in_any_batch(run: Any, columns: Mapping[str, Array]) -> bool:
    """Whether a row's output has the same bits in a large batch, in a small one, and alone. ``run`` is a runner (:mod:`serving.models`).

    False as well where the model fails on one of the rows: nothing is known then.
    """
    call: Callable[[dict[str, Array]], Array] = run

    def bits(start: int, rows: int) -> bytes:
        return bytes(call(padded(columns, start, rows, run.lanes))[:rows].tobytes())

    last = SAMPLE_ROWS - _BLOCK
    try:
        whole = bits(0, SAMPLE_ROWS)
        blocks = b"".join(bits(i, _BLOCK) for i in range(0, SAMPLE_ROWS, _BLOCK))
        return blocks == whole and b"".join(bits(i, 1) for i in range(last, SAMPLE_ROWS)) == bits(last, _BLOCK)
    except Exception:
        return False
