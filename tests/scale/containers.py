"""Images built by buildah and run by podman, as root, without a daemon and without a registry of images.

The bases are Debian 13 root folders made by debootstrap (``docker/debian.sh``), which stand for ``python:3.13-slim`` and ``python:3.13``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake.processes import free_ports
from transforms.locks import lock

__all__ = ["ROOT", "SCALE", "Container", "build", "container", "megabytes", "podman", "service_base"]

ROOT = Path(__file__).resolve().parents[2]
SCALE = ROOT / ".cache" / "scale"
BASES = {"BASE": ("slim", "ca-certificates,python3"), "BUILD_BASE": ("build", "ca-certificates,g++,python3,python3-dev,python3-venv")}
SERVICES = ("services", "ca-certificates,default-jre-headless,prometheus,prometheus-alertmanager,valkey-server,valkey-tools")
# How this machine reaches packages: a build sees these files, no image holds them.
SHARED = (
    *map(Path, ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/uv")),
    *(Path.home() / name for name in (".config/uv", ".config/pip", ".m2")),
)
UNREAD = ("./var/lib/apt/lists/*", "./var/cache/*", "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./etc/apt/*")


def _run(*command: str | Path, timeout: float = 3600) -> str:
    """Runs a command of podman's family; its standard output. The test fails with what it said, if it fails."""
    environment = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf")), "BUILDAH_ISOLATION": "oci"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def _needed() -> None:
    """Fails where the programs are missing, and says which packages bring them."""
    missing = [name for name in ("buildah", "podman", "runc", "catatonit") if not shutil.which(name)]
    if missing:
        pytest.fail(f"{', '.join(missing)} not found; Debian: apt-get install podman buildah runc catatonit", pytrace=False)
    if os.getuid() != 0:
        pytest.fail("the images are built as root here; run make scale as root (sudo)", pytrace=False)


def podman(*words: str | Path, timeout: float = 600) -> str:
    """Runs podman; its standard output."""
    return _run("podman", *words, timeout=timeout)


def _base(folder: str, packages: str) -> str:
    """An image of a root folder with these packages, made on first use."""
    root, image = SCALE / folder, f"localhost/tandem-base:{folder}"
    SCALE.mkdir(parents=True, exist_ok=True)
    with lock(SCALE / ".lock"):
        _run(ROOT / "docker" / "debian.sh", root, packages)
        if subprocess.run(["podman", "image", "exists", image], stdin=subprocess.DEVNULL).returncode:
            archive = SCALE / f"{folder}.tar"
            _run("tar", "-C", root, "--one-file-system", *(f"--exclude={path}" for path in UNREAD), "-cf", archive, ".")
            podman("import", "--quiet", archive, image)
            archive.unlink()
    return image


def service_base() -> str:
    """The image with the programs of others that docker/compose.yaml starts."""
    _needed()
    return _base(*SERVICES)


def build(target: str) -> str:
    """The image of a target of docker/Dockerfile, built from this checkout; anew each time: keeping every step costs more than it saves."""
    _needed()
    image = f"localhost/tandem-{target}:test"
    if os.environ.get("TANDEM_SCALE_KEEP") and not subprocess.run(["podman", "image", "exists", image]).returncode:
        return image  # for who works on the tests and not on the image
    bases = [word for name in BASES for word in ("--build-arg", f"{name}={_base(*BASES[name])}")]
    shared = [word for path in SHARED if path.exists() for word in ("--volume", f"{path}:{path}:ro")]
    options = ["--format", "docker", "--network", "host", "--quiet", "--target", target, "--tag", image]
    _run("nice", "buildah", "bud", *options, *bases, *shared, "--file", "docker/Dockerfile", ".")
    return image


def megabytes(image: str) -> float:
    """How large an image is, unpacked; in millions of bytes, as ``podman images`` shows it."""
    size: int = json.loads(podman("image", "inspect", image))[0]["Size"]
    return size / 1e6


class Container:
    """A container that runs, and the port of this machine that its port 8500 is."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.url = name, f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: dict[str, Any] | None = None, wait: float = 120, key: str = "") -> Any:
        """The answer's JSON; waits for the server while nobody listens yet, or it says 503."""
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(), headers)
        until = time.monotonic() + wait
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except (OSError, urllib.error.HTTPError) as error:
                if (isinstance(error, urllib.error.HTTPError) and error.code != 503) or time.monotonic() > until:
                    raise AssertionError(f"{path}: {error}\n{self.log()}") from error
                time.sleep(0.5)

    def state(self) -> dict[str, Any]:
        """``podman inspect``."""
        found: dict[str, Any] = json.loads(podman("inspect", self.name))[0]
        return found

    def log(self) -> str:
        """What it printed."""
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.stdout + done.stderr


@contextmanager
def container(image: str, *words: str, options: tuple[str | Path, ...] = (), port: int = 8500) -> Iterator[Container]:
    """Runs an image as a strict orchestrator does: root read-only, no capabilities, the image's own user; removes it afterwards."""
    (own,) = free_ports(1)
    strict = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--publish", f"127.0.0.1:{own}:{port}")
    name = podman("run", "--detach", *strict, *options, image, *words).strip()
    try:
        yield Container(name, own)
    finally:
        podman("rm", "--force", "--time", "20", name)
