"""A small repository that ``tandem init`` makes, MLflow's store beside it, and this project's entry points run by ``mlflow run``."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.demo.scaffold import scaffold
from pipelines.lake.runs import Run, list_runs
from tests.tracking_world import TrackedRun, mlflow_runs

ROOT = Path(__file__).parents[1]


@dataclass
class Shop:
    """A scaffolded repository and MLflow's store."""

    repo: Path
    store: str

    @property
    def data(self) -> Path:
        return self.repo / "data"

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**kept, "PATH": path, "MLFLOW_TRACKING_URI": self.store, "TANDEM_TRACKING__TRACKERS": '["mlflow"]', "PYTHONPATH": str(ROOT)}

    def mlflow_run(self, entry: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
        """``mlflow run`` of this project, as it stands."""
        command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", entry, "--env-manager", "local", "--experiment-name", "shop"]
        for name, value in parameters.items():
            command += ["-P", f"{name}={value}"]
        return subprocess.run(command, cwd=self.repo.parent, env=self.environment(), capture_output=True, text=True)

    def tandem(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipelines.cli", arguments[0], "--repo", str(self.repo), *arguments[1:]]
        environment = {**self.environment(), "TANDEM_TRACKING__WAIT_SECONDS": "120", "COLUMNS": "200"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def done(self, *arguments: str) -> str:
        """What a command prints that ends well."""
        child = self.tandem(*arguments)
        out, err = child.communicate(timeout=600)
        assert child.returncode == 0, err
        return out

    def runs(self, kind: str) -> list[Run]:
        return [r for r in list_runs(self.data) if r.kind == kind]

    def tracked(self) -> dict[str, TrackedRun]:
        return mlflow_runs(self.store)


def two_weeks_of_a_shop(folder: Path) -> Shop:
    """Gone all the way by ``mlflow run``."""
    scaffold(folder / "a shop")
    made = Shop(folder / "a shop", f"sqlite:///{folder / 'mlflow.db'}")
    # A name with a blank in it: MLflow hands parameters through a shell.
    done = made.mlflow_run("main", repo=made.repo, start="2024-03-04", end="2024-03-18", seed=7, set="epochs=2", events="true")
    assert done.returncode == 0, done.stdout + done.stderr
    return made
