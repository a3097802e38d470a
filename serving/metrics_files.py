"""Metrics of several processes as one page: each writes what it counted into a file, once a second; whoever is asked adds them up.

Counters and histograms are summed, over processes that have ended as well, so that they never fall. Of gauges the worst or the latest says
how the server is: the least where less is worse (ready, up), else the greatest.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from transforms.files import write_json

__all__ = ["MetricsFile", "retire", "summed_page"]

_SECONDS = 1.0
_LEAST = ("tandem_ready", "tandem_online_store_up", "tandem_feature_newest_age_seconds")
_ENDED = "ended.json"


def _families(registry: CollectorRegistry) -> list[Any]:
    return [
        [m.name, m.documentation, m.type, m.unit, [[s.name, sorted(s.labels.items()), s.value] for s in m.samples]]
        for m in registry.collect()
    ]


class MetricsFile:
    """Writes the numbers of one process to ``<folder>/<name>.json``, by a thread of its own, until closed."""

    def __init__(self, registry: CollectorRegistry, folder: Path, name: str) -> None:
        self._registry = registry
        self._path = folder / f"{name}.json"
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tandem-metrics", daemon=True)

    def start(self) -> None:
        """Write now, and from now on."""
        self.write()
        self._thread.start()

    def close(self) -> None:
        """Write once more, and end."""
        self._closed.set()
        self._thread.join(10)
        self.write()

    def write(self) -> None:
        """Bring the file up to date; a disk that does not take it leaves it as it is."""
        with self._lock, contextlib.suppress(OSError):
            write_json(self._path, _families(self._registry), indent=None)

    def page(self) -> bytes:
        """The numbers of all processes of the folder, those of this one as of now, in Prometheus' text format."""
        self.write()
        return summed_page(self._path.parent)

    def _run(self) -> None:
        while not self._closed.wait(_SECONDS):
            self.write()


def retire(folder: Path, name: str) -> None:
    """Keep what an ended process counted, and forget what it said of itself."""
    path = folder / f"{name}.json"
    parts = [families for p in (folder / _ENDED, path) if (families := _read(p)) is not None]
    counted = [[f for f in families if f[2] in ("counter", "histogram")] for families in parts]
    write_json(folder / _ENDED, list(_summed(counted)), indent=None)
    path.unlink(missing_ok=True)


def summed_page(folder: Path) -> bytes:
    """What all files of a folder come to."""
    parts = [families for p in sorted(folder.glob("*.json")) if (families := _read(p)) is not None]
    registry = CollectorRegistry()
    registry.register(_Summed(parts))
    return generate_latest(registry)


class _Summed:
    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, unit, samples in _summed(self._parts):
            metric = Metric(name, text, kind, unit)
            for sample, labels, value in samples:
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _summed(parts: Iterable[Any]) -> Iterator[list[Any]]:
    families: dict[str, tuple[list[Any], dict[Any, float]]] = {}
    for part in parts:
        for name, text, kind, unit, samples in part:
            _, values = families.setdefault(name, ([name, text, kind, unit], {}))
            for sample, labels, value in samples:
                place = (sample, tuple(map(tuple, labels)))
                if place not in values:
                    values[place] = value
                elif sample.endswith("_created") or name in _LEAST:
                    values[place] = min(values[place], value)
                elif kind in ("counter", "histogram"):
                    values[place] += value
                else:
                    values[place] = max(values[place], value)
    for head, values in families.values():
        yield [*head, [[sample, list(labels), value] for (sample, labels), value in values.items()]]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
