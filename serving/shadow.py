"""The shadow: the challenger is run on the requests that the champion has answered, and both predictions are logged.

Off the answer's path: a request is offered once its answer is sent, to a bounded queue; one thread takes what has come together and runs
the challenger over all of it at once, then rests nine times as long as that took, so that it never has more than a tenth of a core. What
does not fit into the queue is dropped and counted. Nothing here can fail a request.

The challenger sees the very feature values that the champion was given. Only a feature that the champion does not read is read from the
online store, a moment later; where the store has moved on by then, the value may be of a newer row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from serving.features import ViewRows
from serving.metrics import Metrics
from serving.models import LoadedModel, ModelSpec
from serving.projections import FeatureSet
from serving.request_errors import ModelError
from serving.request_rows import RequestRecord, sampled
from transforms.errors import FingerprintError, StoreError

__all__ = ["Shadow", "to_inputs"]

log = logging.getLogger("tandem.serving")

_EVERY_SECONDS = 0.5
_REST = 9.0
_MOST_ROWS = 4_096
"""Rows of one run, but for a single request that has more."""
_CLOSE_SECONDS = 5.0

Reader = Callable[[FeatureSet, dict[str, list[Any]], int], dict[str, ViewRows]]


class Shadow:
    """Runs challengers. :meth:`offer` is called by any thread; the rest is one thread of its own."""

    def __init__(
        self,
        challenger: Callable[[str], LoadedModel | None],
        read: Reader,
        check_rows: Callable[[ModelSpec, str, ViewRows], None],
        write: Callable[[RequestRecord], None],
        metrics: Metrics,
        *,
        sample: float = 1.0,
        most_waiting: int = 2_000,
    ) -> None:
        """``challenger`` gives a model's challenger, ``read`` reads features, ``check_rows`` raises FingerprintError for rows that a model
        may not be given, ``write`` takes what is to be logged."""
        self._challenger = challenger
        self._read = read
        self._check_rows = check_rows
        self._write = write
        self._metrics = metrics
        self._sample = sample
        self._most = most_waiting
        self._waiting: deque[RequestRecord] = deque()
        self._said = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tandem-shadow", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Run what still waits, and end."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def offer(self, record: RequestRecord) -> None:
        """Run the challenger on an answered request, if it has one and the request belongs to the sample. Never blocks or raises."""
        if record.model is None or self._challenger(record.model) is None or not sampled(record.request_id, self._sample):
            return
        if len(self._waiting) >= self._most or self._closing.is_set():
            self._metrics.shadow_dropped.labels(record.model).inc()
        else:
            self._waiting.append(record)

    def _run(self) -> None:
        rest = _EVERY_SECONDS
        while not self._closing.wait(rest):
            begun = time.perf_counter()
            if self._waiting:
                self._step()
            rest = max(_EVERY_SECONDS, _REST * (time.perf_counter() - begun))
        until = time.perf_counter() + _CLOSE_SECONDS / 2
        while self._waiting and time.perf_counter() < until:
            self._step()

    def _step(self) -> None:
        """One run per kind of request (model, columns, features read) over what waits, up to some thousand rows."""
        alike: dict[Any, list[RequestRecord]] = {}
        rows = 0
        while self._waiting and (not rows or rows + self._waiting[0].rows <= _MOST_ROWS):
            record = self._waiting.popleft()
            rows += record.rows
            views = tuple((name, group.projection and group.projection.text(), *group.columns) for name, group in record.groups.items())
            alike.setdefault((record.model, tuple(record.types.items()), views), []).append(record)
        for some in alike.values():
            model = some[0].model
            assert model is not None
            try:
                self._shadow(model, some)
            except Exception as e:  # whatever it is, it is the challenger's, and nobody's answer
                reason = "store" if isinstance(e, StoreError) else "model" if isinstance(e, ModelError) else "defect"
                self._failed(model, reason, len(some), e)

    def _shadow(self, model: str, some: list[RequestRecord]) -> None:
        challenger = self._challenger(model)
        if challenger is None:
            return  # it was promoted or is gone meanwhile
        spec, begun = challenger.spec, time.perf_counter()
        some = [a for a in some if a.version != spec.version and self._may(model, spec, a)]
        if not some:
            return
        table, read = to_inputs(spec, some, self._read)
        for view, group in read.items():
            self._check_rows(spec, view, group)
        values = challenger.predict(table).tolist()
        self._metrics.shadow_seconds.labels(model).observe(time.perf_counter() - begun)
        self._metrics.shadow_requests.labels(model, str(spec.version)).inc(len(some))
        at = 0
        for a in some:
            mine = values[at : at + a.rows]
            at += a.rows
            self._write(replace(a, groups={}, shadow_version=spec.version, shadow_run=spec.run, shadow_predictions=mine))
        if self._said:
            log.warning("shadow: the challenger of %s responds again", model)
            self._said = ""

    def _may(self, model: str, spec: ModelSpec, record: RequestRecord) -> bool:
        try:
            for view, group in record.groups.items():
                self._check_rows(spec, view, group)
        except FingerprintError as e:
            self._failed(model, "fingerprint", 1, e)
            return False
        return True

    def _failed(self, model: str, reason: str, requests: int, error: Exception) -> None:
        self._metrics.shadow_errors.labels(model, reason).inc(requests)
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if line != self._said:  # once, not at every request
            log.warning("shadow: the challenger of %s fails (%s)", model, line, exc_info=error if reason == "defect" else None)
            self._said = line


def to_inputs(spec: ModelSpec, some: list[RequestRecord], read: Reader) -> tuple[pa.Table, dict[str, ViewRows]]:
    """The inputs of ``spec`` for the rows of some requests of one kind, one below the other, and what had to be ``read`` for them.

    Raises ModelError if the requests lack a field that the model needs.
    """
    first, rows = some[0], sum(a.rows for a in some)
    given = {name: [v for a in some for v in a.columns[name]] for name in first.columns}
    columns: dict[str, pa.Array] = {name: pa.array(values, type=first.types[name]) for name, values in given.items()}
    missing: list[tuple[str, str]] = []
    for view, feature in spec.features:
        group = first.groups.get(view)
        if group is not None and feature in group.columns and group.projection == spec.projections.get(view):
            columns[f"{view}__{feature}"] = pa.concat_arrays([a.groups[view].columns[feature] for a in some])
        else:
            missing.append((view, feature))
    lacking = [f.name for f in spec.request_fields if f.name not in columns and not f.nullable]
    lacking += [key for key in spec.entity_keys if key not in columns]
    if lacking:
        raise ModelError(f"version {spec.version} needs {', '.join(lacking)}, which requests to the champion do not hold")
    for f in spec.request_fields:
        if f.name not in columns:
            columns[f.name] = pa.nulls(rows)
    found = read(spec.read.only(missing), given, rows) if missing else {}
    for view, group in found.items():
        columns.update({f"{view}__{feature}": column for feature, column in group.columns.items()})
    return pa.table(columns), found
