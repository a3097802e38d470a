"""Topics of systems the whole way: ``tandem infer`` of each, a stream, a batch over what was archived, ``tandem verify`` of both, and every
value of every event as plain Python has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from pipelines import workflow
from pipelines.reports.terminal import Steps
from pipelines.sources.event_files import events, list_files
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.test_topic_shapes import World, make_world
from tests.schema_registry import schema_registry
from tests.shapes.systems import BEGIN, SYSTEMS, Made
from transforms.instants import micros_of

ROWS = 220
BEHIND = timedelta(minutes=31)
"""No event comes further behind than that."""


@dataclass
class Gone:
    world: World
    made: dict[str, Made]
    summary: dict[str, Any]
    reports: dict[str, Any]


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gone]:
    """One repository of all: each has a module as infer writes it of its topic, or of its files where it has some."""
    with schema_registry() as registry:
        world = make_world(tmp_path_factory.mktemp("systems") / "world", "unused", "", schema_registry=registry.url)
        made = {name: system.make(ROWS, registry, world.path) for name, system in SYSTEMS.items()}
        settings = json.loads((world.path / "tandem.yaml").read_text())
        for name, each in made.items():
            for key, value in each.settings.items():
                settings["kafka"].setdefault(key, {})[name] = value
            world.broker.create_topic(f"t.{name}", 2)
            world.topic = f"t.{name}"
            world.send([(k, v, [], micros_of(at)) for k, v, at in zip(each.keys, each.values, each.at, strict=True)])
        (world.path / "tandem.yaml").write_text(json.dumps(settings))
        for name, system in SYSTEMS.items():
            module, what = world.path / f"{name}.py", f"t.{name}"
            if system.write is not None:
                folder = world.data / "events" / name
                folder.mkdir(parents=True)
                system.write(made[name], folder)
                what = str(folder)
            world.tandem_text("infer", what, "--with-group", "--name", name, "--output", str(module), *system.infer)
            if system.write is not None:
                module.write_text(module.read_text().replace(f'name="{name}",', f'name="{name}",\n    topic="t.{name}",', 1))
        (world.path / "features.py").write_text("\n".join(f"from {name} import *" for name in SYSTEMS))
        workflow.apply(world.repo(), None, Steps())
        done = run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)
        assert done["code"] == 0
        reports = {"own": world.tandem("verify")}
        for name, system in SYSTEMS.items():
            if system.write is None:
                world.tandem("archive", "--source", name)
        whole = BEGIN.replace(hour=0), BEGIN.replace(hour=0) + timedelta(days=3)
        part = BEGIN + timedelta(hours=1), BEGIN + timedelta(hours=3)
        for kind, (begin, end) in {"whole": whole, "part": part}.items():
            workflow.batch(world.repo(), begin, end, Steps(), pinned=True)
            reports[kind] = world.tandem("verify", "--against", "latest")
        yield Gone(world, made, done["summary"], reports)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_event_is_what_plain_python_says(gone: Gone, name: str) -> None:
    source, wanted = gone.world.repo().sources[name], gone.made[name].wanted
    assert gone.summary["rejected"] == {} and gone.summary["read"][name] == ROWS
    found = [b for f in list_files(gone.world.data, source, None, None) for b, _ in events(f.path, source, micros_of(BEGIN) * 2, 0)]
    rows = [{key: row[key] for key in wanted[0]} for batch in found for row in batch.to_pylist()]
    tie = next(key for key in wanted[0] if key == source.tie_breaker)
    assert sorted(rows, key=lambda row: row[tie]) == sorted(wanted, key=lambda row: row[tie])
    assert source.allowed_lateness <= max(BEHIND, timedelta(hours=1)), "a topic's partitions each begin anew: that is no disorder"


@pytest.mark.slow
def test_stream_and_batch_are_proven_alike(gone: Gone) -> None:
    """Also against a run that begins after the stream did and ends before it has come so far: other times are neither extra nor wrong."""
    for kind, report in gone.reports.items():
        assert (report["verdict"], report["unexplained"], report["problems"]) == ("proven", 0, []), kind
        for name, group in gone.world.repo().groups.items():
            rows = report["groups"][name]["rows"]
            assert rows["equal"] == rows["compared"] > 15 and (rows["different"], rows["extra"]) == ({}, {}), (kind, name)
            assert set(rows["missing"]) <= {"in flight"} and group.name == f"{group.source.name}_by_{group.entity.keys[0]}"
    assert any("outside the run" in online["causes"] for online in gone.reports["part"]["online"].values())
