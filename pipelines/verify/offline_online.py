"""The offline rows against the online store: after batch, apply and materialize both say the same of every key.

What each should hold is said in docs/semantics.md, "Which row counts". This needs no stream: ``tandem verify --stores`` does it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.feature_store.store import ordered_store
from pipelines.lake.row_compare import locate, table_of
from pipelines.project.repository import Repo
from pipelines.verify.online import NEWER, NOT_STORED, OLDER, OTHER_VALUES, SAME, Stored, against, store_reader
from pipelines.verify.verify_report import CheckedStores
from transforms.columns import column_us
from transforms.definitions import EVENT_TIMESTAMP, FeatureGroup
from transforms.errors import StoreError
from transforms.instants import EPOCH, instant, micros_of, to_minute

__all__ = ["FURTHER", "NOT_MATERIALIZED", "StoresProof", "compare_stores", "materialized_rows"]

EQUAL, FURTHER, NOT_MATERIALIZED, OTHER = "equal", "a stream is further", "not materialized", "unexplained"
_WHY = {OLDER: "an older row is stored", OTHER_VALUES: "other values are stored", NOT_STORED: "nothing is stored"}


@dataclass(frozen=True)
class StoresProof:
    """The keys of one view that have offline rows, by cause; ``extra`` stored rows are of keys for which the runs have none.

    ``lines``: a few of what nothing explains; ``notice``: what is to be run, where something was not materialized (else empty)."""

    view: str
    keys: int
    causes: dict[str, int]
    extra: int
    lines: list[str]
    notice: str

    @property
    def unexplained(self) -> int:
        """Keys on which the stores disagree for no known reason."""
        return self.causes.get(OTHER, 0) + self.extra

    def to_dict(self) -> CheckedStores:
        """For JSON."""
        return {
            "view": self.view, "keys": self.keys, "causes": self.causes, "extra": self.extra, "lines": self.lines, "notice": self.notice,
            "unexplained": self.unexplained,
        }  # fmt: skip


def materialized_rows(store: Any, view: Any) -> pa.Table:
    """Per key the latest offline row that counts, of those that were materialized: what the online store took from the runs."""
    from serving.offline_rows import OfflineRows
    from serving.offline_store import connection, latest_of_view

    covered = ordered_store(store).covered(store.config, view.name)
    if covered is None:
        return pa.table({})
    with connection(store.config) as db:
        rows = OfflineRows(db, store.config, view.batch_source)
        return latest_of_view(db, rows, view, EPOCH, instant(max(covered.upto_us, 0)))


def compare_stores(repo: Repo, store: Any, say: Callable[[str], None] = lambda line: None) -> dict[str, StoresProof]:
    """Every view of the repository's groups, by name. Raises ConfigError and StoreError, one line each."""
    read, _ = store_reader(store)
    out = {}
    for name, group in repo.groups.items():
        say(f"comparing the offline rows of {name} with the online store")
        out[name] = _compare(store, group, read)
    return out


def _compare(store: Any, group: FeatureGroup, read: Stored) -> StoresProof:
    from serving.offline_rows import NOTHING, OfflineRows
    from serving.offline_store import AsofOfflineStore, connection

    if not isinstance(store._get_provider().offline_store, AsofOfflineStore):
        raise StoreError("the offline store is one of Feast's own, which does not rank rows; use AsofOfflineStore")
    online, config, keys = ordered_store(store), store.config, tuple(group.entity.keys)
    view = store.get_feature_view(group.name)
    with connection(config) as db:
        offline = OfflineRows(db, config, view.batch_source)
    covered = online.covered(config, group.name)
    if covered is None:
        what = (
            "no run of the applied graph has rows; run 'tandem batch'" if offline.empty else "nothing of the applied graph was materialized"
        )
        return StoresProof(group.name, 0, {}, 0, [], f"{group.name}: {what}; run 'tandem materialize'")
    if offline.upto_us == NOTHING:
        stored = sum(1 for _ in online.stored_keys(config, view))
        lost = f"stored keys: {stored:,}, and no run of the applied graph is at {offline.path}"
        lines = [f"{lost}; if that folder was moved, run 'tandem apply'"] if stored else []
        return StoresProof(group.name, 0, {}, stored, lines, f"{group.name}: no run of the applied graph exists any longer")
    spans = [[micros_of(t.replace(tzinfo=UTC) if t.tzinfo is None else t) for t in span] for span in view.materialization_intervals]
    first = min((start for start, _ in spans), default=micros_of(datetime.min))
    last = min([covered.upto_us, *(end for _, end in spans[-1:])])
    rows = table_of(materialized_rows(store, view))
    behind = offline.newest_us > covered.stamp
    names = table_of(rows.select(keys))
    stored = table_of(read(group, names, rows.schema))
    state = against(names, stored, rows, keys)
    time = column_us(rows, EVENT_TIMESTAMP)
    beyond = _times(names, stored, keys)
    later = (np.maximum(time, beyond) > last) & (beyond <= covered.upto_us)
    cause = np.select(
        [state == SAME, (state == NEWER) & (beyond > covered.upto_us), (state == NOT_STORED) & (time < first), later],
        [EQUAL, FURTHER, NOT_MATERIALIZED, NOT_MATERIALIZED],
        NOT_MATERIALIZED if behind else OTHER,
    )
    extra = online.drop_superseded(config, view, first, replace(covered, upto_us=last), count_only=True)
    # The newest materialization may have ended earlier than one before it, whose rows behind that are right where the runs say so still.
    before = online.drop_superseded(config, view, first, covered, count_only=True) - extra - int(((state == SAME) & (time > last)).sum())
    counts = {c: int((cause == c).sum()) for c in (EQUAL, FURTHER, NOT_MATERIALIZED, OTHER) if (cause == c).any()}
    lines = list(_lines(names, np.flatnonzero(cause == OTHER)[:5].tolist(), state, keys))
    if extra and not behind:
        lines.append(f"{extra:,} stored rows are of keys for which the runs have no row")
    notice = ""
    if behind:
        notice = f"{group.name}: a newer run covers rows that were not materialized since; run 'tandem materialize'"
    elif before > 0:
        notice = f"{group.name}: rows after {to_minute(last)} of {before:,} keys are of a materialization before; the runs say otherwise"
        notice += " now; run 'tandem materialize' up to there"
    elif offline.upto_us is not None and covered.upto_us < offline.upto_us:
        notice = f"{group.name}: materialized up to {to_minute(covered.upto_us)}, the runs have rows up to {to_minute(offline.upto_us)}"
    return StoresProof(group.name, names.num_rows, counts, 0 if behind else extra, lines, notice)


def _times(names: pa.Table, stored: pa.Table, keys: tuple[str, ...]) -> Any:
    place = locate(names, stored, keys)
    out = np.full(names.num_rows, -1, np.int64)
    out[place >= 0] = column_us(stored, EVENT_TIMESTAMP)[place[place >= 0]]
    return out


def _lines(names: pa.Table, bad: list[int], state: Any, keys: tuple[str, ...]) -> Iterator[str]:
    for i in bad:
        what = ", ".join(f"{k}={names.column(k)[i].as_py()!r}" for k in keys)
        yield f"{what}: {_WHY.get(int(state[i]), 'a newer row is stored, which no run and no stream after them made')}"
