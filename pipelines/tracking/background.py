"""The deliverer's process as a job sees it: started, never waited for; and a quick look whether it can succeed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.lake.processes import let_go, start_detached
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.stores import tracking_uri
from pipelines.tracking.tracker import tracker_class
from transforms.own_program import module_command

if TYPE_CHECKING:
    from pipelines.project.config import Settings

__all__ = ["problem", "start"]


def start(settings: Settings, data: Path) -> None:
    """Start a deliverer, unless one works already: it looks for new notes before it ends. Its words go to ``data/tracking/deliver.log``."""
    outbox = Outbox(data)
    if outbox.busy():
        return
    asked = {"data": str(data.resolve()), "tracking": settings.tracking.model_dump(mode="json"), "uri": tracking_uri(settings, data)}
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")}
    # It lives on when the job's terminal closes, and Ctrl-C is not for it.
    child = start_detached(module_command("pipelines.tracking.sync"), outbox.folder / "deliver.log", environment, outbox.folder)
    assert child.stdin is not None
    child.stdin.write(json.dumps(asked).encode())  # not as an argument: a URI may hold a password, and arguments are for all to see
    let_go(child)


def problem(trackers: list[str], uri: str, outbox: Outbox) -> str | None:
    """Why runs wait to be sent, in one line; None if all seems well. Takes a second at most, and loads nothing."""
    why = next((line for name in trackers if (line := tracker_class(name).unreachable(uri))), "")
    if not why:
        found = {name: line for name, line in outbox.problems().items() if name in trackers}
        why = next(iter(found.values()), "")
    if not why:
        return None
    waiting = len({note.run for note in outbox.notes()})
    runs = f"{waiting} run{'s wait' if waiting != 1 else ' waits'}"
    return f"tracking: {why}; {runs} in {outbox.folder / 'outbox'} for the next job, or 'tandem track'"
