"""What both stores must say after any history of runs, applied graphs, materializations and streams: docs/semantics.md, by brute force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.features import rows
from transforms.definitions import FeatureGroup

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass
class Rounds:
    """The history so far. Times are microseconds, ends of ranges are boundaries."""

    groups: Mapping[str, FeatureGroup]
    runs: list[tuple[int, int, str, list[Row]]] = field(default_factory=list)
    """(start, end, graph, rows), in the order in which they began."""
    graph: str = ""
    upto: int | None = None
    held: dict[Key, Row] = field(default_factory=dict)
    """What is materialized per key, with the applied graph."""
    stream: list[Row] = field(default_factory=list)
    """What streams of the applied graph wrote since it was applied."""

    def run(self, graph: str, events: Sequence[Row], start: int, end: int) -> list[Row]:
        """A batch run over the log as it is now; its rows."""
        made = rows(events, self.groups[graph], start, end)
        self.runs.append((start, end, graph, made))
        return made

    def offline(self, upto_us: int) -> dict[Key, Row]:
        """Per key the latest row that counts, with event timestamps up to ``upto_us``."""
        group = self.groups[self.graph]
        mine = [r for r in self.runs if r[2] == self.graph]
        latest: dict[Key, Row] = {}
        for number, (start, end, _, made) in enumerate(mine):
            for row in made:
                boundary = row["event_timestamp"] - group.delay_us
                assert start < boundary <= end
                if row["event_timestamp"] > upto_us or any(s < boundary <= e for s, e, _, _ in mine[number + 1 :]):
                    continue
                key = tuple(row[k] for k in group.entity.keys)
                if key not in latest or latest[key]["event_timestamp"] < row["event_timestamp"]:
                    latest[key] = row
        return latest

    def apply(self, graph: str) -> None:
        """From now on rows of this graph count."""
        if graph != self.graph:
            self.graph, self.upto, self.held, self.stream = graph, None, {}, []

    def materialize(self, end_us: int) -> None:
        """Everything up to an event timestamp."""
        delay = self.groups[self.graph].delay_us
        reach = max((end + delay for _, end, graph, _ in self.runs if graph == self.graph), default=-(2**62))
        upto = min(end_us, reach)
        # What was materialized beyond this one's end stays as it is.
        beyond = {key: row for key, row in self.held.items() if row["event_timestamp"] > upto}
        self.held = {**self.offline(upto), **beyond}
        self.upto = upto if self.upto is None else max(upto, self.upto)

    def write(self, some: Sequence[Row]) -> None:
        """A stream of the applied graph writes rows."""
        self.stream += [row for row in some if self.upto is None or row["event_timestamp"] > self.upto]

    def online(self) -> dict[Key, Row]:
        """Per key the row that is served. Only said once something was materialized of the applied graph."""
        out = dict(self.held)
        for row in self.stream:
            if self.upto is not None and row["event_timestamp"] <= self.upto:
                continue
            key = tuple(row[k] for k in self.groups[self.graph].entity.keys)
            have = out.get(key)
            if have is None or _order(row) > _order(have):
                out[key] = row
        return out


def _order(row: Row) -> tuple[int, int]:
    return row["event_timestamp"], row["tandem_revision"]
