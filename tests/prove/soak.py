"""An hour (or ``--minutes``) at a slow, steady rate: real flights, real broker, real Flink. What each process holds is written down every
half minute; at the end the stream is stopped and verified. A leak shows as a rise that does not end.

    python -m tests.prove.soak --minutes 60

Writes ``soak.json`` into ``--folder`` and prints a table: of each figure its value after the first fifth of the time, at the end, and the
rise per hour between (least squares).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.lake.processes import start_child
from tests.integration.flights import ROOT, environment
from tests.integration.stream_world import parts_of
from tests.prove.slice import tandem

BEGIN, BOUNDARY = datetime(2013, 1, 1), datetime(2013, 2, 1)
EVENTS_PER_DAY = 1800  # of the three sources together
EVERY_SECONDS = 30


def held(pid: int) -> dict[str, float]:
    """What a process holds: memory in MB, threads, open files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "memory MB": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "open files": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
    }


def size(folder: Path, pattern: str) -> float:
    """MB of the files below."""
    total = 0
    for path in folder.rglob(pattern):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a checkpoint that was replaced
            continue
    return total / 1e6


def sample(driver: int, data: Path) -> dict[str, float]:
    """All processes of the stream, and its checkpoints on disk."""
    parts = parts_of(driver)
    found: dict[str, float] = {}
    for name, pids in (("driver", [driver]), ("worker", parts["worker"]), ("java", parts["java"])):
        for pid in pids[:1]:
            try:
                found |= {f"{name}: {k}": v for k, v in held(pid).items()}
            except FileNotFoundError:  # it has just ended
                continue
    found["processes"] = 1 + sum(map(len, parts.values()))
    found["checkpoints MB"] = size(data / "stream", "*chk-*/*")
    return found


def summary(samples: list[dict[str, float]]) -> list[tuple[str, float, float, float]]:
    """(figure, after a fifth, at the end, rise per hour) without the first fifth, in which everything warms up."""
    later = samples[len(samples) // 5 :]
    out = []
    for name in later[-1]:
        points = [(s["seconds"], s[name]) for s in later if name in s]
        if name != "seconds" and len(points) > 2:
            x, y = np.array(points).T
            out.append((name, float(y[0]), float(y[-1]), float(np.polyfit(x, y, 1)[0] * 3600)))
    return out


def soak(folder: Path, minutes: float, rate: float) -> dict[str, Any]:
    repo, data = folder / "feature_repo", folder / "data"
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    speed = rate * 86400 / EVENTS_PER_DAY
    until = BOUNDARY + timedelta(seconds=minutes * 60 * speed)
    span = lambda a, b: ("--start", a.isoformat(), "--end", b.isoformat())  # noqa: E731
    tandem(repo, "events", *span(BEGIN, until + timedelta(days=1)))
    tandem(repo, "batch", *span(BEGIN, BOUNDARY))
    tandem(repo, "apply")
    tandem(repo, "up")
    samples: list[dict[str, float]] = []
    base = [sys.executable, "-W", "ignore", "-m", "pipelines.cli"]
    at = ("--repo", str(repo))
    replay = start_child([*base, "replay", *at, *span(BOUNDARY, until), "--speed", str(speed)], folder / "replay.log", environment())
    stream = start_child([*base, "stream", *at, "--from-run", "latest"], folder / "stream.log", environment())
    try:
        begun = time.monotonic()
        while replay.poll() is None and stream.poll() is None:
            samples.append({"seconds": time.monotonic() - begun, **sample(stream.pid, data)})
            print(json.dumps({k: round(v, 1) for k, v in samples[-1].items()}), file=sys.stderr, flush=True)
            time.sleep(EVERY_SECONDS)
        if stream.poll() is not None or replay.returncode:
            raise SystemExit(f"the stream or the replay ended early; see the logs in {folder}")
        stream.terminate()
        code = stream.wait(120)
        proof = json.loads(tandem(repo, "verify", "--json"))
    finally:
        for process in (replay, stream):
            process.kill()
        tandem(repo, "down")
    result = {
        "minutes": minutes,
        "rate": rate,
        "exit_code": code,
        "unexplained": proof["unexplained"],
        "figures": summary(samples),
        "samples": samples,
    }
    (folder / "soak.json").write_text(json.dumps(result, indent=1))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long")
    parser.add_argument("--rate", type=float, default=32, help="events per second, about")
    parser.add_argument("--folder", type=Path, help="where to work (default: a new folder, which is kept)")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="tandem-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = soak(folder, given.minutes, given.rate)
    print(f"{'':24}{'early':>12}{'end':>12}{'per hour':>12}")
    for name, early, end, rise in result["figures"]:
        print(f"{name:24}{early:12.1f}{end:12.1f}{rise:+12.1f}")
    print(f"exit code {result['exit_code']}, {result['unexplained']} unexplained; {folder / 'soak.json'}")


if __name__ == "__main__":
    main()
