"""``examples/``: each run as its user would, in an environment of its own, against a server or repository of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.lake.processes import free_ports
from tests.integration.http_server import running
from tests.integration.serving_world import GOOD, make_world, settings
from tests.scale.containers import ROOT
from tests.scale.tools import python_tools

BENTOML = ("bentoml==1.4.40", "httpx>=0.27")
ZENML = ("zenml[local]==0.98.0",)
TANDEM = Path(sys.executable).with_name("tandem")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    make_world(tmp_path, 1)
    with running(settings(tmp_path)) as (_, host, port):
        yield f"http://{host}:{port}"


def test_a_bento_answers_what_our_server_does(server: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environment = {
        **os.environ, "TANDEM_SERVER": server, "TANDEM_MODEL": "delay", "ALARMING": "-1e9", "BENTOML_HOME": str(tmp_path / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
    }  # fmt: skip
    bentoml = python_tools("bentoml", BENTOML) / "bentoml"
    command = [str(bentoml), "serve", "service:Scores", "--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "said", "w") as out:
        process = subprocess.Popen(command, cwd=ROOT / "examples" / "bentoml", env=environment, stdout=out, stderr=out)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as bento:
            end = time.monotonic() + 180
            while True:
                try:
                    if bento.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "said").read_text()
                time.sleep(0.2)
            rows = [GOOD, {**GOOD, "origin": "LGA"}]
            scored = bento.post("/score", json={"instances": rows}).json()
            ours = httpx.post(f"{server}/v1/models/delay:predict", json={"instances": rows}).json()
            assert [one["prediction"] for one in scored] == ours["predictions"] and all(one["alarming"] for one in scored)
            assert {one["version"] for one in scored} == {1} and scored[0]["ages"]["origin_traffic"] == 240
            features = bento.post("/features", json={"entities": {"origin": ["JFK"], "tailnum": ["N1"]}}).json()
            assert features["mean_1h"] == [12.5] and features["last_delay"] == [-3.0]
            refused = bento.post("/score", json={"instances": [{}]})
            assert refused.status_code == 400 and "lacks" in refused.text
    finally:
        process.terminate()
        process.wait(60)


def test_zenml_runs_the_steps(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    quiet = {**os.environ, "TANDEM_TRACKING__TRACKERS": "[]"}
    for words in (("init", shop), ("events", "--repo", shop)):
        subprocess.run([TANDEM, *words], check=True, capture_output=True, env=quiet)
    environment = {
        **quiet, "TANDEM_COMMAND": str(TANDEM), "ZENML_CONFIG_PATH": str(tmp_path / "zenml"), "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_COLORS_DISABLED": "true",
    }  # fmt: skip
    python = python_tools("zenml", ZENML) / "python"
    command = [python, ROOT / "examples" / "zenml" / "pipeline.py", "--repo", shop, "--start", "2024-03-04", "--end", "2024-03-18"]
    (tmp_path / "work").mkdir()
    for _ in range(2):
        done = subprocess.run([str(word) for word in command], cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        assert all(f"Step `{name}` has finished" in done.stdout + done.stderr for name in ("batch", "apply", "materialize"))
    listed = subprocess.run([TANDEM, "runs", "--repo", shop, "--json"], check=True, capture_output=True, text=True).stdout
    kinds = [run["kind"] for run in json.loads(listed)["runs"]]
    assert kinds.count("batch") == 1 and kinds.count("materialize") == 2
