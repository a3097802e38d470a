"""docker/compose.yaml as a whole: history, topics, stream, server, watch, MLflow, Kafka, Valkey, Prometheus, Alertmanager.

Ours are the images of docker/Dockerfile; those of others cannot be fetched here, so ``services/`` makes stand-ins under their names.
Grafana is in no package of Debian's, and not started: what its panels ask, Prometheus is asked here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.services.jars import classpath
from tests.integration.test_prometheus import queries
from tests.scale.containers import ROOT, build, podman, service_base
from tests.scale.test_images import KEY, give
from tests.scale.test_workflows import tandem
from tests.scale.tools import LINTERS, python_tools

COMPOSE = ROOT / "docker" / "compose.yaml"
STARTED = ("serve", "stream", "watch", "mlflow", "kafka", "valkey", "prometheus", "alertmanager")
PROMETHEUS = "http://127.0.0.1:9090/api/v1"
STAND_INS = ("kafka", "valkey", "prometheus", "alertmanager")


def stand_ins(folder: Path) -> None:
    """Images under the names that the compose file has for those of others."""
    jars = folder / "jars"
    jars.mkdir()
    for jar in classpath("kafka").split(os.pathsep):
        (jars / Path(jar).name).hardlink_to(jar)
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for name in STAND_INS:
        tag = f"docker.io/{services[name]['image']}"
        if not os.environ.get("TANDEM_SCALE_KEEP") or subprocess.run(["podman", "image", "exists", tag]).returncode:
            context = ("--build-context", f"jars={jars}", "--build-arg", f"BASE={service_base()}", "--target", name, "--tag", tag)
            build_in(Path(__file__).with_name("services"), *context)


def build_in(folder: Path, *options: str) -> None:
    environment = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf")), "BUILDAH_ISOLATION": "oci"}
    done = subprocess.run(
        ["buildah", "bud", "--format", "docker", "--quiet", *options, str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


class System:
    """The compose file's project, of a name of its own."""

    def __init__(self, repo: Path) -> None:
        key = repo.parent / "key"
        key.write_text(KEY)
        # Where podman is not Docker: its compose gives a container no secret of the environment, and podman 4.3 starts none that depends on
        # one which has ended and depends on another.
        changes = {"secrets": {"tandem_api_key": {"file": str(key)}}, "services": {"stream": {"depends_on": ["valkey"]}}}
        text = re.sub("(tandem_api_key|depends_on):", r"\1: !override", yaml.safe_dump(changes))
        (repo.parent / "podman.yaml").write_text(text)
        files = ("--file", str(COMPOSE), "--file", str(repo.parent / "podman.yaml"))
        self.project = f"tandem{uuid.uuid4().hex[:8]}"
        self.environment = {
            **os.environ, "TANDEM_API_KEY": KEY, "GRAFANA_ADMIN_PASSWORD": "unused", "REPO": str(repo),
            "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf")),
            **{f"TANDEM_{target.upper()}_IMAGE": build(target) for target in ("serve", "worker", "train")},
        }  # fmt: skip
        self.command = [str(python_tools("tools", LINTERS) / "podman-compose"), "--project-name", self.project, *files]

    def __call__(self, *words: str, timeout: float = 1800) -> str:
        done = subprocess.run([*self.command, *words], env=self.environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def job(self, *words: str) -> str:
        """A command of tandem as docs/deployment.md runs it; what it printed."""
        return self("--profile", "jobs", "run", "--rm", "-T", "jobs", *words)

    def logs(self) -> str:
        return subprocess.run([*self.command, "logs", "--tail", "40"], env=self.environment, capture_output=True, text=True).stdout[-8000:]

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 600) -> Any:
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, f"{what}\n{self.logs()}"
            time.sleep(2)
        return found


def asked(url: str, body: Any = None, key: str = "") -> Any:
    """The answer's JSON; None while nobody answers, or not with success."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")
    except (OSError, urllib.error.HTTPError):
        return None


@pytest.fixture
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("compose")
    stand_ins(folder)
    repo = folder / "shop"
    tandem("init", repo)
    store = yaml.safe_load((repo / "feature_store.yaml").read_text())
    store["online_store"] = {"type": "tandem.serving.online_store.redis.OrderedRedisOnlineStore", "connection_string": "${REDIS}"}
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(store))
    (repo / "data").mkdir()
    give(repo)
    whole = System(repo)
    try:
        yield whole
    finally:
        subprocess.run([*whole.command, "down", "--volumes", "--timeout", "20"], env=whole.environment, capture_output=True, timeout=600)


def test_the_whole_system(system: System) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start, trained, yesterday, end = (f"{today - timedelta(days=days):%Y-%m-%d}" for days in (15, 13, 1, 0))
    system.job("pipeline", "--events", "--start", start, "--end", yesterday, "--train-start", trained)
    system("up", "--detach", "topics")
    topics = ("ps", "--all", "--filter", f"name={system.project}.*topics", "--format", "{{.Status}}")
    system.until(lambda: podman(*topics).startswith("Exited (0)"), "the topics are not made")
    system("up", "--detach", *STARTED)
    serve = "http://127.0.0.1:8500"
    system.until(lambda: asked(f"{serve}/v2/health/ready", key=KEY), "the server is not ready")
    assert asked(f"{serve}/v1/models/card_fraud") is None  # without a key

    system.job("events", "--start", yesterday, "--end", end)
    system.job("replay", "--start", yesterday, "--end", end, "--speed", "max")

    def delivered() -> bool:
        (name,) = podman("ps", "--quiet", "--filter", f"name={system.project}.*stream").split()
        done = subprocess.run(["podman", "exec", name, "tandem", "stream", "status", "--json"], capture_output=True, text=True)
        progress = json.loads(done.stdout).get("progress", {}) if done.returncode == 0 else {}
        return bool(progress.get("events")) and not any(progress.get("lag", {"none": 1}).values())

    system.until(delivered, "the stream did not deliver")
    instance = {"card_id": 1000, "terminal_id": 1, "country": "DE", "amount": 12.5, "online": True}
    answer = asked(f"{serve}/v1/models/card_fraud:predict", {"instances": [instance]}, KEY)
    assert answer["features"]["card_activity"]["statuses"] == ["PRESENT"], answer
    found = asked("http://127.0.0.1:5000/api/2.0/mlflow/experiments/search", {"max_results": 10})["experiments"]
    assert {e["name"] for e in found} > {"Default"}
    report = json.loads(system.job("verify", "--no-served", "--json"))
    assert report["verdict"] == "proven" and report["values"]["equal"] > 1_000, report["values"]
    watched(system)


def watched(system: System) -> None:
    """Prometheus reaches all of ours, has what the dashboard asks for, and has Alertmanager know that the stream is down; then that it is
    not any more."""

    def scraped() -> bool:
        targets = (asked(f"{PROMETHEUS}/targets") or {}).get("data", {}).get("activeTargets", [])
        return {t["labels"]["job"] for t in targets if t["health"] == "up"} == {"tandem-serve", "tandem-stream", "tandem-watch"}

    system.until(scraped, "Prometheus does not reach them all")
    managers = asked(f"{PROMETHEUS}/alertmanagers")["data"]["activeAlertmanagers"]
    assert [m["url"] for m in managers] == ["http://alertmanager:9093/api/v2/alerts"]
    answers = {title: asked(f"{PROMETHEUS}/query?{urllib.parse.urlencode({'query': query})}") for title, query in queries()}
    assert [title for title, said in answers.items() if said is None] == []
    told = {title for title, said in answers.items() if said["data"]["result"]}
    print(f"{len(told)} of {len(answers)} queries of the dashboard have an answer; none: {sorted(answers.keys() - told)}")
    assert len(told) > len(answers) / 2

    def down() -> list[Any]:
        alerts = asked("http://127.0.0.1:9093/api/v2/alerts") or []
        return [a for a in alerts if a["labels"]["alertname"] == "TandemStreamDown"]

    assert down() == []
    system("stop", "--timeout", "90", "stream")
    (alert,) = system.until(down, "Alertmanager hears nothing of a stream that is down")
    assert alert["status"]["state"] == "active" and [r["name"] for r in alert["receivers"]] == ["pages"]
    system("start", "stream")
    system.until(lambda: not down(), "Alertmanager does not hear that the stream is back")
