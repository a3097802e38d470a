"""The images, built by buildah and run by podman: a repository of ``tandem init`` from nothing to an answer, in containers alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.scale.containers import ROOT, build, container, megabytes, podman
from tests.scale.tools import LINTERS, python_tools

KEY = "a-key-of-this-test"
RANGE = ("--start", "2024-03-04", "--end", "2024-03-11")
STRICT = ("--rm", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


@pytest.fixture(scope="module")
def serve() -> str:
    return build("serve")


@pytest.fixture(scope="module")
def worker() -> str:
    return build("worker")


@pytest.fixture(scope="module")
def train() -> str:
    return build("train")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, worker: str) -> Path:
    """A repository of ``tandem init`` whose rows are in the online store; every step ran in the worker's image."""
    home = tmp_path_factory.mktemp("repo")
    home.chmod(0o777)
    podman("run", *STRICT, "--volume", f"{home}:/home", worker, "init", "/home/shop")
    folder = home / "shop"
    for words in (("events",), ("batch",), ("apply",), ("materialize",)):
        podman("run", *STRICT, *mounts(folder), worker, *words, *(RANGE if words != ("apply",) else ()), timeout=1800)
    return folder


def mounts(repo: Path, *options: str) -> tuple[str, ...]:
    (repo / "data").mkdir(exist_ok=True)
    return ("--volume", f"{repo}:/repo:ro", "--volume", f"{repo / 'data'}:/repo/data", "--tmpfs", "/tmp:rw,exec,mode=1777", *options)


def test_the_files_that_images_are_made_of_are_clean() -> None:
    tools = python_tools("tools", LINTERS)
    subprocess.run([tools / "hadolint", ROOT / "docker" / "Dockerfile"], check=True)
    scripts = [ROOT / "docker" / name for name in ("debian.sh", "install.sh", "prometheus/alertmanager.sh")]
    subprocess.run([tools / "shellcheck", "--exclude=SC1091", *scripts], check=True)


def test_an_image_holds_no_more_than_it_says(serve: str) -> None:
    assert megabytes(serve) <= 1300
    seen = podman(
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        serve,
        "-c",
        "id -u; ls /; ls /repo; python -m pip --version 2>&1 | tail -1; which g++ uv || true",
    )
    lines = seen.split()
    assert lines[0] == "10001" and "source" not in lines and "dist" not in lines and "build" not in lines
    assert "No module named pip" in seen and "/g++" not in seen and "/uv" not in seen
    config = json.loads(podman("image", "inspect", serve))[0]
    assert config["User"] == "10001:10001" and config["HealthCheck"]["Test"][0] == "CMD"
    names = {c["name"]: c["version"] for c in sbom(serve)["components"]}
    lock = dict(
        line.split(" ")[0].split("==") for line in (ROOT / "requirements-modern.lock").read_text().splitlines() if line[:1].isalnum()
    )
    lock |= {"tensorflow-cpu": lock["tensorflow"]}
    locked = {name.partition("[")[0]: version.partition(";")[0] for name, version in lock.items()}
    ours = names.pop("tandem-features")
    assert ours and names and {n: v for n, v in names.items() if locked.get(n) != v} == {}
    assert not {"apache-beam", "tfx", "mlflow", "mypy", "libclang"} & set(names)


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
            cards = list(range(1, 200))
            answer = server.ask("/get-online-features", {"features": ["card_activity:count_24h"], "entities": {"card_id": cards}}, key=KEY)
            assert "PRESENT" in answer["results"][1]["statuses"] and any(answer["results"][1]["values"]), answer
            podman("healthcheck", "run", server.name)
            assert "no-new-privileges" in str(server.state()["HostConfig"]["SecurityOpt"])
        assert "Traceback" not in server.log()
    finally:
        (repo / "tandem.yaml").write_text(settings)


def test_a_model_trained_in_one_image_is_served_by_the_other(serve: str, train: str, repo: Path) -> None:
    copy = repo.parent / "trained"
    shutil.copytree(repo, copy)
    podman("run", "--rm", "--user", "0", "--volume", f"{copy}:/copy", "--entrypoint", "chown", train, "-R", "10001:10001", "/copy/data")
    podman("run", *STRICT, *mounts(copy), train, "train", *RANGE, timeout=3600)
    podman("run", *STRICT, *mounts(copy), train, "promote", timeout=600)
    options = mounts(copy, "--env", f"TANDEM_API_KEY={KEY}")
    with container(serve, "serve", "--host", "0.0.0.0", "--as-of", "2024-03-11", options=options) as server:
        model = server.ask("/v1/models/card_fraud", key=KEY)
        assert model["model_version_status"][0]["state"] == "AVAILABLE"
