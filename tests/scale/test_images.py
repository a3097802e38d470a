"""The server's image, built by buildah and run by podman: by hand, by the compose file, and as the chart's pod."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.scale.containers import ROOT, build, container, megabytes, podman
from tests.scale.test_chart import rendered
from tests.scale.test_workflows import tandem
from tests.scale.tools import LINTERS, python_tools

KEY = "a-long-key-of-this-test-alone"
RANGE = ("--start", "2024-03-04", "--end", "2024-03-11")
USER = 10001


@pytest.fixture(scope="module")
def serve() -> str:
    return build("serve")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of ``tandem init`` whose rows are in the online store, made by this checkout; it belongs to the images' user."""
    folder = tmp_path_factory.mktemp("repo") / "shop"
    tandem("init", folder)
    for words in (("events", *RANGE), ("batch", *RANGE), ("apply",), ("materialize", *RANGE)):
        tandem(*words, "--repo", folder)
    give(folder)
    return folder


def give(folder: Path) -> None:
    """Have a repository of pytest's folders belong to the images' user."""
    for above in (folder.parent, folder.parent.parent):
        above.chmod(0o755)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)


def mounts(repo: Path, *options: str) -> tuple[str, ...]:
    """The options that mount a repository as docs/deployment.md says."""
    return ("--volume", f"{repo}:/repo:ro", "--volume", f"{repo / 'data'}:/repo/data", "--tmpfs", "/tmp:rw,exec,mode=1777", *options)


def test_the_files_that_images_are_made_of_are_clean() -> None:
    tools = python_tools("tools", LINTERS)
    stand_ins = Path(__file__).with_name("services")
    subprocess.run([tools / "hadolint", ROOT / "docker" / "Dockerfile", stand_ins / "Dockerfile"], check=True)
    scripts = [ROOT / ".ci" / "run", *(ROOT / "docker").rglob("*.sh"), *stand_ins.glob("*.sh")]
    subprocess.run([tools / "shellcheck", "--exclude=SC1091", *scripts], check=True)


def test_an_image_holds_no_more_than_it_says(serve: str) -> None:
    assert megabytes(serve) <= 1300
    look = "id -u; ls /; ls /repo; python -m pip --version 2>&1 | tail -1; which g++ uv || true"
    seen = podman("run", "--rm", "--entrypoint", "sh", serve, "-c", look)
    lines = seen.split()
    assert lines[0] == "10001" and "source" not in lines and "dist" not in lines and "build" not in lines
    assert "No module named pip" in seen and "/g++" not in seen and "/uv" not in seen
    config = json.loads(podman("image", "inspect", serve))[0]
    assert config["User"] == "10001:10001" and config["Healthcheck"]["Test"][0] == "CMD"
    names: dict[str, str] = {canonicalize_name(c["name"]): c["version"] for c in sbom(serve)["components"]}
    lock = dict(
        line.split(" ")[0].split("==") for line in (ROOT / "requirements-modern.lock").read_text().splitlines() if line[:1].isalnum()
    )
    lock |= {"tensorflow-cpu": lock["tensorflow"]}
    locked = {name.partition("[")[0]: version.partition(";")[0] for name, version in lock.items()}
    ours = names.pop("tandem-features")
    assert ours and names and {n: v for n, v in names.items() if locked.get(n) != v} == {}
    assert not {"apache-beam", "tfx", "mlflow", "mypy", "libclang", "setuptools"} & set(names) and "obstore" in names


def test_what_was_taken_from_tensorflow_is_missed_by_who_asks_for_it_alone(serve: str) -> None:
    asked = """
import tensorflow as tf
print(float(tf.reduce_sum(tf.ones(3))))
try:
    tf.profiler.experimental.client.monitor("grpc://x:1", 1)
except NotImplementedError as error:
    print(error)
"""
    said = podman("run", "--rm", "--entrypoint", "python", serve, "-c", asked)
    assert said.splitlines() == ["3.0", "this image has no client of other profilers"]


def sbom(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman("run", "--rm", "--entrypoint", "cat", image, "/opt/tandem/sbom.json"))
    return found


def test_a_server_that_may_write_nothing_but_its_data_answers(serve: str, repo: Path) -> None:
    settings = (repo / "tandem.yaml").read_text()
    (repo / "tandem.yaml").write_text(settings.replace('models: ["labels:card_fraud_model"]', "models: []"))
    try:
        options = mounts(repo, "--env", f"TANDEM_API_KEY={KEY}")
        with container(serve, "serve", "--host", "0.0.0.0", "--as-of", "2024-03-11", options=options) as server:
            assert server.ask("/v2/health/ready", wait=240)
            cards = list(range(1000, 1200))
            answer = server.ask("/get-online-features", {"features": ["card_activity:count_24h"], "entities": {"card_id": cards}}, key=KEY)
            assert "PRESENT" in answer["results"][1]["statuses"] and any(answer["results"][1]["values"]), answer
            podman("healthcheck", "run", server.name)
            assert "no-new-privileges" in str(server.state()["HostConfig"]["SecurityOpt"])
        assert "Traceback" not in server.log()
    finally:
        (repo / "tandem.yaml").write_text(settings)


def test_compose_takes_the_whole_file_and_starts_its_server(serve: str, repo: Path, tmp_path: Path) -> None:
    compose = str(python_tools("tools", LINTERS) / "podman-compose")
    environment = {**os.environ, "TANDEM_API_KEY": KEY, "GRAFANA_ADMIN_PASSWORD": "p", "REPO": str(repo), "TANDEM_SERVE_IMAGE": serve}
    project = f"tandem{uuid.uuid4().hex[:8]}"
    environment |= {"CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}

    def run(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        words = (compose, "--project-name", project, "--file", str(ROOT / "docker" / "compose.yaml"), *words)
        return subprocess.run(words, env={**environment, **changes}, capture_output=True, text=True)

    whole = run("config")
    assert whole.returncode == 0 and set(yaml.safe_load(whole.stdout)["services"]) >= {"serve", "stream", "kafka", "mlflow", "grafana"}
    assert "TANDEM_API_KEY is missing a value" in run("config", TANDEM_API_KEY="").stderr
    try:
        started = run("up", "--detach", "--no-deps", "serve")
        assert started.returncode == 0, started.stdout + started.stderr
        (name,) = podman("ps", "--filter", f"label=io.podman.compose.project={project}", "--format", "{{.ID}}").split()
        inside = "import sys, urllib.request as r; print(r.urlopen('http://127.0.0.1:8500/v2/health/live').status)"
        until = time.monotonic() + 240
        while subprocess.run(["podman", "exec", name, "python", "-c", inside], capture_output=True).returncode:
            assert time.monotonic() < until, podman("logs", name)
            time.sleep(1)
    finally:
        run("down", "--volumes")


def test_the_chart_s_pod_runs(serve: str, repo: Path, tmp_path: Path) -> None:
    claim = f"tandem-{uuid.uuid4().hex[:8]}"
    image, tag = serve.rsplit(":", 1)
    values = {
        "images": {"serve": {"repository": image, "tag": tag}},
        "imagePullPolicy": "Never",
        "repo": {"existingClaim": f"{claim}-repo"},
        "data": {"existingClaim": claim},
        "env": {"TANDEM_MODELS": "[]"},  # without a model it is ready when it serves features
        "serve": {"args": ["--as-of=2024-03-11"], "replicas": 1, "autoscaling": {"enabled": False}},
    }
    parts = [p for p in rendered(values, tmp_path) if p["kind"] == "Deployment" and p["metadata"]["name"].endswith("-serve")]
    (tmp_path / "play.yaml").write_text(yaml.safe_dump_all(parts))
    try:
        for name, folder in ((f"{claim}-repo", repo), (claim, repo / "data")):
            podman("volume", "create", name)
            mount = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", name).strip())
            shutil.copytree(folder, mount, dirs_exist_ok=True, ignore=shutil.ignore_patterns("data") if folder == repo else None)
            subprocess.run(["chown", "-R", f"{USER}:{USER}", mount], check=True)
        # A key of the data folder: podman 4.3 does not find in a Secret what it put there itself.
        tandem("keys", "add", "anybody", "--repo", repo, "--data", mount)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", mount], check=True)
        (mount.parents[1] / f"{claim}-repo" / "_data" / "data").mkdir()
        podman("kube", "play", tmp_path / "play.yaml")
        (pod,) = [p for p in json.loads(podman("pod", "ps", "--format", "json")) if p["Name"].startswith("shop-tandem-serve")]
        name = next(c["Names"] for c in pod["Containers"] if c["Names"].endswith("-serve"))
        inside = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8500/v2/health/ready').status)"
        until = time.monotonic() + 240
        while subprocess.run(["podman", "exec", name, "python", "-c", inside], capture_output=True).returncode:
            assert time.monotonic() < until, podman("logs", name)
            time.sleep(1)
        state = json.loads(podman("inspect", name))[0]
        assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"].startswith("10001")
    finally:
        for words in (("kube", "down", str(tmp_path / "play.yaml")), ("volume", "rm", "--force", claim, f"{claim}-repo")):
            subprocess.run(["podman", *words], capture_output=True)
