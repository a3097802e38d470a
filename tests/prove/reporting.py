"""The report of the trials, written when all tests are over, also those of several processes (pytest-xdist)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.prove.report import Report

REPORT = Report()
ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "data" / "prove" / "report.json"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist: the process that sums up is another one
        session.config.workeroutput["prove"] = REPORT.plain()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    REPORT.add(getattr(node, "workeroutput", {}).get("prove", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REPORT.plain():
        REPORT.write(PATH)
        terminalreporter.section(f"proof ({PATH.relative_to(ROOT)})")
        for line in REPORT.lines():
            terminalreporter.write_line(line)
