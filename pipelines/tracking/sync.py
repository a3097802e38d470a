"""The deliverer: tells the trackers what the notes in the outbox ask for. ``tandem -m pipelines.tracking.sync`` is started by jobs.

One works at a time per data folder. It ends when nothing is left to tell, or ``tracking.retry_seconds`` after it began and no
tracker answers, and in any case after a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.runs import Run
from pipelines.project.config import TrackingSettings
from pipelines.tracking.links import link_later, link_manifest, link_mlmd, links_left
from pipelines.tracking.outbox import Note, Outbox
from pipelines.tracking.stores import error_text
from pipelines.tracking.tracked_run import Record, read_record
from pipelines.tracking.tracker import Tracker, make_tracker, tracker_class
from transforms.errors import ConfigError

__all__ = ["deliver"]

_AT_MOST = 900
_IN_A_ROW = 2
"""After so many failures in a row a tracker is left alone until the next round."""


class _Deliverer:
    def __init__(self, data: Path, settings: TrackingSettings, uri: str, say: Callable[[str], None]) -> None:
        self.data, self.settings, self.uri, self.say = data, settings, uri, say
        self.outbox = Outbox(data)
        self.trackers: dict[str, Tracker] = {}
        self.synced: dict[tuple[str, str], str] = {}
        """(tracker, run) -> status sent in this process: parents need not be sent again for each child."""

    def _tracker(self, name: str) -> Tracker:
        if name not in self.trackers:
            self.trackers[name] = make_tracker(name, self.settings, self.uri, self.data)
        return self.trackers[name]

    def _record(self, run: str) -> Record | None:
        folder = layout.run(self.data, run)
        try:
            manifest = json.loads((folder / layout.MANIFEST).read_text())
        except (OSError, ValueError):
            return None  # the run was removed: nobody is to get it
        return read_record(folder, Run(folder, manifest).look().manifest)

    def _send(self, note: Note, depth: int = 0) -> None:
        record = self._record(note.run)
        if record is None:
            return
        tracker = self._tracker(note.tracker)
        if record.parent and depth < 10 and (note.tracker, record.parent) not in self.synced:
            self._send(Note(note.tracker, record.parent, 0, note.given), depth + 1)
        if tracker.only_ended and not record.over:
            self.outbox.open(note.tracker, note.run, True)
            return
        links = tracker.deliver(record, note.given)
        self.synced[note.tracker, note.run] = record.status
        self.outbox.open(note.tracker, note.run, not record.over)
        if record.over:
            self._link(note.run, record, links)

    def _link(self, run: str, record: Record, links: Any) -> None:
        """The way from the manifest (and from MLMD) to the tracker; only while nobody else writes the manifest."""
        if not link_manifest(layout.run(self.data, run), links):
            link_later(self.data, run, links)
        link_mlmd(self.data, record.links, {**links, "tandem_run": run})

    def _links_left(self) -> None:
        """Links of runs that were still held when they were sent."""
        for file in (self.outbox.folder / "links").glob("[!.]*.json"):
            folder = layout.run(self.data, file.stem)
            if not folder.is_dir() or link_manifest(folder, links_left(self.data, file.stem)):
                file.unlink(missing_ok=True)

    def _killed(self) -> None:
        """Notes for runs that were under way, and whose process is gone."""
        for tracker, run in self.outbox.opened():
            record = self._record(run)
            if record is None:
                self.outbox.open(tracker, run, False)
            elif record.over:
                self.outbox.put(tracker, run)

    def round(self) -> dict[str, str]:
        """Send all that waits; why some trackers could not be reached, by tracker."""
        failed: dict[str, str] = {}
        row: dict[str, int] = {}
        self._killed()
        for note in self.outbox.notes():
            if note.tracker not in self.settings.trackers:
                self.outbox.done(note)  # nobody is to be sent anything there any more; 'tandem track --all' brings it back
                continue
            if row.get(note.tracker, 0) >= _IN_A_ROW:
                continue
            try:
                self._send(note)
                self.outbox.done(note)
                row[note.tracker] = 0
            except Exception as error:
                row[note.tracker] = row.get(note.tracker, 0) + 1
                failed[note.tracker] = self._why(note, error)
                self.trackers.pop(note.tracker, None)  # a connection that failed is not asked again
        return failed

    def _why(self, note: Note, error: Exception) -> str:
        where = note.tracker
        with suppress(ConfigError):
            kind = tracker_class(note.tracker)
            if isinstance(error, ModuleNotFoundError) and error.name == kind.library:
                return f"{note.tracker} is not installed; install it (pip install {kind.install}) or drop it from tracking.trackers"
            place = kind.place(self.uri)
            where = f"{note.tracker} at {place}" if place else where
        return f"{where} could not be sent {note.run} ({type(error).__name__}: {error_text(error)})"

    def work(self, patience: float) -> dict[str, str]:
        """Rounds until nothing is left, or ``patience`` seconds are over; returns why, by tracker."""
        until, pause = time.monotonic() + patience, 0.5
        while True:
            failed = self.round()
            for name in self.settings.trackers:
                before = self.outbox.problems().get(name)
                self.outbox.note_problem(name, failed.get(name))
                if failed.get(name) and before is None:
                    self.say(failed[name])
                elif before is not None and name not in failed:
                    self.say(f"{name} responds again; all runs are sent")
            if failed and time.monotonic() + pause > until:
                return failed
            self._links_left()
            if not failed and not self.outbox.notes():
                return {}
            if failed:
                time.sleep(pause)
                pause = min(2 * pause, 5.0)

    def close(self) -> None:
        for tracker in self.trackers.values():
            tracker.close()


def deliver(
    data: Path, settings: TrackingSettings, uri: str, patience: float, say: Callable[[str], None] = lambda line: None
) -> dict[str, str] | None:
    """Tell all that waits in the outbox of ``data``, trying for ``patience`` seconds; why it failed, by tracker.

    None: another process does it.
    """
    outbox = Outbox(data)
    while True:
        with outbox.held() as mine:
            if not mine:
                return None
            worker = _Deliverer(data, settings, uri, say)
            try:
                failed = worker.work(patience)
            finally:
                worker.close()
        if failed or not outbox.notes():
            return failed
        # A note came between the last look and the end of our hold, and its job saw somebody at work: look again.


def main() -> None:
    """What a job starts: settings on standard input."""
    signal.alarm(_AT_MOST)
    os.nice(10)  # the job that started it is at its own start then, and people wait for that one
    asked = json.loads(sys.stdin.read())

    def say(line: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), line, flush=True)

    settings = TrackingSettings(**asked["tracking"])
    data, uri = Path(asked["data"]), asked["uri"]
    if deliver(data, settings, uri, settings.retry_seconds, say) == {}:
        for name in settings.trackers:
            make_tracker(name, settings, uri, data).caught_up(say)


if __name__ == "__main__":
    main()
