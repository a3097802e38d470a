"""Every finding that was handed in has a test that says so: the claim is checked, so that none can be dropped unnoticed.

A test names a finding in its docstring or a comment: ``FAULTS 6``, ``FAULTS 1a, 12 and 20``, ``SECURITY H4``, ``SECURITY C1, H6``; a small
finding by its name, ``SECURITY low (damaged gzip)``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FAULTS = [str(n) for n in range(1, 36)]
SECURITY = ["C1", "C2", *(f"H{n}" for n in range(1, 8)), *(f"M{n}" for n in range(1, 12))]
LOW = [
    "record batch lengths", "damaged gzip", "doubling schemas", "negative indices", "repeated keys", "statuses in OpenAPI",
    "file modes", "patterns in paths", "stream names", "known passwords", "webhooks without TLS",
]  # fmt: skip
_AND = r"(?:, | and |, and )"


def named() -> dict[str, list[str]]:
    """Finding -> the files whose tests name it."""
    out: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path == Path(__file__).resolve():
            continue
        text = re.sub(r"\s*\n\s*(?:# )?", " ", path.read_text("utf-8"))
        found = [n for many in re.findall(rf"FAULTS (\d+[a-z]?(?:{_AND}\d+[a-z]?)*)", text) for n in re.findall(r"\d+", many)]
        found += [n for many in re.findall(rf"SECURITY ([CHM]\d+(?:{_AND}[CHM]\d+)*)", text) for n in re.findall(r"[CHM]\d+", many)]
        found += re.findall(r"SECURITY low \(([^)]+)\)", text)
        for finding in found:
            out.setdefault(finding, []).append(path.name)
    return out


@pytest.mark.parametrize(("kind", "findings"), [("FAULTS", FAULTS), ("SECURITY", SECURITY), ("SECURITY low", LOW)])
def test_each_finding_has_a_test(kind: str, findings: list[str]) -> None:
    tested = named()
    assert [f"{kind} {each}" for each in findings if each not in tested] == []


def test_no_test_names_a_finding_that_is_none() -> None:
    assert sorted(set(named()) - {*FAULTS, *SECURITY, *LOW}) == []


@pytest.mark.parametrize(("page", "numbers"), [("verify.md", FAULTS), ("security.md", [*SECURITY, *LOW])])
def test_the_docs_list_each_finding_with_tests_that_name_it(page: str, numbers: list[str]) -> None:
    found = re.findall(r"^\| (\d+|[CHM]\d+|low) \| ([^|]+) \| (`.+`) \|$", (TESTS.parent / "docs" / page).read_text("utf-8"), re.MULTILINE)
    listed = {what.strip() if number == "low" else number: re.findall(r"`([^`]+)`", files) for number, what, files in found}
    assert list(listed) == numbers
    tested = named()
    wrong = [(n, f) for n, files in listed.items() for f in files if not (TESTS / f).is_file() or Path(f).name not in tested.get(n, [])]
    assert wrong == [], "correct the page: a test was renamed, or names the finding no more"
