"""``tandem`` as the watch sees it, without the work: each command leaves in the data folder what the real one does, and a line in a log.

Run as a program with the commands' own arguments, or called. ``orders/<command>`` in the data folder says how one goes: ``fail``,
``kill`` (its process dies), ``not blessed``, ``refused``, ``wait`` (until the file is gone).
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.project.config import Settings, TrackingSettings
from pipelines.project.recording import ProjectRef, recorded
from pipelines.registry import register
from pipelines.registry.alias_file import change, current

MODEL = "flights"


def main(words: Sequence[str]) -> int:
    options = dict(itertools.pairwise(words))
    data = Path(options["--data"])
    return go(data, Path(options["--repo"]), words[0], options)


def go(data: Path, repo: Path, command: str, options: dict[str, str]) -> int:
    """One command; its exit code."""
    with open(data / "log", "a") as log:
        log.write(command + "\n")
    order = data / "orders" / command
    said = order.read_text().strip() if order.exists() else ""
    place = ProjectRef(repo, Settings(data=data, tracking=TrackingSettings(trackers=[])), data)
    if command == "monitor":
        report = json.loads((data / "next_report.json").read_text())
        folder = data / "monitor" / f"{MODEL}-{time.time_ns()}"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report))
        return int(report["verdict"] == "fail")
    if command == "labels":
        return 0
    if command == "train":
        (data / "tfx").mkdir(exist_ok=True)
        with open(data / "tfx" / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return recorded_one(place, command, options, said, order)
    return recorded_one(place, command, options, said, order)


def recorded_one(place: ProjectRef, command: str, options: dict[str, str], said: str, order: Path) -> int:
    fields: dict[str, Any] = {"model": MODEL} if command != "batch" else {"fingerprints": {"view": "f" * 64}}
    fields |= {"range": [options["--start"], options["--end"]]} if "--start" in options else {}
    with recorded(place, command, **fields) as run:
        if said == "fail":
            print("error: the disk is full", flush=True)
            raise SystemExit(1)
        if said == "kill":
            order.unlink()  # once
            os.kill(os.getpid(), signal.SIGKILL)
        while said == "wait" and order.exists():
            time.sleep(0.02)
        if command == "train":
            if said == "not blessed":
                run.save(reasons=["worse than the base rate"])
                return 3
            push(place, run)
        if command == "promote":
            version = int(options["--version"])
            if said == "refused":
                run.save(missed=["auc 0.60 is below 0.65"])
                return 3
            change(
                place.data / "models" / MODEL,
                "promote",
                lambda now: (version, None),
                datetime.now(UTC),
                version=version,
                reason=options.get("--reason"),
            )
    return 0


def push(place: ProjectRef, run: Any) -> None:
    """A new version of the model, made by ``run``."""
    folder = place.data / "models" / MODEL
    version = 1 + max((int(p.name) for p in folder.glob("[0-9]*")), default=0)
    (folder / str(version)).mkdir(parents=True)
    spec = {"name": MODEL, "version": version, "run": run.id, "created": datetime.now(UTC).isoformat()}
    (folder / str(version) / "tandem.json").write_text(json.dumps(spec))
    register(place, MODEL, folder / str(version), run)  # type: ignore[arg-type]


def champion(data: Path) -> int | None:
    return current(data / "models" / MODEL).champion


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
