"""Runs told to trackers (MLflow, Weights & Biases), from their manifests, by a process in the background.

A job only leaves a note in ``data/tracking/spool`` and starts the deliverer (:mod:`pipelines.tracking.deliver`), a process of
its own that loads MLflow (seconds), brings the tracker to what the manifests say, and ends. So a tracker costs a job
milliseconds, and one that is down costs nothing else: the notes stay, and go with the next run or ``tandem track``.

Importing this package is cheap, and neither :func:`started` nor :func:`ended` ever raises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.tracking.spool import Spool

if TYPE_CHECKING:
    from pipelines.config import Settings
    from pipelines.runs import Run

__all__ = ["artifact_root", "ended", "started", "trackers", "tracking_uri"]

Say = Callable[[str], None]
_begun: dict[str, tuple[Settings, Path]] = {}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tracking_uri(settings: Settings, data: Path) -> str:
    """The URI of the MLflow store: the setting, else ``MLFLOW_TRACKING_URI`` (as MLflow itself), else SQLite in the data folder."""
    return settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{data.resolve() / 'mlflow.db'}"


def artifact_root(uri: str, data: Path) -> str | None:
    """Where a new experiment keeps its artifacts: below the data folder for a local store; a server decides for itself (None)."""
    return None if "://" in uri and not uri.startswith("sqlite:") else (data.resolve() / "mlartifacts").as_uri()


def trackers(settings: Settings) -> list[str]:
    """The trackers to tell; one that nobody asked for by name and that is not installed is left out."""
    asked = "trackers" in settings.tracking.model_fields_set
    return [name for name in settings.tracking.trackers if asked or find_spec(name) is not None]


def started(run: Run, settings: Settings, data: Path, say: Say = _say) -> None:
    """Tell the trackers that a run has begun; returns at once. Call it when the manifest is there."""
    _begun[run.id] = (settings, data)
    _tell(run, settings, data, say, over=False)


def ended(run: Run, settings: Settings | None = None, data: Path | None = None, say: Say = _say) -> None:
    """Tell the trackers how a run ended; returns at once, or after ``tracking.wait_seconds``. Call it when the manifest is final.

    Settings and data folder are those given to :func:`started`, unless said.
    """
    before = _begun.pop(run.id, None)
    if settings is None or data is None:
        if before is None:
            return
        settings, data = before
    _tell(run, settings, data, say, over=True)


def _tell(run: Run, settings: Settings, data: Path, say: Say, over: bool) -> None:
    """Leave a note per tracker and see that somebody delivers it."""
    try:
        chosen = trackers(settings)
        if not chosen:
            return
        from pipelines.tracking import background
        from pipelines.tracking.links import links_left

        spool = Spool(data)
        uri = tracking_uri(settings, data)
        for name in chosen:
            spool.put(name, run.id, background.adopted(name, uri))
        background.start(settings, data)
        if not over or run.manifest.get("parent"):
            return  # the outermost job waits, and speaks, for all
        if settings.tracking.wait_seconds:
            spool.wait(settings.tracking.wait_seconds)
            if links := links_left(data, run.id, take=True):  # its manifest is ours as long as we hold the run
                run.add(links=links)
        if (problem := background.problem(chosen, uri, spool)) is not None:
            say(problem)
    except Exception as error:  # whatever it is, the job's result matters more
        say(f"tracking: {' '.join(str(error).split())[:200]}; the job goes on untold")
