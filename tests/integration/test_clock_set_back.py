"""A clock that is set back, and on again, between materializations: both stores say of every key what is true now, whatever was before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.round_world import DAY0, HOUR, HOURS, World, store_world
from transforms.instants import micros_of

SEEDS = (0,)
STEPS = 25
SHOPS = range(4)


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with store_world(request.param, tmp_path_factory.mktemp("clock")) as made:
        yield made


def history(world: World, seed: int) -> str | None:
    """Play one; what differed first, or None. A key on which a stream is further may say what the stream said."""
    rng, now = random.Random(seed), DAY0 + 12 * HOUR
    world.clear()
    world.online.clock = lambda: now
    world.online.apply_fingerprint(world.config, "shops", "g1")
    number, written = 0, dict[tuple[int, int], Any]()

    def event() -> dict[str, Any]:
        at = DAY0 + rng.randrange(HOURS * 60) * 60_000_000
        return {"at": at, "id": f"o{rng.randrange(30)}", "shop": rng.choice(SHOPS), "amount": float(rng.choice([1, 5, 40]))}

    log = [event() for _ in range(8)]
    for step in range(STEPS):
        what = rng.choice(["log", "run", "clock", "clock", "materialize", "materialize", "stream"]) if step else "run"
        start = DAY0 - HOUR if rng.random() < 0.5 else DAY0 + rng.randrange(HOURS) * HOUR
        if what == "log":
            log = [e for e in log if rng.random() < 0.8] if rng.random() < 0.5 else [*log, event()]
        elif what == "run":
            number += 1
            world.run(number, "g1", log, start, start + rng.randint(1, 30) * HOUR)
        elif what == "clock":
            now += rng.choice([-9, -5, -3, -1, 1, 2, 4, 8]) * HOUR
        elif what == "stream":
            rows = world.rows("g1", [*log, event()], start, start + 3 * HOUR, DAY0)
            if rows.num_rows:
                world.online.write_rows(world.config, world.view, rows)
                written |= {(r["shop"], micros_of(r["event_timestamp"])): r["count_4h"] for r in rows.to_pylist()}
        elif what == "materialize":
            world.materialize("g1", now + 40 * HOUR)
            served, trained = world.served(), world.trained("g1", now)
            for shop in SHOPS:
                found, right = served.get(shop), trained.get(shop)
                of_stream = found is not None and written.get((shop, found["event_timestamp"])) == found["count_4h"]
                if of_stream and (right is None or (found is not None and found["event_timestamp"] > right["event_timestamp"])):
                    continue
                if (found is None) != (right is None) or (found and right and any(right[n] != v for n, v in found.items() if n in right)):
                    return f"seed {seed}, step {step}, {(now - DAY0) // HOUR} h, shop {shop}: {found} for {right}"
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_both_stores_agree_after_each_materialize_wherever_the_clock_is(world: World, seed: int) -> None:
    """Rows that were materialized under a clock hours ahead stayed online until the clock was there again."""
    assert history(world, seed) is None


def test_what_is_not_true_yet_goes_when_the_clock_is_set_back(world: World) -> None:
    """A window that will have run empty hours from now was served as empty, while the join said what is in it."""
    now = DAY0 + 12 * HOUR
    world.clear()
    world.online.clock = lambda: now
    world.online.apply_fingerprint(world.config, "shops", "g1")
    events = [{"at": DAY0 + h * HOUR, "id": f"o{h}", "shop": shop, "amount": 1.0} for h, shop in ((2, 1), (5, 2))]
    world.run(1, "g1", events, DAY0 - HOUR, DAY0 + 24 * HOUR)
    world.materialize("g1", now)
    assert {shop: row["count_4h"] for shop, row in world.served().items()} == {1: 0, 2: 0}
    now = DAY0 + 4 * HOUR
    world.materialize("g1", now)
    assert {shop: row["count_4h"] for shop, row in world.served().items()} == {1: 1}, "shop 2 has no row yet"
    now = DAY0 + 12 * HOUR
    world.materialize("g1", now)
    assert {shop: row["count_4h"] for shop, row in world.served().items()} == {1: 0, 2: 0}


def test_a_clock_that_is_set_back_takes_nothing_from_a_stream(world: World) -> None:
    """What only a stream has is not written again by it."""
    now = DAY0 + 20 * HOUR
    world.clear()
    world.online.clock = lambda: now
    world.online.apply_fingerprint(world.config, "shops", "g1")
    old = {"at": DAY0 + HOUR, "id": "o1", "shop": 1, "amount": 1.0}
    new = {"at": DAY0 + 9 * HOUR, "id": "o2", "shop": 1, "amount": 5.0}
    world.run(1, "g1", [old], DAY0 - HOUR, DAY0 + 8 * HOUR)
    world.materialize("g1", now)
    world.online.write_rows(world.config, world.view, world.rows("g1", [old, new], DAY0 + 8 * HOUR, DAY0 + 10 * HOUR, DAY0))
    assert world.served()[1]["count_4h"] == 1
    before = world.served()
    now = DAY0 + 6 * HOUR
    world.materialize("g1", now)
    assert world.served() == before
