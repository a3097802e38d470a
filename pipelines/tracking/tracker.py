"""What a tracker is: somebody who can be brought to what a run's record says, again and again.

A tracker of another package is a class below :class:`Tracker`, named as an entry point of the group ``tandem.trackers`` and chosen in
``tandem.yaml`` by that name (``tracking: {trackers: [mlflow, mine]}``); it is held to ``tandem.testing.tracker.TrackerContract``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipelines.project.config import TrackingSettings
from pipelines.project.extensions import TRACKERS
from pipelines.tracking.tracked_run import Record

__all__ = ["Tracker", "make_tracker", "tracker_class"]


class Tracker(ABC):
    """One tracker, made in the deliverer's process. Jobs ask the class methods: its module must be light, and import its library late.

    ``settings`` are those of ``tracking`` (its own are in ``settings.options[name]``), ``uri`` is MLflow's store, ``data`` the data
    folder. All calls may raise anything when the tracker is down: they are made again later, with the record as it is then.
    """

    only_ended: ClassVar[bool] = False
    """Whether it cannot take a run that still goes on."""
    library: ClassVar[str] = ""
    """The module that it needs, and that may not be installed."""
    install: ClassVar[str] = ""
    """What pip installs to have that."""

    def __init__(self, settings: TrackingSettings, uri: str, data: Path) -> None:
        self.settings, self.uri, self.data = settings, uri, data

    @abstractmethod
    def deliver(self, record: Record, given: Mapping[str, Any]) -> Mapping[str, str]:
        """Make the tracker's run what ``record`` says; doing so again changes nothing. Returns links to keep in the manifest.

        ``given`` is what :meth:`given` said in the job. The parent has been delivered before.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to let go of
        """Let go of connections."""

    def caught_up(self, say: Callable[[str], None]) -> None:  # noqa: B027
        """Called once all runs are delivered. By default: nothing. Does not raise."""

    @classmethod
    def given(cls, uri: str) -> dict[str, Any]:
        """What only the job's own environment can say, as JSON. By default: nothing."""
        return {}

    @classmethod
    def unreachable(cls, uri: str) -> str:
        """Why it cannot be reached just now, in one line, found within a second; nothing where all seems well. By default: nothing."""
        return ""

    @classmethod
    def place(cls, uri: str) -> str:
        """Where it is, for messages: no passwords. By default: nothing."""
        return ""


def tracker_class(name: str) -> type[Tracker]:
    """The tracker of that name. Raises ConfigError, one line."""
    made: type[Tracker] = TRACKERS.load(name)
    return made


def make_tracker(name: str, settings: TrackingSettings, uri: str, data: Path) -> Tracker:
    """The tracker called ``name``."""
    return tracker_class(name)(settings, uri, data)
