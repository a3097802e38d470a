"""The manifest of a run: one JSON file, replaced atomically; a run is held by one process at a time.

``status`` is running, publishing, failed, killed or complete. A process that is killed cannot say so: whoever looks at a run whose process
is gone while its manifest says running finds ``killed``, and saves that. ``stage`` then tells how far it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pipelines.lake.process_identity import ProcessId
from transforms.errors import DataError

__all__ = ["LAST_WORD", "Run", "begin", "damaged", "find", "list_runs", "write_json"]

UNDER_WAY = ("running", "publishing")
LAST_WORD = "ended.json"
"""What a process that took the place of the one that began the run (a server) leaves beside the manifest when it ends in order."""
_LOOKING_SECONDS = 2.0


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=2, default=str) + "\n")
    unfinished.replace(path)


class Run:
    """One run: its folder ``data/runs/<id>`` and manifest. ``status``: see the module."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.folder.name

    @property
    def data(self) -> Path:
        """The data folder that the run belongs to."""
        return self.folder.parents[1]

    @property
    def status(self) -> str:
        """See the class."""
        return str(self.manifest["status"])

    @property
    def stage(self) -> str:
        """How far the run is, or was when it was killed or failed."""
        return str(self.manifest.get("stage", self.status)) if self.status in ("killed", "failed") else self.status

    @property
    def kind(self) -> str:
        """What kind of job it is: batch, train, stream, ..."""
        return str(self.manifest.get("kind", ""))

    def save(self, **changes: Any) -> None:
        """Change the manifest and write it."""
        self.manifest.update(changes)
        write_json(self.folder / "manifest.json", self.manifest)

    def add(self, **changes: Any) -> None:
        """As ``save``, but mappings are merged into those that are there, and lists appended to them."""
        for name, value in changes.items():
            before = self.manifest.get(name)
            if isinstance(before, dict) and isinstance(value, dict):
                value = {**before, **value}
            elif isinstance(before, list) and isinstance(value, list):
                value = [*before, *value]
            self.manifest[name] = value
        self.save()

    @contextmanager
    def held(self) -> Iterator[TextIO]:
        """Hold the run; raises DataError while another process does. The hold ends with the process, however it ends.

        The manifest is read again once the run is held: who held it before may have taken it further. From then on it names this process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            until = time.monotonic() + _LOOKING_SECONDS
            while not _locked(lock, fcntl.LOCK_EX):
                # Somebody who looks whether the run is held holds it for a moment; its maker does for long, and lives.
                if _lives(self._read()) is not False or time.monotonic() > until:
                    raise DataError(f"run {self.id} is being made by another process; wait for it or stop it")
                time.sleep(0.02)
            self.manifest = {**self._read(), **ProcessId.current().for_manifest()}
            yield lock

    def _read(self) -> dict[str, Any]:
        manifest = _manifest(self.folder)
        if isinstance(manifest, str):
            raise DataError(manifest)
        return manifest

    def look(self) -> Run:
        """The same run with its true status: one whose process is gone is ``killed``, or what its last word says; that is saved."""
        if self.status not in UNDER_WAY or (alive := _lives(self.manifest)):
            return self
        if not (self.folder / ".lock").exists() and alive is None:
            return self  # made by hand, or by an older version: nothing to judge by
        try:
            with open(self.folder / ".lock", "a") as lock:
                if not _locked(lock, fcntl.LOCK_EX):
                    return self
                self.manifest = self._read()  # its maker may have ended it between our look and our hold
                if self.status in UNDER_WAY and not _lives(self.manifest):
                    changes = self._end()
                    self.manifest.update(changes)
                    with suppress(OSError):  # a folder that is not ours to write to still tells the truth
                        self.save()
        except (OSError, DataError):
            pass
        return self

    def _end(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            word = json.loads((self.folder / LAST_WORD).read_text())
            if isinstance(word, dict) and word.get("pid") == self.manifest.get("pid"):
                return {"status": "complete", **{k: v for k, v in word.items() if k != "pid"}}
        why = f"its process ({self.manifest.get('pid', 'unknown')}) is gone without a word: it was killed, or the machine went down"
        return {"status": "killed", "stage": self.status, "error": why, "noticed": datetime.now(UTC).isoformat()}


def _lives(manifest: dict[str, Any]) -> bool | None:
    """Whether the run's process lives; None if that cannot be judged from here (another machine, or an older manifest)."""
    process = ProcessId.of_manifest(manifest)
    return process.alive if process is not None else None


def _locked(file: TextIO, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _manifest(folder: Path) -> dict[str, Any] | str:
    """The manifest in a run's folder, or one line that says why it cannot be used."""
    why = ""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if isinstance(manifest, dict) and isinstance(manifest.get("status"), str):
            return manifest
        why = "it is no manifest"
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError as error:
        why = str(error).splitlines()[0]
    return f"run {folder.name}: its manifest cannot be read ({why}); restore {folder / 'manifest.json'} or remove the folder"


def list_runs(data: Path) -> list[Run]:
    """All runs with a readable manifest, oldest first, each with its true status."""
    found = ((path.parent, _manifest(path.parent)) for path in (data / "runs").glob("*/manifest.json"))
    out = [Run(folder, manifest).look() for folder, manifest in found if isinstance(manifest, dict)]
    return sorted(out, key=lambda run: (str(run.manifest.get("created", "")), run.id))


def damaged(data: Path) -> list[str]:
    """One line for each run whose manifest cannot be read."""
    found = (_manifest(path.parent) for path in sorted((data / "runs").glob("*/manifest.json")))
    return [line for line in found if isinstance(line, str)]


def find(data: Path, run_id: str) -> Run:
    """The run called ``run_id`` (or that starts so, if only one does; ``latest`` is the newest). Raises DataError."""
    runs = list_runs(data)
    if run_id == "latest" and runs:
        return runs[-1]
    found = [r for r in runs if r.id == run_id] or [r for r in runs if r.id.startswith(run_id)]
    if len(found) != 1:
        folder = data / "runs" / run_id
        if not found and run_id and "/" not in run_id and (folder / "manifest.json").exists():
            raise DataError(str(_manifest(folder)))
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
    # Only folders of the kind and the key: a long history need not be read to begin one more run.
    folders = sorted(p.parent for p in (data / "runs").glob(f"{kind}-*-{digest[:8]}*/manifest.json"))
    runs = [Run(f, m).look() for f in folders if isinstance(m := _manifest(f), dict)]
    same = [r for r in sorted(runs, key=lambda r: (str(r.manifest.get("created", "")), r.id)) if r.manifest.get("key") == digest]
    unfinished = [r for r in same if r.kind == kind and r.status != "complete"]
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
    manifest = {
        "id": run_id,
        "kind": kind,
        "status": "running",
        "created": stamp.isoformat(),
        "key": digest,
        **ProcessId.current().for_manifest(),
    }
    run = Run(data / "runs" / run_id, manifest)
    run.save()
    return run
