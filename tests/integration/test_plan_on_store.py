"""``tandem plan`` where the data folder is a cache of an object store: damaged copies of graphs, and damaged graphs of the store itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import workflow
from pipelines.lake import shared
from pipelines.lake.graphs import applied_graphs
from pipelines.planning.plan_parts import Plan
from pipelines.planning.project_plan import make_plan
from serving.object_store.cache import data_path
from tests.integration.orders_world import END, START, Orders, order
from tests.network import URL, machines, network

pytestmark = pytest.mark.timeout(300)


class World(Orders):
    """A repository whose data lies on an object store."""

    @property
    def data(self) -> Path:
        """The cache of the machine that this process is."""
        return data_path(URL)

    def plan(self) -> Plan:
        """``tandem plan``."""
        return make_plan(self.repo())

    def head(self, group: str = "city_orders") -> Path:
        """A file of the group's applied graph."""
        return self.data / "graphs" / group / applied_graphs(self.data)[group] / "tandem.json"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    machines(tmp_path, monkeypatch)("a")
    made = World(tmp_path / "world")
    settings = made.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("../data", URL))
    made.log([order(f"o{n}", "08:00", float(n), shop=n % 4, city="ab"[n % 2]) for n in range(40)])
    shared.send_files(made.data, ["events/orders"])
    made.round()
    assert made.plan().commands == ()
    return made


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_a_damaged_copy_of_a_graph_is_fetched_again(world: World, command: str) -> None:
    good = world.head().read_bytes()
    world.head().write_bytes(b"{")
    if command == "apply":
        world.apply()
    assert world.plan().commands == () and world.head().read_bytes() == good


def test_a_graph_that_is_damaged_in_the_store_too_is_saved_anew(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, good = applied_graphs(world.data), world.head().read_bytes()
    world.head().write_bytes(b"{")
    store = network(world.data)
    (key,) = [h.key for h in store.list(f"graphs/city_orders/{before['city_orders']}/") if h.key.endswith("tandem.json")]
    store.put(key, bytes(len(good)))
    plan = world.plan()
    assert [g.name for g in plan.groups if g.recomputed] == ["city_orders"]
    assert [c.split()[1] for c in plan.commands] == ["batch", "apply", "materialize"]
    workflow.batch(world.repo().only(["city_orders"]), START, END, world.steps, pinned="--pinned" in plan.commands[0])
    world.apply()
    world.materialize()
    assert world.plan().commands == () and applied_graphs(world.data) == before
    machines(tmp_path, monkeypatch)("b")
    world.repo()
    assert world.head().read_bytes() == good, "other machines have it, too"
