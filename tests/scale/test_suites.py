"""``tandem check --suite`` by Great Expectations itself, in an environment of its own with ours below it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scale.containers import ROOT
from tests.scale.tools import beside_ours

GX = ("great-expectations==1.24.1",)
TANDEM = Path(sys.executable).with_name("tandem")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites") / "shop"
    for words in (("init", folder), ("events", "--repo", folder), ("batch", "--repo", folder)):
        subprocess.run([TANDEM, *words], check=True, capture_output=True, env={**os.environ, "TANDEM_TRACKING__TRACKERS": "[]"})
    return folder


def check(shop: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [beside_ours("expectations", GX) / "python", "-P", ROOT / "tandem" / "__main__.py", "check", "--repo", shop, *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def show(shop: Path, run: str) -> str:
    return subprocess.run([TANDEM, "runs", "show", run, "--repo", shop], check=True, capture_output=True, text=True).stdout


def suite(at: Path, *expectations: dict[str, Any]) -> Path:
    at.write_text(json.dumps({"name": at.stem, "expectations": list(expectations)}))
    return at


AMOUNTS = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0, "max_value": 100}}
CARDS = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "card_id"}}
MISSING = {"type": "expect_column_to_exist", "kwargs": {"column": "nothing"}}


def test_a_source_s_events(shop: Path, tmp_path: Path) -> None:
    good = check(shop, "--suite", suite(tmp_path / "good.json", CARDS), "--source", "payments", "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["failed"] == 0
    bad = check(shop, "--suite", suite(tmp_path / "payments.json", CARDS, AMOUNTS, MISSING), "--source", "payments")
    errors = [line for line in bad.stderr.splitlines() if line.startswith("error: ")]
    assert bad.returncode == 1 and len(errors) == 2
    assert errors[0].startswith("error: suite payments: expect_column_values_to_be_between amount (max_value=100.0, min_value=0.0): ")
    assert "1 of 3 expectations hold" in bad.stderr and "nothing" in errors[1]
    told = " ".join(show(shop, "latest").split())
    assert "kind check" in told and "verdict fail" in told
    assert "payments: 1 of 3 hold over" in told and "not expect_column_values_to_be_between amount" in told
    (kept,) = [
        m
        for m in map(json.loads, (p.read_text() for p in (shop / "data" / "runs").glob("check-*/manifest.json")))
        if m["verdict"] == "fail"
    ]
    assert "examples" not in json.dumps(kept["expectations"]), "values of people stay out of manifests"


def test_a_run_s_rows_and_a_suite_in_python(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "cards.py").write_text(
        "import great_expectations as gx\n\n\ndef suite():\n    return gx.ExpectationSuite('cards', expectations=[\n"
        "        gx.expectations.ExpectColumnValuesToBeBetween(column='count_24h', min_value=0, max_value=2),\n    ])\n"
    )
    done = check(shop, "--suite", tmp_path / "cards.py", "--run", "latest", "--group", "card_activity")
    assert done.returncode == 1 and "suite cards: expect_column_values_to_be_between count_24h" in done.stderr, done.stderr
    (batch,) = (shop / "data" / "runs").glob("batch-*")
    assert "cards/card_activity: 0 of 1 hold over" in " ".join(show(shop, batch.name).split())
    assert json.loads((batch / "manifest.json").read_text())["status"] == "complete"


def test_what_cannot_be_checked_is_one_line(shop: Path, tmp_path: Path) -> None:
    unknown = suite(tmp_path / "unknown.json", {"type": "expect_the_spanish_inquisition", "kwargs": {}})
    (tmp_path / "broken.py").write_text("suite = 1 / 0\n")
    (tmp_path / "none.json").write_text("[]")
    for words, told in (
        (("--suite", unknown, "--source", "payments"), "expectation 0 (expect_the_spanish_inquisition)"),
        (("--suite", tmp_path / "broken.py", "--source", "payments"), "broken.py, line 1: ZeroDivisionError"),
        (("--suite", tmp_path / "none.json", "--source", "payments"), "is not a Great Expectations suite"),
        (("--suite", tmp_path / "away.json", "--source", "payments"), "cannot be read"),
        (("--suite", suite(tmp_path / "s.json", CARDS)), "give --source with one of fraud_reports, payments"),
        (("--suite", suite(tmp_path / "s.json", CARDS), "--source", "none"), "'none' is none of fraud_reports, payments"),
        (("--suite", suite(tmp_path / "s.json", CARDS), "--run", "latest"), "give --group with one of card_activity"),
    ):
        done = check(shop, *words)
        assert done.returncode == 1 and told in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
