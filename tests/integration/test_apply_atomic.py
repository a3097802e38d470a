"""``tandem apply`` while others apply, and while it is killed: CURRENT, registry and online store never stay apart."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.feature_store import applying, store
from pipelines.feature_store.store import open_store, ordered_store, registry_file
from pipelines.lake import graphs, processes
from serving.dataplane import Dataplane
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from serving.settings import ServingSettings
from tests.integration.stream_world import StreamWorld, make_stream_world
from transforms.errors import GraphError, StoreError

pytestmark = pytest.mark.timeout(600)

STEPS = (
    (graphs, "begin_apply"),
    (graphs, "apply_graph"),
    (graphs, "end_apply"),
    (applying, "feast_apply"),
    (OrderedSqliteOnlineStore, "apply_fingerprint"),
    (OrderedSqliteOnlineStore, "update"),
)
"""What an apply changes, one after the other."""


def start(world: StreamWorld, wanted: dict[str, str], at: int = 0) -> int:
    """A fork that applies, and kills itself just before its step number ``at``; its exit code is the number of steps. The pid."""
    pid = os.fork()
    if pid:
        return pid
    code, done = 99, 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        return step

    try:
        for owner, name in STEPS:
            setattr(owner, name, counted(getattr(owner, name)))
        applying.apply_fingerprints(world.repo(), lambda: wanted)
        code = done
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(pid: int) -> int:
    """Its exit code; a signal's negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def graph_of(world: StreamWorld, tag: str) -> dict[str, str]:
    """Group -> fingerprint of one more graph each, which differs by its number alone."""
    out = {}
    for name in world.repo().groups:
        current = next(p for p in (graphs.folder(world.data) / name).iterdir() if (p / "tandem.json").is_file()).name
        fingerprint = tag * 64
        target = graphs.folder(world.data) / name / fingerprint
        if not target.exists():
            target.mkdir()
            head = json.loads((graphs.folder(world.data) / name / current / "tandem.json").read_text())
            (target / "tandem.json").write_text(json.dumps({**head, "fingerprint": fingerprint}))
        out[name] = fingerprint
    return out


def seen(world: StreamWorld) -> dict[str, dict[str, str | None]]:
    """What each of the three places says."""
    repo = world.repo()
    store = open_store(repo)
    online = ordered_store(store)
    return {
        "pointer": {n: graphs.applied_graph(graphs.folder(world.data), n) for n in repo.groups},
        "store": {n: online.applied_fingerprint(store.config, n) for n in repo.groups},
        "registry": {v.name: v.tags.get("tandem_fingerprint") for v in store.list_feature_views()},
    }


def test_an_apply_that_is_killed_at_any_step_is_done_or_was_never_begun(tmp_path: Path) -> None:
    """SECURITY M2."""
    world = make_stream_world(tmp_path / "world")
    new, old = graph_of(world, "b"), graph_of(world, "a")
    steps = ended(start(world, new))
    assert 6 <= steps < 20
    for step in range(1, steps + 1):
        assert ended(start(world, old)) == steps
        assert ended(start(world, new, step)) == -signal.SIGKILL
        pointer = seen(world)["pointer"]
        assert pointer == (old if step == 1 else new), "one pointer, for all groups at once"
        applying.finish(world.repo())
        assert graphs.applying(world.data) is None
        places = seen(world)
        assert places["pointer"] == places["store"] == pointer, (step, places)


def test_two_applies_at_once_leave_one_of_both(tmp_path: Path) -> None:
    """SECURITY M2."""
    world = make_stream_world(tmp_path / "world")
    wanted = [graph_of(world, tag) for tag in "abcd"]
    codes = [ended(pid) for pid in [start(world, each) for each in wanted]]
    assert all(0 < code < 20 for code in codes)
    places = seen(world)
    assert places["pointer"] == places["store"] and places["pointer"] in wanted


def test_an_apply_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    world = make_stream_world(tmp_path / "world")
    before = seen(world)

    def refuse() -> dict[str, str]:
        raise GraphError("group 'a' was redefined")

    with pytest.raises(GraphError):
        applying.apply_fingerprints(world.repo(), refuse)
    assert seen(world) == before and graphs.applying(world.data) is None


def test_a_registry_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    """SECURITY M2: Feast writes its file in place."""
    world = make_stream_world(tmp_path / "world")
    place = registry_file(world.path)
    assert place is not None
    place.write_bytes(place.read_bytes()[:-3])
    graphs.begin_apply(world.data, graph_of(world, "a"))
    applying.finish(world.repo())
    assert {v.name for v in open_store(world.repo()).list_feature_views()} == set(world.repo().groups)
    assert os.path.exists(f"{place}.damaged")


@pytest.fixture
def half(tmp_path: Path) -> StreamWorld:
    """A world whose apply was killed as soon as its intent was written: registry and store are of the graphs before."""
    world = make_stream_world(tmp_path / "world")
    graphs.begin_apply(world.data, graph_of(world, "a"))
    places = seen(world)
    assert places["store"] != places["pointer"] == graph_of(world, "a")
    return world


COMPLETE = (
    ["verify", "--stores"],
    ["materialize"],
    ["train"],
    ["evaluate"],
    ["promote"],
    ["rollback"],
    ["compare"],
    ["monitor"],
    ["watch", "--once", "--dry-run"],
    ["erase", "--entity", "zone=nobody"],
    ["serve"],
    ["stream"],
)
LOOK = (["check", "--no-rows"], ["runs", "list"], ["dlq", "list", "--only", "batch"], ["erase", "--entity", "zone=nobody", "--dry-run"])


@pytest.mark.parametrize("words", COMPLETE, ids=" ".join)
def test_a_killed_apply_is_completed_by_whatever_reads_features_next(
    half: StreamWorld, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SECURITY M2: only apply, materialize and stream did; train learned on what was applied before, and verify compared with it. The
    command itself may fail, as here there is no model and no run."""

    def served(command: Any) -> None:
        raise SystemExit(0)

    for name in ("TANDEM_RUN_FOLDER", "TANDEM_PARENT_RUN"):  # serve leaves them to the server
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(processes, "become", served)
    if words == ["stream"]:
        monkeypatch.setattr("pipelines.streaming.stream_plan.choose_start", lambda *given: (_ for _ in ()).throw(GraphError("far enough")))
        words = ["stream", "--runner", "direct", "--until", "latest"]
    result = CliRunner().invoke(app, [*words, "--repo", str(half.path)])
    assert "No such" not in result.output, result.output
    assert "completing it" in result.output, (result.output, result.exception)
    assert graphs.applying(half.data) is None
    places = seen(half)
    assert places["pointer"] == places["store"] == graph_of(half, "a")


@pytest.mark.parametrize("words", LOOK, ids=" ".join)
def test_who_only_looks_changes_nothing(half: StreamWorld, words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--repo", str(half.path)])
    assert "No such" not in result.output, result.output
    assert graphs.applying(half.data) == graph_of(half, "a")


def test_an_apply_that_cannot_be_completed_gives_way_to_the_next_one(half: StreamWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M2: the files do not fit it any more, say. Nothing could be applied then."""
    wanted, real = graph_of(half, "c"), store.apply

    def fits(repo: Any, fingerprints: dict[str, str], take_over: bool) -> None:
        if fingerprints != wanted:
            raise StoreError("the files do not fit")
        real(repo, fingerprints, take_over)

    monkeypatch.setattr(applying, "feast_apply", fits)
    with pytest.raises(StoreError):
        applying.finish(half.repo())
    assert applying.apply_fingerprints(half.repo(), lambda: wanted) == wanted
    places = seen(half)
    assert places["pointer"] == places["store"] == wanted and graphs.applying(half.data) is None


def test_a_server_says_that_an_apply_is_half_done(half: StreamWorld) -> None:
    plane = Dataplane(ServingSettings(feature_repo=half.path, models=half.data / "models", graphs=half.data / "graphs"))
    assert any("apply" in line for line in plane.warnings())
    applying.finish(half.repo())
    assert plane.warnings() == []


def test_the_registrys_file_is_never_empty(tmp_path: Path) -> None:
    """SECURITY M2: Feast empties it before it has the new content: killed there, or read by a server just then, it knew no view."""
    from feast.infra.registry.file import FileRegistryStore
    from feast.repo_config import RegistryConfig

    world = make_stream_world(tmp_path / "world")
    place = registry_file(world.path)
    assert place is not None
    before = place.read_bytes()
    files = FileRegistryStore(RegistryConfig(path=str(place.resolve())), world.path)
    proto = files.get_registry_proto()

    class Killed(BaseException):
        pass

    class Halfway:
        last_updated = proto.last_updated
        version_id = ""

        def SerializeToString(self) -> bytes:
            assert place is not None and place.read_bytes() == before
            raise Killed

    with pytest.raises(Killed):
        files.update_registry_proto(Halfway())  # type: ignore[arg-type]
    assert place.read_bytes() == before
    files.update_registry_proto(proto)
    assert {v.name for v in open_store(world.repo()).list_feature_views()} == set(world.repo().groups)
    assert [p.name for p in place.parent.glob(f".{place.name}*")] == []
