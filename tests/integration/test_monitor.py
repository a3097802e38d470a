"""``tandem monitor`` over a small world: parcels, a model made by hand, days of answers of which some went wrong in one way each."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.lake.runs import find
from pipelines.monitoring.monitor_job import MonitorOptions, run_monitor
from pipelines.monitoring.monitor_report import MonitorReport
from pipelines.project.repository import Repo, load_repo
from serving.object_store.cache import FOLDER, data_path
from serving.object_store.connecting import connect
from tests.integration import answers
from tests.integration.store_commands import put_into_the_store, tandem
from tests.object_stores import seaweed
from transforms.definitions import TIMESTAMP
from transforms.errors import ConfigError

T0 = datetime(2024, 5, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
PER_DAY = 400
DEPOTS = ["north", "south", "east"]
FIRST = 15
QUIET, AGAIN, POUNDS, STRANGE, NULLS, BUG, FLIPPED, LAST = range(FIRST, FIRST + 8)
"""Days of May after those that were trained on."""

FEATURES = """
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Max, hours, minutes
parcels = EventSource(name="parcels", fields=[Field("id", "string", required=True), Field("depot", "string", required=True),
                      Field("kg", "float64", unit="kg")], event_time="at", tie_breaker="id", files="events/parcels")
depot_load = FeatureGroup(name="depot_load", source=parcels, entity=Entity("depot"), hop=minutes(30), ttl=hours(6),
                          aggregates=[Count(over=hours(1)), Max("kg", over=hours(1))])
"""
LABELS = """
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pipelines.training.definition import Model
from transforms.definitions import Field, hours

def spine(data, start, end):
    table = pq.read_table(data / "spine.parquet")
    t = table.column("event_timestamp")
    return table.filter(pc.and_(pc.greater_equal(t, pa.scalar(start, t.type)), pc.less(t, pa.scalar(end, t.type))))

model = Model(name="slow", spine="labels:spine", label="slow", entity_keys=["depot"], label_delay=hours(2),
              features=["depot_load:count_1h", "depot_load:kg_max_1h"],
              request_fields=[Field("size", "string", required=True), Field("weight", "float64", unit="kg")])
"""
INPUTS = [["size", "string"], ["weight", "float32"], ["depot_load__count_1h", "float32"], ["depot_load__kg_max_1h", "float32"]]


def chances(size: list[str], weight: np.ndarray[Any, Any], count: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model says, and what is true."""
    score = 0.9 * (np.nan_to_num(weight) - 3) + 1.0 * (np.array(size) == "l") + 0.1 * np.nan_to_num(count) - 0.8
    return np.asarray(1 / (1 + np.exp(-score)))


def save_model(path: Path, fingerprint: str) -> None:
    import tensorflow as tf

    def known(x: Any) -> Any:
        return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)

    class Net(tf.Module):
        @tf.function
        def serve(self, **x: Any) -> Any:
            large = tf.cast(x["size"] == "l", tf.float32)
            score = 0.9 * (known(x["weight"]) - 3.0) + large + 0.1 * known(x["depot_load__count_1h"]) - 0.8
            return {"probability": tf.sigmoid(score)}

    net = Net()
    signature = {n: tf.TensorSpec([None, 1], t, name=n) for n, t in INPUTS}
    tf.saved_model.save(net, str(path), signatures=net.serve.get_concrete_function(**signature))
    spec = {
        "name": "slow", "version": 1, "fingerprints": {"depot_load": fingerprint}, "feature_service": "", "entity_keys": ["depot"],
        "request_fields": [["size", "string"], ["weight", "float64"]], "nullable": ["weight"],
        "features": ["depot_load:count_1h", "depot_load:kg_max_1h"], "inputs": INPUTS, "output": "probability", "run": "train-1",
        "training_set": "ts1",
    }  # fmt: skip
    (path / "tandem.json").write_text(json.dumps(spec))


def moments(rng: np.random.Generator, day: int, n: int) -> pa.Array:
    us = round(T0.timestamp() * 1e6) + (day - 1) * 86_400_000_000 + np.sort(rng.integers(0, 86_400, n)) * 1_000_000
    return pa.array(us).cast(TIMESTAMP)


def make_events(data: Path) -> None:
    rng = np.random.default_rng(1)
    for day in range(1, LAST + 1):
        at = moments(rng, day, 150)
        n = len(at)
        table = pa.table(
            {
                "at": at, "id": [f"{day}-{i:04d}" for i in range(n)], "depot": rng.choice(DEPOTS, n).tolist(), "kg": rng.gamma(3, 1, n),
            }
        )  # fmt: skip
        folder = data / "events" / "parcels" / f"date=2024-05-{day:02d}"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part-0.parquet", coerce_timestamps="us")


def make_spine(repo: Repo) -> None:
    """Requests of all days, with what went wrong on some."""
    rng = np.random.default_rng(2)
    group, parts = repo.groups["depot_load"], []
    for day in range(2, LAST):
        size, weight = rng.choice(["s", "m", "l"], PER_DAY).tolist(), rng.gamma(4, 0.8, PER_DAY)
        table = pa.table({"event_timestamp": moments(rng, day, PER_DAY), "depot": rng.choice(DEPOTS, PER_DAY).tolist()})
        asked = table.column("event_timestamp").cast(pa.int64()).to_numpy()
        read = answers._read(answers._rows(repo, group), group, table, asked, ["count_1h"])
        true = chances(size, weight, read.columns["count_1h"].to_numpy(zero_copy_only=False))
        slow = (rng.uniform(0, 1, PER_DAY) < true).astype(float)
        if day == POUNDS:
            weight = weight / 0.45359237
        if day == STRANGE:
            size = ["xxl" if i % 8 == 0 else s for i, s in enumerate(size)]
        if day == FLIPPED:
            slow = 1 - slow
        mask = (np.arange(PER_DAY) % 5 < 2) if day == NULLS else np.zeros(PER_DAY, bool)
        columns = {"size": pa.array(size), "weight": pa.array(weight, mask=mask), "slow": pa.array(slow)}
        parts.append(pa.table({**dict(zip(table.schema.names, table.columns, strict=True)), **columns}))
    pq.write_table(pa.concat_tables(parts), repo.data / "spine.parquet", coerce_timestamps="us")


def make_training_set(repo: Repo) -> None:
    spine = repo.attribute("labels:spine")(repo.data, T0, day_of(FIRST)).combine_chunks()
    asked = spine.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    group = repo.groups["depot_load"]
    read = answers._read(answers._rows(repo, group), group, spine, asked, ["count_1h", "kg_max_1h"])
    for name, column in read.columns.items():
        spine = spine.append_column(f"depot_load__{name}", column)
    folder, n = repo.data / "training" / "ts1", spine.num_rows
    for split, lo, hi in (("train", 0, n * 6 // 10), ("eval", n * 6 // 10, n * 8 // 10), ("test", n * 8 // 10, n)):
        (folder / split).mkdir(parents=True)
        pq.write_table(spine.slice(lo, hi - lo), folder / split / "part-00000.parquet", coerce_timestamps="us")
    (folder / "manifest.json").write_text(json.dumps({"id": "ts1", "model": {"label": "slow"}}))


def day_of(day: int) -> datetime:
    return T0 + timedelta(days=day - 1)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose model answered for some days, beside its data; nobody works in it."""
    folder = tmp_path_factory.mktemp("untouched")
    path, data = folder / "repo", folder / "data"
    path.mkdir(parents=True)
    (path / "features.py").write_text(FEATURES)
    (path / "labels.py").write_text(LABELS)
    (path / "tandem.yaml").write_text("data: ../data\ndefinitions: features\nmodels: ['labels:model']\nmonitor:\n  min_rows: 50\n")
    make_events(data)
    made = load_repo(path)
    batch = run_batch(made, T0, day_of(LAST), now=NOW)
    make_spine(made)
    make_training_set(made)
    (data / "models" / "slow").mkdir(parents=True)
    save_model(data / "models" / "slow" / "1", batch.run.manifest["fingerprints"]["depot_load"])

    def one_more(view: str, rows: pa.Table) -> pa.Table:
        index = rows.schema.get_field_index("count_1h")
        return rows.set_column(index, "count_1h", pc.add(rows.column("count_1h"), 1))

    model = made.attribute("labels:model")
    for day in range(FIRST, LAST):
        change = one_more if day == BUG else answers.unchanged
        answers.answer(made, model, 1, day_of(day), day_of(day + 1), change=change)
    return folder


@pytest.fixture(scope="module")
def repo(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("monitor")
    shutil.copytree(untouched, folder, dirs_exist_ok=True)
    return load_repo(folder / "repo")


def monitor(repo: Repo, day: int, tmp_path: Path, now: datetime = NOW, **options: Any) -> dict[str, Any]:
    window = {"since": day_of(day), "until": day_of(day + 1)}
    report = run_monitor(repo, MonitorOptions(**{"folder": tmp_path / "report", **window, **options}), now)
    assert MonitorReport.of(json.loads(json.dumps(report.to_dict()))) == report
    return {**report.to_dict(), "page": str(report.page)}  # as --json has it


def failed(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {(c["name"], c["feature"]) for c in result["checks"] if c["status"] == "fail"}


def only(result: dict[str, Any], name: str, feature: str = "") -> dict[str, Any]:
    (found,) = (c for c in result["checks"] if c["name"] == name and c["feature"] == feature)
    return dict(found)


def with_settings(repo: Repo, **changes: Any) -> Repo:
    return dataclasses.replace(repo, settings=repo.settings.model_copy(update=changes))


def test_a_quiet_day_is_quiet(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, AGAIN, tmp_path)
    assert failed(result) == set() and result["verdict"] in ("ok", "warn")
    names = {c["name"] for c in result["checks"] if c["status"] != "skipped"}
    assert names == {
        "skew", "drift", "prediction_skew", "prediction_drift", "nulls", "unknown", "ages", "calibration", "auc", "log_loss",
        "recomputed", "ahead", "stale",
    }  # fmt: skip
    assert result["labels"]["labelled"] == PER_DAY and result["quality"]["rows"] == PER_DAY
    assert result["recomputed"]["depot_load"]["kinds"] == {"equal": PER_DAY}
    assert result["chance"]["windows"] >= 10
    assert result["version"] == 1 and result["versions"] == {"1": PER_DAY} and result["rows_before"] == PER_DAY


def test_the_report_is_there_and_recorded_as_a_run(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, QUIET, tmp_path, folder=repo.data / "monitor" / "mine")
    folder = Path(result["folder"])
    assert json.loads((folder / "report.json").read_text())["verdict"] == result["verdict"]
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "<script" not in page and "http://" not in page and "https://" not in page
    run = find(repo.data, result["run"])
    assert run.status == "complete" and run.manifest["kind"] == "monitor" and run.manifest["verdict"] == result["verdict"]
    assert [o["path"] for o in run.manifest["outputs"]] == ["monitor/mine/report.json", "monitor/mine/report.html"]
    assert run.manifest["counts"]["answers"] == PER_DAY


def test_pounds_for_kilograms_are_caught_and_named(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, POUNDS, tmp_path)
    assert {("unit", "weight"), ("skew", "weight"), ("drift", "weight")} <= failed(result)
    assert not any(f.startswith(("size", "depot")) for _, f in failed(result))
    assert "weight looks like pounds for kilograms" in only(result, "unit", "weight")["detail"]
    assert result["headline"].startswith("weight looks like pounds for kilograms")


def test_values_that_training_never_saw(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, STRANGE, tmp_path)
    check = only(result, "unknown", "size")
    assert check["status"] == "fail" and check["value"] == pytest.approx(0.125) and "'xxl'" in check["detail"]
    assert {f for name, f in failed(result) if not name.endswith("drift")} <= {"size"}  # the day before it was pounds


def test_nulls(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, NULLS, tmp_path)
    assert ("nulls", "weight") in failed(result) and only(result, "nulls", "weight")["value"] == pytest.approx(0.4)


def test_served_values_that_nothing_explains(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, BUG, tmp_path)
    assert ("recomputed", "depot_load") in failed(result)
    found = result["recomputed"]["depot_load"]
    assert set(found["causes"]) == {"mismatch"} and set(found["causes"]["mismatch"]) == {"real bug"}
    assert found["features"]["kg_max_1h"] == 0 and found["features"]["count_1h"] == found["kinds"]["mismatch"]
    assert found["samples"][0]["feature"] == "count_1h"


def test_a_model_that_is_wrong(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, FLIPPED, tmp_path)
    assert {("auc", ""), ("log_loss", "")} <= failed(result)
    assert result["quality"]["auc"] < 0.5 < result["quality"]["report"]["auc"]


def test_labels_that_are_not_known_yet_are_waited_for(repo: Repo, tmp_path: Path) -> None:
    elsewhere = with_settings(repo, serve={"request_log": str(repo.data / "requests")})
    result = monitor(elsewhere, LAST - 1, tmp_path, now=day_of(LAST - 1), label=True)
    assert result["labels"]["labelled"] == 0 and result["labels"]["waiting"] == PER_DAY


def test_too_few_answers_are_not_judged(repo: Repo, tmp_path: Path) -> None:
    few = with_settings(repo, monitor=repo.settings.monitor.model_copy(update={"min_rows": 1000, "min_labels": 1000}))
    result = monitor(few, POUNDS, tmp_path)
    assert only(result, "skew")["status"] == "skipped" and "monitor.min_rows = 1000" in only(result, "skew")["detail"]
    assert only(result, "calibration")["status"] == "skipped" and not failed(result)


def test_a_feature_can_have_its_own_thresholds(repo: Repo, tmp_path: Path) -> None:
    from pipelines.project.config import FeatureMonitor

    own = repo.settings.monitor.model_copy(
        update={"features": {"weight": FeatureMonitor(check=False), "size": FeatureMonitor(unknown_share=0.001)}}
    )
    assert ("skew", "weight") not in failed(monitor(with_settings(repo, monitor=own), POUNDS, tmp_path))


def test_an_empty_log_has_a_report(repo: Repo, tmp_path: Path) -> None:
    result = monitor(with_settings(repo, serve={"request_log": str(tmp_path / "nowhere")}), QUIET, tmp_path)
    assert result["verdict"] == "warn" and only(result, "request_log")["status"] == "skipped"
    assert "Nothing could be checked" in result["headline"] and Path(result["page"]).is_file()


def test_a_damaged_log_has_a_report_that_fails(repo: Repo, tmp_path: Path) -> None:
    folder = tmp_path / "log" / "date=2024-05-15"
    folder.mkdir(parents=True)
    (folder / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    result = monitor(with_settings(repo, serve={"request_log": str(folder.parent)}), QUIET, tmp_path)
    assert result["verdict"] == "fail" and "torn.parquet cannot be read" in result["headline"]
    assert json.loads((tmp_path / "report" / "report.json").read_text())["verdict"] == "fail"


def test_no_answers_in_the_window(repo: Repo, tmp_path: Path) -> None:
    result = monitor(repo, 2, tmp_path)
    assert result["verdict"] == "warn" and "no predictions in this window" in result["headline"]


def test_a_training_set_that_is_gone(repo: Repo, tmp_path: Path) -> None:
    kept = repo.data / "training" / "ts1"
    moved = kept.rename(kept.with_name("away"))
    try:
        result = monitor(repo, QUIET, tmp_path)
    finally:
        moved.rename(kept)
    assert "training set ts1" in only(result, "skew")["detail"] and only(result, "recomputed", "depot_load")["status"] == "ok"


def test_the_command(repo: Repo) -> None:
    from typer.testing import CliRunner

    from pipelines.cli.root import app

    words = ["--repo", str(repo.path), "--json"]
    good = CliRunner().invoke(app, ["monitor", "--since", "2024-05-15", "--until", "2024-05-16", *words])
    assert good.exit_code == 0, good.output
    bad = CliRunner().invoke(app, ["monitor", "--since", "2024-05-17", "--last", "1d", "--until", "2024-05-18", "--no-recompute", *words])
    assert bad.exit_code == 1
    done = CliRunner().invoke(app, ["labels", *words])
    assert done.exit_code == 0 and json.loads(done.stdout)["models"][0]["labelled"] == PER_DAY * (LAST - FIRST)


def test_evidently_writes_a_second_report_or_says_what_it_needs(repo: Repo, tmp_path: Path) -> None:
    """Where Evidently is not installed this is about the line that says so; ``tests/scale/test_evidently.py`` runs it where it is."""
    if importlib.util.find_spec("evidently") is None:
        with pytest.raises(ConfigError, match=r"pip install 'tandem-features\[evidently\]'"):
            monitor(repo, QUIET, tmp_path, evidently=True)
        return
    result = monitor(repo, POUNDS, tmp_path, folder=repo.data / "monitor" / "second", evidently=True, label=False, recompute=False)
    folder = Path(result["folder"])
    assert "<html" in (folder / "evidently.html").read_text()[:2000].lower()
    told = (folder / "evidently.json").read_text()
    assert "weight" in told and "depot" in told and json.loads(told)
    run = find(repo.data, result["run"])
    assert [Path(o["path"]).name for o in run.manifest["outputs"]] == ["report.json", "report.html", "evidently.html", "evidently.json"]


def compare_with_a_store(plain: Repo, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plain.data / "events" / "asked").mkdir()
    shutil.move(plain.data / "spine.parquet", plain.data / "events" / "asked" / "spine.parquet")
    labels = (plain.path / "labels.py").read_text()
    (plain.path / "labels.py").write_text(labels.replace('data / "spine.parquet"', 'data / "events" / "asked" / "spine.parquet"'))
    monkeypatch.setenv(FOLDER, str(tmp_path / "a"))
    there = tmp_path / "there"
    shutil.copytree(plain.path, there / "repo")
    (there / "data").mkdir()
    yaml = (there / "repo" / "tandem.yaml").read_text()
    (there / "repo" / "tandem.yaml").write_text(yaml.replace("../data", url))
    put_into_the_store(plain.data, url)

    window = ["--since", "2024-05-17", "--until", "2024-05-18", "--as-of", "2024-06-01"]
    wanted = tandem("labels", *window, "--repo", str(plain.path))
    report = tandem("monitor", *window, "--repo", str(plain.path), code=1)
    for name in ("b", "c"):
        monkeypatch.setenv(FOLDER, str(tmp_path / name))
        got = tandem("labels", *window, "--repo", str(there / "repo"))
        first = name == "b"
        assert got["models"][0]["added"] == (wanted["models"][0]["added"] if first else 0), "labels of another machine are known"
    said = tandem("monitor", *window, "--repo", str(there / "repo"), code=1)  # where nothing but labels was ever read
    assert [(c["name"], c["feature"], c["status"], c["value"]) for c in said["checks"]] == [
        (c["name"], c["feature"], c["status"], c["value"]) for c in report["checks"]
    ]
    assert said["verdict"] == "fail" and said["recomputed"].keys() == report["recomputed"].keys()
    data = data_path(url)
    assert any(key.startswith("trees/monitor/slow-") for key in (h.key for h in connect(url).list("trees/")))
    assert url in said["command"] and str(data) not in said["command"]


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_labels_and_monitor_on_an_object_store_say_what_they_say_in_a_folder(
    untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(untouched, tmp_path / "plain")
    with seaweed(tmp_path / "seaweed") as env:
        connect.cache_clear()
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        compare_with_a_store(load_repo(tmp_path / "plain" / "repo"), f"s3://tandem/{uuid.uuid4().hex}", tmp_path, monkeypatch)
