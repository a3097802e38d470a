"""``python -m tests.bench [--only windows,graph,...] [--quick] [--json] [--publish]``.

Each part runs in a process of its own, and what it measured is kept at once: one that fails loses nothing of the others, and parts that are
measured one by one end in the same table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import kept as kept_file
from tests.bench.kept import ROOT, Run, merged
from tests.bench.publish import publish, show

PARTS = (
    "windows", "aggregates", "graph", "join", "runs", "formats", "mapping", "commands", "online", "predict", "http", "stream", "worker",
    "boundaries", "fresh", "restart", "daily",
)  # fmt: skip
WITH_WAYS = ("stream",)
LIMIT, QUICK_LIMIT = 3600.0, 900.0
"""Seconds after which a part is ended."""


def say(text: str) -> None:
    """Progress, beside what may be JSON on stdout."""
    print(text, file=sys.stderr, flush=True)


def commit() -> str:
    """Today, and the commit that is measured; ``+`` after it where files differ from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return f"{datetime.now(UTC):%Y-%m-%d}" + (f" at {done}" if done else "")


def measure(name: str, ways: Sequence[str], quick: bool, of: str, limit: float) -> Run:
    """Run a part in a process of its own; whatever it does, there is an answer."""
    begun, load, before = time.monotonic(), os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        out = Path(folder) / "said.json"
        words = [sys.executable, "-W", "ignore", "-m", "tests.bench.one", name, "--out", str(out), *(["--quick"] if quick else [])]
        process = subprocess.Popen([*words, *(w for way in ways for w in ("--way", way))], cwd=ROOT, start_new_session=True)
        why = ""
        try:
            while process.poll() is None:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    passed = time.monotonic() - begun
                    say(f"  {name}: {passed:.0f} s so far")
                    if passed > limit:
                        why = f"did not end within {limit:.0f} s"
                        break
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        said: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {"error": why or f"ended with {process.returncode}"}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = time.monotonic() - begun
    tables = kept_file.tables_of(said.get("tables", []))
    return Run(name, of, quick, (load, os.getloadavg()[0]), seconds, cpu, tables, said.get("error", ""))


def main() -> int:
    """Run the parts asked for and print their tables, or one JSON document; write all that is kept where that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Speeds side by side; a ratio above 1 is slower than Tandem."
    )
    parser.add_argument("--only", help=f"parts, separated by commas: {', '.join(PARTS)}; stream:tandem is one way of a part")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="a part of the data, in a quarter of an hour")
    parser.add_argument("--limit", type=float, help="seconds after which a part is ended")
    publishing = "write the last of every part into README.md and docs/; without --only and --quick nothing is measured"
    parser.add_argument("--publish", action="store_true", help=publishing)
    given = parser.parse_args()
    asked: dict[str, list[str]] = {}
    for word in given.only.split(",") if given.only else () if given.publish and not given.quick else PARTS:
        name, _, way = word.strip().partition(":")
        if name not in PARTS or (way and name not in WITH_WAYS):
            parser.error(f"no part {word.strip()!r}; choose from {', '.join(PARTS)}")
        asked.setdefault(name, []).extend([way] if way else [])
    console, of, runs = Console(width=None if sys.stdout.isatty() else 140), commit(), []
    limit = given.limit or (QUICK_LIMIT if given.quick else LIMIT)
    begun = time.monotonic()
    for number, (name, ways) in enumerate(asked.items(), 1):
        say(f"[{number}/{len(asked)}] {name} ...")
        run = measure(name, ways, given.quick, of, limit)
        runs.append(run)
        told = f"FAILED: {run.error}" if run.error else f"{len(run.tables)} tables"
        say(f"[{number}/{len(asked)}] {name}: {told}; {run.seconds:.0f} s, of it {run.cpu:.0f} s of CPU")
        if not given.json:
            show(console, run)
        now = kept_file.load()  # anew each time: another bench may have measured other parts meanwhile
        kept_file.save({**now, name: merged(now.get(name), run, ways)})
    if given.json:
        print(json.dumps([dataclasses.asdict(run) for run in runs], indent=1))
    if given.publish:
        try:
            say(f"wrote {' and '.join(publish(kept_file.load(), PARTS))}")
        except ValueError as error:
            say(f"error: {error}")
            return 1
    failed = [run.name for run in runs if run.error]
    say(f"{len(runs) - len(failed)} of {len(runs)} parts in {time.monotonic() - begun:.0f} s")
    if failed:
        say(f"failed: {', '.join(failed)}; again: python -m tests.bench --only {','.join(failed)}" + (" --quick" if given.quick else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
