"""``tandem plan`` before a change, and then the change: what it said is what happened. Real runs of batch, apply and materialize on SQLite.

Each kind of change starts from the same round; what ``plan`` says of groups, rows, bytes, graphs, models and Feast's registry is held
against the manifests, the graphs and the registry of after, and then the plan is empty.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipelines import workflow
from pipelines.lake.graphs import applied_graphs
from pipelines.lake.runs import list_runs
from pipelines.planning.plan_parts import NEW, SAME, Plan
from pipelines.planning.plan_text import lines, summary
from pipelines.planning.project_plan import make_plan
from pipelines.registry.listing import list_models
from tests.integration.orders_world import Orders, order
from transforms.instants import micros_of

pytestmark = pytest.mark.timeout(300)

FEATURES = """
from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import (
    Count, Entity, Epoch, EventSource, FeatureGroup, Field, Max, Mean, TimeFormat, col, days, hours, minutes,
)

orders = EventSource(
    name="orders", event_time=Field("at", "timestamp", path="sent", parse=Epoch("s")), tie_breaker="order_id",
    fields=[
        Field("order_id", "string", required=True),
        Field("shop", "int64", required=True),
        Field("city", "string", required=True),
        Field("amount", "float64", max=1000),
        Field("channel", "string", domain=["app", "web"]),
        Field("told", "timestamp", path="at", parse=TimeFormat("%Y-%m-%dT%H:%M:%SZ", zone="UTC")),
        Field("behind", "int64", value=col("at").cast("int64") - col("told").cast("int64")),
    ],
    out_of_orderness=minutes(1), allowed_lateness=hours(1), files="events/orders", topic="orders",
)
shop_orders = FeatureGroup(
    name="shop_orders", source=orders, entity=Entity("shop"), hop=minutes(5), ttl=hours(48),
    aggregates=[Count(over=[hours(1), hours(24)]), Mean("amount", over=hours(1)), Max("amount", over=hours(24))],
)
city_orders = FeatureGroup(
    name="city_orders", source=orders, entity=Entity("city"), hop=hours(1), ttl=days(2),
    aggregates=[Count(over=hours(24)), Max("behind", over=hours(24))],
)
feast_views(__name__)
"""
SCALING = "def shops(inputs):\n    return {'twice': inputs['count_1h'] * 2}\n"
AT = int(datetime.fromisoformat("2024-05-01T08:00:00+00:00").timestamp())


class World(Orders):
    """The repository of this module."""

    def define(self, amount: str = "", channel: str = "") -> None:
        self.write(FEATURES)

    def write(self, text: str) -> None:
        """Write the definitions."""
        super().define()
        (self.repo_path / "features.py").write_text(text)
        (self.repo_path / "scaling.py").write_text(SCALING)

    def plan(self) -> Plan:
        """``tandem plan``."""
        return make_plan(self.repo())

    def follow(self, plan: Plan) -> list[dict[str, Any]]:
        """Run its commands but for trainings; the manifests of the batch runs."""
        made = []
        for line in plan.commands:
            words = line.split()
            over = [datetime.fromisoformat(f"{t}+00:00" if "T" in t else f"{t}T00:00:00+00:00") for t in words if re.match(r"\d{4}-", t)]
            if words[1] == "batch":
                repo = self.repo().only([w for flag, w in pairwise(words) if flag == "--group"])
                run = workflow.batch(repo, over[0], over[1], self.steps, pinned="--pinned" in words, rerun="--rerun" in words)
                made.append(run.manifest)
            elif words[1] == "apply":
                workflow.apply(self.repo(), words[3] if len(words) > 3 else None, self.steps)
            elif words[1] == "materialize":
                workflow.materialize(self.repo(), over[0], over[1], self.steps)
        return made


def push(data: Path, version: int, groups: list[str]) -> None:
    """A version of a model that was trained on the graphs that are applied to ``groups``."""
    folder = data / "models/late" / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text("")
    applied = applied_graphs(data)
    (folder / "tandem.json").write_text(json.dumps({"fingerprints": {n: applied[n] for n in groups}}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after its first round, which its plan had said; two versions of a model are pushed."""
    world = World(tmp_path_factory.mktemp("plan"))
    channels = ["web", "app", "tv"]
    world.log(
        [
            order(f"o{n}", "08:00", float(n), shop=n % 4, city="ab"[n % 2], channel=channels[n % 3], sent=AT + 60 * n, paid={"sum": n})
            for n in range(240)
        ]
    )
    plan = world.plan()
    assert {g.name: (g.sign, g.recomputed) for g in plan.groups} == {"shop_orders": ("+", True), "city_orders": ("+", True)}
    (made,) = world.follow(plan)
    assert set(made["rows"]) == {"shop_orders", "city_orders"} and made["rejected"] == {"orders/not_in_domain": 80}
    read = plan.batches[0].reads["orders"]
    assert [f["size"] for f in made["inputs"]["orders"]] == [f.size for f in read.files]
    assert not world.plan().changes and summary(world.plan()).startswith("No changes")
    push(world.data, 1, ["shop_orders", "city_orders"])
    push(world.data, 2, ["city_orders"])
    return world.path


@pytest.fixture
def world(base: Path, tmp_path: Path) -> World:
    """A copy of it."""
    made = World(tmp_path / "world")
    shutil.copytree(base / "data", made.data)
    return made


BOTH = {"shop_orders", "city_orders"}
KINDS: dict[str, tuple[list[tuple[str, str]], set[str], str]] = {
    # name: (what is replaced, the groups that are recomputed, a line of the plan)
    "nothing": ([], set(), "No changes: rows, graphs and the registry match the definitions."),
    "a comment": ([("shop_orders =", "# of shops\nshop_orders =")], set(), "= shop_orders: unchanged"),
    "a wider domain": (
        [('["app", "web"]', '["app", "web", "tv"]')], set(), "    field 'channel' takes 'tv': nothing is recomputed",
    ),
    "a ttl": ([("ttl=hours(48)", "ttl=hours(72)")], set(), "    ~ view shop_orders: ttl 2d -> 3d"),
    "a unit": (
        [('parse=Epoch("s")', 'parse=Epoch("ms")')], BOTH, "    event time 'at': parse Epoch('s') -> Epoch('ms'): every row",
    ),
    "a window": (
        [("Count(over=[hours(1), hours(24)])", "Count(over=[hours(1), hours(24), hours(6)])")],
        {"shop_orders"}, "    aggregate count: window 6h added: column count_6h added",
    ),
    "a removed feature": (
        [(', Max("amount", over=hours(24))', "")], {"shop_orders"}, "    aggregate amount_max is gone: column amount_max_24h removed",
    ),
    "a path": (
        [('Field("amount", "float64", max=1000)', 'Field("amount", "float64", max=1000, path="paid.sum")')],
        BOTH, "    field 'amount': path amount -> paid.sum: every value that reads it: amount_mean_1h, amount_max_24h",
    ),
    "a filter": (
        [("Count(over=[", 'Count(where=col("amount") > 50, over=[')],
        {"shop_orders"}, '    aggregate count: where none -> col("amount") > 50: every value of columns count_1h, count_24h',
    ),
    "a source's filter": (
        [(', files="events/orders"', ', where=col("city") == "a", files="events/orders"')],
        BOTH, "    source orders: where none -> col(\"city\") == 'a': every row: other events are accepted",
    ),
    "a zone": (  # of local times that may not exist: which events are taken depends on it, so the group that reads none is made anew, too
        [('zone="UTC"', 'zone="Europe/Paris"')], BOTH,
        "    field 'told': parse TimeFormat(format='%Y-%m-%dT%H:%M:%SZ', zone='UTC', ambiguous='reject', missing='reject') -> "
        "TimeFormat(format='%Y-%m-%dT%H:%M:%SZ', zone='Europe/Paris', ambiguous='reject', missing='reject'): every value that reads it:"
        " behind_max_24h",
    ),
    "a removed field": (
        [('        Field("channel", "string", domain=["app", "web"]),\n', "")],
        set(), "    field 'channel' is not read any more: nothing is recomputed",
    ),
    "a preprocessing_fn": (
        [("    aggregates=[Count(over=[", '    preprocessing_fn="scaling:shops",\n    aggregates=[Count(over=[')],
        {"shop_orders"}, "    preprocessing_fn: none -> scaling:shops: its graph is analyzed again",
    ),
    "a removed group": (
        [(FEATURES[FEATURES.index("city_orders =") : FEATURES.index("feast_views(__name__)")], "")],
        set(), "    - view city_orders: with its rows in the online store",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_plan_says_is_what_happens(world: World, kind: str) -> None:
    replaced, wanted, line = KINDS[kind]
    text = FEATURES
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    world.write(text)
    if kind == "a unit":  # the same moments, sent in the other unit
        log = world.data / "events/orders/date=2024-05-01/all.jsonl"
        log.write_text(re.sub(r'"sent": (\d+)', r'"sent": \g<1>000', log.read_text()))
    rows_before = next(dict(r.manifest["rows"]) for r in list_runs(world.data) if r.kind == "batch")
    before, runs_before = applied_graphs(world.data), {r.id for r in list_runs(world.data) if r.kind == "batch"}

    plan = world.plan()
    assert line in list(lines(plan))
    assert {g.name for g in plan.groups if g.recomputed} == wanted

    made = world.follow(plan)
    assert {r.id for r in list_runs(world.data) if r.kind == "batch"} - runs_before == {m["id"] for m in made}
    assert {n for m in made for n in m["rows"]} == wanted
    after = applied_graphs(world.data)
    for g in plan.groups:
        if g.sign == "-":
            continue
        assert (after[g.name] != before[g.name]) == (g.graph == NEW) and g.graph in (NEW, SAME), kind
        for m in made:
            if g.name not in m["rows"]:
                continue
            assert g.rows is not None and g.bytes is not None
            if kind == "a source's filter":  # of other events no earlier run tells how many rows there are
                assert (g.rows.number, g.rows.of, g.bytes.number) == (None, "other events", None) and m["rows"][g.name] < rows_before[
                    g.name
                ]
                continue
            assert g.rows.number is not None and g.bytes.number is not None
            assert m["rows"][g.name] == g.rows.number if g.rows.exact else 0.5 < m["rows"][g.name] / g.rows.number < 2
            size = sum(o["bytes"] for o in m["outputs"] if o["name"].startswith(f"offline/{g.name}/"))
            assert 0.5 < size / g.bytes.number < 2
            assert g.keys is not None
            loaded = next(r for r in reversed(list_runs(world.data)) if r.kind == "materialize")
            assert loaded.record.counts[f"rows/{g.name}"] == g.keys.number
    for m, b in zip(made, plan.batches, strict=True):
        assert [f["size"] for f in m["inputs"]["orders"]] == [f.size for f in b.reads["orders"].files]
        expected = b.events["orders"]
        assert m["events"]["orders"] == expected.number if expected.exact else expected.number or kind == "a source's filter"
    refused = {v["version"] for one in list_models(world.data) for v in one["versions"] if v["state"] != "fits"}
    assert {m.version.version for m in plan.models if not m.dropped} == refused
    assert {m.version.version for m in plan.models if m.dropped} == ({1, 2} if kind == "a removed group" else set())
    assert not world.plan().changes, world.plan().commands


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("tandem.json", Path.unlink),
    "empty": ("tandem.json", lambda file: file.write_bytes(b"")),
    "truncated": ("tandem.json", lambda file: file.write_bytes(file.read_bytes()[:-40])),
    "of another graph": (
        "tandem.json",
        lambda file: file.write_text(re.sub('"fingerprint": "...', '"fingerprint": "000', file.read_text())),
    ),
    "the whole folder": (".", shutil.rmtree),
    "one file more": ("tandem.json", lambda file: shutil.copytree(file.parent, file.parent / "transform_fn")),
}


def check_mended(world: World, group: str) -> None:
    """The plan names the graph of one group as damaged, the commands of it give the same graph, and then there is nothing to do."""
    before = applied_graphs(world.data)
    plan = world.plan()
    said = list(lines(plan))
    assert plan.changes and [g.name for g in plan.groups if g.sign != "="] == [group] == [g.name for g in plan.groups if g.recomputed]
    assert f"~ {group}: its graph's files are damaged; it is saved anew, and its rows are recomputed" in said
    assert any(before[group] in line and line.startswith("    ") for line in said) and not plan.feast and not plan.models
    assert [c.split()[1] for c in plan.commands] == ["batch", "apply", "materialize"] and f"--group {group}" in plan.commands[0]
    world.follow(plan)
    assert applied_graphs(world.data) == before and not world.plan().changes, list(lines(world.plan()))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_graph_is_named_and_the_commands_mend_it(world: World, kind: str) -> None:
    world.write(FEATURES)
    name, harm = DAMAGES[kind]
    harm(world.data / "graphs/city_orders" / applied_graphs(world.data)["city_orders"] / name)
    check_mended(world, "city_orders")


def test_a_plan_of_one_group_mends_the_graphs_that_apply_loads_besides(world: World) -> None:
    world.write(FEATURES)
    before = applied_graphs(world.data)
    for group, fingerprint in before.items():
        (world.data / "graphs" / group / fingerprint / "tandem.json").write_bytes(b"{")
    plan = make_plan(world.repo(), ("city_orders",))
    assert plan.also == ("shop_orders",)
    world.follow(plan)
    assert applied_graphs(world.data) == before and not world.plan().changes


def test_a_damaged_graph_that_no_run_made_is_mended_by_apply(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(FEATURES)
    workflow.apply(world.repo(), None, world.steps)
    before = applied_graphs(world.data)
    assert not world.plan().changes
    (world.data / "graphs/city_orders" / before["city_orders"] / "tandem.json").write_bytes(b"{")
    plan = world.plan()
    assert plan.commands == ("tandem apply",) and "~ city_orders: its graph's files are damaged; it is saved anew" in lines(plan)
    world.follow(plan)
    assert applied_graphs(world.data) == before and not world.plan().changes


def test_a_learnt_graph_of_which_a_byte_changed(world: World) -> None:
    world.write(FEATURES.replace("    aggregates=[Count(over=[", '    preprocessing_fn="scaling:shops",\n    aggregates=[Count(over=[', 1))
    world.follow(world.plan())
    assert not world.plan().changes
    graph = world.data / "graphs/shop_orders" / applied_graphs(world.data)["shop_orders"]
    file = graph / "transform_fn/saved_model.pb"
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    check_mended(world, "shop_orders")


def test_a_pointer_and_a_registry_that_are_damaged_are_mended_by_apply(world: World) -> None:
    world.write(FEATURES)
    before = applied_graphs(world.data)
    (world.data / "graphs/city_orders/CURRENT").write_bytes(b"\xff\xfe")
    registry = next(f for f in world.path.rglob("registry.db"))
    registry.write_bytes(registry.read_bytes()[:-7])
    plan = world.plan()
    assert f"    {registry.resolve()} is damaged: it is set aside and made anew" in lines(plan)
    assert "tandem apply" in plan.commands and not any(g.recomputed for g in plan.groups)
    world.follow(plan)
    assert applied_graphs(world.data) == before and not world.plan().changes


def test_events_that_a_wider_contract_takes_in(world: World) -> None:
    """As many as the plan names come in by the run that it names, with the same graph."""
    world.write(FEATURES.replace('["app", "web"]', '["app", "web", "tv"]'))
    plan = world.plan()
    assert plan.groups[0].refused == {"not_in_domain/channel": 80} and "nothing is recomputed" in summary(plan)
    before = applied_graphs(world.data)
    span = plan.groups[0].judged.range if plan.groups[0].judged else None
    assert span is not None and micros_of(span[0]) < micros_of(span[1])
    made = workflow.batch(world.repo(), span[0], span[1], world.steps, pinned=True).manifest
    assert made["events"] == {"orders": 240} and made["rejected"] == {} and made["fingerprints"] == before


def test_rows_of_a_later_day_go_on_with_the_run_that_there_is(world: World) -> None:
    """The command reads the new day alone, as the plan says, and gives the rows of a run over both; after it nothing is left to do."""
    world.write(FEATURES)
    day = 86_400
    folder = world.data / "events/orders/date=2024-05-02"
    folder.mkdir(parents=True)
    events = [
        order(f"n{n}", "2024-05-02T08:00:00Z", float(n), shop=n % 4, city="ab"[n % 2], channel="web", sent=AT + day + 60 * n)
        for n in range(90)
    ]
    (folder / "all.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    span = datetime.fromisoformat("2024-05-01T00:00:00+00:00"), datetime.fromisoformat("2024-05-03T00:00:00+00:00")
    last = next(r.id for r in reversed(list_runs(world.data)) if r.kind == "batch")
    plan = make_plan(world.repo(), (), span)
    assert plan.commands[0] == f"tandem batch --from-run {last} --end 2024-05-03 --pinned"
    assert f"    continues {last}, whose tiles hold the earlier events" in lines(plan)
    (batch,) = plan.batches
    assert [f.name for f in batch.reads["orders"].files] == ["events/orders/date=2024-05-02/all.jsonl"]
    made = workflow.batch(world.repo(), None, span[1], world.steps, pinned=True, from_run=last).manifest
    assert made["events"] == {"orders": 90} and made["continues"]["run"] == last
    assert datetime.fromisoformat(made["range"][0]) == batch.range[0] if batch.range else False
    whole = workflow.batch(world.repo(), span[0], span[1], world.steps, pinned=True, rerun=True).manifest
    assert whole["rows"] == {n: made["rows"][n] + rows for n, rows in first_rows(world, last).items()}
    after = make_plan(world.repo(), (), span)
    assert not any(g.recomputed for g in after.groups)


def first_rows(world: World, run: str) -> dict[str, int]:
    """How many rows a run made."""
    return dict(next(r.manifest["rows"] for r in list_runs(world.data) if r.id == run))


def test_rows_that_must_be_made_anew_are_read_whole(world: World) -> None:
    world.write(FEATURES.replace("Count(over=[hours(1), hours(24)])", "Count(over=[hours(1), hours(6)])"))
    span = datetime.fromisoformat("2024-05-01T00:00:00+00:00"), datetime.fromisoformat("2024-05-03T00:00:00+00:00")
    assert all("--from-run" not in line for line in make_plan(world.repo(), ["shop_orders"], span).commands)
