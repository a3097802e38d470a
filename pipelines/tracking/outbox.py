"""Notes of what is to be sent to whom: a file per tracker and run under ``data/tracking/outbox``. Standard library only.

A note says only that a tracker may not know the run's manifest yet; what to tell is read from the manifest when it is
delivered. So a note can be put twice, delivered twice, or left for weeks, and the tracker still ends at the truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from transforms.locks import try_lock

__all__ = ["Note", "Outbox"]


@dataclass(frozen=True)
class Note:
    """That ``run`` is to be sent to ``tracker``. ``given`` is what only the job knew, e.g. MLflow's run that it is part of."""

    tracker: str
    run: str
    stamp: int
    given: dict[str, Any] = field(default_factory=dict)


class Outbox:
    """The notes of a data folder; safe for any number of processes."""

    def __init__(self, data: Path) -> None:
        self.folder = layout.tracking(data)
        if (self.folder / "spool").is_dir():  # as 0.1 called it
            with suppress(OSError):
                (self.folder / "spool").rename(self.folder / "outbox")

    def _path(self, tracker: str, run: str) -> Path:
        return self.folder / "outbox" / tracker / f"{run}.json"

    def put(self, tracker: str, run: str, given: dict[str, Any] | None = None) -> None:
        """Leave a note; what an earlier one gave stays."""
        path = self._path(tracker, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self._read(path)
        write_json(path, {**(before.given if before else {}), **(given or {})}, indent=None)

    def notes(self) -> list[Note]:
        """All notes, the oldest run first (its id begins with its kind, so parents may stand anywhere)."""
        found = (self._read(p) for p in (self.folder / "outbox").glob("*/[!.]*.json"))
        return sorted((n for n in found if n), key=lambda n: n.stamp)

    @staticmethod
    def _read(path: Path) -> Note | None:
        try:
            stamp, given = path.stat().st_mtime_ns, json.loads(path.read_text() or "{}")
        except (OSError, ValueError):
            return None
        return Note(path.parent.name, path.stem, stamp, given if isinstance(given, dict) else {})

    def done(self, note: Note) -> None:
        """Take a note away, unless it was put again since it was read."""
        path = self._path(note.tracker, note.run)
        current = self._read(path)
        if current is not None and current.stamp == note.stamp:
            path.unlink(missing_ok=True)

    # Runs under way: when their process dies without a word, somebody else sends how they ended.

    def open(self, tracker: str, run: str, running: bool) -> None:
        """Remember (or forget) that ``tracker`` has the run as running, or is about to."""
        path = self.folder / "open" / tracker / run
        if running:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def opened(self) -> list[tuple[str, str]]:
        """(tracker, run) under way."""
        return [(p.parent.name, p.name) for p in (self.folder / "open").glob("*/*")]

    # What went wrong, until it is fixed.

    def note_problem(self, tracker: str, line: str | None) -> None:
        """Keep (or clear: None) why a tracker could not be reached."""
        path = self.folder / f"trouble-{tracker}.txt"
        if line is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line + "\n")

    def problems(self) -> dict[str, str]:
        """Why trackers could not be reached, by tracker."""
        found = {}
        for path in self.folder.glob("trouble-*.txt"):
            try:
                found[path.stem.removeprefix("trouble-")] = path.read_text().strip()
            except OSError:
                continue
        return found

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Be the only deliverer; yields False if another process is."""
        with try_lock(self.folder / ".lock") as mine:
            yield mine

    def busy(self) -> bool:
        """Whether a deliverer works."""
        with self.held() as mine:
            return not mine

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left to deliver, or nobody delivers any more; whether all is sent."""
        until = time.monotonic() + seconds
        begun = time.monotonic()
        while self.notes():
            # The deliverer needs a moment to start before it can be seen.
            if time.monotonic() > until or (time.monotonic() - begun > 2 and not self.busy()):
                return False
            time.sleep(0.1)
        return True
