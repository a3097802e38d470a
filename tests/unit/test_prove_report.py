"""The report of the trials adds up: over parts, over files, and a part that is run again replaces its own figures alone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.oracle.stream_time import reached
from tests.prove.ledger import PROVES, ROOT, STREAM, changes_since, page
from tests.prove.report import Part, Report, bound
from tests.prove.reporting import keep_outcome
from tests.prove.slice import NEVER, EventTime


def report(at: str, **trials: int) -> Report:
    """A report of parts with so many trials of one kind, each of ten records and recovered in two seconds."""
    out = Report()
    for name, count in trials.items():
        part = out.part(name)
        part.about["at"] = at
        for _ in range(count):
            part.kind("kill").trial("worker", 100, [], 3.0, acknowledged=10, applied=10, recovery=2.0, counts={"rows": 2})
        part.kind("kill", stock=True).trial("worker", 100, ["one differs"], 3.0)
    return out


def test_parts_of_several_runs_add_up_and_a_part_run_again_replaces_itself(tmp_path: Path) -> None:
    path = tmp_path / "data" / "report.json"
    report("2026-11-28T10:00:00+00:00", a=3).write(path)
    report("2026-11-28T11:00:00+00:00", b=20).write(path)
    kind = Report.read([path]).kinds()["kill"]
    assert (kind.trials, kind.acknowledged, kind.applied, kind.counts, len(kind.recovery)) == (23, 230, 230, {"rows": 46}, 23)
    report("2026-11-28T12:00:00+00:00", a=5).write(path)
    assert Report.read([path]).kinds()["kill"].trials == 25
    other = tmp_path / "other.json"
    report("2026-11-28T11:30:00+00:00", a=9, c=1).write(other)  # of another branch: its part a is older
    assert Report.read([path, other]).kinds()["kill"].trials == 26 == Report.read([other, path]).kinds()["kill"].trials
    assert Report.read([path, other]).kinds(stock=True)["kill"].failed == 3


def test_the_bound_is_the_rule_of_three_where_nothing_failed() -> None:
    assert bound(0, 20) == pytest.approx(0.1391, abs=1e-4)
    assert bound(0, 1000) == pytest.approx(3 / 1000, rel=0.01)
    assert bound(1, 20) == pytest.approx(0.2161, abs=1e-4) and bound(2, 2) == 1.0


def test_a_lost_record_is_a_failed_trial_and_the_page_says_so() -> None:
    made = report("2026-11-28T10:00:00+00:00", a=19)
    made.part("a").kind("kill").trial("engine", 100, [], 3.0, acknowledged=10, applied=9, lost=1, recovery=4.0)
    text = page(made)
    assert "| kill | 20 | 200 | 199 | 0 | 1 | 0 of 2,000 | 2.0 | 2.1 | 1 | 21.6% | 1 of 1 failed |" in text
    assert "20 trials of 1 kinds, 1 failed; 1 records lost" in text and "| `a` | no: kill failed |" in text


def test_a_part_whose_test_raised_or_whose_figures_rise_did_not_end_well() -> None:
    """Such a part was said to have ended well, as none of its trials had failed."""
    made = report("2026-11-28T10:00:00+00:00", good=2, raised=2, older=2, stopped=2)
    keep_outcome(made.part("stopped").about, SimpleNamespace(when="setup", failed=False, skipped=False), None)  # Ctrl-C in its call
    phases = [SimpleNamespace(when=w, failed=w == "call", skipped=False) for w in ("setup", "call", "teardown")]
    for phase in phases:
        keep_outcome(made.part("raised").about, phase, RuntimeError("the stream | did not start\nat all") if phase.failed else None)
        keep_outcome(made.part("good").about, SimpleNamespace(when=phase.when, failed=False, skipped=False), None)
        keep_outcome(
            made.part("cut").about, SimpleNamespace(when=phase.when, failed=phase.when != "call", skipped=False), OSError("no disk")
        )
        keep_outcome(made.part("left out").about, SimpleNamespace(when=phase.when, failed=False, skipped=phase.when == "setup"), None)
    for verdict in ("flat", "rises 3 MB an hour"):
        made.part(f"soak {verdict}").table("soak: what was held").append({"what": "memory", "verdict": verdict})
    kept = Report()
    kept.add(made.plain())
    text = page(kept, ["good", "soak flat", "raised", "test_x.py::test_never"], lambda part, commit: 3 if part == "good" else None)
    told = {
        line.split("|")[1].strip(" `"): line.replace("\\|", "/").split("|")[2].strip()
        for line in text.splitlines()
        if line.startswith("| `")
    }
    assert told == {
        "good": "yes",
        "older": "yes, by its figures",
        "raised": "no: RuntimeError: the stream / did not start",
        "stopped": "no: interrupted before its end",
        "cut": "no: setup, OSError: no disk",
        "soak flat": "yes, by its figures",
        "soak rises 3 MB an hour": "no: memory rises",
    }
    assert text.rstrip().endswith("## Never run, or not kept\n\n* `test_x.py::test_never`")
    assert [line.split("|")[5].strip() for line in text.splitlines() if line.startswith(("| `good", "| `older"))] == [
        "3",
        "unknown",
    ]


def test_a_part_that_raised_before_any_trial_is_kept_and_takes_the_place_of_what_was(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report("2026-11-28T10:00:00+00:00", a=3).write(path)
    made = Report()
    made.part("a").about |= {"at": "2026-11-28T11:00:00+00:00", "outcome": "RuntimeError: no broker"}
    made.part("b").about |= {"outcome": "skipped"}
    made.write(path)
    found = Report.read([path])
    assert list(found.parts) == ["a"] and found.parts["a"].ended() == "no: RuntimeError: no broker" and not found.kinds()


def test_how_old_a_part_is_by_the_commits_since() -> None:
    assert changes_since("test_faults.py::x", "HEAD") == 0 and changes_since("test_faults.py::x", "HEAD+") == 0
    assert changes_since("test_faults.py::x", "0" * 9) is None
    roots = [ROOT / path for each in (*PROVES.values(), STREAM) for path in each]
    assert all(path.is_dir() for path in roots)


def test_tables_of_other_forms_are_kept_beside() -> None:
    part = Part.of(Part({"at": "2026-11-28T10:00:00+00:00"}).plain())
    part.table("soak").append({"figure": "memory MB", "early": 10.5, "end": 10.5, "problems": []})
    assert not part.empty() and part.plain()["tables"]["soak"][0]["early"] == 10.5


def test_event_time_in_the_trials_is_that_of_the_oracle() -> None:
    """What is due after the first n records follows from it: the rule word by word (tests/oracle), and here event by event."""
    rng = random.Random(13)
    for _ in range(500):
        at, times = 0, []
        for _ in range(rng.randint(0, 40)):
            at += rng.choice([1, 2, -3, 5, 50, 200])
            times.append(at + rng.choice([0, 0, 0, -20, 300]))
        time = EventTime(rng.choice([5, 30, 100]))
        for n, each in enumerate(times):
            time.take(each)
            now, leaps = reached(times[: n + 1], time.far)
            assert (NEVER if now is None else now, leaps) == (time.now, time.leaps)
