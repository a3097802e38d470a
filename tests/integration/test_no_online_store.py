"""A repository whose ``feature_store.yaml`` has ``online_store: null``, as Feast lets it: batch and training alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.feature_store import applying
from pipelines.feature_store.store import open_store, registry_file
from pipelines.feature_store.store_check import check_stores
from pipelines.forgetting.erase import erase
from pipelines.forgetting.subject import Subject
from pipelines.lake import graphs
from serving.features import OnlineFeatures
from tests.integration.stream_world import StreamWorld, events, make_stream_world
from tests.integration.test_apply_atomic import graph_of
from transforms.errors import StoreError, TandemError

NONE = "feature_store.yaml has no online store (online_store: null); name one"


@pytest.fixture
def world(tmp_path: Path) -> StreamWorld:
    return make_stream_world(tmp_path / "world", online_store="null")


def test_apply_applies(world: StreamWorld) -> None:
    wanted = graph_of(world, "b")
    assert applying.apply_fingerprints(world.repo(), lambda: wanted) == wanted
    assert graphs.applied_graphs(world.data) == wanted and graphs.applying(world.data) is None
    assert {v.name for v in open_store(world.repo()).list_feature_views()} == set(wanted)
    assert check_stores(world.repo()) == "online store: none"


def test_an_apply_that_is_refused_is_taken_back(world: StreamWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object) -> None:
        raise StoreError("away")

    place = registry_file(world.path)
    assert place is not None
    before, applied = place.read_bytes(), graphs.applied_graphs(world.data)
    monkeypatch.setattr("feast.infra.passthrough_provider.PassthroughProvider.update_infra", away)
    with pytest.raises(StoreError, match="away"):
        applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"))
    assert place.read_bytes() == before and graphs.applied_graphs(world.data) == applied


@pytest.mark.parametrize(
    "words", [["materialize", "--start", "2023-01-01", "--end", "2024-01-01"], ["stream", "--runner", "direct", "--until", "latest"]]
)
def test_what_needs_one_says_so_in_one_line(world: StreamWorld, words: list[str]) -> None:
    world.produce(events(10))
    with pytest.raises(TandemError) as said:
        CliRunner().invoke(app, [*words, "--repo", str(world.path)], catch_exceptions=False)
    assert NONE in str(said.value) and "\n" not in str(said.value)


def test_a_server_says_so(world: StreamWorld) -> None:
    with pytest.raises(StoreError, match="has no online store"):
        OnlineFeatures(world.path).applied_fingerprint("zones")


def test_there_is_nothing_in_it_to_erase(world: StreamWorld) -> None:
    report = erase(world.repo(), Subject.parse(["trip=t1"]))
    assert report.remains == [] and not any("online store" in note for note in report.notes)
