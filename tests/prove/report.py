"""What the trials found: per test that was run (a *part*) and kind of fault, so that parts run one after another add up."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.lake.provenance import engine_version, library_versions

__all__ = ["TOLD_APART", "Kind", "Part", "Report", "bound", "surroundings"]

CONFIDENCE = 0.95
TOLD_APART = "told apart from what was there before"
"""A control in each trial: held against what was due before its records, the same comparison must find differences."""


def bound(failed: int, trials: int) -> float:
    """The rate of failures that these trials leave possible: the one-sided upper 95% bound of Clopper and Pearson (none of n: 3/n)."""
    from scipy.stats import beta

    return 1.0 if failed >= trials else float(beta.ppf(CONFIDENCE, failed + 1, trials - failed))


def surroundings() -> dict[str, Any]:
    """Commit, packages and machine that a part ran with, and how busy it is now: processes that ran or waited in the last minute."""
    version = engine_version()
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / 2**20
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": version.get("commit", "")[:9] + ("+" if version.get("dirty") else ""),
        "packages": library_versions(),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release().partition('-')[0]}",
        "load": round(os.getloadavg()[0], 1),
    }


@dataclass
class Kind:
    """One kind of fault: ``trials`` of it, in ``runs`` streams or worlds; ``failed``: trials after which something differed.

    ``hits``: what was hit how often. ``acknowledged``: records that the broker took during the trials, ``applied``: those of them that
    were delivered, ``dead_letters``: those that lie in the dead-letter topic, ``lost``: those of which nothing is found anywhere.
    ``values`` were compared, ``wrong`` of them differed. ``recovery``: seconds from each blow until all that was fed was delivered.
    ``counts``: what else a kind counts, by name.
    """

    runs: int = 0
    trials: int = 0
    failed: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    applied: int = 0
    dead_letters: int = 0
    lost: int = 0
    values: int = 0
    wrong: int = 0
    recovery: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def trial(
        self,
        hit: str,
        values: int,
        wrong: list[str],
        seconds: float,
        *,
        acknowledged: int = 0,
        applied: int = 0,
        dead_letters: int = 0,
        lost: int = 0,
        recovery: float | None = None,
        counts: dict[str, int] | None = None,
    ) -> None:
        """One more, which hit something; ``values`` were compared, ``wrong`` has a line for each that differs."""
        self.trials += 1
        self.failed += bool(wrong or lost)
        self.values += values
        self.wrong += len(wrong)
        self.acknowledged += acknowledged
        self.applied += applied
        self.dead_letters += dead_letters
        self.lost += lost
        if recovery is not None:
            self.recovery.append(round(recovery, 2))
        for name, count in (counts or {}).items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.hits[hit] = self.hits.get(hit, 0) + 1
        self.seconds = round(self.seconds + seconds, 1)
        self.notes += wrong[:1]

    def suspect(self, problems: list[str]) -> None:
        """What was found at the end of a stream may be any of its trials' work."""
        self.failed = max(self.failed, 1)
        self.notes += problems[:2]

    def plus(self, other: Kind) -> Kind:
        """Both together."""

        def add(mine: Any, theirs: Any) -> Any:
            if isinstance(mine, dict):
                return {n: mine.get(n, 0) + theirs.get(n, 0) for n in [*mine, *(n for n in theirs if n not in mine)]}
            return mine + theirs

        return Kind(**{n: add(value, vars(other)[n]) for n, value in vars(self).items()})


@dataclass
class Part:
    """What one test found. ``tables``: rows of any other form, such as those of ``parity``, by the name of their table."""

    about: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    control: dict[str, Kind] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def kind(self, name: str, stock: bool = False) -> Kind:
        """The entry of a kind of trial; with ``stock``, of its negative control."""
        return (self.control if stock else self.kinds).setdefault(name, Kind())

    def table(self, name: str) -> list[dict[str, Any]]:
        """Rows to append to."""
        return self.tables.setdefault(name, [])

    def empty(self) -> bool:
        """Whether nothing was tried, and nothing else is to be said: it neither passed nor failed."""
        return not (self.kinds or self.control or self.tables) and self.about.get("outcome", "skipped") == "skipped"

    def ended(self) -> str:
        """How it ended: ``yes``, or ``no`` and why. Parts of before outcomes were kept are judged by their figures alone."""
        wrong = [name for name, kind in self.kinds.items() if kind.failed]
        rising = [str(row["what"]) for row in self.tables.get("soak: what was held", ()) if row["verdict"] != "flat"]
        said = self.about.get("outcome", "passed")
        why = [*([said] if said != "passed" else []), *(f"{name} failed" for name in wrong), *(f"{what} rises" for what in rising)]
        if why:
            return f"no: {'; '.join(why)}"
        return "yes" if "outcome" in self.about else "yes, by its figures"

    def plain(self) -> dict[str, Any]:
        """Of plain values."""
        kinds, control = ({n: vars(k) for n, k in each.items()} for each in (self.kinds, self.control))
        return {"about": self.about, "kinds": kinds, "control": control, "tables": self.tables}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Part:
        """From what :meth:`plain` gave."""
        kinds, control = ({n: Kind(**k) for n, k in plain[name].items()} for name in ("kinds", "control"))
        return cls(plain["about"], kinds, control, plain["tables"])


@dataclass
class Report:
    """Parts by name. A part that is run again replaces its own figures, and no others."""

    parts: dict[str, Part] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        """The part of a test."""
        return self.parts.setdefault(name, Part(surroundings()))

    def plain(self) -> dict[str, Any]:
        """Of plain values, without parts in which nothing was tried."""
        return {n: p.plain() for n, p in self.parts.items() if not p.empty()}

    def add(self, plain: dict[str, Any]) -> None:
        """What another process or file tried. Of two runs of one part the later one counts."""
        for name, part in plain.items():
            if name not in self.parts or self.parts[name].about["at"] <= part["about"]["at"]:
                self.parts[name] = Part.of(part)

    def kinds(self, stock: bool = False) -> dict[str, Kind]:
        """All parts' trials, by kind; with ``stock``, the negative controls."""
        out: dict[str, Kind] = {}
        for part in self.parts.values():
            for name, kind in (part.control if stock else part.kinds).items():
                out[name] = out.get(name, Kind()).plus(kind)
        return out

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """All parts' rows, by table."""
        out: dict[str, list[dict[str, Any]]] = {}
        for part in self.parts.values():
            for name, rows in part.tables.items():
                out.setdefault(name, []).extend(rows)
        return out

    def write(self, path: Path) -> None:
        """As JSON, a line per part, so that two branches' reports merge as text; parts that the file has and this report has not stay."""
        whole = Report.read([path]) if path.exists() else Report()
        whole.add(self.plain())
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{json.dumps(name)}: {json.dumps(part)}" for name, part in sorted(whole.plain().items()))
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Report:
        """What files of :meth:`write` hold together."""
        out = cls()
        for path in paths:
            out.add(json.loads(path.read_text()))
        return out

    def lines(self) -> list[str]:
        """For people, at the end of a run."""
        out = []
        for title, kinds in (("trials", self.kinds()), ("with Feast's own writer", self.kinds(stock=True))):
            if kinds:
                out += [f"{title:<36}{'trials':>7}{'records':>9}{'lost':>6}{'values':>12}{'wrong':>7}  verdict"]
            for name, k in kinds.items():
                hits = ", ".join(f"{what} {n}" for what, n in sorted(k.hits.items()))
                verdict = "all equal" if not k.failed else f"{k.failed} FAILED"
                out.append(f"{name:<36}{k.trials:>7}{k.acknowledged:>9,}{k.lost:>6}{k.values:>12,}{k.wrong:>7}  {verdict}; hit: {hits}")
                out += [f"    {note}" for note in k.notes[:5]]
        return out + [f"{name} {row}" for name, rows in self.tables().items() for row in rows]
