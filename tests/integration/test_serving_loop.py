"""Online features that are read on the event loop: the same answers as by threads, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.online_store.redis import OrderedRedisOnlineStore
from serving.online_store.redis_loop import RedisLoop
from serving.request_log import read_requests
from serving.settings import LimitSettings, ServingSettings
from tests.bench import shop
from tests.redis_cluster import redis_cluster
from tests.redis_server import RedisServer, free_port, redis_server

OURS = "serving.online_store.redis.OrderedRedisOnlineStore"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


@pytest.fixture(scope="module")
def root(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loop")
    shop.fill(shop.make_repo(made, {"type": OURS, "connection_string": server.connection_string}))
    return made


def settings(root: Path, **changes: Any) -> ServingSettings:
    given = {"feature_repo": root / "repo", "models": root / "models", "graphs": root / "graphs", "needs_model": False, "as_of": shop.NOW}
    return ServingSettings(**{**given, **changes})


def body(entities: dict[str, list[Any]]) -> dict[str, Any]:
    return {"feature_service": shop.SERVICE, "entities": entities, "full_feature_names": True}


def attended(client: TestClient) -> TestClient:
    """When its loop has a connection."""
    features = client.app.state.dataplane.features  # type: ignore[attr-defined]
    end = time.monotonic() + 20
    while features._loop._line is None or features._loop._line.broken:
        assert time.monotonic() < end
        client.post("/get-online-features", json=body(shop.asked(1)))  # who asks makes it try again
        time.sleep(0.02)
    return client


def asked(client: TestClient, entities: dict[str, list[Any]]) -> dict[str, Any]:
    answer = client.post("/get-online-features", json=body(entities))
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def counted(client: TestClient) -> float:
    """The entities answered so far, by the metrics."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith('tandem_instances_total{route="/get-online-features"}'))


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OrderedRedisOnlineStore.read_columns

    def refused(store: Any, config: Any, reads: Any) -> Any:
        if any(len(read.names) > 1 for read in reads):  # the server's own look at the store reads one
            raise AssertionError("read by a thread")
        return real(store, config, reads)

    monkeypatch.setattr(OrderedRedisOnlineStore, "read_columns", refused)


def test_answers_are_those_of_threads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few and many entities, repeated ones, unknown ones, by references and by service, at once and one by one."""
    cases = [shop.asked(n, n) for n in (1, 2, 24, 25, 100, 700)]
    cases.append({"seller": ["S000001", "nobody", "S000001", "é"], "buyer": [5, 5, -1, 2**40]})
    cases.append({key: values * 20 for key, values in cases[-1].items()})
    with TestClient(create_app(settings(root))) as client:
        plane = client.app.state.dataplane  # type: ignore[attr-defined]
        loop, plane.features._loop = plane.features._loop, None
        right = [asked(client, case) for case in cases]
        plane.features._loop = loop
        attended(client)
        no_threads(monkeypatch)
        before = counted(client)
        assert [asked(client, case) for case in cases] == right
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda i: asked(client, cases[i % len(cases)]), range(48))) == [right[i % len(cases)] for i in range(48)]
        n = sum(len(cases[i % len(cases)]["seller"]) for i in (*range(len(cases)), *range(48)))
        assert counted(client) - before == n


def test_answers_from_a_cluster_are_those_of_threads_also_after_its_slots_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server over a connection of its own; what is not where it was is read by a thread, once."""
    with redis_cluster() as cluster:
        shop.fill(shop.make_repo(tmp_path, {"type": OURS, "redis_type": "redis_cluster", "connection_string": cluster.connection_string}))
        cases = [shop.asked(n, n) for n in (1, 2, 25, 100, 700)]
        cases.append({"seller": ["S000001", "nobody", "S000001", "é"] * 20, "buyer": [5, 5, -1, 2**40] * 20})
        with TestClient(create_app(settings(tmp_path))) as client:
            plane = client.app.state.dataplane  # type: ignore[attr-defined]
            loop, plane.features._loop = plane.features._loop, None
            right = [asked(client, case) for case in cases]
            plane.features._loop = loop
            attended(client)
            with monkeypatch.context() as patch:
                asked(client, cases[-2])  # of all servers: their connections are made
                end = time.monotonic() + 20
                while len(lines := plane.features._loops) < 3 or any(each._line is None for each in lines.values()):
                    assert time.monotonic() < end
                    asked(client, cases[-2])
                no_threads(patch)
                assert [asked(client, case) for case in cases] == right
                with ThreadPoolExecutor(8) as pool:
                    assert list(pool.map(lambda i: asked(client, cases[i % len(cases)]), range(24))) == [
                        right[i % len(cases)] for i in range(24)
                    ]
            source, target = cluster.nodes[0], cluster.nodes[1]
            for slot in cluster.slots_of(source)[:3000:10]:
                cluster.begin_move(slot, source, target)
                cluster.move_rest(slot, source, target)
            assert [asked(client, case) for case in cases] == right
            with monkeypatch.context() as patch:
                no_threads(patch)
                assert [asked(client, case) for case in cases] == right


def test_large_answers_take_a_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(settings(root))) as client:
        attended(client)
        read: list[int] = []
        real = OrderedRedisOnlineStore.read_columns

        def seen(store: Any, config: Any, reads: Any) -> Any:
            read.extend(len(r.keys) for r in reads if len(r.names) > 1)
            return real(store, config, reads)

        monkeypatch.setattr(OrderedRedisOnlineStore, "read_columns", seen)
        asked(client, shop.asked(1_900))
        assert read == [1_900] * 3


def test_rows_of_another_writer_are_read_from_their_fields(root: Path) -> None:
    """A row without its packed copy sends the request to a thread; limits and metrics count it once."""
    from feast import FeatureStore

    store = FeatureStore(str(root / "repo"))
    provider: Any = store._get_provider()
    online = provider.online_store
    entities: dict[str, list[Any]] = {"seller": ["S000003"], "buyer": [3]}
    given = settings(root, limits=LimitSettings(rows_per_second=1e-6, burst_seconds=4e6), request_log=root / "log")
    with TestClient(create_app(given)) as client:
        before = asked(attended(client), entities)
        client_of = online._get_client(store.config.online_store)
        key = next(k for k in client_of.scan_iter(b"*S000003*"))
        whole = client_of.hget(key, "_ts:sellers")
        client_of.hset(key, "_ts:sellers", whole[-12:] if whole[-12:-11] == b"\x08" else whole[whole.rindex(b"\x08") :])
        try:
            assert asked(client, entities) == before
        finally:
            client_of.hset(key, "_ts:sellers", whole)
    log = read_requests(root / "log")
    assert log.num_rows == len(set(log.column("tandem_request").to_pylist()))  # each request once


def test_a_store_that_goes_and_comes_back(tmp_path: Path) -> None:
    """While Redis is away requests are refused in one line; once it is back, so is the loop's connection."""
    server = RedisServer(free_port(), tmp_path / "redis")
    (tmp_path / "redis").mkdir()
    server.start()
    try:
        shop.fill(shop.make_repo(tmp_path, {"type": OURS, "connection_string": server.connection_string}))
        with TestClient(create_app(settings(tmp_path, timeout_seconds=5.0))) as client:
            right = asked(attended(client), shop.asked(3))
            server.kill()
            answer = client.post("/get-online-features", json=body(shop.asked(3)))
            assert answer.status_code == 503 and "Error" in answer.json()["error"]
            server.start()
            end = time.monotonic() + 20
            while client.post("/get-online-features", json=body(shop.asked(3))).status_code != 200:
                assert time.monotonic() < end
            assert asked(attended(client), shop.asked(3)) == right
    finally:
        server.kill()


def test_a_connection_that_does_not_answer_is_given_up() -> None:
    """Who waits on it is told so within the time limit; whose request is gone disturbs nobody behind it."""

    async def tried() -> None:
        ours, theirs = socket.socketpair()
        loop = RedisLoop(iter([ours]).__next__, 0.3)
        loop.connect()
        assert loop._task is not None
        await loop._task
        first, second = loop.ask(b"1", 1), loop.ask(b"2", 2)
        assert first is not None and second is not None
        first.cancel()
        theirs.sendall(b"*1\r\n$1\r\na\r\n*0\r\n*1\r\n$-1\r\n")
        assert await second == [[], [None]]
        odd = loop.ask(b"3", 1)
        assert odd is not None
        theirs.sendall(b"-LOADING\r\n")
        with pytest.raises(OSError, match="LOADING"):
            await odd
        stuck = loop.ask(b"4", 1)
        assert stuck is not None
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(stuck, 10)
        assert loop.ask(b"5", 1) is None
        loop.close()
        theirs.close()

    asyncio.run(tried())
