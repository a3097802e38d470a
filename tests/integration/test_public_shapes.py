"""Public shapes of data the whole way, as a user goes it: ``tandem infer`` of the files, a batch over them, a stream over the same records
in topics as their systems send them, and ``tandem verify`` of both against each other."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipelines import workflow
from pipelines.reports.terminal import Steps
from pipelines.sources.event_files import events, list_files
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.test_topic_shapes import Record, World, make_world
from tests.shapes.makers import SHAPES, payloads
from transforms.instants import micros_of

ROWS = 250
INFER: dict[str, list[str]] = {
    "nyc_taxi": ["--zone", "America/New_York"], "ieee_cis": [], "criteo": [], "iot": [], "clicks": [], "orders": ["--explode", "items"],
    "local_times": ["--zone", "Europe/Paris"],
}  # fmt: skip
LINES = ("ieee_cis", "criteo", "local_times")
"""Those whose topics hold lines, in the dialect of the files; the others hold JSON."""
BEGIN, END = dt.datetime(2024, 3, 1, tzinfo=dt.UTC), dt.datetime(2024, 11, 1, tzinfo=dt.UTC)


@dataclass
class Gone:
    """What the way gave."""

    world: World
    records: dict[str, int]
    summary: dict[str, Any]
    own: dict[str, Any]
    against: dict[str, Any]


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Gone:
    """One repository of all shapes: each has a module of its own, as infer writes it, with its topic named."""
    formats = dict.fromkeys(LINES, "csv")
    world = make_world(tmp_path_factory.mktemp("shapes") / "world", "unused", "", formats=formats, format_options={})
    sent: dict[str, int] = {}
    settings = json.loads((world.path / "tandem.yaml").read_text())
    for name, more in INFER.items():
        folder = SHAPES[name].write(world.data / "events" / name, ROWS)
        module = world.path / f"{name}.py"
        world.tandem_text("infer", str(folder), "--with-group", "--output", str(module), *more)
        text = module.read_text().replace(f'name="{name}",', f'name="{name}",\n    topic="t.{name}",', 1)
        module.write_text(text.replace("1577836800", str(int(BEGIN.timestamp()))))  # the day that its QUESTION asks for
        names, lines = payloads(folder)
        if name in LINES:
            settings["kafka"]["format_options"][name] = {"columns": names}
        records: list[Record] = [(None, line, [], micros_of(END)) for line in lines]
        world.topic = f"t.{name}"
        world.broker.create_topic(world.topic, 2)
        world.send(records)
        sent[name] = len(records)
    (world.path / "features.py").write_text("\n".join(f"from {name} import *" for name in INFER))
    (world.path / "tandem.yaml").write_text(json.dumps(settings))
    workflow.batch(world.repo(), BEGIN, END, Steps())
    workflow.apply(world.repo(), None, Steps())
    done = run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)
    assert done["code"] == 0
    return Gone(world, sent, done["summary"], world.tandem("verify"), world.tandem("verify", "--against", "latest"))


@pytest.mark.slow
@pytest.mark.parametrize("name", INFER)
def test_from_infer_to_a_proof(gone: Gone, name: str) -> None:
    (group,) = [g.name for g in gone.world.repo().groups.values() if g.source.name == name]
    assert gone.summary["rejected"] == {} and gone.summary["read"][name] == gone.records[name]
    assert gone.own["sources"][name]["events"] >= gone.records[name]  # an order is as many events as it has items
    for report in (gone.own, gone.against):
        assert (report["verdict"], report["unexplained"], report["problems"]) == ("proven", 0, [])
        rows = report["groups"][group]["rows"]
        assert rows["equal"] == rows["compared"] == rows["stream"] > 150
        assert (rows["different"], rows["extra"]) == ({}, {}) and set(rows["missing"]) <= {"in flight"}
        assert all(f["equal"] == f["compared"] for f in report["groups"][group]["features"].values())


def test_local_times_are_the_moments_that_their_zones_say(gone: Gone) -> None:
    """By hand: the first and last pickups of New York; nothing of an hour that clocks left out or had twice was lost."""
    world = gone.world
    for name, column, zone in (("nyc_taxi", "tpep_pickup_datetime", "America/New_York"), ("local_times", "messzeit", "Europe/Paris")):
        source = world.repo().sources[name]
        found = [b for f in list_files(world.data, source, None, None) for b, _ in events(f.path, source, micros_of(END), 0)]
        shown = sorted(at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for b in found for at in b.column(0).to_pylist())
        written = sorted(
            dt.datetime.strptime(line.decode("latin-1").partition(";")[0], "%d.%m.%Y %H:%M:%S") if name in LINES
            else dt.datetime.fromisoformat(json.loads(line)[column])
            for line in payloads(world.data / "events" / name)[1]
        )  # fmt: skip
        assert shown == written
