"""After batch, apply and materialize the two stores agree, whatever came before: random histories on SQLite and Redis. ``make prove`` plays
1,000 of them on each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.round_world import World, history, old_rule, store_world

HISTORIES = 30


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with store_world(request.param, tmp_path_factory.mktemp("rounds")) as made:
        yield made


def test_any_history_ends_with_two_stores_that_agree(world: World) -> None:
    """FAULTS 1: corrections that take events away, redefinitions, runs over overlapping ranges, and a stream beside them."""
    wrong = [line for line in (history(world, seed) for seed in range(HISTORIES)) if line is not None]
    assert not wrong, f"{len(wrong)} of {HISTORIES} histories:\n" + "\n".join(wrong[:5])


def test_the_rule_of_before_fails(world: World) -> None:
    """The negative control: greatest (event timestamp, revision), whatever the run."""
    with old_rule(world):
        wrong = [line for line in (history(world, seed) for seed in range(HISTORIES)) if line is not None]
    assert len(wrong) > HISTORIES // 3
