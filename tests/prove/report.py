"""What the trials found, kind by kind: a table at the end of the tests, and a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Report"]


@dataclass
class Kind:
    """``trials``: what was done, how often; ``failed``: those after which something differed; ``runs``: streams that they were done to."""

    runs: int = 0
    trials: int = 0
    failed: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    values: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def trial(self, hit: str, values: int, wrong: list[str], seconds: float) -> None:
        """One more, which hit something; ``values`` were compared."""
        self.trials += 1
        self.failed += bool(wrong)
        self.values += values
        self.wrong += len(wrong)
        self.hits[hit] = self.hits.get(hit, 0) + 1
        self.seconds = round(self.seconds + seconds, 1)
        self.notes += wrong[:1]

    def suspect(self, problems: list[str]) -> None:
        """What was found at the end of a stream may be any of its trials' work."""
        self.failed = max(self.failed, 1)
        self.notes += problems[:2]


@dataclass
class Report:
    """Collects; :meth:`write` and :meth:`lines` tell."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    control: dict[str, Kind] = field(default_factory=dict)
    parity: list[dict[str, Any]] = field(default_factory=list)

    def kind(self, name: str, stock: bool = False) -> Kind:
        """The entry of a kind of trial; with ``stock``, of its negative control."""
        return (self.control if stock else self.kinds).setdefault(name, Kind())

    def plain(self) -> dict[str, Any]:
        """Of plain values, for :meth:`add` in another process."""
        return {
            "kinds": {n: vars(k) for n, k in self.kinds.items()},
            "control": {n: vars(k) for n, k in self.control.items()},
            "parity": self.parity,
        }

    def add(self, plain: dict[str, Any]) -> None:
        """What another process tried. A kind that both tried is that of the last one: the trials of one file stay in one process."""
        self.kinds |= {n: Kind(**k) for n, k in plain["kinds"].items()}
        self.control |= {n: Kind(**k) for n, k in plain["control"].items()}
        self.parity += plain["parity"]

    def empty(self) -> bool:
        """Whether nothing was tried."""
        return not (self.kinds or self.control or self.parity)

    def write(self, path: Path) -> None:
        """As JSON; entries of earlier calls for other kinds stay."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        out = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "crashes": {**before.get("crashes", {}), **{n: vars(k) for n, k in self.kinds.items()}},
            "negative_control": {**before.get("negative_control", {}), **{n: vars(k) for n, k in self.control.items()}},
            "parity": self.parity or before.get("parity", []),
        }
        path.write_text(json.dumps(out, indent=2) + "\n")

    def lines(self) -> list[str]:
        """For people."""
        out = []
        if self.kinds:
            out.append(f"{'crash trials':<28}{'trials':>7}{'streams':>9}{'values':>11}{'wrong':>7}  verdict")
            for name, k in self.kinds.items():
                hits = ", ".join(f"{what} {n}" for what, n in sorted(k.hits.items()))
                verdict = "all equal" if not k.failed else f"{k.failed} FAILED"
                out.append(f"{name:<28}{k.trials:>7}{k.runs:>9}{k.values:>11,}{k.wrong:>7}  {verdict}; hit: {hits}")
                out += [f"    {note}" for note in k.notes[:5]]
        if self.control:
            out += ["", f"{'with Feast own writer':<28}{'trials':>7}{'streams':>9}{'values':>11}{'wrong':>7}  verdict"]
            for name, k in self.control.items():
                out.append(f"{name:<28}{k.trials:>7}{k.runs:>9}{k.values:>11,}{k.wrong:>7}  {k.failed} of {k.trials} did not converge")
        for entry in self.parity:
            out.append(f"parity {entry}")
        return out
