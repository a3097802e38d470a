"""``tandem export``: the DAG run by Airflow itself, the pipeline compiled by KFP, over a repository of ``tandem init``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scale.containers import ROOT
from tests.scale.tools import AIRFLOW, KUBEFLOW, python_tools

TANDEM = Path(sys.executable).with_name("tandem")


def tandem(*words: str | Path) -> str:
    done = subprocess.run([TANDEM, *map(str, words)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workflows") / "shop"
    tandem("init", folder)
    return folder


def runs(shop: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(tandem("runs", "--repo", shop, "--kind", kind, "--json"))["runs"]
    return found


def test_airflow_runs_the_dag_and_a_second_run_makes_nothing_anew(shop: Path, tmp_path: Path) -> None:
    bin_ = python_tools("airflow", AIRFLOW)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "TANDEM_COMMAND": str(TANDEM),
        "TANDEM_REPO": str(shop),
    }

    def airflow(*words: str) -> str:
        done = subprocess.run([bin_ / "airflow", *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    tandem("export", "airflow", "--repo", shop, "--events", "--output", tmp_path / "dags" / "shop.py")
    airflow("db", "migrate")
    assert "No data found" in airflow("dags", "list-import-errors")
    for _ in range(2):
        told = airflow("dags", "test", "tandem-shop", "2024-03-18")
        assert "state=success" in told or "success" in told.splitlines()[-1], told[-3000:]
        assert [len(runs(shop, kind)) for kind in ("batch", "train")] == [1, 1]
    (trained,) = runs(shop, "train")
    assert trained["range"][0][:10] == "2024-03-06" and trained["once"] == runs(shop, "batch")[0]["id"]
    (model,) = json.loads(tandem("models", "--repo", shop, "--json"))["models"]
    assert [v["aliases"] for v in model["versions"]] == [["champion"]]


def test_kfp_compiles_the_pipeline(shop: Path, tmp_path: Path) -> None:
    bin_ = python_tools("kubeflow", KUBEFLOW)
    words = ("--repo", shop, "--image", "registry.example.org/shop-train:1", "--claim", "shop-data", "--events")
    secrets = ("--settings-secret", "shop-settings", "--env-secret", "REDIS_PASSWORD=shop-redis/password")
    another = ("--env-secret", "AWS_SECRET_ACCESS_KEY=shop-bucket/secret.key")
    tandem("export", "kubeflow", *words, *secrets, *another, "--output", tmp_path / "pipeline.py")
    subprocess.run([bin_ / "python", tmp_path / "pipeline.py", tmp_path / "pipeline.yaml"], check=True, cwd=tmp_path)
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"events", "batch", "apply", "materialize", "train", "evaluate", "promote"}
    after = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert after["batch"] == {"events"} and "apply" in after["materialize"] and after["train"] >= {"batch", "materialize"}
    assert after["promote"] >= {"train", "evaluate"} and all(task["retryPolicy"]["maxRetryCount"] == 2 for task in tasks.values())
    containers = [one["container"] for one in spec["deploymentSpec"]["executors"].values()]
    assert all({"name": "TANDEM_TRACKING__WAIT_SECONDS", "value": "30"} in one["env"] for one in containers)
    resources = [one["resources"] for one in containers]
    assert len(resources) == len(tasks) and all(
        r["resourceMemoryRequest"] == "4Gi" and r["resourceMemoryLimit"] == "8Gi" for r in resources
    )
    mounted = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(mounted) == len(tasks) and all(m["pvcMount"][0]["mountPath"] == "/repo/data" for m in mounted.values())
    for one in mounted.values():
        assert [(m["secretName"], m["mountPath"]) for m in one["secretAsVolume"]] == [("shop-settings", "/run/secrets/tandem")]
        variables = {k["envVar"]: (m["secretName"], k["secretKey"]) for m in one["secretAsEnv"] for k in m["keyToEnv"]}
        assert variables == {"REDIS_PASSWORD": ("shop-redis", "password"), "AWS_SECRET_ACCESS_KEY": ("shop-bucket", "secret.key")}
    assert all({"name": "TANDEM_SECRETS_DIR", "value": "/run/secrets/tandem"} in one["env"] for one in containers)
    assert ROOT.as_posix() not in (tmp_path / "pipeline.yaml").read_text()
