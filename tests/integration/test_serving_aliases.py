"""Serving follows ``ALIASES.json``: the champion answers, the challenger runs in its shadow, and no accident with the file is an outage."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from pipelines.registry.alias_file import change
from serving.aliases import ALIASES_FILE
from serving.app import create_app
from serving.request_log import read_requests
from tests.integration.serving_world import GOOD, PRINT, make_world, push, settings
from tests.waiting import until
from transforms.own_program import module_command


def aliases(world: Path, champion: int | None, challenger: int | None = None, action: str = "promote") -> None:
    change(world / "models" / "delay", action, lambda _: (champion, challenger), datetime.now(UTC), repair=True)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path, 1, 2, 3)


@pytest.fixture
def client(world: Path) -> Iterator[TestClient]:
    aliases(world, 1, action="register")
    with TestClient(create_app(settings(world, request_log=world / "log", request_log_seconds=0.3))) as c:
        yield c


def plane_of(client: TestClient) -> Any:
    return client.app.state.dataplane  # type: ignore[attr-defined]


def served(client: TestClient) -> int:
    plane_of(client).poll()
    answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["model"]["version"])


def metric(client: TestClient, line: str) -> float:
    return float(next((x.split()[-1] for x in client.get("/metrics").text.splitlines() if x.startswith(line)), "0"))


def test_the_champion_is_served_not_the_newest(client: TestClient, world: Path) -> None:
    assert served(client) == 1
    aliases(world, 3, 2)
    assert served(client) == 3
    assert metric(client, 'tandem_model_alias{alias="challenger",model="delay"}') == 2
    assert sorted(plane_of(client).models.state("delay").loaded) == [2, 3]
    aliases(world, 1, action="rollback")
    assert served(client) == 1
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/delay").json()["parameters"]["aliases"] == {"champion": 1, "challenger": None}
    push(world, world, 4)
    assert served(client) == 1


def test_explicit_versions_answer_while_they_are_loaded(client: TestClient, world: Path) -> None:
    aliases(world, 2, 3)
    assert served(client) == 2
    codes = {v: client.post(f"/v1/models/delay/versions/{v}:predict", json={"instances": [GOOD]}).status_code for v in (1, 2, 3)}
    assert codes == {1: 404, 2: 200, 3: 200}


def test_memory_is_bounded_by_keep_versions(world: Path) -> None:
    aliases(world, 1, 3)
    log = {"request_log": world / "log"}
    for keep, extra, expected in ((1, {}, [1]), (1, log, [1, 3]), (2, log, [1, 3]), (3, log, [1, 2, 3])):
        with TestClient(create_app(settings(world, keep_versions=keep, **extra))) as client:
            assert served(client) == 1
            assert sorted(plane_of(client).models.state("delay").loaded) == expected


@pytest.mark.parametrize("accident", ["corrupt", "gone", "cut off", "missing version", "no champion", "damaged model", "other graph"])
def test_an_accident_leaves_what_runs_and_is_told(client: TestClient, world: Path, accident: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # a command run in this process before has made the root logger quiet
    aliases(world, 2)
    assert served(client) == 2
    file = world / "models" / "delay" / ALIASES_FILE
    if accident == "corrupt":
        file.write_text("{")
    elif accident == "gone":
        file.unlink()
    elif accident == "cut off":
        file.write_bytes(file.read_bytes()[:40])
    elif accident == "missing version":
        aliases(world, 77)
    elif accident == "no champion":
        aliases(world, None)
    elif accident == "damaged model":
        shutil.rmtree(world / "models" / "delay" / "3" / "variables")
        aliases(world, 3)
    else:
        shutil.rmtree(world / "models" / "delay" / "3")
        push(world, world, 3, fingerprints={**PRINT, "aircraft": "d" * 64})
        (world / "graphs" / "aircraft").mkdir(parents=True)
        (world / "graphs" / "aircraft" / "CURRENT").write_text(PRINT["aircraft"])
        aliases(world, 3)
    assert served(client) == 2
    assert served(client) == 2
    ready = client.get("/v2/health/ready")
    assert ready.status_code == 200 and len(ready.json()["warnings"]) == 1, ready.text
    assert "\n" not in ready.json()["warnings"][0] and str(world) not in ready.text
    assert client.get("/v2/models/delay/ready").json()["warning"]
    assert metric(client, 'tandem_model_alias_not_followed{model="delay"}') == 1
    assert sum("model delay" in r.message for r in caplog.records if r.levelname == "WARNING") == 1
    shutil.rmtree(world / "models" / "delay" / "3", ignore_errors=True)
    aliases(world, 1)
    assert served(client) == 1
    assert "warnings" not in client.get("/v2/health/ready").json()
    assert metric(client, 'tandem_model_alias_not_followed{model="delay"}') == 0


def test_a_challenger_is_asked_again_whether_it_fits_before_it_is_served(client: TestClient, world: Path) -> None:
    aliases(world, 1, 2)
    assert served(client) == 1
    (world / "graphs" / "aircraft").mkdir(parents=True)
    (world / "graphs" / "aircraft" / "CURRENT").write_text("e" * 64)
    aliases(world, 2)  # loaded, but its rows are of another graph now
    assert served(client) == 1
    assert "another" not in client.get("/v2/health/ready").text
    assert "is applied; train again" in client.get("/v2/health/ready").json()["warnings"][0]
    (world / "graphs" / "aircraft" / "CURRENT").write_text(PRINT["aircraft"])
    assert served(client) == 2


def test_a_start_with_a_champion_that_cannot_be_served_goes_on_with_the_one_before(world: Path) -> None:
    aliases(world, 1, action="register")
    aliases(world, 2)
    aliases(world, 3)
    (world / "models" / "delay" / "3" / "saved_model.pb").write_bytes(b"")
    with TestClient(create_app(settings(world))) as client:
        assert served(client) == 2
        assert "version 2 is served instead" in client.get("/v2/health/ready").json()["warnings"][0]
    (world / "models" / "delay" / ALIASES_FILE).write_text("oops")
    with TestClient(create_app(settings(world))) as client:  # nobody knows what was proven: nothing is guessed
        ready = client.get("/v2/health/ready")
        assert ready.status_code == 503 and "ALIASES.json is damaged" in ready.json()["reasons"][0]
        aliases(world, 1)
        assert served(client) == 1


def test_the_challenger_runs_in_the_shadow_and_both_are_logged(client: TestClient, world: Path) -> None:
    aliases(world, 1, 3)
    plane_of(client).poll()
    for i in range(30):
        rows = [{**GOOD, "distance": float(i)}, {**GOOD, "origin": "LGA"}]
        answer = client.post("/v1/models/delay:predict", json={"instances": rows}, headers={"X-Request-Id": f"r{i}"})
        assert answer.json()["model"]["version"] == 1
    assert client.post("/v1/models/delay/versions/3:predict", json={"instances": [GOOD]}).status_code == 200  # of itself: no shadow
    assert (
        client.post("/get-online-features", json={"features": ["aircraft:last_delay"], "entities": {"tailnum": ["N1"]}}).status_code == 200
    )
    until(lambda: metric(client, "tandem_shadow_log_rows_total") == 60)
    until(lambda: metric(client, "tandem_request_log_rows_total") == 62)
    shadow, log = read_requests(world / "log" / "shadow"), read_requests(world / "log")
    assert shadow.num_rows == 60 and log.num_rows == 62
    assert set(shadow.column("tandem_version").to_pylist()) == {1} and set(shadow.column("tandem_shadow_version").to_pylist()) == {3}
    assert set(shadow.column("tandem_shadow_run").to_pylist()) == {"run-3"}
    assert shadow.column("tandem_shadow_prediction").to_pylist() == pytest.approx(shadow.column("tandem_prediction").to_pylist())
    keys = ["tandem_request", "tandem_row", "tandem_at", "tandem_as_of", "tandem_prediction", "distance", "origin", "carrier", "tailnum"]
    order = [("tandem_request", "ascending"), ("tandem_row", "ascending")]
    both = log.select(keys).join(shadow.select(keys[:3]), keys[:3], join_type="inner").sort_by(order)
    assert both.equals(shadow.select(keys).sort_by(order).combine_chunks())
    assert not any(name.startswith("tandem_shadow") for name in log.column_names)
    assert metric(client, 'tandem_shadow_requests_total{model="delay",version="3"}') == 30
    assert metric(client, "tandem_shadow_errors_total") == 0 == metric(client, "tandem_shadow_dropped_total")


def test_a_challenger_with_other_inputs_reads_what_is_missing(client: TestClient, world: Path) -> None:
    """Version 4 reads a feature of its own; version 5 needs a field that requests do not hold: counted, and no answer is hurt."""
    push(world, world, 4, features=["origin_traffic:mean_1h", "aircraft:last_delay", "origin_traffic:count_1h"])
    aliases(world, 1, 4)
    assert served(client) == 1
    until(lambda: metric(client, 'tandem_shadow_requests_total{model="delay",version="4"}') == 1)
    push(world, world, 5, request_fields=[["distance", "float64"], ["carrier", "string"], ["weather", "string"]])
    aliases(world, 1, 5)
    assert served(client) == 1
    until(lambda: metric(client, 'tandem_shadow_errors_total{model="delay",reason="model"}') == 1)
    assert served(client) == 1


def test_a_challenger_that_fails_or_is_slow_hurts_no_answer(client: TestClient, world: Path) -> None:
    aliases(world, 1, 3)
    assert served(client) == 1
    challenger = plane_of(client).models.state("delay").challenger
    release = threading.Event()

    def stuck(_: Any) -> Any:
        release.wait(30)
        raise RuntimeError("boom")

    challenger.predict = stuck
    plane_of(client)._shadow._most = 5
    for _ in range(20):
        assert served(client) == 1
    until(lambda: metric(client, 'tandem_shadow_dropped_total{model="delay"}') > 0)
    release.set()
    until(lambda: metric(client, 'tandem_shadow_errors_total{model="delay",reason="defect"}') > 0)
    del challenger.predict
    before = metric(client, "tandem_shadow_requests_total")
    assert served(client) == 1
    until(lambda: metric(client, "tandem_shadow_requests_total") > before)


def test_the_shadow_can_be_turned_off(world: Path) -> None:
    aliases(world, 1, 3)
    with TestClient(create_app(settings(world, request_log=world / "log", shadow=False, keep_versions=1))) as client:
        assert served(client) == 1
        assert sorted(plane_of(client).models.state("delay").loaded) == [1]
    assert not (world / "log" / "shadow").exists()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_promotions_and_rollbacks_under_load_fail_no_request(world: Path) -> None:
    """A real server process over HTTP; six clients keep asking, with and without a version, while champions change every moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    aliases(world, 1, 2, action="register")
    given = settings(world, port=port, poll_seconds=0.1, request_log=world / "log", request_log_seconds=1.0)
    url, done = f"http://127.0.0.1:{port}", threading.Event()
    log = open(world / "server.log", "w")  # noqa: SIM115  (closed below)
    server = subprocess.Popen(
        module_command("serving", given.model_dump_json()), stdout=log, stderr=log, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    try:
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=0), timeout=60) as probe:

            def ready() -> bool:
                try:
                    return probe.get("/v2/health/ready").status_code == 200
                except httpx.HTTPError:
                    assert server.poll() is None, (world / "server.log").read_text()
                    return False

            until(ready, 120)
            answers: list[Counter[tuple[int, int]]] = []
            failures: list[str] = []

            def ask(k: int) -> None:
                mine: Counter[tuple[int, int]] = Counter()
                answers.append(mine)
                path = "/v2/models/delay/infer" if k == 0 else "/v1/models/delay:predict"
                kinds = {"distance": "FP64"}
                tensors = [{"name": n, "datatype": kinds.get(n, "BYTES"), "shape": [1], "data": [v]} for n, v in GOOD.items()]
                body: dict[str, Any] = {"inputs": tensors} if k == 0 else {"instances": [GOOD] * k}
                with httpx.Client(base_url=url, timeout=60) as http:
                    while not done.is_set():
                        try:
                            answer = http.post(path, json=body)
                        except httpx.HTTPError as e:
                            failures.append(repr(e))
                            continue
                        found = answer.json()
                        if answer.status_code != 200:
                            failures.append(answer.text)
                        version = found.get("model_version") or found.get("model", {}).get("version", 0)
                        mine[answer.status_code, int(version)] += 1

            askers = [threading.Thread(target=ask, args=(k,)) for k in (0, 1, 1, 1, 2, 5)]
            for a in askers:
                a.start()
            waits = []

            def answered(version: int) -> int:
                return sum(mine[200, version] for mine in list(answers))

            try:
                for champion, challenger, action in [
                    (2, None, "promote"),
                    (1, None, "rollback"),
                    (3, 2, "promote"),
                    (1, 2, "rollback"),
                ] * 3:
                    aliases(world, champion, challenger, action)
                    begun = time.monotonic()
                    until(lambda v=champion: probe.get("/v2/models/delay").json()["parameters"]["version"] == v, 60)  # type: ignore[misc]
                    waits.append(time.monotonic() - begun)
                    enough = answered(champion) + 51
                    until(lambda v=champion, n=enough: answered(v) >= n, 60)  # type: ignore[misc]
            finally:
                done.set()
                for a in askers:
                    a.join(60)
            total: Counter[tuple[int, int]] = sum(answers, Counter())
            print(json.dumps({"answers": {f"{s} v{v}": n for (s, v), n in total.items()}, "slowest follow, s": round(max(waits), 2)}))
            assert failures == []
            assert {status for status, _ in total} == {200}
            assert {version for _, version in total} == {1, 2, 3}
            assert sum(total.values()) > 600
            page = probe.get("/metrics").text
            assert "tandem_shadow_requests_total{" in page
    finally:
        server.terminate()
        assert server.wait(60) in (0, -15)
        log.close()
