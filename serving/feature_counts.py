"""What is counted of the features that are read: noted in passing, added up some requests at a time or when somebody looks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.packed_view_rows import joined
from serving.view_rows import PRESENT, STATUSES, ViewRows

__all__ = ["FeatureCounts"]

_AGES = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 3 * 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0)
_REQUESTS, _ROWS = 64, 5_000
"""What is kept before it is added up: a step of one or two milliseconds, during which the event loop answers nobody."""


class _View:
    def __init__(self) -> None:
        self.statuses: npt.NDArray[np.int64] = np.zeros(len(STATUSES), np.int64)
        self.ages: npt.NDArray[np.int64] = np.zeros(len(_AGES) + 1, np.int64)
        self.sum = 0.0
        self.newest: float | None = None


class FeatureCounts:
    """Values read by status, and ages of rows, per view: a collector of Prometheus'. Safe for many threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._noted: list[Mapping[str, ViewRows]] = []
        self._rows = 0
        self._views: dict[str, _View] = {}
        registry.register(self)

    def add(self, groups: Mapping[str, ViewRows]) -> None:
        """What one request read."""
        rows = max(map(len, groups.values()), default=0)
        with self._lock:
            self._noted.append(groups)
            self._rows += rows
            if len(self._noted) >= _REQUESTS or self._rows >= _ROWS:
                self._add_up()

    def collect(self) -> Iterator[Metric]:
        """The metrics, with all that is noted."""
        values = CounterMetricFamily("tandem_feature_values", "Feature values read, by status.", labels=["view", "status"])
        ages = HistogramMetricFamily("tandem_feature_age_seconds", "Age of the rows read.", labels=["view"])
        newest = GaugeMetricFamily("tandem_feature_newest_age_seconds", "Age of the newest row in the latest read.", labels=["view"])
        with self._lock:
            self._add_up()
            for name, view in self._views.items():
                for status, count in zip(STATUSES, view.statuses.tolist(), strict=True):
                    if count:
                        values.add_metric([name, status], count)
                if view.newest is not None:
                    counts = np.cumsum(view.ages).tolist()
                    edges = [*(str(a) for a in _AGES), "+Inf"]
                    ages.add_metric([name], list(zip(edges, counts, strict=True)), view.sum)
                    newest.add_metric([name], view.newest)
        yield from (values, ages, newest)

    def _add_up(self) -> None:
        noted, self._noted, self._rows = self._noted, [], 0
        by_view: dict[str, list[ViewRows]] = {}
        for groups in noted:
            for name, group in groups.items():
                by_view.setdefault(name, []).append(group)
        for name, some in by_view.items():
            view = self._views.setdefault(name, _View())
            for group in reversed(some):
                if len(ages := group.ages[group.row_status == PRESENT]):
                    view.newest = float(ages.min())
                    break
            for group in joined(some):
                view.statuses += group.status_counts
                if len(ages := group.ages[group.row_status == PRESENT]):
                    view.sum += float(ages.sum())
                    view.ages += np.bincount(np.searchsorted(_AGES, ages), minlength=len(_AGES) + 1)
