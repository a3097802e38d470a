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

from tests.prove.report import Kind, Report, bound

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
RUNS = """A `+` behind a commit: with changes that were not committed. "Yes, by its figures": of before it was kept how the test ended.
The figures of a part hold for its commit; how many commits have changed since what it proves says how old they are (unknown: the commit
is of a branch that was rebased). Where a kind has several shards on Flink, runs of commits before 763fdb0 had all of them in one part.
"""

HEAD = """# The fault ledger

What `make prove` found: each kind of fault is a real one, dealt to real processes (`tests/prove`) while records flow, at random moments.
After each trial everything is compared with what an independent oracle says is due. This page is written by `python -m tests.prove.ledger`
from the reports of the runs; [verify.md](verify.md) says what else proves the numbers.

* **acknowledged**: records that the broker took during the trials. **applied**: those of them that the stream delivered.
  **dead letters**: broken ones among them, found in the dead-letter topic.
* **lost**: acknowledged records that were not delivered in time, and dead letters that are missing. **wrong**: values in the online store
  that differ from the oracle's, in the last bit too, of so many compared.
* **recovery**: seconds from the blow until all that was fed is delivered; this includes the fault itself (a broker that is away for
  seconds, a process that is stopped for twenty) and the records that flow meanwhile.
* **failed**: trials after which anything differed. **95% bound**: so large may the rate of failures be, by so many trials (Clopper and
  Pearson, one-sided; of none in n about 3/n).
* **small**, **small engine**: the stream's own stages on the real broker and stores, in a process that is forked ready-made in place of
  Flink, so that a trial takes seconds. All others are `tandem stream` on the embedded Flink.
* **control**: the same trials with Feast's own online store in place of Tandem's ordered write, or with the rule that was replaced. These
  have to fail somewhere, else the trials could see nothing. For faults of what surrounds the stream it is a writer that drops what it
  cannot write at once; a kill alone mostly converges with Feast's writer too, as records are replayed in order. Of a dead-letter topic that
  refuses it is a job that drops such letters as well.
* **live**: `stream.clock: live`, and the stream's processes have a clock that stands where the newest record arrived: no row may be made
  ahead of it. Set back by an hour, rows have to wait (counted below, and without such the kind fails); set right, all come.
* Without a control of their own are the other clocks (events and the times of their records are years old, so that no rule that judges by
  the clock decides a value; what is timed by it could fail), the deleted dead-letter topic (whoever writes next makes it anew), the
  registry (who does not wait for it writes dead letters, and these are counted), starts and kills. That a trial of these can fail is what
  the next one says.
* **told apart from what was there before** (below, under what was hit): a control in each trial. Its values are also held against what was
  due before its records, where the same comparison has to find differences: in that world, after that fault, it can fail. A kind none of
  whose trials could tell fails. Trials of before there was this control have no such count.
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
    more = [f"{n:,} {what}" for what, n in kind.counts.items()]
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
    out = [
        HEAD,
        f"**{verdict}** " + (f"Of fewer than {ENOUGH} trials: {', '.join(few)}." if few else f"Of every kind {ENOUGH} or more."),
        "",
    ]
    out += [table(heads, (_row(name, kind, controls.get(name)) for name, kind in sorted(kinds.items())))]
    alone = {name: kind for name, kind in sorted(controls.items()) if name not in kinds}
    if alone:
        out += ["Negative controls of their own:\n", table(heads[:-1], (_row(name, kind, None)[:-1] for name, kind in alone.items()))]
    words = '"Reported": the stream said meanwhile that it waits, so that the fault did reach it. Clocks and starts make it say nothing.\n'
    out += ["## What was hit\n", words, table(["fault", "streams or worlds", "hit how often, and what else was counted"], _hit_rows(kinds))]
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
