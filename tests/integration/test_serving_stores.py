"""Online stores, registries and models that are away, fail, come back or are replaced while a server runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from serving.app import create_app
from tests.integration.serving_world import GOOD, NOW, make_repo, make_world, predict, push, settings, write_rows
from tests.redis_server import redis_server
from tests.waiting import until


def test_a_store_that_fails_is_503_and_recovers(tmp_path: Path) -> None:
    feast = make_repo(tmp_path, store="sqlite")
    push(tmp_path, tmp_path, 1)
    config = tmp_path / "online.db"
    with TestClient(create_app(settings(tmp_path))) as client:
        assert predict(client, GOOD)
        conn = feast._get_provider().online_store._get_conn(feast.config)
        conn.execute("ALTER TABLE flights_aircraft RENAME TO gone")
        answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert answer.status_code == 503
        assert answer.json()["error"] == "the online store cannot be read (OperationalError); try again"
        assert str(config) not in answer.text
        conn.execute("ALTER TABLE gone RENAME TO flights_aircraft")
        assert predict(client, GOOD)


def test_a_server_starts_without_registry_store_or_model_and_takes_them_when_they_come(tmp_path: Path) -> None:
    make_repo(tmp_path)
    (tmp_path / "registry.db").rename(tmp_path / "away.db")
    with TestClient(create_app(settings(tmp_path))) as client:
        plane = client.app.state.dataplane  # type: ignore[attr-defined]
        ready = client.get("/v2/health/ready")
        assert ready.status_code == 503
        assert len(ready.json()["reasons"]) >= 1
        assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 404
        assert client.post("/get-online-features", json={"features": ["a:b"], "entities": {"a": [1]}}).status_code == 503
        push(tmp_path, tmp_path, 1)
        plane.poll()
        assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 503
        (tmp_path / "away.db").rename(tmp_path / "registry.db")
        plane.poll()
        assert client.get("/v2/health/ready").status_code == 200
        assert predict(client, GOOD)


def test_a_store_that_is_away_is_not_ready_and_becomes_ready_by_itself(tmp_path: Path) -> None:
    make_world(tmp_path, 1)
    online, away = tmp_path / "online.db", tmp_path / "away.db"
    with TestClient(create_app(settings(tmp_path, poll_seconds=0.05))) as client:
        assert client.get("/v2/health/ready").status_code == 200
    online.rename(away)
    online.mkdir()  # there is something, but no database
    with TestClient(create_app(settings(tmp_path, poll_seconds=0.05))) as client:
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (
            503,
            {"ready": False, "reasons": ["the online store cannot be read (OperationalError)"]},
        )
        assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 503
        assert "tandem_online_store_up 0.0" in client.get("/metrics").text
        online.rmdir()
        away.rename(online)
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert predict(client, GOOD)
        until(lambda: "tandem_online_store_up 1.0" in client.get("/metrics").text)


def test_a_redis_that_is_killed_and_comes_back_empty(tmp_path: Path) -> None:
    """Away: not ready and 503. Back without its memory: ready, and the answers say that nothing is known."""
    with redis_server() as server:
        store = "serving.online_store.redis.OrderedRedisOnlineStore"
        feast = make_repo(tmp_path, store=store, redis=f"127.0.0.1:{server.port}")
        push(tmp_path, tmp_path, 1)
        with TestClient(create_app(settings(tmp_path, poll_seconds=0.05))) as client:
            assert predict(client, GOOD)["features"]["origin_traffic"]["statuses"] == ["PRESENT"]
            server.kill()
            answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert answer.json()["error"] == "the online store cannot be read (ConnectionError); try again"
            ready = client.get("/v2/health/ready")
            assert (ready.status_code, ready.json()["reasons"]) == (503, ["the online store cannot be read (ConnectionError)"])
            server.start()
            until(lambda: client.get("/v2/health/ready").status_code == 200)
            assert predict(client, GOOD)["features"]["origin_traffic"]["statuses"] == ["NOT_FOUND"]
            row = {"origin": "JFK", "event_timestamp": NOW - timedelta(minutes=1), "count_1h": 8, "mean_1h": 99.0}
            write_rows(feast, "origin_traffic", [row])
            assert predict(client, GOOD)["features"]["origin_traffic"]["statuses"] == ["PRESENT"]


def test_a_replaced_store_is_read_at_once(tmp_path: Path) -> None:
    feast = make_repo(tmp_path / "one")
    push(tmp_path / "one", tmp_path, 1)
    row = {"origin": "JFK", "event_timestamp": NOW - timedelta(minutes=1), "count_1h": 8, "mean_1h": 99.0}
    with TestClient(create_app(settings(tmp_path / "one"))) as client:
        before = predict(client, GOOD)["predictions"][0]
        other = make_repo(tmp_path / "two")
        write_rows(other, "origin_traffic", [row])
        other._get_provider().online_store._get_conn(other.config).execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for end in ("-wal", "-shm"):
            (tmp_path / "one" / f"online.db{end}").unlink(missing_ok=True)
        (tmp_path / "two" / "online.db").replace(tmp_path / "one" / "online.db")
        assert predict(client, GOOD)["predictions"][0] == before + 0.5 * (99.0 - 12.5)
    write_rows(feast, "origin_traffic", [{**row, "event_timestamp": NOW, "mean_1h": 7.0}])  # a writer that held the old file as well
    with TestClient(create_app(settings(tmp_path / "one"))) as client:
        assert predict(client, GOOD)["predictions"][0] == before + 0.5 * (7.0 - 12.5)
