"""A stream that is begun anew at the end of a corrected run: what its former beginning said beyond that run counts no more online."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Timer
from typing import Any

import pyarrow as pa
import pytest

from pipelines.feature_store import materialize
from pipelines.feature_store.applying import LOCK
from pipelines.feature_store.store import open_store, ordered_store
from pipelines.lake import graphs, layout
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.driver import stream_folder
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from tests.integration.orders_world import END, Orders, online_store, order
from transforms.errors import ConfigError, StoreError
from transforms.instants import micros_of, now_us
from transforms.locks import take

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("count_1h", "count_24h", "amount_mean_1h")
HISTORY = [order(f"o{n}", f"{n // 2:02}:{n % 2 * 30:02}") for n in range(48)]
WRONG = [order("w1", "23:45", amount=1_000_000.0), order("w2", "23:40", shop=7), order("w3", "23:50", shop=8)]
LIVE = [order(f"n{n}", f"2024-05-02T{n:02}:10:00Z", shop=shop) for n in range(3) for shop in (1, 8, 9)]


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    with online_store(request.param) as settings:
        yield settings


Streamed = tuple[Orders, Callable[..., list[str]]]
BROKER = MemoryBroker()
"""Its topic holds LIVE from the first use on, and nothing that comes after: every world of this module reads the same one."""


def _world(path: Path, store: dict[str, Any]) -> Streamed:
    """A repository in ``path``, as it stands where there is one, and how a stream of it is run to the topic's end."""
    world = Orders(path, as_of=END + timedelta(hours=2, minutes=30), store=store)
    settings = {
        "data": "../data",
        "definitions": "features",
        "batch": {"shards": 1},
        "kafka": {"bootstrap_servers": BROKER.address, "dead_letters": "orders.dead"},
        "stream": {"clock": "replay", "shards": 1, "idle_seconds": 3600},
    }
    (world.repo_path / "tandem.yaml").write_text(json.dumps(settings))

    def stream(**how: Any) -> list[str]:
        said: list[str] = []
        outcome = run_stream(world.repo(), StreamOptions(runner="direct", until="latest", from_run="latest", **how), said.append)
        assert outcome["code"] == 0
        return said

    return world, stream


def _streamed(path: Path, store: dict[str, Any]) -> Streamed:
    """A stream has gone on from a run over events of which some are wrong."""
    world, stream = _world(path, store)
    world.log([*HISTORY, *WRONG])
    world.round()
    stream()
    return world, stream


def _correct(world: Orders) -> None:
    world.log(HISTORY)
    world.round()


@pytest.fixture(scope="module", autouse=True)
def live() -> None:
    for topic in ("orders", "orders.dead"):
        BROKER.create_topic(topic, 1)
    BROKER.append("orders", 0, [json.dumps(event).encode() for event in LIVE])


@pytest.fixture(scope="module")
def streamed_folder(live: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _streamed(tmp_path_factory.mktemp("streamed"), {})[0].path


@pytest.fixture(scope="module")
def corrected_folder(streamed_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corrected")
    shutil.copytree(streamed_folder, folder, dirs_exist_ok=True)
    _correct(_world(folder, {})[0])
    return folder


@pytest.fixture
def streamed(streamed_folder: Path, tmp_path: Path) -> Streamed:
    """A copy of what :func:`_streamed` makes on SQLite."""
    shutil.copytree(streamed_folder, tmp_path, dirs_exist_ok=True)
    return _world(tmp_path, {})


@pytest.fixture
def corrected(corrected_folder: Path, tmp_path: Path) -> Streamed:
    """And the log was corrected since, with a round over it."""
    shutil.copytree(corrected_folder, tmp_path, dirs_exist_ok=True)
    return _world(tmp_path, {})


def _right(world: Orders) -> None:
    """By hand: of 02:10 the last boundary that the records' own times let out is 02:05; a day back lie 43 of the history, 2 live ones."""
    assert world.online(*NAMES) == (1, 45, 5.0), "the wrong million is in no window"
    assert world.online(*NAMES, shop=7) == (None, None, None), "a key that the log has no more"
    assert world.online(*NAMES, shop=8) == (1, 2, 5.0)
    assert world.online(*NAMES, shop=9) == (1, 2, 5.0), "a key that the stream alone has"
    assert run_verify(world.repo(), VerifyOptions(served=False)).verdict == "proven"


def test_what_was_corrected_is_gone_also_beyond_the_run(tmp_path: Path, store: dict[str, Any]) -> None:
    """FAULTS 1: among rows of streams the greater revision won, whichever beginning it was of."""
    world, stream = _streamed(tmp_path, store)
    assert world.online("count_24h")[0] == 46 and world.online("count_24h", shop=7) == (1,) and world.online("count_24h", shop=8) == (3,)
    _correct(world)
    said = stream(reset=True)
    assert [line for line in said if "beyond the run were taken out" in line]
    _right(world)
    assert not [line for line in stream() if "taken out" in line], "a checkpoint goes on"


@pytest.mark.parametrize(("step", "call"), [("write_rows", 1), ("drop_superseded", 2), ("drop_superseded", 3), ("write_rows", 2)])
def test_killed_before_a_step_the_next_start_completes_it(
    corrected: Streamed, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    """Also without ``--reset``: from then on there is no checkpoint that it could go on from."""
    world, stream = corrected
    made, calls = getattr(OrderedSqliteOnlineStore, step), 0

    def killed(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return made(*given, **named)

    monkeypatch.setattr(OrderedSqliteOnlineStore, step, killed)
    with pytest.raises(KeyboardInterrupt):
        stream(reset=True)
    monkeypatch.undo()
    assert _stored(world, 1) == [True], "at no moment is a key of the runs without a row"
    stream()
    _right(world)


def test_beside_another_stream_nothing_is_taken(streamed: Streamed) -> None:
    """Two names side by side (a new version, say): whose rows they are is not known, and the other one does not make its own again."""
    world, stream = streamed
    before = world.online(*NAMES), world.online(*NAMES, shop=8)
    assert not [line for line in stream(name="blue") if "beyond the run" in line], "it has no beginning before"
    assert (world.online(*NAMES), world.online(*NAMES, shop=8)) == before
    _correct(world)
    (line,) = [line for line in stream(reset=True) if "beyond the run" in line]
    assert "stream 'blue' writes here, too" in line and "stay online" in line
    assert world.online("count_24h", shop=8) == (3,)


def test_a_store_that_is_away_is_waited_for(corrected: Streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    world, stream = corrected
    real, asked = materialize.take_back, []

    def away(*given: Any) -> int:
        asked.append(given)
        if len(asked) < 3:
            raise StoreError("online store sqlite: locked")
        return real(*given)

    monkeypatch.setattr("pipelines.streaming.stream_plan.take_back", away)
    monkeypatch.setattr("pipelines.streaming.stream_plan.time.sleep", lambda seconds: None)
    said = stream(reset=True)
    assert len([line for line in said if "waiting to take out" in line and "locked" in line]) == 1
    _right(world)


@pytest.mark.parametrize(
    ("waits_for", "asked"), [("materialize", "stop"), ("apply", "stop"), ("materialize", "savepoint"), ("apply", "savepoint")]
)
def test_a_stop_ends_the_wait_for_a_lock(corrected: Streamed, waits_for: str, asked: str) -> None:
    """Ctrl-C and ``tandem stream stop [--savepoint]`` leave the flag that is left here, once the stream has said what it waits for."""
    world, stream = corrected
    before = [world.online(*NAMES, shop=shop) for shop in (1, 7, 8, 9)]
    if waits_for == "apply":
        graphs.begin_apply(world.data, graphs.applied_graphs(world.data))
    lock = layout.materialize_lock(world.data) if waits_for == "materialize" else graphs.folder(world.data) / LOCK
    said: list[str] = []

    def told(line: str) -> None:
        said.append(line)
        if "waiting for it" in line:
            JobState(stream_folder(world.data, "main")).request(asked)

    options = StreamOptions(runner="direct", until="latest", from_run="latest", reset=True)
    with open(lock, "a") as held:
        assert take(held)
        late = Timer(60, fcntl.flock, (held, fcntl.LOCK_UN))  # where a stop ends nothing
        late.start()
        outcome = run_stream(world.repo(), options, told)
        assert late.is_alive(), "the stop ended the wait"
        late.cancel()
    assert (outcome["code"], outcome["status"]) == (0, "complete") and outcome["ended"].startswith("stopped")
    assert any("no savepoint was taken" in line for line in said) == (asked == "savepoint") and "savepoint" not in outcome
    assert [world.online(*NAMES, shop=shop) for shop in (1, 7, 8, 9)] == before, "nothing was begun"
    stream(reset=True)
    _right(world)


def test_a_materialize_whose_clock_is_behind_still_decides(streamed: Streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = streamed
    end = micros_of(END + timedelta(minutes=1))
    assert materialize.take_back(world.repo(), {"shop_orders": end, "city_orders": end}) == 5
    assert _stored(world, 1, 7) == [True, True]
    now = now_us()
    monkeypatch.setattr("pipelines.feature_store.materialize.now_us", lambda: now - 3_600_000_000)
    _correct(world)
    assert _stored(world, 1, 7) == [True, False]


def _stored(world: Orders, *shops: int) -> list[bool]:
    """Whether the store has a row of these shops, however old."""
    feast = world.feast()
    online, view = feast._get_provider().online_store, feast.get_feature_view("shop_orders")
    return list(online.stored(feast.config, view, pa.table({"shop": shops})))


def test_a_take_over_ends_the_wait_for_a_lock(corrected: Streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the store is asked meanwhile but whose the rows are."""
    world, _ = corrected
    before = [world.online(*NAMES, shop=shop) for shop in (1, 7, 8, 9)]
    monkeypatch.setattr("pipelines.streaming.stream_plan._CLAIM_SECONDS", 0.0)

    def told(line: str) -> None:
        if "waiting for it" in line:
            opened = open_store(world.repo())
            ordered_store(opened).claim(opened.config, "another /there", take=True)

    options = StreamOptions(runner="direct", until="latest", from_run="latest", reset=True)
    with open(layout.materialize_lock(world.data), "a") as held:
        assert take(held)
        late = Timer(60, fcntl.flock, (held, fcntl.LOCK_UN))  # where it ends nothing
        late.start()
        with pytest.raises(ConfigError, match=r"written from another data folder \(/there\)"):
            run_stream(world.repo(), options, told)
        assert late.is_alive(), "the take-over ended the wait"
        late.cancel()
    assert [world.online(*NAMES, shop=shop) for shop in (1, 7, 8, 9)] == before
