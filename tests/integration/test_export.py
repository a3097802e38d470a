"""``tandem export``: what it writes of a repository of ``tandem init``. ``tests/scale`` runs it by the real engines."""

from __future__ import annotations

import ast
import json
import sys
import time
import types
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.demo.scaffold import scaffold

# Stands in for the context that Airflow gives a task, and for nothing else: the tasks' own code runs.
STUB = "dag = task = lambda *a, **k: (lambda f: f)\nget_current_context = lambda: context\ncontext = {}\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "a shop"
    scaffold(folder)
    return folder


def export(*words: str, fails: str = "") -> str:
    done = CliRunner().invoke(app, ["export", *words])
    if fails:
        assert done.exit_code != 0 and fails in (str(done.exception) + done.output), done.output
        return ""
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def functions(text: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}


def test_a_dag_has_a_task_for_each_step_and_the_repository_s_models(shop: Path, dag: str) -> None:
    text = dag
    assert set(functions(text)) == {"tandem", "interval", "pipeline", "batch", "apply", "materialize", "train", "evaluate", "promote"}
    assert "MODELS = ['card_fraud']" in text and "dag_id='tandem-a-shop'" in text and "schedule='@daily'" in text
    assert f"os.environ.get('TANDEM_REPO', {str(shop)!r})".replace("'TANDEM_REPO'", '"TANDEM_REPO"') in text
    assert "timedelta(days=14)" in text and '"retries": 2' in text
    assert "events" in functions(export("airflow", "--repo", str(shop), "--events"))


def test_a_pipeline_has_a_step_for_each_step(shop: Path, tmp_path: Path) -> None:
    said = export("kubeflow", "--repo", str(shop), "--image", "registry.example.org/shop@sha256:0", "--output", str(tmp_path / "p.py"))
    text = (tmp_path / "p.py").read_text()
    assert said == "" and {"batch", "apply", "materialize", "train", "evaluate", "promote"} <= set(functions(text))
    assert "kubernetes" not in text and "2024-03-04" in text
    claimed = export("kubeflow", "--repo", str(shop), "--image", "shop", "--claim", "data", "--events")
    assert "mount_pvc" in claimed and "events" in functions(claimed) and "use_secret" not in claimed
    named = ("--settings-secret", "shop-settings", "--env-secret", "REDIS_PASSWORD=shop-redis/password")
    secret = export("kubeflow", "--repo", str(shop), "--image", "shop", *named)
    assert "SETTINGS_SECRET = 'shop-settings'" in secret and "{'REDIS_PASSWORD': ('shop-redis', 'password')}" in secret
    assert "from kfp import kubernetes" in secret and "mount_pvc" not in secret and functions(secret)


def test_what_would_not_work_is_refused_in_a_line(shop: Path) -> None:
    export("airflow", "--repo", str(shop), "--days", "2", fails="leaves nothing to train on")
    export("airflow", "--repo", str(shop), "--name", '"; import os', fails="use letters")
    export("kubeflow", "--repo", str(shop), "--image", 'x"""\nimport os', fails="is not an image name")
    for words in (("--claim", "it's"), ("--settings-secret", "A_b"), ("--env-secret", "REDIS_PASSWORD=hunter22")):
        export(
            "kubeflow", "--repo", str(shop), "--image", "shop", *words, fails="use lower" if "env" not in words[0] else "NAME=SECRET/KEY"
        )
    for other in ("A=z/w", "A=x/y"):
        twice = ("--env-secret", "A=x/y", "--env-secret", "B=x/y", "--env-secret", other)
        export("kubeflow", "--repo", str(shop), "--image", "shop", *twice, fails="--env-secret: A is given twice; keep one")


@pytest.fixture(scope="module")
def dag(shop: Path) -> str:
    return export("airflow", "--repo", str(shop))


@pytest.fixture
def module(dag: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The DAG's own functions, without Airflow."""
    for name, text in {
        "airflow": "",
        "airflow.exceptions": "class AirflowException(Exception): pass\nclass AirflowSkipException(AirflowException): pass\n",
        "airflow.sdk": STUB,
    }.items():
        made = types.ModuleType(name)
        exec(text, made.__dict__)
        monkeypatch.setitem(sys.modules, name, made)
    found = types.ModuleType("exported")
    exec(compile(dag.replace("\npipeline()\n", "\n"), "exported", "exec"), found.__dict__)
    return found


@pytest.mark.parametrize("moment", ["2024-03-18T00:00:00+00:00", "2024-03-18T23:59:59+00:00", "2024-03-19T00:30:00+01:00"])
def test_a_run_is_about_whole_days_before_the_end_of_its_interval(module: Any, moment: str) -> None:
    at = datetime.fromisoformat(moment)
    sdk: Any = sys.modules["airflow.sdk"]
    for context in ({"data_interval_end": at}, {"data_interval_end": None, "logical_date": at}):
        sdk.context.clear()
        sdk.context.update(context)
        assert module.interval() == ["--start", "2024-03-04", "--end", "2024-03-18"]
        assert module.interval(module.WARM_UP) == ["--start", "2024-03-06", "--end", "2024-03-18"]
    assert at.astimezone(UTC).day == 18


def test_a_command_s_outcome_is_the_task_s(module: Any, shop: Path) -> None:
    errors: Any = sys.modules["airflow.exceptions"]

    def command(script: str) -> None:
        module.COMMAND = ["sh", "-c", script, "tandem"]

    command('echo "{\\"id\\": \\"$*\\"}"')
    assert module.tandem("batch", "--json") == {"id": f"batch --repo {shop} --json"}
    command("echo first >&2; echo 'error: no rows' >&2; exit 1")
    with pytest.raises(errors.AirflowException, match="tandem batch: error: no rows") as failed:
        module.tandem("batch")
    assert not isinstance(failed.value, errors.AirflowSkipException)
    command("echo 'not pushed: worse than version 1' >&2; exit 3")
    with pytest.raises(errors.AirflowSkipException, match="tandem train: not pushed: worse than version 1"):
        module.tandem("train", "--json")


def test_a_command_is_heard_as_it_speaks_and_ends_with_its_task(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stops a task is raised while the task runs: here by who prints the command's first line."""
    ended = tmp_path / "ended"
    clean_up = f"trap 'echo cleaning up >&2 && touch {ended}; exit 1' TERM"
    module.COMMAND = ["sh", "-c", f"{clean_up}; echo begun >&2; while :; do sleep 0.05; done"]

    class Cleared(BaseException):
        pass

    said: list[str] = []

    def heard(line: str, **_: Any) -> None:
        said.append(line)
        if line == "begun\n":
            raise Cleared

    monkeypatch.setattr(module, "print", heard, raising=False)
    with pytest.raises(Cleared):
        module.tandem("batch")
    assert said == ["begun\n", "cleaning up\n"] and ended.exists()
    # One that does not want to end is killed, also where a child of it holds on to what it speaks through.
    module.END_SECONDS = 0.2
    module.COMMAND = ["sh", "-c", "trap '' TERM; echo begun >&2; sleep 20"]
    begun = time.monotonic()
    with pytest.raises(Cleared):
        module.tandem("batch")
    assert "timed out after 0.2 seconds: killed" in said[-1] and time.monotonic() - begun < 10


def test_a_dvc_file_has_a_stage_for_each_step_and_follows_versions(shop: Path, tmp_path: Path) -> None:
    export("dvc", "--repo", str(shop), "--output", str(tmp_path / "dvc.yaml"), fails="paths without spaces")
    plain = tmp_path / "shop"
    scaffold(plain)
    assert export("dvc", "--repo", str(plain), "--events", "--output", str(tmp_path / "dvc.yaml")) == ""
    stages = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    assert list(stages) == ["events", "batch", "apply", "materialize", "train_card_fraud"]
    assert stages["batch"]["deps"] == [
        "shop/tandem.yaml", "shop/features.py", "shop/preprocessing.py", "shop/data/events/payments", "shop/data/events/fraud_reports",
    ]  # fmt: skip
    assert all(out == {"cache": False, "persist": True} for each in stages["events"]["outs"] for out in each.values())
    assert stages["train_card_fraud"]["cmd"][0].startswith("tandem train --model card_fraud --repo shop --start ${tandem.train_start}")
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())["tandem"]
    assert params == {"start": "2024-03-04", "end": "2024-03-18", "train_start": "2024-03-06", "seed": 20130101}
    (tmp_path / "params.yaml").write_text("tandem: {start: mine}\n")
    export("dvc", "--repo", str(plain), "--output", str(tmp_path / "dvc.yaml"))
    assert "mine" in (tmp_path / "params.yaml").read_text(), "what is there is the user's"
    assert set(yaml.safe_load(export("dvc", "--repo", str(plain)))["stages"]) == set(stages) - {"events"}
    settings = plain / "tandem.yaml"
    settings.write_text(settings.read_text().replace("  start: 2024-03-04\n  end: 2024-03-18\n", ""))
    (tmp_path / "params.yaml").unlink()
    export("dvc", "--repo", str(plain), "--output", str(tmp_path / "dvc.yaml"))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())["tandem"]
    assert params["start"] < params["train_start"] < params["end"], "examples, of which something can be trained"


def test_conda_yaml_names_the_lock_or_its_versions(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "# a lock\npip==26.3 \\\n    --hash=sha256:00\nabsl-py[a,b]==1.4.0 ; python_version < '3.12' \\\n    --hash=sha256:01\n"
    )
    export("conda", "--lock", str(lock), "--output", str(tmp_path / "env" / "conda.yaml"))
    made = yaml.safe_load((tmp_path / "env" / "conda.yaml").read_text())
    assert made["dependencies"] == ["python=3.11", "pip=26.3", {"pip": ["--require-hashes", "--requirement ../requirements.lock"]}]
    listed = yaml.safe_load(export("conda", "--lock", str(lock), "--no-hashes", "--name", "shop"))
    assert listed["name"] == "shop"
    assert listed["dependencies"][-1] == {"pip": ["pip==26.3", "absl-py[a,b]==1.4.0 ; python_version < '3.12'"]}
    export("conda", "--lock", str(tmp_path / "none.lock"), fails="cannot be read")
    export("conda", "--lock", str(tmp_path / "env" / "conda.yaml"), fails="pins nothing")
    ours = yaml.safe_load(export("conda", "--no-hashes"))["dependencies"][-1]["pip"]
    assert any(pin.startswith("apache-beam==") for pin in ours) and len(ours) > 300


def test_conda_yaml_of_an_installation_without_a_lock_lists_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a wheel: nothing but packages is there. ``apache-beam`` stands in for our own, which need not be installed here."""
    monkeypatch.setattr("pipelines.lake.provenance.engine_root", lambda: tmp_path)
    monkeypatch.setattr("pipelines.cli.export.PACKAGE", "apache-beam")
    made = yaml.safe_load(export("conda", "--output", str(tmp_path / "conda.yaml")) or (tmp_path / "conda.yaml").read_text())
    assert made["dependencies"][0] == "python={}.{}".format(*sys.version_info)
    pins = dict(pin.split("==") for pin in made["dependencies"][-1]["pip"])
    assert {"apache-beam", "numpy", "pyarrow", "protobuf", "python-dateutil", "six"} <= set(pins), "what it needs, and what that needs"
    assert all(metadata.version(name) == version for name, version in pins.items())
    monkeypatch.setattr("pipelines.cli.export.PACKAGE", "no-such-package")
    export("conda", fails="give --lock FILE")


def test_alert_rules_and_the_dashboard_are_written_as_they_are(tmp_path: Path) -> None:
    export("alerts", "--output", str(tmp_path / "alerts.yml"))
    names = {rule["alert"] for group in yaml.safe_load((tmp_path / "alerts.yml").read_text())["groups"] for rule in group["rules"]}
    assert {"TandemStreamLag", "TandemPredictionsNotFinite"} <= names
    written = json.loads(export("dashboard"))
    assert {panel["datasource"]["uid"] for panel in written["panels"] if panel["type"] != "row"} == {"tandem-prometheus"}
    text = export("dashboard", "--datasource", "mine")
    assert "tandem-prometheus" not in text and json.loads(text.replace('"mine"', '"tandem-prometheus"')) == written
    export("dashboard", "--datasource", 'a"b', fails="is not a UID of Grafana")
