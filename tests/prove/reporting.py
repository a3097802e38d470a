"""The report of the trials, written when all tests are over, also those of several processes (pytest-xdist)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.prove.report import Report

REPORT = Report()
ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "data" / "prove" / "report.json"


INTERRUPTED = "interrupted before its end"


def keep_outcome(about: dict[str, Any], phase: Any, error: BaseException | None) -> None:
    """``outcome`` of a test after each of its phases (pytest's report of it): what failed stays, whatever the phases after it say; one
    whose call has no end was interrupted."""
    if phase.when == "setup":
        about["outcome"] = INTERRUPTED
    open_yet = about.get("outcome", INTERRUPTED) == INTERRUPTED
    if phase.failed:
        line = (str(error).strip().splitlines() or [""])[0][:200]
        said = f"{'' if phase.when == 'call' else f'{phase.when}, '}{type(error).__name__}: {line}"
        about["outcome"] = said if open_yet or about["outcome"] == "passed" else about["outcome"]
    elif open_yet and phase.skipped:
        about["outcome"] = "skipped"
    elif open_yet and phase.when == "call":
        about["outcome"] = "passed"


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
