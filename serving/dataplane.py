"""What the server can answer, without HTTP: the protocols in ``app`` are thin adapters over this."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.answer_columns import Columns
from serving.clock import ReplayClock
from serving.context import NOBODYS, RequestContext
from serving.features import STATUSES, OnlineFeatures, ViewRows
from serving.metrics import Metrics
from serving.model_files import unverified
from serving.model_repository import ModelRepository, Watcher
from serving.models import LoadedModel, ModelSpec
from serving.object_store.following import serve_from
from serving.online_answer import online_json
from serving.online_request import Forms, OnlineAsked
from serving.principals import Principal
from serving.protocol import OnlineRequest, RequestField, format_timestamp
from serving.request_log import LogLimits, RequestLog, RequestRecord
from serving.settings import ServingSettings
from serving.shadow import Shadow
from transforms.data_folder import applied_graph, under_way
from transforms.definitions import ARROW_TYPES
from transforms.errors import FingerprintError, StoreError, TandemError
from transforms.instants import micros_of, now_us, to_minute

__all__ = ["Dataplane", "Prediction"]

log = logging.getLogger("tandem.serving")


@dataclass(frozen=True)
class Prediction:
    """Predictions of N rows, the model that made them and the rows that it read."""

    model: LoadedModel
    values: list[Any]
    groups: dict[str, ViewRows]
    record: RequestRecord | None = None
    """As it is logged; None: it is not."""
    odd: Sequence[int] = ()
    """The rows whose prediction is NaN or infinite, or has such a number: JSON has no form for these, and says null."""


_MOST_MISMATCHES = 100
"""So many kinds of rows of another graph are logged; all are counted."""


class Dataplane:
    """Features, models and metrics of one server; opened at its start, closed at its end."""

    def __init__(self, settings: ServingSettings, *, now_us: Callable[[], int] | None = None) -> None:
        if now_us is None and settings.as_of is not None:
            fixed = micros_of(settings.as_of)
            now_us = lambda: fixed  # noqa: E731
        self.settings = settings
        self.metrics = Metrics()
        self.features = OnlineFeatures(settings.feature_repo, now_us, settings.timeout_seconds)
        if settings.clock is not None:
            self.features.now_us = ReplayClock(settings.clock, otherwise=self.features.now_us)
        shadowed = settings.shadow and settings.request_log is not None and settings.shadow_sample > 0
        self.models = ModelRepository(settings.models, self.metrics, check=self.check, keep=settings.keep_versions, challengers=shadowed)
        self._watcher = Watcher(self.poll, settings.poll_seconds)
        self._forms: Forms | None = None
        self._store_away = ""
        self._told_of_the_future = False
        self._mismatches: set[str] = set()
        """What was met of rows of another graph than a model's, and of predictions that are no numbers: each is logged once."""
        self._log = None if settings.request_log is None else RequestLog(settings.request_log, _limits(settings), self.metrics)
        self._shadow_log: RequestLog | None = None
        self._shadow: Shadow | None = None
        if shadowed and settings.request_log is not None:
            limits = replace(_limits(settings), sample=1.0)
            self._shadow_log = RequestLog(settings.request_log / "shadow", limits, self.metrics.shadow_log)
            self._shadow = Shadow(
                self._challenger,
                self.features.read,
                self._check_rows,
                self._shadow_log.add,
                self.metrics,
                sample=settings.shadow_sample,
                most_waiting=settings.shadow_waiting,
            )

    def open(self) -> None:
        """Read the registry, connect the store, load and warm the models, and begin to watch. A part that is not there yet is
        no error: it shows in :meth:`problems`, and is taken when it comes."""
        self.poll()
        self._watcher.start()
        for part in (self._log, self._shadow, self._shadow_log):
            if part is not None:
                part.start()

    def _tell_of_the_future(self) -> None:
        """Say where the store is filled beyond the clock, once until it is not: of an entity it has the newest row, and no earlier one to
        answer by."""
        if self.features.problem or self.features.store_problem:
            return
        now = self.features.now_us()
        with contextlib.suppress(StoreError):  # it shows in problems()
            ends = self.features.materialized_beyond(now)
            if ends and not self._told_of_the_future:
                log.warning(
                    "online store: it has the newest row of each entity, up to %s (%s), and answers are as of %s: rows from the future are"
                    " served, with negative age; serve as of the former time, or later",
                    to_minute(max(ends.values())), ", ".join(sorted(ends)), to_minute(now),
                )  # fmt: skip
            self._told_of_the_future = bool(ends)

    def close(self) -> None:
        """Stop watching, run the challenger on what still waits, and write the rest of the logs."""
        self._watcher.close()
        for part in (self._log, self._shadow, self._shadow_log):
            if part is not None:
                part.close()

    def poll(self) -> None:
        """Look at the registry, the online store and the models once."""
        self.features.refresh()
        with contextlib.suppress(StoreError):  # it shows in problems()
            self.features.connect()
        self._tell_of_the_future()
        self._from_store()
        self.models.poll()
        self.metrics.store.set(0 if self.features.store_problem else 1)
        self.metrics.ready.set(0 if self.problems() else 1)

    def _from_store(self) -> None:
        """Where the data folder is a cache of an object store: what is new there. One that is away changes nothing of what is served."""
        try:
            serve_from(self.settings.models, self.settings.request_log)
            self._store_away = ""
        except (TandemError, OSError) as error:
            if str(error) != self._store_away:
                log.warning("%s; the loaded version stays in service", error)
            self._store_away = str(error)

    def problems(self) -> list[str]:
        """Why the server is not ready, one line each; empty when it is."""
        registry = "" if self.features.outlives_registry else self.features.problem
        out = [problem for problem in (registry, self.features.store_problem) if problem]
        states = self.models.states
        out += [f"model {name!r}: {state.reason}" for name, state in states.items() if state.reason]
        return out if out or states or not self.settings.needs_model else ["no model has been pushed"]

    def warnings(self) -> list[str]:
        """What is wrong though the server is ready, one line each: aliases that are not followed, a log that is too small."""
        logs = [part.warning for part in (self._log, self._shadow_log) if part is not None and part.warning]
        states = self.models.states.items()
        if self._store_away:
            logs.append(self._store_away)
        if self.features.problem and self.features.outlives_registry:
            logs.append(f"{self.features.problem}; the last version read is served")
        if under_way(self.settings.graphs) is not None:
            logs.append("an apply is running, or was interrupted: registry and online store may differ until 'tandem apply' completes")
        running = [(name, model) for name, state in states for model in state.loaded.values()]
        logs += [f"model {name!r} version {m.spec.version}: {trust}" for name, m in running if (trust := unverified(m.spec.raw))]
        return logs + [f"model {name!r}: {state.warning}" for name, state in states if state.warning and not state.reason]

    def _challenger(self, model: str) -> LoadedModel | None:
        state = self.models.states.get(model)
        return state.challenger if state is not None else None

    def shadow(self, prediction: Prediction) -> None:
        """Run the challenger on a request whose answer has been sent, if it has one; never blocks or raises."""
        if self._shadow is not None and prediction.record is not None:
            self._shadow.offer(prediction.record)

    def check(self, spec: ModelSpec) -> None:
        """Whether a model fits the registry and, by policy, the graphs that the online rows are written with."""
        catalog = self.features.catalog
        what = f"model {spec.name!r} version {spec.version}"
        try:
            catalog.resolved(spec.read)
        except TandemError as e:
            raise StoreError(f"{what}: {e}") from None
        needed = {f.name for f in catalog.key_fields(spec.read)}
        if missing := needed - set(spec.entity_keys):
            raise StoreError(
                f"{what}: its features need the entity key {', '.join(sorted(missing))}; push a version with it in its entity_keys"
            )
        for view, fingerprint in spec.fingerprints.items():
            applied = self._applied(view)
            if applied is not None and applied != fingerprint:
                if self.settings.fingerprint_policy == "refuse":
                    raise FingerprintError(
                        f"{what}: was trained on graph {fingerprint[:12]} of {view!r}, but {applied[:12]} is applied; train again"
                    )
                self.metrics.mismatches.labels(spec.name, view).inc()
                log.warning(
                    "%s: was trained on graph %s of %r, but %s is applied; served by policy", what, fingerprint[:12], view, applied[:12]
                )

    def _applied(self, view: str) -> str | None:
        try:
            stored = self.features.applied_fingerprint(view)
        except StoreError:
            stored = None  # the store is down: a model may load nevertheless, and each request is checked by its rows
        return stored or applied_graph(self.settings.graphs, view)

    def fields(self, model: LoadedModel) -> list[RequestField]:
        """What one instance of a request to the model holds: its entity keys, then the other request fields."""
        spec = model.spec
        sent = {f.name: f for f in spec.request_fields}
        keys = {f.name: f for f in self.features.catalog.key_fields(spec.read)}
        return [keys.get(k) or sent.get(k) or RequestField(k, "string") for k in spec.entity_keys] + [
            f for f in spec.request_fields if f.name not in spec.entity_keys
        ]

    def predict(
        self,
        model: LoadedModel,
        columns: Mapping[str, list[Any]],
        rows: int,
        context: RequestContext = NOBODYS,
        endpoint: str = "predict",
    ) -> Prediction:
        """Predictions for N = ``rows`` rows of checked request columns. Blocks; raises FingerprintError, StoreError, ModelError, and
        TimedOutError at the request's deadline.

        A request with an id is logged.
        """
        spec = model.spec
        with model.calls.on_the_way(self.metrics.call_requests.labels(spec.name).observe) as predict:
            groups = self.features.read(spec.read, columns, rows, context.check) if spec.features else {}
            context.check()
            self.metrics.features.add(groups)
            for view, group in groups.items():
                self._check_rows(spec, view, group)
            types = {f.name: ARROW_TYPES[f.dtype] for f in self.fields(model)}
            table = Columns()
            for name, values in columns.items():
                table.set_array(name, pa.array(values, type=types[name]))
            for view, group in groups.items():
                table.add(f"{view}__", group.columns)
            array = predict(table, rows)
        odd = self._not_finite(spec, array)
        values, record = array.tolist(), None
        if self._log is not None and context.request_id:
            record = self._record(context, endpoint, rows, columns, types, groups, spec, values)
        return Prediction(model, values, groups, record, odd)

    def _not_finite(self, spec: ModelSpec, values: npt.NDArray[Any]) -> list[int]:
        """The rows of predictions that are no numbers: counted, and told of once a version."""
        if values.dtype.kind != "f" or (finite := np.isfinite(values)).all():
            return []
        rows: list[int] = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1)).tolist()
        self.metrics.predictions_not_finite.labels(spec.name).inc(len(rows))
        line = f"model {spec.name!r} version {spec.version}: predicts NaN or infinite"
        if line not in self._mismatches and len(self._mismatches) < _MOST_MISMATCHES:
            self._mismatches.add(line)
            log.warning("%s; null stands for it in answers: look at the features of those requests, in the request log", line)
        return rows

    def _record(
        self,
        context: RequestContext,
        endpoint: str,
        rows: int,
        columns: Mapping[str, list[Any]],
        types: Mapping[str, pa.DataType],
        groups: dict[str, ViewRows],
        spec: ModelSpec | None = None,
        predictions: list[Any] | None = None,
    ) -> RequestRecord:
        assert self._log is not None
        record = RequestRecord(
            request_id=context.request_id,
            principal=context.principal.name or None,
            client_request=context.client_request,
            at_us=now_us(),
            as_of_us=next((g.as_of_us for g in groups.values()), None) or self.features.now_us(),
            endpoint=endpoint,
            rows=rows,
            columns=columns,
            types=types,
            groups=groups,
            model=spec.name if spec else None,
            version=spec.version if spec else None,
            run=spec.run if spec else None,
            predictions=predictions,
        )
        self._log.add(record)
        return record

    def online_features(self, request: OnlineRequest, context: RequestContext = NOBODYS) -> bytes:
        """The answer to a request in the format of Feast's feature server (JSON), with an ``ages`` list (seconds) per feature."""
        asked = self.asked(request, context.principal)
        return self._online_answer(asked, self.features.read(asked.form.features, asked.entities, asked.rows, context.check), context)

    def online_features_soon(self, asked: OnlineAsked, context: RequestContext) -> Awaitable[bytes | None] | None:
        """As :meth:`online_features`, on the event loop; None, or a result that is None: it has to be that, on a thread."""
        groups = self.features.read_soon(asked.form.features, asked.entities, asked.rows)
        return None if groups is None else self._online_soon(asked, groups, context)

    async def _online_soon(
        self, asked: OnlineAsked, reading: Awaitable[dict[str, ViewRows] | None], context: RequestContext
    ) -> bytes | None:
        groups = await reading
        return None if groups is None else self._online_answer(asked, groups, context)

    def asked(self, request: OnlineRequest, principal: Principal) -> OnlineAsked:
        """What a request of Feast's format asks for, checked. Raises ForbiddenError, NotFoundError, InvalidRequestError."""
        catalog, forms = self.features.catalog, self._forms
        if forms is None or forms.catalog is not catalog:
            forms = self._forms = Forms(catalog)
        return forms.asked(request, principal)

    def _online_answer(self, asked: OnlineAsked, groups: dict[str, ViewRows], context: RequestContext) -> bytes:
        self.metrics.features.add(groups)
        form, n = asked.form, asked.rows
        if self._log is not None and context.request_id:
            self._record(context, "get-online-features", n, asked.entities, form.types, groups)
        return online_json(form.names, asked.given, [(groups[view], feature) for view, feature in form.features.pairs], n)

    def _check_rows(self, spec: ModelSpec, view: str, group: ViewRows) -> None:
        expected = spec.fingerprint(view)
        if expected is None:
            return
        odd = {p for p in set(group.fingerprints) if p is not None and p != expected}
        if not odd:
            return
        self.metrics.mismatches.labels(spec.name, view).inc(sum(p in odd for p in group.fingerprints))
        line = (
            f"model {spec.name!r} version {spec.version} was trained on graph {expected[:12]} of {view!r},"
            f" but its rows are of {min(odd)[:12]}"
        )
        refuses = self.settings.fingerprint_policy == "refuse"
        if line not in self._mismatches and len(self._mismatches) < _MOST_MISMATCHES:
            self._mismatches.add(line)
            log.warning(
                "%s; %s", line, "requests for them are refused until a model trained on them is served" if refuses else "served by policy"
            )
        if refuses:
            raise FingerprintError(f"{line}; push a model trained on them")


def _limits(settings: ServingSettings) -> LogLimits:
    return LogLimits(
        sample=settings.request_log_sample,
        rows=settings.request_log_rows,
        seconds=settings.request_log_seconds,
        size=settings.request_log_bytes,
        files=settings.request_log_files,
        young_seconds=3600 * settings.request_log_young_hours,
    )


def group_summary(prediction: Prediction) -> dict[str, Any]:
    """Per view: the fingerprint that the model expects, and per row its status, event timestamp and age in seconds."""
    spec = prediction.model.spec
    return {
        view: {
            "fingerprint": spec.fingerprint(view),
            "statuses": [STATUSES[s] for s in group.row_status.tolist()],
            "event_timestamps": _stamps(group),
            "ages": group.ages.tolist(),
        }
        for view, group in prediction.groups.items()
    }


def _stamps(group: ViewRows) -> list[str]:
    text: dict[int, str] = {}
    return [text.get(t) or text.setdefault(t, format_timestamp(t)) for t in group.timestamps_us.tolist()]
