"""Runs: an id, a manifest, a status. A manifest is one JSON file, replaced atomically; a run is held by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from transforms.errors import DataError

__all__ = ["Run", "begin", "code_version", "find", "library_versions", "list_runs", "write_json"]

LIBRARIES = ("apache-beam", "tensorflow", "tensorflow-transform", "tfx-bsl", "pyarrow", "numpy", "feast", "duckdb", "tandem-features")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=2, default=str) + "\n")
    unfinished.replace(path)


def library_versions() -> dict[str, str]:
    """The versions that can change a value, Python's included."""
    out = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def code_version(repo: Path) -> dict[str, Any]:
    """Hash of the engine's and the repository's Python files, and the git commit where there is one."""
    engine = Path(__file__).resolve().parents[1]
    files = sorted(p for folder in ("transforms", "pipelines") for p in (engine / folder).rglob("*.py")) + sorted(repo.glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    out: dict[str, Any] = {"sha256": digest.hexdigest()}
    try:
        git = ["git", "-C", str(engine)]
        out["commit"] = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        out["dirty"] = bool(dirty.strip())
    except (OSError, subprocess.CalledProcessError):
        pass
    return out


class Run:
    """One run: its folder ``data/runs/<id>`` and manifest. ``status`` is running, publishing, failed or complete."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.folder.name

    @property
    def status(self) -> str:
        """See the class."""
        return str(self.manifest["status"])

    def save(self, **changes: Any) -> None:
        """Change the manifest and write it."""
        self.manifest.update(changes)
        write_json(self.folder / "manifest.json", self.manifest)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run; raises DataError while another process does. The hold ends with the process, however it ends.

        The manifest is read again once the run is held: who held it before may have taken it further.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"run {self.id} is being made by another process; wait for it or stop it") from None
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
            yield


def list_runs(data: Path) -> list[Run]:
    """All runs with a readable manifest, oldest first."""
    out = []
    for path in sorted((data / "runs").glob("*/manifest.json")):
        try:
            out.append(Run(path.parent, json.loads(path.read_text())))
        except (OSError, ValueError):
            continue
    return sorted(out, key=lambda run: (run.manifest.get("created", ""), run.id))


def find(data: Path, run_id: str) -> Run:
    """The run called ``run_id`` (or that starts so, if only one does). Raises DataError."""
    runs = list_runs(data)
    found = [r for r in runs if r.id == run_id] or [r for r in runs if r.id.startswith(run_id)]
    if len(found) != 1:
        known = ", ".join(r.id for r in runs[-5:]) or "none"
        raise DataError(f"{'no run is' if not found else 'several runs are'} called {run_id!r}; the latest are {known}")
    return found[0]


def begin(data: Path, kind: str, key: dict[str, Any], now: datetime, *, anew: bool = False) -> Run:
    """The run that ``key`` (a JSON-able value) asks for: an earlier one of the same key if there is one, else a new one.

    An unfinished earlier run is to be completed under its id; a complete one is returned as it is, unless ``anew``.
    A new run's manifest is there when this returns, so that of several processes at once one makes it and the others find it.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    (data / "runs").mkdir(parents=True, exist_ok=True)
    with open(data / "runs" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _begin(data, kind, digest, now, anew)


def _begin(data: Path, kind: str, digest: str, now: datetime, anew: bool) -> Run:
    same = [r for r in list_runs(data) if r.manifest.get("kind") == kind and r.manifest.get("key") == digest]
    unfinished = [r for r in same if r.status != "complete"]
    if unfinished:
        return unfinished[-1]
    if same and not anew:
        return same[-1]
    stamp = now.astimezone(UTC)
    run_id = f"{kind}-{stamp:%Y%m%dT%H%M%S}-{digest[:8]}"
    count = 2
    while (data / "runs" / run_id).exists():
        run_id = f"{kind}-{stamp:%Y%m%dT%H%M%S}-{digest[:8]}-{count}"
        count += 1
    manifest = {"id": run_id, "kind": kind, "status": "running", "created": stamp.isoformat(), "key": digest}
    run = Run(data / "runs" / run_id, manifest)
    run.save()
    return run
