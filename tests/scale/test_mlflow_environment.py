"""``mlflow run`` with an environment that it makes from nothing: an empty folder, python_env.yaml, and uv on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.scale.containers import ROOT
from tests.scale.tools import UV

SHOP = ("batch", "start=2024-03-04", "end=2024-03-18")


def test_mlflow_makes_the_environment_and_runs_a_step_in_it(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    for words in (("init", shop), ("events", "--repo", shop)):
        subprocess.run([Path(sys.executable).with_name("tandem"), *words], check=True, capture_output=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV") and not k.startswith("MLFLOW_")}
    environment = {
        **kept,
        "PATH": os.pathsep.join([str(UV.parent), os.environ["PATH"]]),
        "MLFLOW_ENV_ROOT": str(tmp_path / "environments"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "TANDEM_TRACKING__TRACKERS": "[]",
    }
    entry, *parameters = SHOP
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", entry, "--env-manager", "uv", "--experiment-name", "shop"]
    for parameter in (f"repo={shop}", *parameters):
        command += ["-P", parameter]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    (made,) = (tmp_path / "environments").glob("mlflow-*")
    assert (made / "bin" / "python").exists() and f"source {made}/bin/activate" in done.stderr
    assert "succeeded" in done.stderr and "card_activity" in done.stdout
    version = "import apache_beam; print(apache_beam.__file__)"
    where = subprocess.run([made / "bin" / "python", "-c", version], check=True, capture_output=True, text=True).stdout
    assert where.startswith(str(made)), "its packages are its own"
