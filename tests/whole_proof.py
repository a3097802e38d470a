"""All groups of a stream compared with batch, kept together; verify itself keeps the rows of one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipelines.verify.causes import Graphs
from pipelines.verify.proof import GroupProof, SourceProof, prove_group, prove_sources
from pipelines.verify.stream_record import StreamRecord
from transforms.definitions import FeatureGroup


@dataclass(frozen=True)
class Proof:
    groups: dict[str, GroupProof]
    sources: dict[str, SourceProof]

    @property
    def unexplained(self) -> int:
        return sum(p.unexplained for part in (self.groups, self.sources) for p in part.values())

    def problems(self) -> list[str]:
        return [line for part in (self.groups, self.sources) for p in part.values() for line in p.problems()]


def prove(
    record: StreamRecord,
    groups: Mapping[str, FeatureGroup],
    batch: Mapping[str, pa.Table],
    events: Mapping[str, pa.Table],
    fingerprints: Mapping[str, str],
    graphs: Callable[[str], Graphs],
    start: int,
    end: int | None = None,
) -> Proof:
    """``batch``: group -> rows; ``events``: source -> events; ``fingerprints``: group -> graph of the batch rows."""
    sources = prove_sources(record, groups, events)
    found = {}
    for name, group in groups.items():
        about, known = events[group.source.name], sources[group.source.name].lateness
        found[name] = prove_group(record, group, batch[name], about, known, fingerprints[name], graphs(name), start, end=end)
    return Proof(found, sources)
