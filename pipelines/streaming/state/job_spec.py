"""What the workers of a streaming job are told: everything, since they share no environment with the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.streaming.state.start_position import Start
from transforms.definitions import EventSource, FeatureGroup

__all__ = ["JobSpec"]


@dataclass(frozen=True)
class JobSpec:
    """One streaming job; pickled to the workers.

    ``client`` are kafka-python's options; ``graphs`` maps groups to the fingerprints of their applied graphs; ``until`` maps sources to
    partitions to the offset to stop before (None: run until told); ``topics`` maps sources to the identity of their topic;
    ``one_tick``: the runner ticks once, so a tick reads all; ``restored``: the engine was asked to bring its state along.
    """

    repo: Path
    data: Path
    folder: Path
    groups: Mapping[str, FeatureGroup]
    graphs: Mapping[str, str]
    kafka: KafkaSettings
    stream: StreamSettings
    client: Mapping[str, Any]
    start: Start = field(default_factory=Start)
    until: Mapping[str, Mapping[int, int]] | None = None
    topics: Mapping[str, str] = field(default_factory=dict)
    one_tick: bool = False
    restored: bool = False

    @property
    def sources(self) -> dict[str, EventSource]:
        """The sources of the groups that have a topic, by name."""
        return {g.source.name: g.source for g in self.groups.values()}
