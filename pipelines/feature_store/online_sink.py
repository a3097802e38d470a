"""The repository's online store as the stream uses it: the one ordered write, generation markers that tell whether it forgot, and what to
do then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.feature_store.ownership import claim_rows
from pipelines.feature_store.store import checked_online, open_store, ordered_store
from pipelines.lake import layout
from pipelines.lake.graphs import applied_graph
from pipelines.project.repository import Repo
from serving.registry_place import feast_config
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from serving.online_store.base import WriteResult

__all__ = ["Claim", "FeastStore", "views_of"]


class Claim:
    """Has the repository's rows be this data folder's, each time that it is called; see
    :func:`~pipelines.feature_store.ownership.claim_rows`. The store is opened by the first call."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self._store: Any = None

    def __call__(self) -> None:
        if self._store is None:
            self._store = open_store(self.repo)
        claim_rows(self.repo, ordered_store(self._store), self._store.config)


def views_of(repo: Repo) -> dict[str, bytes]:
    """Group -> its view of the repository's registry, for workers on other machines. Raises ConfigError for one that is not applied, and
    for a store that they would not reach."""
    store = FeastStore(repo.path, repo.data, repo.groups)
    if store.online.on_this_machine:
        raise ConfigError(
            f"feature_store.yaml: the online store {type(store.online).__name__} is on this machine alone, and the stream's workers run on"
            " others;"
            " use one of tandem.serving.online_store: redis.OrderedRedisOnlineStore, postgres.OrderedPostgresOnlineStore,"
            " dynamodb.OrderedDynamoDBOnlineStore"
        )
    return {name: view.to_proto().SerializeToString() for name, view in store.views.items()}


class FeastStore:
    """Opens the store of an applied repository. Raises ConfigError for one that is not, or whose store has no ordered write.

    ``views``: the groups' views as :func:`views_of` wrote them down; with them no registry is asked, as another machine may have none.
    ``owner``: for which data folder it writes; empty: whosever the rows are.
    """

    def __init__(
        self, repo_path: Path, data: Path, groups: Mapping[str, FeatureGroup], views: Mapping[str, bytes] | None = None, owner: str = ""
    ) -> None:
        self.data = data
        if views:
            self._without_registry(repo_path, views)
        else:
            self._by_registry(repo_path, groups)
        self.online.writer = owner or None

    def _by_registry(self, repo_path: Path, groups: Mapping[str, FeatureGroup]) -> None:
        store = open_store(SimpleNamespace(path=repo_path))  # type: ignore[arg-type]
        self.config = store.config
        self.online = ordered_store(store)
        known = {v.name: v for v in store.list_feature_views()}
        missing = sorted(set(groups) - set(known))
        if missing:
            raise ConfigError(f"feature view {missing[0]!r} is not in the registry; run 'tandem apply' first")
        self.views = {n: known[n] for n in groups}

    def _without_registry(self, repo_path: Path, views: Mapping[str, bytes]) -> None:
        from feast import FeatureView
        from feast.infra.online_stores.helpers import get_online_store_from_config
        from feast.protos.feast.core.FeatureView_pb2 import FeatureView as Proto

        self.config = feast_config(repo_path)
        self.online = checked_online(None if self.config.online_store is None else get_online_store_from_config(self.config.online_store))
        self.views = {n: FeatureView.from_proto(Proto.FromString(data)) for n, data in views.items()}

    def write(self, group: str, rows: pa.RecordBatch | pa.Table) -> WriteResult:
        """The one ordered write."""
        return self.online.write_rows(self.config, self.views[group], rows)

    def decisive(self, group: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Those of the rows that the store has to decide about: no row of the same key that replaces them follows."""
        return self.online.decisive(self.config, self.views[group], rows)

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
