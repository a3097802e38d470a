"""``docker/ci`` and the workflow of this repository: by actionlint, which hands its scripts to shellcheck; the Dockerfile by hadolint."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

import tandem
from tests.scale.containers import ROOT
from tests.scale.tools import LINTERS, go_tool, python_tools

CI = ROOT / "docker" / "ci"


def test_the_workflows_are_clean(tmp_path: Path) -> None:
    shellcheck = python_tools("tools", LINTERS) / "shellcheck"
    workflows = [CI / "github.yml", *(ROOT / ".github" / "workflows").glob("*.yml")]
    assert len(workflows) == 2
    subprocess.run([go_tool("actionlint"), f"-shellcheck={shellcheck}", *workflows], check=True, cwd=tmp_path)
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((CI / "github.yml").read_text().replace("needs: test", "needs: tests"))
    assert subprocess.run([go_tool("actionlint"), wrong], cwd=tmp_path, capture_output=True).returncode == 1


def test_the_dockerfile_is_clean_and_each_image_is_one_of_ours() -> None:
    subprocess.run([python_tools("tools", LINTERS) / "hadolint", CI / "Dockerfile"], check=True)
    targets = yaml.safe_load((CI / "github.yml").read_text())["jobs"]["image"]["strategy"]["matrix"]["target"]
    assert yaml.safe_load((CI / "github.yml").read_text())["env"]["TANDEM_VERSION"] == tandem.__version__
    assert f"name: 'TANDEM_VERSION', defaultValue: '{tandem.__version__}'" in (CI / "Jenkinsfile").read_text()
    assert targets == ["serve", "worker", "train"] and "for target in serve worker train" in (CI / "Jenkinsfile").read_text()
