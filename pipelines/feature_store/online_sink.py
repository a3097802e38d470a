"""The repository's online store as the stream uses it: the one ordered write, generation markers that tell whether it forgot, and what to
do then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.lake import layout
from pipelines.lake.graphs import applied_graph
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from serving.online_store.base import WriteResult

__all__ = ["FeastStore"]


class FeastStore:
    """Opens the store of an applied repository. Raises ConfigError for one that is not, or whose store has no ordered write."""

    def __init__(self, repo_path: Path, data: Path, groups: Mapping[str, FeatureGroup]) -> None:
        from pipelines.feature_store.store import open_store, ordered_store

        store = open_store(SimpleNamespace(path=repo_path))  # type: ignore[arg-type]
        self.config, self.data = store.config, data
        self.online = ordered_store(store)
        known = {v.name: v for v in store.list_feature_views()}
        missing = sorted(set(groups) - set(known))
        if missing:
            raise ConfigError(f"feature view {missing[0]!r} is not in the registry; run 'tandem apply' first")
        self.views = {n: known[n] for n in groups}

    def write(self, group: str, rows: pa.RecordBatch) -> WriteResult:
        """The one ordered write."""
        return self.online.write_rows(self.config, self.views[group], rows)

    def latest_us(self) -> int:
        """The latest event time (microseconds) of a row that would not be refused now for lying in the future."""
        return self.online.latest_us(self.config)

    def mark_generation(self, name: str, value: int, at_least: int | None = None) -> bool:
        """Keep a rising generation marker; False if the store forgot the one before."""
        return self.online.mark_generation(self.config, name, value, at_least)

    def reapply(self, group: str, fingerprint: str) -> None:
        """Where the store forgot which graph is applied and it is this one, tell it again."""
        if self.online.applied_fingerprint(self.config, group) is None and applied_graph(layout.graphs(self.data), group) == fingerprint:
            self.online.apply_fingerprint(self.config, group, fingerprint)

    def sync(self) -> None:
        """Force to disk what was written, where that is this process' business."""
        self.online.sync(self.config)
