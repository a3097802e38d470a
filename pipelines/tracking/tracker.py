"""What a tracker is: somebody who can be brought to what a run's record says, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pipelines.project.config import TrackingSettings
from pipelines.tracking.tracked_run import Record

__all__ = ["Tracker", "make_tracker"]


class Tracker(Protocol):
    """One tracker. All calls may raise anything when it is down: they are made again later, with the record as it is then."""

    only_ended: bool
    """Whether it cannot be told of a run that still goes on."""

    def deliver(self, record: Record, given: Mapping[str, Any]) -> Mapping[str, str]:
        """Make the tracker's run what ``record`` says; doing so again changes nothing. Returns links to keep in the manifest.

        ``given`` is what the job's environment said (:func:`pipelines.tracking.background.adopted`). The parent has been delivered before.
        """

    def close(self) -> None:
        """Let go of connections."""


def make_tracker(name: str, settings: TrackingSettings, uri: str, data: Path) -> Tracker:
    """The tracker called ``mlflow`` or ``wandb``; imports its library, which takes seconds."""
    if name == "mlflow":
        from pipelines.tracking.mlflow import MlflowTracker

        return MlflowTracker(uri, settings.experiment, data)
    from pipelines.tracking.wandb import WandbTracker

    return WandbTracker(settings.experiment, settings.wandb_mode, data)
