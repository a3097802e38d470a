"""The chart's other pods, run by ``podman kube play`` as rendered: the stream with its Flink, the CronJobs' and a command's in turn.

Each is what Kubernetes would make of the template: a Pod of the specification that the chart gives. One thing is changed: it shares the
machine's network, where the test's broker listens, under a name that resolves (a kubelet sees to that; Flink asks for its own).
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.services.kafka_broker import Broker
from tests.kafka_server import kafka_server
from tests.scale.containers import build, podman
from tests.scale.test_chart import pods, rendered
from tests.scale.test_images import USER
from tests.scale.test_images_together import caught_up
from tests.scale.test_workflows import tandem

DAYS = 7  # of the jobs, before today (UTC)
HISTORY = 15  # days that a model learns from: reports of fraud come late


@dataclass
class Claims:
    """A repository and its data folder as two claims, the data as the machine sees it, and a broker that has today's events."""

    repo: str
    data: str
    folder: Path
    shop: Path
    broker: Broker

    def values(self) -> dict[str, Any]:
        images = {target: dict(zip(("repository", "tag"), build(target).rsplit(":", 1), strict=True)) for target in ("worker", "train")}
        return {
            "images": images,
            "imagePullPolicy": "Never",
            "repo": {"existingClaim": self.repo},
            "data": {"existingClaim": self.data},
            "env": {
                "TANDEM_KAFKA__BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "TANDEM_STREAM__CLOCK": "replay",
                "TANDEM_TRACKING__TRACKERS": "[]",
                "TANDEM_MODELS": "[]",
            },
            "jobs": {"batch": {"days": DAYS}, "materialize": {"days": DAYS}},
            "serve": {"enabled": False},
        }


def own(folder: Path) -> None:
    subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claims]:
    """Events, and of a week up to yesterday rows and graphs, in a claim; then yesterday, in files and in the topics."""
    today = dt.datetime.now(dt.UTC).date()
    early, first, yesterday = (str(today - dt.timedelta(days=n)) for n in (HISTORY, DAYS + 1, 1))
    week, day = ["--start", first, "--end", yesterday], ["--start", yesterday, "--end", str(today)]
    name, base = f"tandem-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("pods")
    shop = base / "shop"
    tandem("init", shop)
    for words in (["events", "--start", early, "--end", str(today)], ["batch", *week], ["apply"]):
        tandem(*words, "--repo", shop)
    with kafka_server(base) as broker:
        settings = (shop / "tandem.yaml").read_text()
        (shop / "tandem.yaml").write_text(f"{settings}\nkafka:\n  bootstrap_servers: {broker.bootstrap}\n")
        tandem("replay", *day, "--speed", "max", "--repo", shop)
        (shop / "tandem.yaml").write_text(settings)
        folders = {}
        try:
            for claim, folder in ((f"{name}-repo", shop), (name, shop / "data")):
                podman("volume", "create", claim)
                folders[claim] = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", claim).strip())
                ignored = shutil.ignore_patterns("data") if folder == shop else None
                shutil.copytree(folder, folders[claim], dirs_exist_ok=True, ignore=ignored)
            (folders[f"{name}-repo"] / "data").mkdir()
            for folder in folders.values():
                own(folder)
            yield Claims(f"{name}-repo", name, folders[name], shop, broker)
        finally:
            subprocess.run(["podman", "volume", "rm", "--force", name, f"{name}-repo"], capture_output=True)


@contextmanager
def played(kind: str, spec: dict[str, Any], folder: Path) -> Iterator[str]:
    """Runs a pod of the chart; the name of its container."""
    name, file = f"tandem-{kind}-{uuid.uuid4().hex[:6]}", folder / f"{kind}.yaml"
    containers = [
        {word: value for word, value in one.items() if word != "ports"} for one in spec["containers"]
    ]  # podman: not with hostNetwork
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {**spec, "containers": containers, "hostNetwork": True, "hostname": "localhost"},
    }
    file.write_text(yaml.safe_dump(pod))
    try:
        podman("kube", "play", file)
        yield f"{name}-{kind}"
    finally:
        subprocess.run(["podman", "kube", "down", str(file)], capture_output=True)


def test_the_stream_s_pod_keeps_rows_fresh(claims: Claims, tmp_path: Path) -> None:
    spec = pods(rendered(claims.values(), tmp_path))["stream"]
    with played("stream", spec, tmp_path) as name:
        until = time.monotonic() + 900
        while not caught_up(name):
            assert time.monotonic() < until, podman("logs", name)
            time.sleep(2)
        state = json.loads(podman("inspect", name))[0]
        assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"].startswith("10001")
        podman("stop", "--time", str(spec["terminationGracePeriodSeconds"]), name)
        assert json.loads(podman("inspect", name))[0]["State"]["ExitCode"] == 0, podman("logs", name)


def test_a_command_s_pod_makes_a_history_and_a_model(claims: Claims, tmp_path: Path) -> None:
    """As docs/deployment.md begins a new installation."""
    today = dt.datetime.now(dt.UTC).date()
    values = {**claims.values(), "command": ["pipeline", "--start", str(today - dt.timedelta(days=HISTORY)), "--end", str(today)]}
    del values["env"]["TANDEM_MODELS"]
    with played("command", pods(rendered(values, tmp_path))["command"], tmp_path) as name:
        code = podman("wait", name, timeout=1800).strip()
        said = subprocess.run(["podman", "logs", name], capture_output=True, text=True)
        assert code == "0", said.stdout + said.stderr
    (model,) = json.loads(tandem("models", "--repo", claims.shop, "--data", claims.folder, "--json"))["models"]
    assert model["versions"]


@pytest.mark.parametrize("kind", ["batch", "materialize", "watch"])
def test_a_job_s_pod_does_its_work_and_ends(claims: Claims, kind: str, tmp_path: Path) -> None:
    spec = pods(rendered(claims.values(), tmp_path))[kind]
    with played(kind, spec, tmp_path) as name:
        code = podman("wait", name, timeout=1800).strip()
        said = subprocess.run(["podman", "logs", name], capture_output=True, text=True)
        assert code == "0", said.stdout + said.stderr
    if kind != "watch":
        found = json.loads(tandem("runs", "--repo", claims.shop, "--data", claims.folder, "--kind", kind, "--json"))["runs"]
        assert found and found[0]["status"] == "complete", found
