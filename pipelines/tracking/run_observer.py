"""What tells the trackers of the runs that this process records."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.tracking.outbox import Outbox
from pipelines.tracking.stores import error_text, trackers, tracking_uri

if TYPE_CHECKING:
    from pipelines.lake.runs import Run
    from pipelines.project.config import Settings

__all__ = ["RunObserver"]

Say = Callable[[str], None]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class RunObserver:
    """What :mod:`pipelines.project.recording` says of runs, sent to the configured trackers.

    No method ever raises. ``ended`` returns at once, or after ``tracking.wait_seconds``.
    """

    def __init__(self, say: Say = _say) -> None:
        self.say = say
        self._begun: dict[str, tuple[Settings, Path]] = {}

    def begins(self, run: Run, settings: Settings, data: Path) -> None:
        """Have the trackers told of a run even if it is killed before :meth:`started` could leave its note."""
        try:
            for name in trackers(settings):
                Outbox(data).open(name, run.id, True)
        except Exception as error:
            self.say(_undelivered(error))

    def started(self, run: Run, settings: Settings, data: Path) -> None:
        """Tell the trackers that a run has begun."""
        self._begun[run.id] = (settings, data)
        _note_and_send(run, settings, data, self.say, over=False)

    def ended(self, run: Run) -> None:
        """Tell the trackers how a run ended."""
        begun = self._begun.pop(run.id, None)
        if begun is not None:
            _note_and_send(run, *begun, self.say, over=True)


def _note_and_send(run: Run, settings: Settings, data: Path, say: Say, over: bool) -> None:
    """Leave a note per tracker and see that somebody delivers it."""
    try:
        chosen = trackers(settings)
        if not chosen:
            return
        from pipelines.tracking import background
        from pipelines.tracking.links import links_left
        from pipelines.tracking.tracker import tracker_class

        outbox = Outbox(data)
        uri = tracking_uri(settings, data)
        for name in chosen:
            outbox.put(name, run.id, tracker_class(name).given(uri))
        background.start(settings, data)
        if not over or run.head.parent:
            return  # the outermost job waits, and speaks, for all
        if settings.tracking.wait_seconds:
            outbox.wait(settings.tracking.wait_seconds)
            if links := links_left(data, run.id, take=True):  # its manifest is ours as long as we hold the run
                run.add(links=links)
        if (problem := background.problem(chosen, uri, outbox)) is not None:
            say(problem)
    except Exception as error:  # whatever it is, the job's result matters more
        say(_undelivered(error))


def _undelivered(error: Exception) -> str:
    return f"tracking: {error_text(error)}; the job continues without tracking"
