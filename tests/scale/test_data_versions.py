"""DVC and Git LFS by the real tools, over a repository of ``tandem init``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scale.tools import go_tool, python_tools

DVC = ("dvc==3.67.1",)


def run(*words: str | Path, at: Path, path: Path) -> str:
    environment = {**os.environ, "PATH": os.pathsep.join([str(path), str(Path(sys.executable).parent), os.environ["PATH"]])}
    identity = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment |= {**identity, "TANDEM_TRACKING__TRACKERS": "[]", "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": str(at / ".gitconfig")}
    done = subprocess.run([*map(str, words)], cwd=at, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    run("tandem", "init", "shop", at=tmp_path, path=tmp_path)
    run("git", "init", "--quiet", ".", at=tmp_path, path=tmp_path)
    return tmp_path


def versions(project: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text()) for file in (project / "versions").glob("*.json")}


def test_dvc_reproduces_what_changed_and_nothing_else(project: Path) -> None:
    bin_ = python_tools("dvc", DVC)

    def dvc(*words: str) -> str:
        return run("dvc", *words, at=project, path=bin_)

    dvc("init", "--quiet")
    run("tandem", "export", "dvc", "--events", "--repo", "shop", "--output", "dvc.yaml", at=project, path=bin_)
    told = dvc("repro")
    assert all(f"Running stage '{stage}'" in told for stage in ("events", "batch", "apply", "materialize", "train_card_fraud"))
    made = versions(project)
    assert set(made) == {"batch", "apply", "materialize", "train_card_fraud"}
    assert made["batch"]["outputs"].keys() >= {"offline/card_activity"} and made["train_card_fraud"]["metrics"]["test/auc"] > 0.5
    assert "test/auc" in dvc("metrics", "show", "--json") and "up to date" in dvc("status")
    assert "didn't change, skipping" in dvc("repro") and "Running stage" not in dvc("repro")

    # A comment changes code, not data: the step runs, finds the same rows, and what follows is left out.
    features = project / "shop" / "features.py"
    features.write_text(features.read_text() + "\n# a remark\n")
    told = dvc("repro", "materialize")
    assert "Running stage 'batch'" in told and "Stage 'apply' didn't change" in told and versions(project)["batch"] == made["batch"]

    params = yaml.safe_load((project / "params.yaml").read_text())
    params["tandem"]["end"] = "2024-03-17"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    told = dvc("repro", "materialize")
    assert "Running stage 'batch'" in told and "Running stage 'materialize'" in told
    again = versions(project)["batch"]
    assert again["version"] != made["batch"]["version"] and again["range"][1].startswith("2024-03-17")


def test_git_lfs_takes_large_files_that_are_committed(project: Path) -> None:
    bin_ = go_tool("git-lfs").parent

    def git(*words: str) -> str:
        return run("git", *words, at=project, path=bin_)

    git("lfs", "install", "--local")
    for name, text in (("golden.parquet", "PAR1"), ("model/variables/variables.data-00000-of-00001", "w"), ("notes.txt", "n")):
        (project / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "shop" / name).write_text(text)
    (project / "shop" / "data").mkdir(exist_ok=True)
    (project / "shop" / "data" / "rows.parquet").write_text("Tandem's")
    git("add", "shop")
    git("commit", "--quiet", "-m", "all")
    assert set(git("lfs", "ls-files", "--name-only").split()) == {
        "shop/golden.parquet", "shop/model/variables/variables.data-00000-of-00001",
    }  # fmt: skip
    assert git("show", "HEAD:shop/golden.parquet").startswith("version https://git-lfs.github.com/spec/v1")
    assert "shop/data" not in git("ls-files") and "shop/notes.txt" in git("ls-files")
