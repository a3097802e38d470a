"""The fault ledger for people: ``docs/proof.md`` from the reports of ``make prove``.

    python -m tests.prove.ledger [REPORT ...]

Takes in the reports (default: ``data/prove/report.json``) where they are newer than what is kept, part by part, in ``docs/proof.json``,
and writes both files anew. A part is one test with its parameters; parts may come from several runs, branches and machines.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.prove.report import TOLD_APART, Kind, Report, bound

ROOT = Path(__file__).resolve().parents[2]
KEPT, PAGE, NEWEST = (ROOT / path for path in ("docs/proof.json", "docs/proof.md", "data/prove/report.json"))
ENOUGH = 20
"""Trials of each kind that ``make prove`` means to make."""

STREAM = ("transforms", "pipelines/lake", "pipelines/sources", "pipelines/feature_store", "pipelines/streaming", "serving/online_store")
PROVES = {
    "test_apply": ("pipelines/feature_store", "pipelines/batch", "pipelines/lake", "serving/online_store"),
    "test_promote": ("pipelines/promotion", "pipelines/registry", "serving"),
    "test_server": ("serving",),
    "test_loop": ("transforms", "pipelines", "serving"),
    "test_drift": ("transforms", "pipelines/monitoring", "pipelines/alerting"),
    "test_experiments": ("transforms", "pipelines/training"),
    "soak": ("transforms", "pipelines", "serving"),
}
"""How the name of a part begins -> what it proves; all else proves the stream."""
RUNS = """* **commit**: a `+` means that it had uncommitted changes. The figures of a part hold for its commit.
* **commits since**: how many commits have changed what the part proves; "unknown" where the commit is of a branch that was rebased.
* **ended well**: "yes, by its figures" is said of runs from before the end of a test was recorded.
* Runs of commits before 763fdb0 had all shards of a kind on Flink in one part.
"""
COULD_FAIL = "could have failed"
"""What the page calls :data:`TOLD_APART`, by which the reports count it."""

HEAD = """# The fault ledger

Which faults were injected how often, and what was lost or wrong afterwards. Each fault is a real one, injected into real processes
(`tests/prove`, by `make prove`) at random moments while records flow. After each trial everything is compared with what an independent
oracle expects. `python -m tests.prove.ledger` writes this page from the reports of the runs; [verify.md](verify.md) says what else proves
the numbers.

**What the columns count**

* **acknowledged**: records that the broker acknowledged during the trials. **applied**: those of them that the stream delivered.
  **dead letters**: broken ones among them, found in the dead-letter topic.
* **lost**: acknowledged records that were not delivered in time, and dead letters that are missing. **wrong**: values in the online store
  that differ from the oracle's, even in the last bit, out of all values compared.
* **recovery**: seconds from the fault until everything that was sent is delivered. This includes the fault itself (a broker that is away
  for seconds, a process that is stopped for twenty) and the records that flow meanwhile.
* **failed**: trials after which anything differed. **95% bound**: the highest failure rate that so many trials leave possible (Clopper and
  Pearson, one-sided; about 3/n for no failure in n trials).
* **control**: the same trials with something weaker in place of the part of Tandem that is proven. These have to fail somewhere; otherwise
  the trials could not detect anything.

**What the names of the faults mean**

* **small**, **small engine**: the stream's own stages on the real broker and stores, in a process that is forked ready-made in place of
  Flink, so that a trial takes seconds. All others are `tandem stream` on the embedded Flink.
* **live**: `stream.clock: live`, and the stream's processes have a clock that stands where the newest record arrived, so no row may be made
  ahead of it. When it is set back by an hour, rows have to wait (counted below; if none does, the kind fails); when it is set right, all
  are delivered.

**What the controls are**

* Feast's own online store in place of Tandem's ordered write, or the rule that was replaced. For faults around the stream (disk, network,
  Redis) it is a writer that drops what it cannot write at once: a kill alone mostly converges with Feast's writer too, as records are
  replayed in order. For a dead-letter topic that refuses letters it is a job that drops them.
* These have no control of their own: the other clocks (events and record times are years old, so no rule that judges by the clock decides a
  value; what is timed by it could fail), the deleted dead-letter topic (the next writer recreates it), the registry (a stream that does
  not wait for it writes dead letters, and these are counted), starts and kills.
* For these too, **could have failed** (under [what was hit](#what-was-hit)) counts the trials in which the check itself was tested: the
  values are also compared with what was due before the trial's records, and that comparison has to find differences. So in that setting,
  after that fault, the check can fail. A kind none of whose trials passed this test fails. Trials from before this test existed have no
  such count.
"""


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; all but the first column are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def number(value: int) -> str:
    """With commas; a dash for none."""
    return f"{value:,}" if value else "0"


def _row(name: str, kind: Kind, control: Kind | None) -> list[str]:
    counted = kind.acknowledged or kind.applied
    records = [number(n) if counted else "" for n in (kind.acknowledged, kind.applied, kind.dead_letters, kind.lost)]
    recovery = [f"{np.percentile(kind.recovery, q):.1f}" if kind.recovery else "" for q in (50, 95)]
    wrong = f"{number(kind.wrong)} of {number(kind.values)}"
    stock = f"{control.failed} of {control.trials} failed" if control else ""
    return [name, number(kind.trials), *records, wrong, *recovery, number(kind.failed), f"{bound(kind.failed, kind.trials):.1%}", stock]


def _hits(kind: Kind) -> str:
    counted = [f"{what} {n}" for what, n in sorted(kind.hits.items(), key=lambda hit: -hit[1])]
    more = [f"{n:,} {COULD_FAIL if what == TOLD_APART else what}" for what, n in kind.counts.items()]
    return ", ".join([*counted[:12], *([f"{len(counted) - 12} others"] if len(counted) > 12 else []), *more])


def page(report: Report, tests: Sequence[str] = (), since: Callable[[str, str], int | None] = lambda part, commit: None) -> str:
    """The whole page. ``tests``: the parts that there would be if everything had run; ``since``: (part, commit) -> how many commits since
    then changed what it proves."""
    kinds, controls = ({n: k for n, k in report.kinds(stock).items() if k.trials} for stock in (False, True))
    heads = ["fault", "trials", "acknowledged", "applied", "dead letters", "lost", "wrong"]
    heads += ["recovery p50", "p95", "failed", "95% bound", "control"]
    total = Kind()
    for kind in kinds.values():
        total = total.plus(kind)
    few = [f"{name} ({kind.trials})" for name, kind in kinds.items() if kind.trials < ENOUGH]
    verdict = f"{total.trials:,} trials of {len(kinds)} kinds, {total.failed} failed; {total.lost:,} records lost, "
    verdict += f"{total.wrong:,} of {total.values:,} values wrong."
    enough = f"Fewer than {ENOUGH} trials: {', '.join(few)}." if few else f"Every kind had {ENOUGH} trials or more."
    out = [
        HEAD,
        f"**{verdict}** {enough}",
        "",
    ]
    out += [table(heads, (_row(name, kind, controls.get(name)) for name, kind in sorted(kinds.items())))]
    alone = {name: kind for name, kind in sorted(controls.items()) if name not in kinds}
    if alone:
        out += ["Controls that stand alone:\n", table(heads[:-1], (_row(name, kind, None)[:-1] for name, kind in alone.items()))]
    words = '"Reported": the stream said that it was waiting, so the fault did reach it. Clocks and starts make it say nothing.\n'
    out += [
        "## What was hit\n",
        words,
        table(["fault", "streams or worlds", "what was hit, how often, and what else was counted"], _hit_rows(kinds)),
    ]
    notes = [f"* {name}: {note.splitlines()[0]}" for name, kind in sorted(kinds.items()) for note in kind.notes[:3]]
    out += ["## What failed\n", "\n".join(notes) + "\n"] if notes else []
    for name, rows in sorted(report.tables().items()):
        columns = list(dict.fromkeys(c for row in rows for c in row))
        cells = ([_cell(row.get(c, "")) for c in columns] for row in rows)
        out += [f"## {name.capitalize()}\n", table(columns, cells)]
    return "\n".join([*out, *_parts(report, tests, since)])


def _hit_rows(kinds: dict[str, Kind]) -> Iterable[list[str]]:
    return ([name, number(kind.runs), _hits(kind)] for name, kind in sorted(kinds.items()))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "none" if not value else "; ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _parts(report: Report, tests: Sequence[str], since: Callable[[str, str], int | None]) -> list[str]:
    heads = [
        "part",
        "ended well",
        "at (UTC)",
        "commit",
        "commits since that changed what it proves",
        "seconds",
        "load before, after",
        "machine",
        "packages",
    ]
    lines = Counter(_packages(part.about) for part in report.parts.values())
    names = {text: f"line {n}" for n, text in enumerate(lines, 1)}
    rows = [
        [
            f"`{name}`",
            part.ended(),
            part.about["at"].removesuffix("+00:00"),
            part.about["commit"],
            "unknown" if (n := since(name, part.about["commit"])) is None else number(n),
            number(part.about.get("seconds", 0)),
            f"{part.about['load']}, {part.about.get('load at the end', '')}",
            part.about["machine"],
            names[_packages(part.about)],
        ]
        for name, part in sorted(report.parts.items())
    ]
    said = [f"* {name}: {text}" for text, name in names.items()]
    never = [f"* `{name}`" for name in tests if name not in report.parts]
    out = ["## The runs\n", RUNS, table(heads, rows), "\n".join(said) + "\n"]
    return [*out, "## Never run, or not kept\n", "\n".join(never) + "\n"] if never else out


def _packages(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in about["packages"].items() if name != "tandem-features")


def collected() -> list[str]:
    """The names of all parts that ``make prove`` and the soak would make."""
    words = [sys.executable, "-m", "pytest", "tests/prove", "--collect-only", "-q"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    names = [line.removeprefix("tests/prove/") for line in found.stdout.splitlines() if line.startswith("tests/prove/")]
    if found.returncode or not names:
        raise SystemExit(f"the tests cannot be collected:\n{found.stdout[-2000:]}")
    return ["soak.py", *names]


def changes_since(part: str, commit: str) -> int | None:
    """How many commits since ``commit`` changed what a part proves; None where git does not know it (any more)."""
    paths = next((each for start, each in PROVES.items() if part.startswith(start)), STREAM)
    words = ["git", "rev-list", "--count", f"{commit.rstrip('+')}..HEAD", "--", *paths]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return int(found.stdout) if found.returncode == 0 else None


def main() -> None:
    """See the module."""
    report = Report.read([path for path in (KEPT,) if path.exists()])
    for path in sys.argv[1:] or [str(NEWEST)]:
        report.add(Report.read([Path(path)]).plain())
    report.write(KEPT)
    PAGE.write_text(page(report, collected(), changes_since))
    print(f"{PAGE.relative_to(ROOT)}: {len(report.parts)} parts, {sum(k.trials for k in report.kinds().values()):,} trials")


if __name__ == "__main__":
    main()
