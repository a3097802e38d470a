"""A kill at each step on a real S3 server (SeaweedFS) and on the emulators of Google's and Azure's stores: the suites that cut the network
after each write in turn, whose store is otherwise a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from serving.object_store.connecting import connect
from serving.object_store.object_store import ObjectStore
from tests import network
from tests.integration import test_commands_on_store as commands
from tests.integration import test_forgetting_on_store as forgetting
from tests.integration import test_log_on_store as log
from tests.integration.sink_world import World
from tests.integration.test_log_on_store import world  # noqa: F401  # a fixture
from tests.network import machines
from tests.object_stores import seaweed
from tests.scale.test_object_stores import azure, google  # noqa: F401  # fixtures
from tests.unit import test_shared_data as runs

See = Callable[..., Path]
Objects = dict[str, bytes]


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as env:
        yield env


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def server(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """The scheme of a store's URLs, and the environment by which it is found."""
    return request.param, request.getfixturevalue({"s3": "amazon", "gs": "google", "az": "azure"}[request.param])


@pytest.fixture(autouse=True)
def stores(server: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ObjectStore]]:
    """Those of the test, by their names, each below a prefix of its own. What sets the folders of machines back sets them back, too."""
    made: dict[str, ObjectStore] = {}
    kills = 0
    scheme, env = server
    top, kept, folders = f"{scheme}://tandem/{uuid4().hex}", dict[str, Objects](), forgetting.as_it_was
    connect.cache_clear()
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def backend(tmp_path: Path, name: str) -> ObjectStore:
        return made.setdefault(name, connect(f"{top}/{name}"))

    @contextmanager
    def as_it_was(tmp_path: Path) -> Iterator[None]:
        nonlocal kills
        kills += 1
        for name in made.keys() - kept.keys():
            kept[name] = objects(made[name])
        with folders(tmp_path):
            yield
        for name, store in made.items():
            set_back(store, kept.get(name, {}))

    monkeypatch.setattr(network, "backend", backend)
    for module in (commands, forgetting):
        monkeypatch.setattr(module, "as_it_was", as_it_was)
    yield made
    print(f"{max(kills, len(made)) - 1} kills")  # one that is set back after each, or one for each; once without any
    assert sum(len(objects(store)) for store in made.values()) > 0, "the server was asked"


def objects(store: ObjectStore) -> Objects:
    return {head.key: found.content for head in store.list() if (found := store.read(head.key)) is not None}


def set_back(store: ObjectStore, wanted: Objects) -> None:
    now = objects(store)
    for key in now.keys() - wanted.keys():
        store.delete(key)
    for key, content in wanted.items():
        if now.get(key) != content:
            store.put(key, content)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> See:
    """See ``machines``."""
    return machines(tmp_path, monkeypatch)


def test_runs_that_publish(machine: See) -> None:
    runs.test_a_machine_that_dies_at_any_write_leaves_nothing_half_done(machine)


def test_a_streams_rows_and_checkpoints(machine: See, world: World) -> None:  # noqa: F811
    log.test_a_worker_killed_at_each_step(machine, world)


def test_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.test_an_archive_killed_at_each_step_has_each_event_once(tmp_path, monkeypatch)


def test_an_erasure(machine: See, tmp_path: Path) -> None:
    forgetting.test_a_machine_killed_at_each_step_of_an_erasure_leaves_nothing_that_the_next_one_does_not_finish(machine, tmp_path)


def test_a_vacuum(machine: See, tmp_path: Path) -> None:
    forgetting.test_a_vacuum_killed_at_each_step_is_finished_by_the_next_one(machine, tmp_path)
