"""Shards are spread over Flink's tasks by keys that its own hash sends there."""

from __future__ import annotations

import pytest

from pipelines.streaming.engines.flink_keys import even_keys, subtask_of


def spread(keys: tuple[int, ...] | range, parallelism: int) -> list[int]:
    found = [subtask_of(key, parallelism) for key in keys]
    return [found.count(n) for n in range(parallelism)]


def test_the_hash_is_flinks() -> None:
    """As counted on a cluster of Flink 1.19 with Beam's runner: keys 0, 1, 2, ... on so many tasks."""
    assert spread(range(4), 4) == [1, 1, 0, 2]
    assert spread(range(8), 8) == [0, 2, 1, 1, 0, 1, 1, 2]
    assert (min(spread(range(64), 8)), max(spread(range(64), 8))) == (4, 11)


@pytest.mark.parametrize("parallelism", [1, 2, 3, 4, 7, 8, 64, 128])
def test_shards_are_spread_evenly(parallelism: int) -> None:
    for shards in {1, parallelism, parallelism + 1, 3 * parallelism}:
        keys = even_keys(shards, parallelism)
        assert len(set(keys)) == shards
        assert [subtask_of(key, parallelism) for key in keys] == [n % parallelism for n in range(shards)]
