"""An experiment that ran beside others gives the numbers that it gives alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mlflow_project import two_weeks_of_a_shop

pytestmark = [pytest.mark.prove, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
SPAN = ["--start", "2024-03-06", "--end", "2024-03-18"]


def test_experiments_side_by_side_and_alone_give_the_same_numbers(tmp_path: Path) -> None:
    shop = two_weeks_of_a_shop(tmp_path)
    asked = ["--set", "units=8,16,24", "--set", "epochs=1", "--seed", "5", "--jobs", "5", "--metric", "test/log_loss"]
    table = json.loads(shop.done("train", *asked, "--json", *SPAN))
    winner, *others = table["experiments"]
    assert table["better"] == "lower" and table["best"] == winner["run"] and len(others) == 2
    assert winner["metrics"]["test/log_loss"] == min(r["metrics"]["test/log_loss"] for r in table["experiments"])
    for each in table["experiments"]:
        alone = json.loads(
            shop.done("train", *(f"--set={k}={v}" for k, v in each["params"].items()), "--seed", "5", "--no-push", "--json", *SPAN)
        )
        again = next(r for r in shop.runs("train") if r.id == alone["run"])
        assert {k: again.manifest["metrics"][k] for k in each["metrics"]} == each["metrics"]
