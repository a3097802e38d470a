"""What came of a run, beside how it ended; and whose commit it was made with."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.lake.provenance import code_version, engine_root, engine_version
from pipelines.lake.run_records import head_fields, record_of
from pipelines.lake.runs import RunStore
from pipelines.lineage.diff import diff
from pipelines.tracking.tracked_run import read_record


@pytest.mark.parametrize(
    ("manifest", "judged"),
    [
        ({"kind": "train", "status": "complete", "version": 2}, "pushed version 2"),
        ({"kind": "train", "status": "complete", "reasons": ["auc 0.5 is below 0.6"], "metrics": {"test/auc": 0.9179}}, "not pushed"),
        ({"kind": "train", "status": "failed"}, None),
        ({"kind": "monitor", "status": "complete", "verdict": "fail"}, "fail"),
        ({"kind": "verify", "status": "complete", "verdict": "ok"}, "ok"),
        ({"kind": "promote", "status": "complete", "version": 3, "outcome": "refused"}, "refused version 3"),
        ({"kind": "retrain", "status": "complete", "outcome": "not blessed"}, "not blessed"),
        ({"kind": "batch", "status": "complete", "rows": {"g": 3}}, None),
    ],
)
def test_the_verdict_stands_beside_the_status(tmp_path: Path, manifest: dict[str, Any], judged: str | None) -> None:
    """FAULTS 27: in lists (the head), in show (the record) and in the tracker's tags, with the reasons."""
    assert head_fields(manifest).get("judged") == judged
    assert record_of(manifest).judged == judged
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    tags = read_record(folder, {**manifest, "created": "2024-05-01T00:00:00+00:00"}).tags
    assert tags.get("tandem.verdict") == judged
    assert tags.get("tandem.reasons") == ("auc 0.5 is below 0.6" if judged == "not pushed" else None)


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *own, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_provenance_is_of_the_users_repository(tmp_path: Path) -> None:
    """FAULTS 24: the commit is the user's; the engine has a version of its own; outside of git there is no commit."""
    repo = tmp_path / "project" / "features"
    repo.mkdir(parents=True)
    (repo / "features.py").write_text("x = 1\n")
    assert "commit" not in code_version(repo)
    git(repo.parent, "init", "-q")
    git(repo.parent, "add", ".")
    git(repo.parent, "commit", "-qm", "one")
    first = code_version(repo)
    assert (first["commit"], first["dirty"]) == (git(repo, "rev-parse", "HEAD"), False)
    (repo.parent / "notes.txt").write_text("beside it")
    assert code_version(repo)["dirty"] is False
    (repo / "features.py").write_text("x = 2\n")
    assert code_version(repo)["dirty"] is True
    engine = first["engine"]
    assert engine == engine_version() and engine.get("commit") != first["commit"]
    if (engine_root() / ".git").exists():
        assert engine["commit"] == git(engine_root(), "rev-parse", "HEAD")


def test_a_hook_of_another_repository_does_not_lend_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 24: git hands its hooks GIT_DIR and the like, which win over the folder."""
    commits = {}
    for name in ("mine", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "features.py").write_text(f"x = '{name}'\n")
        git(folder, "init", "-q")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", name)
        commits[name] = git(folder, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    made = code_version(tmp_path / "mine")
    assert (made["commit"], made["dirty"]) == (commits["mine"], False)


def test_a_diff_shows_differences_alone() -> None:
    """FAULTS 24: equal commits are none."""
    code = {"sha256": "a" * 64, "commit": "c" * 40, "dirty": False, "engine": {"version": "0.2.0"}, "files": {"repo/model.py": "1"}}
    other = {**code, "sha256": "b" * 64, "files": {"repo/model.py": "2"}}
    assert [str(d) for d in diff({"code": code}, {"code": other})] == ["repo/model.py changed"]
    told = [str(d) for d in diff({"code": code}, {"code": {**other, "dirty": True, "engine": {"version": "0.3.0"}}})]
    assert any(line.startswith("commit") and "with changes not committed" in line for line in told)
    assert any(line.startswith("engine") and "0.3.0" in line for line in told)


def test_parameters_are_shown_as_they_are_given_again(tmp_path: Path) -> None:
    """To the last digit, without separators: ``tandem train --seed`` and ``--set`` take what ``tandem runs show`` says."""
    run = RunStore(tmp_path).begin("train", {"a": 1}, datetime(2024, 5, 1, tzinfo=UTC))
    run.save(seeds={"seed": 20130101}, params={"units": 4096, "learning_rate": 0.00001, "name": "a"}, status="complete")
    shown = CliRunner().invoke(app, ["runs", "show", run.id, "--data", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    run.save(range=["2024-05-01T00:00:00+00:00", "2024-05-02T12:30:00+00:00"])
    assert "2024-05-01 to 2024-05-02T12:30" in CliRunner().invoke(app, ["runs", "--data", str(tmp_path)]).stdout
    assert "seed 20130101, units 4096, learning_rate 1e-05, name a" in " ".join(shown.stdout.split())
