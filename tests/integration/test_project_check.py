"""``tandem check``: the mistakes that a job would find after minutes, in seconds."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch import analysis
from pipelines.demo.scaffold import scaffold
from pipelines.project.repository import load_repo
from pipelines.training import trial
from pipelines.training.kept_checks import KeptChecks
from pipelines.training.project_check import check_project

EVENT = {"payment_id": "p", "card_id": 1, "country": "DE", "terminal_id": 2, "amount": 5.0, "online": True, "declined": None}


def shop(folder: Path) -> Path:
    """A fresh repository with some days of payments."""
    scaffold(folder)
    day = folder / "data" / "events" / "payments" / "date=2024-03-06"
    day.mkdir(parents=True)
    lines = []
    for i in range(300):
        at = datetime(2024, 3, 6, i % 24, i % 60, tzinfo=UTC)
        lines.append(json.dumps({**EVENT, "payment_id": f"p{i}", "card_id": 1 + i % 7, "amount": float(i), "paid_at": at.isoformat()}))
    (day / "part-0.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def change(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


def check(folder: Path, rows: bool = False) -> tuple[list[str], list[str]]:
    for stem in [p.stem for p in folder.glob("*.py")]:
        sys.modules.pop(stem, None)
    said: list[str] = []
    return check_project(load_repo(folder), said.append, rows=rows), said


def test_a_fresh_repository_is_right(tmp_path: Path) -> None:
    """FAULTS 33: nothing was run or applied; a hundred rows go through every graph that has events. Nothing is written."""
    folder = shop(tmp_path / "shop")
    before = sorted(p for p in folder.rglob("*") if p.suffix != ".pyc" and p.name != "__pycache__")
    found, said = check(folder, rows=True)
    assert found == []
    assert "source payments: 300 events accepted, rejected: none" in said
    assert said[-1] == "preprocessing of card_activity, terminal_activity runs on 100 rows"
    assert any(line.startswith("model 'card_fraud': ") for line in said)
    assert sorted(p for p in folder.rglob("*") if p.suffix != ".pyc" and p.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("file", "old", "new", "line"),
    [
        (
            "tandem.yaml", "definitions: features",
            'definitions: features\nkafka: {formats: {payments: csv}, format_options: {payments: {delimeter: ";"}}}',
            "kafka.format_options.payments.delimeter: Extra inputs are not permitted",
        ),
        ("feature_store.yaml", "project: ", "projekt: ", "feature_store.yaml: project: "),
        (
            "features.py", 'files="events/payments"', 'files="/etc"',
            "source 'payments': files '/etc' lies beyond the data folder",
        ),
        (
            "preprocessing.py", '_log(inputs["count_1h"])', '_log(inputs["count_7h"])',
            "preprocessing_fn 'preprocessing:card_activity' failed: KeyError: 'count_7h'",
        ),
        (
            "labels.py", 'features="card_fraud"', 'features=["card_activity:typo"]',
            "group 'card_activity' has no feature 'typo'; it has age_24h",
        ),
        (
            "labels.py", 'features="card_fraud"', 'features="nobody"',
            "no file defines the feature service 'nobody'; there is card_fraud",
        ),
        (
            "labels.py", 'features="card_fraud"', 'features=["card_activity:amount_last_3_24h"]',
            "a model takes strings, numbers and booleans",
        ),
        (
            "features.py", "min=0, max=1_000_000", "min=5_000, max=1_000_000",
            "source 'payments': its contract accepts none of the first 300 events (300 out_of_range)",
        ),
        (
            "features.py", "card_fraud = Feature",
            'odd = FeatureService(name="odd", features=[view_card_activity[["busy_y"]]])\ncard_fraud = Feature',
            "'odd': 'card_activity' has no feature 'busy_y'; it has",
        ),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(tmp_path: Path, file: str, old: str, new: str, line: str) -> None:
    """FAULTS 33: of preprocessing, model, service, contract."""
    folder = shop(tmp_path / "shop")
    change(folder, file, old, new)
    found, _ = check(folder)
    assert any(line in one for one in found), found
    assert all("\n" not in one for one in found)


@pytest.mark.parametrize(
    ("file", "old", "new", "line"),
    [
        ("features.py", '"preprocessing:card_activity"', '"preprocessing:card_actvity"', "of shop has no 'card_actvity'; correct"),
        ("features.py", '"preprocessing:card_activity"', '"preprocesing:card_activity"', "shop has no module 'preprocesing'; write"),
        ("preprocessing.py", "def card_activity(", "def card_activity(:", "shop/preprocessing.py, line "),
        ("tandem.yaml", "labels:card_fraud_model", "labels:card_fraud_modell", "module 'labels' of shop has no 'card_fraud_modell'"),
        ("model.py", "def run_fn(", "def run(", "'model:run_fn': module 'model' of shop/ has no function 'run_fn'; fix the name"),
        ("model.py", "import tensorflow as tf", "import tensorflow as as", "shop/model.py, line "),
        ("labels.py", 'spine="labels:', 'spine="label:', "shop/ has no module 'label'; create it or fix the name"),
        ("labels.py", 'features="card_fraud"', 'features="nobody"', "no file defines the feature service 'nobody'; there is card_fraud"),
        ("labels.py", 'features="card_fraud"', 'features=["card_activity:amount_last_3_24h"]', "a model takes strings, numbers"),
        ("labels.py", 'entity_keys=["card_id", ', 'entity_keys=["card_no", ', "which is none of its entity_keys; add it"),
    ],
)  # fmt: skip
def test_what_the_files_tell_is_told_before_tensorflow_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, line: str
) -> None:
    """Issue 10.7: a name that is wrong waited for TensorFlow's import, ten seconds under load. Nothing is traced before it is right."""
    folder = shop(tmp_path / "shop")
    change(folder, file, old, new)
    monkeypatch.setattr(analysis, "begin_analysis", lambda *_: pytest.fail("traced"))
    monkeypatch.setattr(analysis, "outputs_of", lambda *_: pytest.fail("traced"))
    found, said = check(folder, rows=True)
    assert len(found) == 1 and line in found[0], found
    assert not {"preprocessing", "model"} & set(sys.modules)  # which import TensorFlow
    left = "preprocessing of card_activity, terminal_activity, functions of models"
    assert f"nothing is traced until the errors above are corrected: {left}" in said
    assert "source payments: 300 events accepted, rejected: none" in said


def test_nothing_follows_from_a_function_that_fails(tmp_path: Path) -> None:
    """Features that it would have given are not called missing."""
    folder = shop(tmp_path / "shop")
    change(folder, "preprocessing.py", '_log(inputs["count_1h"])', '_log(inputs["count_7h"])')
    change(
        folder,
        "features.py",
        "card_fraud = Feature",
        'odd = FeatureService(name="odd", features=[view_card_activity[["busy_z"]]])\ncard_fraud = Feature',
    )
    (found,) = check(folder)[0]
    assert "KeyError: 'count_7h'" in found


def test_a_problem_is_told_once_and_without_what_follows_from_it(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop")
    (folder / "feature_store.yaml").unlink()
    found, said = check(folder)
    assert [one.partition(",")[0] for one in found] == ["shop has no feature_store.yaml"]
    assert "model 'card_fraud': its features are not checked without its feature service" in said
    change(folder, "tandem.yaml", '["labels:card_fraud_model"]', '["labels:card_fraud_model", "labels:card_fraud_model"]')
    change(folder, "labels.py", "split=(0.7, 0.85)", "split=(0.7, 0.3)")
    assert len([one for one in check(folder)[0] if "split" in one]) == 1


def test_a_source_without_events_says_where_there_are_none(tmp_path: Path) -> None:
    """It said "0 events accepted, rejected: none" of a folder in which no file is read."""
    folder = shop(tmp_path / "shop")
    reports = folder / "data" / "events" / "fraud_reports"
    assert f"source fraud_reports: no event files yet: there is no folder {reports}" in check(folder)[1]
    reports.mkdir()
    (reports / "r.csv").write_text("payment_id;card_id;reported_at\n")
    said = check(folder)[1]
    assert f"source fraud_reports: no event files yet in {reports}" in said
    assert any("events/fraud_reports/r.csv: its dialect is not declared" in line for line in said)


def test_all_that_a_model_cannot_take_is_named_with_what_leaves_it_out(tmp_path: Path) -> None:
    """One a run was named, and not how a feature is left out. A ttl that withholds what still counts is said before anything is run."""
    folder = shop(tmp_path / "shop")
    change(folder, "features.py", "ttl=hours(25)", "ttl=hours(1)")
    change(folder, "features.py", 'LastN("amount", n=3, over=hours(24)),', 'LastN("amount", n=3, over=[hours(1), hours(24)]),')
    change(folder, "labels.py", 'features="card_fraud"', 'features="all"')
    change(
        folder,
        "features.py",
        "card_fraud = Feature",
        'all_of_them = FeatureService(name="all", features=views.features())\ncard_fraud = Feature',
    )
    found, said = check(folder)
    (line,) = [line for line in found if "a model takes strings, numbers and booleans" in line]
    assert line.endswith('leave them out: views.features(without=["amount_last_3_1h", "amount_last_3_24h"])')
    assert "card_activity: ttl 1h is shorter than its longest window 24h" in "\n".join(said)
    change(folder, "labels.py", 'features="all"', 'features=["card_activity:amount_last_3_1h", "card_activity:count_1h"]')
    assert any(line.endswith("is list<item: double>; leave them out of its features=") for line in check(folder)[0])


def test_what_was_right_is_kept_while_all_that_it_follows_from_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 10.7: a function is traced and run again when its code, its group or its rows are others; a mistake is never kept."""
    folder, asked = shop(tmp_path / "shop"), list[str]()
    real_begin, real_trial = analysis.begin_analysis, trial.try_groups

    def begin_analysis(group: Any, function: Any, folder: Path) -> Any:
        asked.append(group.name)
        return real_begin(group, function, folder)

    def try_groups(work: Any, *args: Any) -> None:
        asked.extend(f"rows of {name}" for name in work)
        real_trial(work, *args)

    monkeypatch.setattr(analysis, "begin_analysis", begin_analysis)
    monkeypatch.setattr(analysis, "outputs_of", lambda group, function: pytest.fail("traced once more"))
    monkeypatch.setattr(trial, "try_groups", try_groups)
    monkeypatch.setattr(trial, "begin_analysis", lambda *args: pytest.fail("traced once more"))

    def again(anew: bool = False) -> tuple[list[str], list[str], list[str]]:
        for stem in [p.stem for p in folder.glob("*.py")]:
            sys.modules.pop(stem, None)
        asked.clear()
        said: list[str] = []
        kept = KeptChecks(folder, "features", tmp_path / "kept", anew)
        found = check_project(load_repo(folder), said.append, kept=kept)
        return found, [*asked], said

    everything = ["card_activity", "terminal_activity", "rows of card_activity", "rows of terminal_activity"]
    assert again()[:2] == ([], everything)
    found, traced, said = again()
    assert (found, traced) == ([], [])
    assert "preprocessing" not in sys.modules and "model" not in sys.modules  # which import TensorFlow
    assert sum(line.endswith("(cached)") for line in said) == 3
    assert said[-1] == "5 results are cached, since nothing they depend on changed; --no-cache checks again"
    assert again(anew=True)[1] == everything
    change(folder, "features.py", "min=0, max=1_000_000", "min=0, max=999_999")  # of the source that both read
    assert again()[1] == everything
    change(folder, "preprocessing.py", '_log(inputs["count_1h"])', '_log(inputs["count_7h"])')
    for _ in range(2):
        found, traced, _ = again()
        assert len(found) == 1 and "KeyError: 'count_7h'" in found[0]
        assert traced == ["card_activity"]
    change(folder, "preprocessing.py", '_log(inputs["count_7h"])', '_log(inputs["count_1h"])')
    assert again()[1] == []
    change(folder, "preprocessing.py", 'bucketize(inputs["amount_sum_24h"], 8)', 'bucketize(inputs["amount_sum_24h"], 4)')
    assert again()[1] == ["card_activity", "rows of card_activity"]  # the other function of the file is what it was
    change(folder, "preprocessing.py", "tf.math.log1p(", "1.0 + tf.math.log1p(")  # in what both call
    assert again()[1] == everything
    change(folder, "preprocessing.py", "import tensorflow as tf", "import os\nimport tensorflow as tf")
    again()
    _, traced, said = again()
    assert traced == everything
    assert any(line.startswith("preprocessing of card_activity is checked again each time: preprocessing.py, line ") for line in said)


def test_a_name_that_an_import_makes_is_none_that_is_missing(tmp_path: Path) -> None:
    """The text of a module does not show it; the import does. A wrong one of such a module is told by the import, in the same words."""
    folder = shop(tmp_path / "shop")
    (folder / "making.py").write_text("import sys\n\ndef make(name):\n    sys.modules[name].card_activity = sys.modules[name].own\n")
    change(folder, "preprocessing.py", "def card_activity(", "def own(")
    text = (folder / "preprocessing.py").read_text()
    (folder / "preprocessing.py").write_text(f"{text}\n\nimport making\n\nmaking.make(__name__)\n")
    assert check(folder)[0] == []
    change(folder, "features.py", '"preprocessing:card_activity"', '"preprocessing:card_actvity"')
    found = check(folder)[0]
    assert found == ["'preprocessing:card_actvity': module 'preprocessing' of shop has no 'card_actvity'; correct the name"]
