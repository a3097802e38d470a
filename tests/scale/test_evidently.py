"""``tandem monitor --evidently`` by Evidently itself, in an environment of its own with ours below it."""

from __future__ import annotations

import subprocess

from tests.scale.containers import ROOT
from tests.scale.tools import beside_ours

EVIDENTLY = ("evidently==0.7.23",)
TESTS = (
    "tests/integration/test_monitor.py::test_evidently_writes_a_second_report_or_says_what_it_needs",
    "tests/unit/test_evidently_texts.py::test_by_the_library_itself",
)


def test_the_monitor_s_tests_where_evidently_is_installed() -> None:
    python = beside_ours("evidently", EVIDENTLY) / "python"
    subprocess.run([python, "-c", "import evidently, pytest, pipelines"], check=True, cwd=ROOT)
    done = subprocess.run([python, "-m", "pytest", "-q", "--tb=short", *TESTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-4000:]
