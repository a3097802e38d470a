"""How two predictors differ and which was right: against what scikit-learn and plain Python say; and the verdict on a version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.promotion.champion_challenger import bootstrap, differences, join_labels, quality, ranks_agree, slices_of
from pipelines.promotion.verdict import judge, missed
from pipelines.training.definition import Threshold
from pipelines.training.training_report import Score, auc
from transforms.errors import DefinitionError


def world(n: int = 3000, seed: int = 1) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n)
    label = (rng.random(n) < truth).astype(np.float64)
    return label, truth, np.clip(truth + rng.normal(0, 0.25, n), 0.01, 0.99)


def test_differences() -> None:
    found = differences(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.3, 0.3, 0.0]), 0.15)
    assert found["mean_absolute"] == pytest.approx(0.125) and found["max_absolute"] == pytest.approx(0.4)
    assert found["share_differing"] == 0.25 and found["mean_difference"] == pytest.approx(-0.075)
    assert found["rank_correlation"] == pytest.approx(-0.316, abs=1e-3)
    assert ranks_agree(np.array([1.0, 1.0]), np.array([0.0, 1.0])) is None and ranks_agree(np.array([1.0]), np.array([1.0])) is None


def test_the_better_one_is_named_only_when_there_is_no_doubt() -> None:
    label, truth, noisy = world()
    found = quality(label, noisy, truth)
    assert found["better"] == "shadow" and quality(label, truth, noisy)["better"] == "served"
    assert quality(label, truth, truth + 0.0)["better"] is None
    assert found["shadow"]["auc"] == pytest.approx(auc(label, truth))
    assert found["shadow"]["brier"] == pytest.approx(float(np.mean((truth - label) ** 2)))
    assert found["shadow"]["calibration"] == pytest.approx(1, abs=0.05) and found["shadow"]["calibration_error"] < 0.04
    assert sum(b["rows"] for b in found["shadow"]["bins"]) == len(label) == found["rows"]
    assert 0.4 < found["closer_share_shadow"] < 0.8
    few = quality(label[:60], noisy[:60], truth[:60] * 0.5 + noisy[:60] * 0.5)
    assert few["intervals"]["auc"][0] < few["intervals"]["auc"][1]


def test_the_bootstrap_covers_the_truth_and_is_paired() -> None:
    label, truth, noisy = world(4000)
    spans = bootstrap(label, noisy, truth, resamples=300)
    for low, high in spans.values():
        assert low < high
    assert spans["auc"][0] < auc(label, truth) - auc(label, noisy) < spans["auc"][1]  # type: ignore[operator]
    assert spans["auc"][1] - spans["auc"][0] < 0.04  # of unpaired samples it would be wider
    assert bootstrap(label, noisy, truth) == bootstrap(label, noisy, truth)
    assert bootstrap(np.zeros(50), noisy[:50], truth[:50])["auc"] == []
    ties = bootstrap(label, np.round(noisy, 1), np.round(noisy, 1), resamples=200)
    assert ties["auc"] == [0.0, 0.0] == ties["log_loss"]


def table(requests: list[str], at: list[int]) -> pa.Table:
    stamps = pa.array(at, pa.timestamp("us", tz="UTC"))
    return pa.table({"tandem_request": requests, "tandem_row": pa.array([0] * len(at), pa.int32()), "tandem_at": stamps})


def test_labels_are_joined_to_the_very_answer() -> None:
    shadow = table(["a", "a", "b", "c"], [1, 2, 3, 4]).append_column("p", pa.array([10, 20, 30, 40]))
    labels = table(["a", "b", "x", "c"], [2, 3, 1, 4]).append_column("label", pa.array([1.0, 0.0, 1.0, None]))
    rows, label = join_labels(shadow, labels)
    assert rows.column("p").to_pylist() == [20, 30] and label.tolist() == [1.0, 0.0]
    rows, label = join_labels(shadow, labels.slice(0, 0))
    assert rows.num_rows == 0 == len(label)


def test_slices() -> None:
    found = slices_of(pa.table({"origin": ["JFK", None, "LGA", "JFK"], "n": [1, 2, 3, 4]}), ["origin", "gone"], 2)
    assert {k: v.tolist() for k, v in found.items()} == {"origin=JFK": [True, False, False, True]}


def score(key: str, value: float, rows: int = 500, positives: int = 100, loss: float = 0.4) -> Score:
    return Score("x", key, rows, positives, value, loss)


def test_the_verdict() -> None:
    rules = [Threshold("auc", bound=0.7, slack_to_blessed=0.01, slice_bound=0.6, slack_per_slice=0.03, slice_min_rows=200)]
    mine = {"": score("", 0.8), "o=A": score("o=A", 0.75), "o=B": score("o=B", 0.5, rows=150), "o=C": score("o=C", 0.5, positives=5)}
    champion = {"": score("", 0.805), "o=A": score("o=A", 0.79), "o=B": score("o=B", 0.9)}
    checks = judge(rules, mine, champion)
    assert [(c.slice, c.against, c.ok) for c in checks] == [
        ("", "bound", True),
        ("", "champion", True),
        ("o=A", "bound", True),
        ("o=A", "champion", False),
        ("o=B", "bound", None),
        ("o=B", "champion", None),
        ("o=C", "bound", None),
        ("o=C", "champion", None),
    ]
    assert missed(checks) == ["auc of o=A (500 rows) is 0.7500, must be at least 0.7600, the champion's is 0.7900"]
    assert missed(judge(rules, mine, None)) == []
    loss = [Threshold("log_loss", bound=0.3, slack_to_champion=0.05)]
    assert missed(judge(loss, mine, {"": score("", 0.8, loss=0.36)})) == ["log_loss (500 rows) is 0.4000, must be at most 0.3000"]
    none = {"": Score("x", "", 10, 0, None, 0.1)}
    assert missed(judge(rules, none, none)) == ["auc: undefined: the rows have only one class"] * 2
    equal = judge([Threshold("auc", slack_to_blessed=0.0)], mine, mine)
    assert missed(equal) == []


@pytest.mark.parametrize("wrong", [{"slack_per_slice": -0.1}, {"slice_min_rows": 0, "bound": 0.5}, {}])
def test_thresholds_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        Threshold("auc", **wrong)
