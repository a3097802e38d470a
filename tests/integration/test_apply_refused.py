"""An apply that is refused, by definitions, registry or online store, changes nothing: no command complains of it afterwards, and the next
apply is one like any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.feature_store import applying
from pipelines.feature_store.materialize import record_beside_applies
from pipelines.feature_store.put_back import HalfApplied, unchanged_on_failure
from pipelines.feature_store.store import open_store, ordered_store, registry_file
from pipelines.lake import graphs
from pipelines.lake.folder_identity import identity_of
from serving.online_store.base import Covered
from serving.online_store.redis import OrderedRedisOnlineStore
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from tests.integration.stream_world import StreamWorld, make_stream_world
from tests.integration.test_apply_atomic import graph_of, seen
from tests.postgres_server import PostgresServer, postgres_server
from tests.redis_server import redis_server
from transforms.errors import StoreError, TandemError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def redis() -> Iterator[Any]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def of_redis(server: Any) -> str:
    return json.dumps({"type": "tandem.serving.online_store.redis.OrderedRedisOnlineStore", "connection_string": server.connection_string})


def of_postgres(server: PostgresServer, schema: str) -> str:
    given = {**server.settings, "db_schema": schema}
    return json.dumps({"type": "tandem.serving.online_store.postgres.OrderedPostgresOnlineStore", **given})


def refused(world: StreamWorld, why: str, error: type[Exception] = TandemError) -> None:
    """Apply is refused with that line, and all is as it was: what is read, what the store holds, the registry to the byte."""
    place = registry_file(world.path)
    before, registry = state(world), None if place is None else place.read_bytes()
    with pytest.raises(error, match=why) as said:
        applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"))
    assert "\n" not in str(said.value)
    assert graphs.applying(world.data) is None
    assert state(world) == before
    assert registry is None or (place is not None and place.read_bytes() == registry)
    result = CliRunner().invoke(app, ["materialize", "--repo", str(world.path)])  # it may have nothing to do, but not this to say
    assert "apply was interrupted" not in result.output and why not in result.output


def state(world: StreamWorld) -> Any:
    store = open_store(world.repo())
    online = ordered_store(store)
    return seen(world), {name: online.covered(store.config, name) for name in world.repo().groups}


def accepted(world: StreamWorld) -> None:
    """The next apply is like any other."""
    wanted = graph_of(world, "c")
    assert applying.apply_fingerprints(world.repo(), lambda: wanted) == wanted
    places = seen(world)
    assert places["pointer"] == places["store"] == wanted and graphs.applying(world.data) is None


def define(world: StreamWorld, more: str) -> Callable[[], None]:
    """Add to the definitions; what takes it out again."""
    file = world.path / "features.py"
    before = file.read_text()

    def write(text: str) -> None:
        file.write_text(text)
        sys.modules.pop("features", None)  # each command is a process of its own

    write(before + more)
    return lambda: write(before)


REFUSED = """
import feast
from feast.types import Int64
v = feast.FeatureView(
    name="v", entities=[entity_zone], schema=[feast.Field(name=n, dtype=Int64) for n in ("f37660_1h", "f43618_1h")],
    source=feast.FileSource(name="v_rows", path="v.parquet", timestamp_field="at"),
)
"""  # of one hash in Redis


ADDED = REFUSED.replace('"f43618_1h"', '"f1_1h"')


def test_by_the_definitions(tmp_path: Path) -> None:
    world = make_stream_world(tmp_path / "world")
    back = define(world, REFUSED)
    refused(world, "have the same field in Redis")
    back()
    accepted(world)


def test_by_a_store_that_another_project_shares(tmp_path: Path) -> None:
    """Its tables would be the other's: the store refuses the last of the views, when registry and the others have it."""
    world = make_stream_world(tmp_path / "world")
    store = open_store(world.repo())
    online = ordered_store(store)
    online.cover(store.config, "zones", Covered(7, 8))
    with online._transaction(store.config) as conn:  # type: ignore[attr-defined]
        conn.execute("INSERT INTO tandem_applied VALUES ('trips_pairs', 'tandem', 'f')")  # as an older version let it come about
    assert list(world.repo().groups)[-1] == "pairs"
    refused(world, "have the same table 'trips_pairs_tandem'")
    assert online.covered(store.config, "zones") == Covered(7, 8)
    with online._transaction(store.config) as conn:  # type: ignore[attr-defined]
        conn.execute("DELETE FROM tandem_applied WHERE project = 'trips_pairs'")
    accepted(world)


def test_a_store_that_is_used_on_is_asked_as_before_whose_rows_they_are(tmp_path: Path) -> None:
    """Views are put back as nobody, and as nobody the object wrote whatever came afterwards."""
    world = make_stream_world(tmp_path / "world")
    store = open_store(world.repo())
    online = ordered_store(store)
    online.apply_fingerprint(store.config, "zones", "before")
    online.writer = online.claim(store.config, "mine", take=True)

    def apply() -> None:
        with unchanged_on_failure(None, online, store.config, ["zones"], True, "mine"):
            online.apply_fingerprint(store.config, "zones", "after")
            raise KeyError

    with pytest.raises(KeyError):
        apply()
    assert online.applied_fingerprint(store.config, "zones") == "before" and online.writer == "mine"


def test_by_a_redis_that_is_read_only_full_or_away(tmp_path: Path, redis: Any) -> None:
    world = make_stream_world(tmp_path / "world", online_store=of_redis(redis))
    client = redis.client
    client.replicaof("127.0.0.1", 1)
    refused(world, "READONLY|read only", StoreError)
    client.replicaof("no", "one")
    client.config_set("maxmemory", 1)
    refused(world, "OOM|memory", StoreError)
    client.config_set("maxmemory", 0)
    accepted(world)
    before = {n: graphs.applied_graph(graphs.folder(world.data), n) for n in world.repo().groups}
    redis.kill()
    with pytest.raises(StoreError):
        applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"))
    assert graphs.applying(world.data) is None
    assert {n: graphs.applied_graph(graphs.folder(world.data), n) for n in world.repo().groups} == before


def test_by_a_postgres_that_may_only_be_read(tmp_path: Path, postgres: PostgresServer) -> None:
    world = make_stream_world(tmp_path / "world", online_store=of_postgres(postgres, "refused"))
    database = postgres.settings["database"]
    with postgres.connect() as as_owner:
        as_owner.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    refused(world, "read-only", StoreError)
    with postgres.connect() as as_owner:
        as_owner.execute("SET default_transaction_read_only = off")
        as_owner.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    accepted(world)


def test_the_first_one_of_a_repository(tmp_path: Path) -> None:
    """There was no registry and no graph: there is none."""
    world = make_stream_world(tmp_path / "world")
    place = registry_file(world.path)
    assert place is not None
    place.unlink()
    for name in world.repo().groups:
        (graphs.folder(world.data) / name / "CURRENT").unlink()
    (world.data / "online.db").unlink()
    (world.data / "online.db").mkdir()
    with pytest.raises(TandemError):
        applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"))
    assert graphs.applying(world.data) is None and graphs.applied_graphs(world.data) == {} and not place.exists()
    (world.data / "online.db").rmdir()
    accepted(world)


def of_one_hour(world: StreamWorld, waits: Callable[[str], None] = lambda line: None) -> Callable[[], None]:
    """A materialization that has opened its store: what records that it loaded an hour of zones."""
    store = open_store(world.repo())
    record_beside_applies(world.repo(), store, waits)
    begin = datetime(2024, 5, 1, tzinfo=UTC)
    view = store.get_feature_view("zones")
    return lambda: store.registry.apply_materialization(view, store.config.project, begin, begin + timedelta(hours=1))


def intervals(world: StreamWorld) -> int:
    return len(open_store(world.repo()).get_feature_view("zones").materialization_intervals)


def test_what_a_materialize_records_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the apply, which puts back what it found."""
    world = make_stream_world(tmp_path / "world")
    before, waits = seen(world), Event()
    thread = Thread(target=of_one_hour(world, lambda line: waits.set()))

    def refuse(*given: Any) -> None:
        thread.start()
        while thread.is_alive() and not waits.is_set():
            waits.wait(0.02)
        raise StoreError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(OrderedSqliteOnlineStore, "apply_fingerprint", refuse)
        with pytest.raises(StoreError, match="refused"):
            applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"))
    thread.join(60)
    assert intervals(world) == 1 and seen(world) == before
    accepted(world)
    assert intervals(world) == 1


def test_a_materialize_that_began_before_does_not_undo_an_apply(tmp_path: Path) -> None:
    world = make_stream_world(tmp_path / "world")
    record = of_one_hour(world)
    define(world, ADDED)
    accepted(world)
    record()
    assert intervals(world) == 1
    assert {v.name for v in open_store(world.repo()).list_feature_views()} == {"zones", "pairs", "v"}


def test_behind_one_that_was_killed(tmp_path: Path) -> None:
    """The killed one is to be completed still."""
    world = make_stream_world(tmp_path / "world")
    killed = graph_of(world, "a")
    graphs.begin_apply(world.data, killed)
    back = define(world, REFUSED)
    with pytest.raises(TandemError):
        applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"))
    assert graphs.applying(world.data) == killed
    back()
    applying.finish(world.repo())
    assert seen(world)["store"] == killed


def test_one_that_cannot_be_taken_back_stays_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store went away in the middle: the next command that finds it completes the apply."""
    world = make_stream_world(tmp_path / "world")
    wanted, real, done = graph_of(world, "b"), OrderedSqliteOnlineStore.apply_fingerprint, 0

    def once(self: Any, *given: Any) -> None:
        nonlocal done
        done += 1
        if done > 1:
            raise StoreError("the store went away")
        real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(OrderedSqliteOnlineStore, "apply_fingerprint", once)
        with pytest.raises(HalfApplied, match="the store went away; a part was applied and could not be undone"):
            applying.apply_fingerprints(world.repo(), lambda: wanted)
    assert graphs.applying(world.data) == wanted
    applying.finish(world.repo())
    places = seen(world)
    assert places["pointer"] == places["store"] == wanted and graphs.applying(world.data) is None


@pytest.mark.parametrize("before", [None, "another /folder"])
def test_by_a_take_over_that_fails_after_it_wrote_the_mark(
    tmp_path: Path, redis: Any, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Too few replicas had it in time, say, or the connection was lost before the answer came."""
    world = make_stream_world(tmp_path / "world", online_store=of_redis(redis))
    store = open_store(world.repo())
    online, real, failures = ordered_store(store), OrderedRedisOnlineStore.claim, [StoreError("0 of the 1 replicas had a write in time")]

    def claim(self: Any, *given: Any, **named: Any) -> str:
        found = real(self, *given, **named)
        if failures:
            raise failures.pop()
        return found

    online.disclaim(store.config, identity_of(world.data))
    if before is not None:
        online.claim(store.config, before)
    theirs = {name: (f"of-{name}", Covered(n, n)) for n, name in enumerate(world.repo().groups, 1)}
    for name, (fingerprint, covered) in theirs.items():
        online.apply_fingerprint(store.config, name, fingerprint)
        online.cover(store.config, name, covered)
    monkeypatch.setattr(OrderedRedisOnlineStore, "claim", claim)
    with pytest.raises(StoreError, match="had a write in time") as refused:
        applying.apply_fingerprints(world.repo(), lambda: graph_of(world, "b"), take_over=True)
    assert not isinstance(refused.value, HalfApplied) and not failures
    assert online.owner(store.config) == before
    known = {name: (online.applied_fingerprint(store.config, name), online.covered(store.config, name)) for name in theirs}
    assert known == theirs and len(theirs) > 1
