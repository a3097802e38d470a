"""Notes, records and experiments' plans: what needs no tracker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines.cli.mlproject import flags
from pipelines.cli.root import app
from pipelines.lake.processes import free_ports
from pipelines.project.config import load_settings
from pipelines.tracking.background import problem
from pipelines.tracking.mlflow import MlflowTracker
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.stores import artifact_root, shown, store_file, trackers, tracking_uri
from pipelines.tracking.tracked_run import metric_name, read_record
from pipelines.tracking.wandb import WandbTracker
from pipelines.training.definition import Model, Threshold
from pipelines.training.evidence import curves
from pipelines.training.experiments import Comparison, Experiment, best, combinations, direction, jobs_for, parse_sets, plan, read_grid
from pipelines.training.training_report import auc
from transforms.definitions import Field
from transforms.errors import ConfigError, DefinitionError, TandemError

ROOT = Path(__file__).parents[2]


def model(**params: Any) -> Model:
    return Model(
        name="cards",
        spine="labels:asked",
        label="fraud",
        entity_keys=["card_id"],
        request_fields=[Field("amount", "float64")],
        features="cards",
        thresholds=[Threshold("auc", bound=0.5)],
        params=params,
    )


# Notes


def test_a_note_put_again_while_it_is_delivered_stays(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("mlflow", "train-1", {"uri": "here"})
    (note,) = outbox.notes()
    time.sleep(0.01)
    outbox.put("mlflow", "train-1")
    outbox.done(note)
    (again,) = outbox.notes()
    assert again.given == {"uri": "here"} and again.stamp > note.stamp
    outbox.done(again)
    assert outbox.notes() == []


def test_a_torn_note_is_no_note_until_it_is_put_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("mlflow", "train-1")
    (tmp_path / "tracking" / "outbox" / "mlflow" / "train-1.json").write_text('{"uri": ')
    assert outbox.notes() == []
    outbox.put("mlflow", "train-1")
    assert [n.run for n in outbox.notes()] == ["train-1"]


def test_one_deliverer_at_a_time(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    with outbox.held() as mine, Outbox(tmp_path).held() as other:
        assert mine and not other
        assert outbox.busy()
    assert not outbox.busy()


def test_troubles_and_open_runs_are_kept_and_cleared(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.note_problem("mlflow", "it is down")
    outbox.open("mlflow", "train-1", True)
    assert outbox.problems() == {"mlflow": "it is down"} and outbox.opened() == [("mlflow", "train-1")]
    outbox.note_problem("mlflow", None)
    outbox.open("mlflow", "train-1", False)
    assert outbox.problems() == {} and outbox.opened() == []


def test_what_is_told_costs_a_job_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, pipelines.tracking, pipelines.tracking.background; print({'mlflow', 'wandb', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Where


def test_the_store_is_the_setting_then_mlflows_own_then_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = load_settings(tmp_path, data=tmp_path / "data")
    assert tracking_uri(settings, settings.data) == f"sqlite:///{tmp_path / 'data' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert tracking_uri(settings, settings.data) == "http://there:5000"
    chosen = load_settings(tmp_path, data=tmp_path / "data", tracking={"uri": "http://here:5000"})
    assert tracking_uri(chosen, chosen.data) == "http://here:5000"
    assert artifact_root("http://here:5000", tmp_path) is None
    assert artifact_root("sqlite:///x.db", tmp_path) == (tmp_path / "mlartifacts").as_uri()


def test_notes_of_an_older_version_are_delivered_too(tmp_path: Path) -> None:
    note = tmp_path / "tracking" / "spool" / "mlflow" / "train-1.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"uri": "here"}')
    assert [(n.tracker, n.run, n.given) for n in Outbox(tmp_path).notes()] == [("mlflow", "train-1", {"uri": "here"})]
    assert not note.exists()


def test_trackers_that_nobody_named_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_TRACKING__TRACKERS", raising=False)
    monkeypatch.setattr("pipelines.tracking.stores.find_spec", lambda name: None)
    assert trackers(load_settings(tmp_path)) == []
    assert trackers(load_settings(tmp_path, tracking={"trackers": ["mlflow"]})) == ["mlflow"], "who asked for it hears that it is missing"
    with pytest.raises(ConfigError, match=r"tracking\.trackers"):
        load_settings(tmp_path, tracking={"trackers": ["excel"]})


@pytest.mark.parametrize(
    ("uri", "without"),
    [
        ("https://me:secret@host:5000/x?y=1", "https://host:5000/x?y=1"),
        ("https://me@host/x", "https://host/x"),
        ("postgresql://me:secret@/db?host=/run", "postgresql:///db?host=/run"),
        ("postgresql:///db?host=/run&user=me&password=secret", "postgresql:///db?host=/run&user=me&password=***"),
        ("mysql+pymysql://me:se/secret@host/db", "mysql+pymysql://host/db"),
        ("http://me:secret@[::1]:5000", "http://[::1]:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://Host:5000/a@b", "http://Host:5000/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_passwords_are_not_shown(uri: str, without: str) -> None:
    """Also where the address names no host: that of a socket was shown whole."""
    assert shown(uri) == without


@pytest.mark.parametrize("broken", ["away", "no database"])
def test_a_registry_that_cannot_be_told_is_one_line_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    (tmp_path / "tandem.yaml").write_text("data: data\ndefinitions: features\n")
    version = tmp_path / "data/models/parcels/1"
    version.mkdir(parents=True)
    (version / "tandem.json").write_text("{}")
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"no database" * 1000)
    uri = f"http://me:secret@127.0.0.1:{free_ports(1)[0]}" if broken == "away" else f"sqlite:///{file}"
    monkeypatch.setenv("TANDEM_TRACKING__URI", uri)
    told = CliRunner().invoke(app, ["models", "--repo", str(tmp_path), "--sync"])
    assert isinstance(told.exception, TandemError), told.exception
    assert re.fullmatch(
        r"MLflow could not be updated \(\w+: .*\); the aliases themselves are unchanged; try again later", str(told.exception)
    )
    assert "secret" not in str(told.exception) + told.output


def test_mlflows_own_run_is_joined_only_in_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert MlflowTracker.given("http://there") == {"mlflow_root": "abc", "uri": "http://there"}
    assert MlflowTracker.given("http://elsewhere") == {} and WandbTracker.given("http://there") == {}


def test_a_store_that_is_no_database_is_seen_without_mlflow(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"nonsense " * 1000)
    line = problem(["mlflow"], f"sqlite:///{file}", Outbox(tmp_path))
    assert line is not None and str(file) in line and "tandem track --all" in line
    file.unlink()
    assert problem(["mlflow"], f"sqlite:///{file}", Outbox(tmp_path)) is None


def test_ended_without_started_is_nothing(tmp_path: Path) -> None:
    from pipelines.lake.runs import Run
    from pipelines.tracking.run_observer import RunObserver

    RunObserver().ended(Run(tmp_path / "runs" / "x", {"status": "complete"}))
    assert list(tmp_path.iterdir()) == []


# Records


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_trackers_take(name: str) -> None:
    made = metric_name(name)
    assert 0 < len(made) <= 250 and all(p and p.strip(". ") for p in made.split("/"))
    assert all(c.isascii() and (c.isalnum() or c in "_-. /") for c in made)


def test_names_that_differ_stay_different() -> None:
    assert metric_name("test/auc/origin=JFK") == "test/auc/origin.JFK"
    assert metric_name("city=ü") != metric_name("city=ö") != metric_name("city=.")


def test_a_damaged_report_loses_only_itself(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "train-1"
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "epochs.json").write_text('{"loss": [[0, "x"]]}')
    (folder / "report" / "tfma.json").write_text("[1]")
    record = read_record(folder, {"kind": "train", "status": "complete", "metrics": {"a": 1}, "created": "nonsense"})
    assert record.metrics == {"a": 1.0} and record.series == {} and record.begun == 0 and record.over


def test_manifests_of_older_runs_are_read(tmp_path: Path) -> None:
    record = read_record(tmp_path / "runs" / "batch-1", {"status": "publishing", "kind": "batch", "rows": {"a": 1}})
    assert record.status == "running" and not record.over and record.bundles == () and record.parent is None


# Curves


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=12, max_size=90).filter(lambda v: 0 < sum(x for x, _ in v) < len(v)))
def test_the_area_under_the_curve_is_the_auc(values: list[tuple[bool, int]]) -> None:
    label = np.array([float(x) for x, _ in values])
    guess = np.array([g / 20 for _, g in values])
    points = np.array(curves(label, {"m": guess})["roc"]["m"])
    area = float((np.diff(points[:, 0]) * (points[1:, 1] + points[:-1, 1]) / 2).sum())
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]
    assert area == pytest.approx(auc(label, guess))


def test_calibration_has_all_rows_once() -> None:
    rng = np.random.default_rng(1)
    guess = rng.random(1003)
    parts = curves((rng.random(1003) < guess).astype(float), {"m": guess})["calibration"]["m"]
    assert sum(n for _, _, n in parts) == 1003 and len(parts) == 10
    assert parts == sorted(parts) and all(abs(p - o) < 0.15 for p, o, _ in parts)


# Parameters and experiments


def test_parameters_have_the_type_of_their_default() -> None:
    m = model(units=32, rate=0.1, deep=True, kind="adam")
    made = m.with_params({"units": "64", "rate": "1", "deep": "false", "kind": "sgd"})
    assert made == {"units": 64, "rate": 1.0, "deep": False, "kind": "sgd"} and isinstance(made["rate"], float)
    for wrong in ({"units": "6.4"}, {"units": 6.4}, {"rate": "fast"}, {"rate": "nan"}, {"deep": "perhaps"}):
        with pytest.raises(ConfigError, match="such as its default"):
            m.with_params(wrong)
    with pytest.raises(ConfigError, match=r"unitz.*deep, kind, rate, units"):
        m.with_params({"unitz": 3})
    with pytest.raises(ConfigError, match="declare them"):
        model().with_params({"units": 3})
    with pytest.raises(DefinitionError, match="params"):
        model(units=[1, 2])


def test_params_do_not_change_the_training_set() -> None:
    assert model(units=32).canonical() == model(units=64).canonical()


def test_set_and_grid(tmp_path: Path) -> None:
    assert parse_sets(["units=32, 64", "rate=0.1"]) == {"units": ["32", "64"], "rate": ["0.1"]}
    assert combinations({"a": [1, 2], "b": [3]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}] and combinations({}) == [{}]
    for wrong in ("units", "units=", "=3", "units=3,,4"):
        with pytest.raises(ConfigError, match="name=value"):
            parse_sets([wrong])
    with pytest.raises(ConfigError, match="twice"):
        parse_sets(["units=1", "units=2"])
    file = tmp_path / "grid.yaml"
    file.write_text("units: [16, 32]\nrate: 0.1\n")
    assert read_grid(file) == [{"units": 16, "rate": 0.1}, {"units": 32, "rate": 0.1}]
    file.write_text("- {units: 16}\n- {units: 32, rate: 0.2}\n")
    assert read_grid(file) == [{"units": 16}, {"units": 32, "rate": 0.2}]
    for text in ("just words", "[]", "{}", "[1, 2]", "units: [16", ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match="--grid"):
            read_grid(file)
    with pytest.raises(ConfigError, match="--grid"):
        read_grid(tmp_path / "missing.yaml")


def test_the_plan_leaves_out_what_is_there_twice_and_refuses_nonsense() -> None:
    m = model(units=32, rate=0.1)
    assert [e.params["rate"] for e in plan(m, [{"rate": "0.1"}, {"rate": "1e-1"}, {"rate": "0.2"}], "test/auc")] == [0.1, 0.2]
    with pytest.raises(ConfigError, match="more than"):
        plan(m, [{"units": n} for n in range(1001)], "test/auc")
    with pytest.raises(ConfigError, match="test/log_loss"):
        plan(m, [{}], "auc")


def test_the_best_is_named_by_the_metric_in_its_direction() -> None:
    def one(number: int, auc_: float, loss: float, status: str = "complete") -> Experiment:
        return Experiment(number, {"units": number}, f"train-{number}", status, {"test/auc": auc_, "test/log_loss": loss})

    found = [one(1, 0.8, 0.5), one(2, 0.9, 0.6), one(3, 0.9, 0.4), one(4, 0.99, 0.1, "failed")]
    chosen = best(found, "test/auc")
    assert chosen is not None and chosen.number == 2, "of equal ones the first; a failed one never"
    compared = Comparison.of(found, "test/log_loss")
    assert compared.best is found[2] and compared.better == "lower" and compared.to_dict()["best"] == "train-3"
    assert direction("test/auc/origin=log_loss") == 1 and direction("test/log_loss/origin=JFK") == -1
    assert best([Experiment(1, {})], "test/auc") is None
    failed = Experiment(1, {"units": 1}, why="boom", status="failed")
    last = Comparison.of([failed, found[0]], "test/auc").to_dict()["experiments"][-1]
    assert last["why"] == "boom" and "test/auc" not in last["metrics"]


def test_jobs_are_bounded_by_cores_and_by_work() -> None:
    cores = len(os.sched_getaffinity(0))
    assert jobs_for(None, 1000) == cores and jobs_for(1, 10) == 1 and jobs_for(1000, 1000) == cores and jobs_for(None, 1) == 1


# MLproject


def test_empty_parameters_of_mlproject_are_no_flags() -> None:
    words = ["repo=a b", "data=", "seed=7.0", "set=units=3;rate=0.1", "events=true", "train-start=2024-01-01"]
    assert flags(words) == ["--repo=a b", "--seed=7", "--set=units=3", "--set=rate=0.1", "--events", "--train-start=2024-01-01"]
    assert flags(["events=false"]) == []
    for wrong in (["seed=7.5"], ["seed=x"], ["events=maybe"], ["word"]):
        with pytest.raises(ConfigError):
            flags(wrong)


def test_entry_points_name_flags_that_exist() -> None:
    from pipelines.cli.root import app
    from tests.unit.test_docs import commands, flags_of

    assert app is not None
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    known = commands()
    assert set(project["entry_points"]) == {"main", "batch", "train", "evaluate", "stream", "serve"}
    for name, entry in project["entry_points"].items():
        words = entry["command"].split()
        assert words[:3] == ["python", "-m", "pipelines.cli.mlproject"]
        asked = {w.partition("=")[0] for w in words[4:]}
        assert {f"--{w}" for w in asked} <= flags_of(known[words[3]]), name
        assert {w.partition("=")[2] for w in words[4:]} == {f"{{{p}}}" for p in entry["parameters"]}, name
        assert all(p["type"] in ("string", "float", "path", "uri") for p in entry["parameters"].values())


@pytest.mark.slow
def test_the_environment_of_mlproject_is_the_lock() -> None:
    from mlflow.projects._project_spec import load_project
    from mlflow.utils.environment import _PythonEnv

    project = load_project(str(ROOT))
    environment = _PythonEnv.from_yaml(project.env_config_path)
    assert environment.python == "3.11" and environment.dependencies == ["-r requirements.lock"]
    assert (ROOT / "requirements.lock").is_file() and "mlflow==" in (ROOT / "requirements.lock").read_text()
    assert json.dumps(environment.to_dict())


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///a/b.db", "a/b.db"), ("sqlite:////a/b c.db", "/a/b c.db"), ("sqlite:////a/b.db?timeout=20", "/a/b.db"),
        ("sqlite+pysqlite:///b.db?timeout=20&check_same_thread=false", "b.db"), ("sqlite://", None), ("sqlite:///:memory:", None),
        ("sqlite:///file:b.db?uri=true", None), ("postgresql://host/a", None), ("http://there:5000", None), ("mlruns", None),
    ],
)  # fmt: skip
def test_the_file_of_a_store(uri: str, file: str | None) -> None:
    assert store_file(uri) == (None if file is None else Path(file))
