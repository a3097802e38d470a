"""What a plan says, as values: groups, batch runs, models, and the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pipelines.planning.event_inputs import EventInputs
from pipelines.planning.feast_changes import FeastChange
from pipelines.planning.group_plan import Judged
from pipelines.planning.model_changes import ModelChange
from pipelines.planning.present_state import Stream, TrainingSet, Version
from pipelines.planning.topic_plan import TopicPlan
from pipelines.project.repository import Repo

__all__ = ["NEW", "PERHAPS", "SAME", "BatchPlan", "Expected", "GroupPlan", "ModelPlan", "Plan"]

SAME, NEW, PERHAPS = "the same", "new", "perhaps new"


@dataclass(frozen=True)
class Expected:
    """How many of something: exactly, or about; ``of`` says from what. None: that cannot be told."""

    number: int | None
    exact: bool = False
    of: str = ""


@dataclass(frozen=True)
class GroupPlan:
    """A group: ``sign`` is +, ~, - or =; what a batch run makes of it (``rows``, ``bytes``; None: none does), and which graph it will have.
    ``fingerprint``: that graph's, where it is known. ``keys``: the keys whose online rows ``materialize`` replaces."""

    name: str
    sign: str
    judged: Judged | None = None
    recomputed: bool = False
    graph: str = SAME
    fingerprint: str | None = None
    rows: Expected | None = None
    bytes: Expected | None = None
    keys: Expected | None = None
    refused: dict[str, int] = field(default_factory=dict)
    """Rejects of the last run (``reason/field`` -> events) that the wider contract may take."""


@dataclass(frozen=True)
class BatchPlan:
    """A batch run: its groups and range, what it reads of which source; ``found``: the run that holds its rows already; ``goes_on``: the
    run that it goes on with (``--from-run``), whose tiles stand for the events before."""

    groups: tuple[str, ...]
    all_groups: bool
    range: tuple[datetime, datetime] | None
    pinned: bool
    reads: dict[str, EventInputs]
    events: dict[str, Expected]
    found: str | None = None
    goes_on: str | None = None


@dataclass(frozen=True)
class ModelPlan:
    """A version that fits now and no longer will (``sure``: for certain), and the groups for which."""

    version: Version
    sure: bool
    groups: tuple[str, ...]
    dropped: bool = False

    @property
    def in_use(self) -> bool:
        """Whether it is served: as the champion, or as the challenger beside it."""
        return bool(self.version.aliases)


@dataclass(frozen=True)
class Plan:
    """All of it; ``changes``: whether there is anything to do."""

    repo: Repo
    groups: tuple[GroupPlan, ...]
    batches: tuple[BatchPlan, ...]
    feast: tuple[FeastChange, ...] | None
    models: tuple[ModelPlan, ...]
    training_sets: tuple[TrainingSet, ...]
    streams: tuple[tuple[Stream, str], ...]
    commands: tuple[str, ...]
    redefined: tuple[ModelChange, ...] = ()
    topics: tuple[TopicPlan, ...] = ()
    also: tuple[str, ...] = ()
    """Groups that nobody asked for and that are planned too, as apply would refuse them."""
    registry_damaged: str = ""
    """The file of Feast's registry, if it is damaged: apply makes it anew."""

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.commands)

    def count(self, sign: str) -> int:
        """The groups of a sign."""
        return sum(g.sign == sign for g in self.groups)
