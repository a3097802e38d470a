"""Feast's registry in a database (``registry_type: sql``): applied whole or not at all, looked at without a trace, served while away."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feast.infra.registry.sql import SqlRegistry

from pipelines.feature_store import applying
from pipelines.feature_store.ownership import claim_rows
from pipelines.feature_store.sql_registry import place_of
from pipelines.feature_store.store import apply, open_store, ordered_store
from pipelines.lake import graphs
from pipelines.lake.folder_identity import identity_of
from pipelines.planning.feast_changes import defined, feast_changes, registry_of
from serving.dataplane import Dataplane
from serving.features import OnlineFeatures
from serving.online_store.base import Covered
from serving.registry_place import absolute_database
from serving.settings import ServingSettings
from tests.integration.stream_world import StreamWorld, make_stream_world
from tests.integration.test_apply_atomic import ended, graph_of, seen, start
from tests.postgres_server import PASSWORD, PostgresServer, postgres_server
from transforms.errors import StoreError

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def url_of(server: PostgresServer) -> str:
    given = server.settings
    return f"postgresql+psycopg://{given['user']}:{PASSWORD}@127.0.0.1:{given['port']}/{given['database']}"


def make_world(folder: Path, url: str, project: str) -> StreamWorld:
    """A world whose registry is in a database, with nothing applied in it yet."""
    world = make_stream_world(folder / "world")
    place = world.path / "feature_store.yaml"
    registry = f"registry: {{registry_type: sql, path: '{url}', cache_ttl_seconds: 60}}"
    place.write_text(place.read_text().replace("registry: ../data/registry.db", registry).replace("project: trips", f"project: {project}"))
    return world


def fingerprints(world: StreamWorld) -> dict[str, str]:
    return {name: str(graphs.applied_graph(graphs.folder(world.data), name)) for name in world.repo().groups}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_apply_is_one_transaction(tmp_path: Path, postgres: PostgresServer, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, "sqlite:///../data/registry.sqlite" if kind == "sqlite" else url_of(postgres), f"whole_{kind}")
    monkeypatch.chdir(tmp_path)  # a relative file is found from the repository, wherever who asks works
    empty = registry_of(world.repo())
    assert empty is not None and not empty.views
    assert not (world.data / "registry.sqlite").exists(), "who looks makes none"
    old, new = fingerprints(world), graph_of(world, "b")
    apply(world.repo(), old)
    before = registry_of(world.repo())
    assert before is not None and feast_changes(defined(world.repo()), before, {}) == [] and seen(world)["registry"] == old
    n = 0
    while True:
        n += 1
        pid = os.fork()
        if not pid:
            applied_until(world, new, n)
        code = ended(pid)
        if code != -signal.SIGKILL:
            break
        assert registry_of(world.repo()) == before, f"killed before change {n}: a part of it is there"
        assert graphs.applying(world.data) == new
    assert code == 0 and n > 4, "each change of the registry was one to be killed at"
    assert seen(world) == {"pointer": new, "store": new, "registry": new}
    again = graph_of(world, "c")
    monkeypatch.setattr("pipelines.feature_store.store.check_services", lambda *given: (_ for _ in ()).throw(StoreError("no")))
    with pytest.raises(StoreError):
        apply(world.repo(), again)
    assert seen(world)["registry"] == new
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob("*.sqlite"))


@pytest.mark.parametrize("before", [None, "another /folder"])
def test_a_commit_that_fails_leaves_the_mark_where_it_was(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """The rows are claimed last, and the registry's transaction ends after that."""
    world = make_world(tmp_path, url_of(postgres), f"cut_{before is None}")
    opened = open_store(world.repo())
    online = ordered_store(opened)
    if before is not None:
        online.claim(opened.config, before)
    theirs = {name: (f"of-{name}", Covered(n, n)) for n, name in enumerate(world.repo().groups, 1)}
    for name, (fingerprint, covered) in theirs.items():
        online.apply_fingerprint(opened.config, name, fingerprint)
        online.cover(opened.config, name, covered)
    real = claim_rows

    def claimed_and_cut_off(*given: Any) -> None:
        real(*given)
        assert online.owner(opened.config) == identity_of(world.data)
        with postgres.connect() as admin:
            others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state = 'idle in transaction'"
            assert admin.execute(f"SELECT pg_terminate_backend(pid) {others}").fetchall()

    monkeypatch.setattr("pipelines.feature_store.store.claim_rows", claimed_and_cut_off)
    with pytest.raises(StoreError, match="the registry's database"):
        apply(world.repo(), fingerprints(world), take_over=True)
    assert online.owner(opened.config) == before
    known = {name: (online.applied_fingerprint(opened.config, name), online.covered(opened.config, name)) for name in theirs}
    assert known == theirs and len(theirs) > 1


def applied_until(world: StreamWorld, wanted: dict[str, str], change: int) -> None:
    """Apply, and be killed before the registry's change of that number."""
    real: Any = SqlRegistry._apply_object
    done = 0

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        nonlocal done
        done += 1
        if done == change:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *given, **named)

    SqlRegistry._apply_object = counted  # type: ignore[method-assign]
    try:
        applying.apply_fingerprints(world.repo(), lambda: wanted)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_applies_at_once_leave_one_of_them_in_all_places(tmp_path: Path, postgres: PostgresServer, kind: str) -> None:
    """Also where they do not know of each other's locks: of two data folders, with one registry."""
    url = f"sqlite:///{tmp_path}/shared.sqlite" if kind == "sqlite" else url_of(postgres)
    world, other = (make_world(tmp_path / name, url, f"at_once_{kind}") for name in ("one", "two"))
    wanted, theirs = [graph_of(world, tag) for tag in "ab"], graph_of(other, "c")
    pids = [*(start(world, each) for each in wanted), start(other, theirs)]
    assert all(0 < ended(pid) < 30 for pid in pids)
    places = seen(world)
    assert places["pointer"] == places["store"] and places["pointer"] in wanted
    assert places["registry"] in [*wanted, theirs], "of one of them, not of several"


def test_a_server_goes_on_while_the_registry_is_away_and_says_so(tmp_path: Path) -> None:
    with postgres_server() as own:
        world = make_world(tmp_path, url_of(own), "served")
        apply(world.repo(), fingerprints(world))
        features = OnlineFeatures(world.path)
        features.refresh()
        assert features.problem == "" and set(features.catalog.views) == {"zones", "pairs"}
        features.connect()
        catalog = features.catalog
        plane = Dataplane(
            ServingSettings(feature_repo=world.path, models=world.data / "m", graphs=world.data / "graphs", needs_model=False)
        )
        plane.poll()
        assert plane.problems() == plane.warnings() == []
        own.kill()
        features.refresh()
        assert "cannot be read" in features.problem and features.catalog is catalog
        plane.poll()
        assert plane.problems() == [] and "the last version read is served" in plane.warnings()[0]
        features.connect()
        fresh = OnlineFeatures(world.path)
        fresh.refresh()
        with pytest.raises(StoreError, match="the feature registry cannot be read"):
            _ = fresh.catalog
        away = r"registry's database postgresql\+psycopg://127\.0\.0\.1:\d+/postgres: .*start it there"
        for what in (lambda: open_store(world.repo()), lambda: apply(world.repo(), fingerprints(world))):
            with pytest.raises(StoreError, match=away) as e:
                what()
            assert PASSWORD not in str(e.value) and "\n" not in str(e.value)
        assert registry_of(world.repo()) is None, "'tandem plan' says that it is not known"
        own.start()
        for each in (features, fresh):
            each.refresh()
            assert each.problem == "" and each.catalog == catalog
        assert features.catalog is catalog, "plans made of it stay"


def test_places_without_secrets_and_files_from_the_repository() -> None:
    assert place_of("postgresql+psycopg://u:hunter2@db:5432/feast?password=hunter2") == "postgresql+psycopg://db:5432/feast"
    assert place_of("hunter2") == "(its path is no database URL)"
    repo = Path("/r/repo")
    assert absolute_database("sqlite:///../data/r.db?timeout=5", repo) == "sqlite:////r/data/r.db?timeout=5"
    for url in ("sqlite:////a/r.db", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg://u:p@h/d"):
        assert absolute_database(url, repo) == url
