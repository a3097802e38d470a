"""What the workers of a streaming job are given: everything, since they share no environment with the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.broker import Broker
from pipelines.streaming.state.start_position import StartPosition
from transforms.definitions import EventSource, FeatureGroup

__all__ = ["JobSpec"]


@dataclass(frozen=True)
class JobSpec:
    """One streaming job; pickled to the workers. Its secrets are pickled as references (:mod:`pipelines.project.secrets`).

    ``broker`` has the topics; ``graphs`` maps groups to the fingerprints of their applied graphs; ``until`` maps sources to
    partitions to the offset to stop before (None: run until stopped); ``topics`` maps sources to the identity of their topic;
    ``one_tick``: the runner ticks once, so a tick reads all; ``restored``: the engine was asked to bring its state along; ``shard_keys``:
    the key by which the engine knows each shard (none: its number).
    """

    repo: Path
    data: Path
    folder: Path
    groups: Mapping[str, FeatureGroup]
    graphs: Mapping[str, str]
    kafka: KafkaSettings
    stream: StreamSettings
    broker: Broker
    start: StartPosition = field(default_factory=StartPosition)
    until: Mapping[str, Mapping[int, int]] | None = None
    topics: Mapping[str, str] = field(default_factory=dict)
    one_tick: bool = False
    restored: bool = False
    shard_keys: tuple[int, ...] = ()

    def key_of(self, shard: int) -> int:
        """By which key a shard's elements go through the engine."""
        return self.shard_keys[shard] if self.shard_keys else shard

    def shard_of(self, key: int) -> int:
        """The inverse of :meth:`key_of`."""
        return self.shard_keys.index(key) if self.shard_keys else key

    @property
    def sources(self) -> dict[str, EventSource]:
        """The sources of the groups that have a topic, by name."""
        return {g.source.name: g.source for g in self.groups.values()}
