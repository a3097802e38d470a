"""What a command costs before it does anything, and what ``tandem check`` costs: CPU of a process from its start to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.kept import ROOT
from tests.bench.report import Part, Took

TANDEM = [sys.executable, "-m", "tandem"]


def _cpu(words: Sequence[str], environment: Mapping[str, str], code: int = 0, says: str = "") -> float:
    """CPU seconds of a process and of those it waited for. Raises ValueError where it ends or speaks otherwise than it should."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **environment})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    if process.returncode != code or says not in said:
        raise ValueError(f"{' '.join(words[1:])} ended with {process.returncode}: {said[-400:]}")
    return used.ru_utime + used.ru_stime


def run(quick: bool = False) -> list[Part]:
    """Starts of commands beside what they import; checks of the example's repository, over a week of its events."""
    rounds = 2 if quick else 5
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp:
        folder = Path(temp)
        repo, data, kept = folder / "repo", folder / "data", str(folder / "kept")
        shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
        _cpu([*TANDEM, "events", "--repo", str(repo), "--data", str(data), "--start", "2013-01-01", "--end", "2013-01-08"], {})
        wrong = folder / "wrong"
        shutil.copytree(repo, wrong)
        definitions = (wrong / "features.py").read_text("utf-8")
        (wrong / "features.py").write_text(definitions.replace("hop=minutes(5)", "hop=minutes(-5)", 1), "utf-8")
        if definitions == (wrong / "features.py").read_text("utf-8"):
            raise ValueError("feature_repo/features.py has no hop of five minutes to make wrong")
        misnamed = folder / "misnamed"
        shutil.copytree(repo, misnamed)
        (misnamed / "features.py").write_text(definitions.replace("preprocessing:aircraft", "preprocessing:aircrafts", 1), "utf-8")
        at = ["--repo", str(repo), "--data", str(data)]
        check = [*TANDEM, "check", *at]
        none, some = {"TANDEM_CHECK_CACHE": ""}, {"TANDEM_CHECK_CACHE": kept}
        anew = [_cpu(check, some, says="runs on 100 rows")] + [_cpu(check, none, says="runs on 100 rows") for _ in range(rounds - 1)]
        libraries = "import feast, tensorflow, tensorflow_transform, apache_beam"
        quickly = "from tandem.quick_imports import quicken_imports as q; q(); "

        def of(words: Sequence[str], environment: Mapping[str, str] = none, code: int = 0, says: str = "") -> Took:
            return Took([_cpu(words, environment, code, says) for _ in range(rounds)])

        how = f"cold: a process each, its files in the page cache; CPU, {rounds} rounds"
        starts = Part("CPU of a command's start", "commands", how)
        starts.add("tandem runs list", of([*TANDEM, "runs", "list", *at], says=""), 1)
        starts.add("tandem --help", of([*TANDEM, "--help"], says="apply"), 1)
        starts.add(
            "the limit: Python, Typer, Rich, Arrow and pydantic imported",
            of([sys.executable, "-c", "import typer, rich, pyarrow, pydantic"]),
            1,
        )
        checks = Part("CPU of tandem check of the example: 3 sources, 5 groups, a model", "checks", how)
        checks.add("nothing is another since the last check", of(check, some, says="results are cached"), 1, "no TensorFlow")
        checks.add("asked anew: functions traced, analyzed and applied to 100 rows", Took(anew), 1)
        checks.add("contracts alone", of([*check, "--only", "contracts"]), 1)
        checks.add("a wrong definition", of([*TANDEM, "check", "--repo", str(wrong)], code=1, says="hop"), 1, "the goal: 1.5 s")
        named = [*TANDEM, "check", "--repo", str(misnamed), "--data", str(data)]
        checks.add("a wrong name of a function", of(named, code=1, says="has no 'aircrafts'"), 1, "the goal: 1.5 s; no TensorFlow")
        checks.add("no event files: functions traced, not run", of([*check[:-1], str(folder / "none")], says="traced, not run"), 1)
        checks.add("the limit of asking anew: its libraries imported", of([sys.executable, "-c", quickly + libraries]), 1)
        checks.add("the same, as they are without Tandem's quick imports", of([sys.executable, "-c", libraries]), 1)
    checks.notes.append("the goal: 3 s for all, 1.5 s for a wrong definition")
    return [starts, checks]
