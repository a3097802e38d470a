"""What the workers of a streaming job are given: everything, since they share no environment with the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.staged_code import STAGED
from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.broker import Broker
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.start_position import StartPosition
from serving.object_store.cache import data_path
from transforms.definitions import EventSource, FeatureGroup

__all__ = ["JobSpec"]


@dataclass(frozen=True)
class JobSpec:
    """One streaming job; pickled to the workers. Its secrets are pickled as references (:mod:`pipelines.project.secrets`).

    ``broker`` has the topics; ``graphs`` maps groups to the fingerprints of their applied graphs; ``until`` maps sources to
    partitions to the offset to stop before (None: run until stopped); ``topics`` maps sources to the identity of their topic;
    ``one_tick``: the runner ticks once, so a tick reads all; ``restored``: the engine was asked to bring its state along; ``shard_keys``:
    the key by which the engine knows each shard (none: its number). ``attempt``: by which the job's workers know each other, and no worker
    of a job before; ``run``: the id of the stream's run; ``views``: group -> its Feast view, as Feast writes it down; ``owner``: which
    data folder writes the online rows.

    ``url``: the object store that the data folder is a cache of; then a worker on another machine than the driver's (``home``) has a cache
    of its own. A worker that was sent the repository's code uses that.
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
    attempt: str = ""
    run: str = ""
    views: Mapping[str, bytes] = field(default_factory=dict)
    owner: str = ""
    url: str | None = None
    home: str = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.url is not None:
            data = data_path(self.url)
            self.__dict__.update(data=data, folder=layout.stream(data, self.folder.name))
        if (staged := os.environ.get(STAGED)) is not None:
            self.__dict__.update(repo=Path(staged))

    def job_state(self) -> JobState:
        """The stream's state, for a worker of this job."""
        out = JobState(self.folder)
        if out.link is not None and self.attempt:
            out.link.join(self.attempt, self.home)
        return out

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
