"""``--group``: one feature group made anew, beside the others' rows of before; and ``tandem check`` of a part."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import workflow
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.start_position import choose_start
from pipelines.training.project_check import check_project
from tests.integration.orders_world import END, START, Orders, order
from transforms.errors import ConfigError, DataError, GraphError


def batch_of(world: Orders, *groups: str) -> str:
    return workflow.batch(world.repo().only(groups), START, END, world.steps).id


def test_a_group_is_made_anew_and_the_others_stay(tmp_path: Path) -> None:
    now = START.replace(hour=12, minute=30)
    world = Orders(tmp_path, as_of=now)
    world.log([order("o1", "11:02", 5.0), order("o2", "12:02", 1_000_000.0)])
    whole = world.round()
    world.define(amount=", max=1000")  # both groups read the source, and both are redefined by it
    part = batch_of(world, "shop_orders")
    with pytest.raises(GraphError, match=rf"'city_orders' was redefined after run {whole}"):
        world.apply()
    again = batch_of(world, "city_orders")
    world.steps.lines.clear()
    world.apply()
    assert [line for line in world.steps.lines if line.startswith("applied ")] == [
        f"applied 1 graph of {again}: city_orders",
        f"applied 1 graph of {part}: shop_orders",
    ]
    world.materialize()
    assert world.offline("count_24h", at=now) == world.online("count_24h") == (1,)
    with pytest.raises(GraphError, match=rf"run {part} made no rows of group 'city_orders'"):
        world.apply(part)


def test_rows_are_made_again_where_it_is_asked_by_either_name(tmp_path: Path) -> None:
    world = Orders(tmp_path)
    world.log([order("o1", "10:02")])
    first = world.batch()
    assert world.batch() == first != (second := world.batch(rerun=True))
    with pytest.warns(DeprecationWarning, match="anew=...* is now called rerun"):
        assert world.batch(anew=True) not in (first, second)


def test_a_stream_begins_where_a_run_made_all_groups(tmp_path: Path) -> None:
    world = Orders(tmp_path)
    world.log([order("o1", "10:02")])
    whole = world.round()
    part = batch_of(world, "shop_orders")
    state = JobState(tmp_path / "stream")
    start = choose_start(world.repo(), state, 1, "latest")
    assert Path(str(start.run)).name == whole != part
    with pytest.raises(DataError, match=f"--from-run {part}: it made no rows of group 'city_orders'; run 'tandem batch' of all groups"):
        choose_start(world.repo(), state, 1, part)


def test_an_unknown_group_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no group 'shop' in repo; it has shop_orders, city_orders"):
        Orders(tmp_path).repo().only(["shop"])


def test_a_part_is_checked_alone(tmp_path: Path) -> None:
    world = Orders(tmp_path)
    world.log([order("o1", "10:02")])
    for parts, said in ((["contracts"], "source orders: 1 event accepted, rejected: none"), (["models"], "0 feature services")):
        lines: list[str] = []
        assert check_project(world.repo().only(["city_orders"]), lines.append, parts=parts) == []
        assert lines == [said]
