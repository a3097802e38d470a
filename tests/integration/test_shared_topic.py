"""Two sources that read one topic, and one folder of files: each takes its own events, under names of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import workflow
from pipelines.cli.root import app
from pipelines.reports.terminal import Steps
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.integration.stream_world import StreamWorld, events, make_stream_world

SECOND = """
fares = EventSource(
    name="fares", topic=trips.topic, files=trips.files, event_time=Field("paid_at", "timestamp", path="at"), tie_breaker="ride",
    out_of_orderness=minutes(1), allowed_lateness=hours(1), where=col("amount") > 10,
    fields=[
        Field("ride", "string", required=True, path="trip"), Field("zone", "string", required=True),
        Field("amount", "float64", path="fare"),
    ],
)
fares_of_zones = FeatureGroup(
    name="fares_of_zones", source=fares, entity=Entity("zone"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=hours(1)), Mean("amount", over=hours(2))],
)
feast_views(__name__)
"""


@pytest.fixture
def world(tmp_path: Path) -> StreamWorld:
    made = make_stream_world(tmp_path / "world")
    file = made.path / "features.py"
    text = file.read_text().replace('topic="', 'files="events/trips", topic="', 1).replace("Count, ", "Count, col, ", 1)
    file.write_text(text.replace("feast_views(__name__)\n", SECOND))
    sys.modules.pop("features", None)
    return made


def test_stream_and_verify(world: StreamWorld) -> None:
    """verify kept the events of both in one folder, where each read the other's, by its own names, as dead letters."""
    world.produce(events(300))
    workflow.apply(world.repo(), None, Steps())
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"))["code"] == 0
    result = run_verify(world.repo(), VerifyOptions(served=False))
    assert result.proven
    assert result.values["equal"] == result.values["compared"] > 500
    taken = [json.loads(event) for event in events(300)]
    assert {g: bool(found["rows"]["compared"]) for g, found in result.groups.items()} == dict.fromkeys(world.repo().groups, True)
    assert 0 < sum((event["fare"] or 0) > 10 for event in taken) < len(taken), "the second source takes a part"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("archive", "sources trips, fares share the folder events/trips"),
        ("replay", "sources trips, fares read one topic, 'trips'"),
    ],
)
def test_what_would_mix_them_up_is_refused(world: StreamWorld, command: str, told: str) -> None:
    done = CliRunner().invoke(app, [command, "--repo", str(world.path)])
    assert done.exit_code == 1 and told in str(done.exception)
