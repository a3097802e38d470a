"""Online features: the registry as an immutable catalog, and rows read through the store's own reader.

Statuses follow Feast: PRESENT, NULL (the row is there, the value is null), NOT_FOUND (no row, or a row from before the
feature existed), OUTSIDE_MAX_AGE (the row is older than its view's TTL; its values are withheld).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml
from feast import FeatureStore, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, PrimitiveFeastType
from feast.value_type import ValueType

from serving.errors import InvalidRequestError, NotFoundError
from serving.online_store.base import OrderedOnlineStore, OrderedOnlineStoreConfig
from serving.protocol import RequestField, checked_column
from transforms.definitions import FINGERPRINT, REVISION
from transforms.errors import ConfigError, StoreError
from transforms.instants import micros_of
from transforms.instants import now_us as wall_us

__all__ = ["STATUSES", "Catalog", "OnlineFeatures", "View", "ViewRows", "load_repo_config"]

T = TypeVar("T")
log = logging.getLogger("tandem.serving")

STATUSES = ("PRESENT", "NULL", "NOT_FOUND", "OUTSIDE_MAX_AGE")
PRESENT, NULL, NOT_FOUND, OUTSIDE_MAX_AGE = range(4)

_ARROW: dict[Any, pa.DataType] = {
    PrimitiveFeastType.STRING: pa.string(),
    PrimitiveFeastType.BYTES: pa.binary(),
    PrimitiveFeastType.BOOL: pa.bool_(),
    PrimitiveFeastType.INT32: pa.int32(),
    PrimitiveFeastType.INT64: pa.int64(),
    PrimitiveFeastType.FLOAT32: pa.float32(),
    PrimitiveFeastType.FLOAT64: pa.float64(),
    PrimitiveFeastType.UNIX_TIMESTAMP: pa.timestamp("us", tz="UTC"),
}
_KEY_DTYPES = {ValueType.STRING: "string", ValueType.INT64: "int64", ValueType.INT32: "int64", ValueType.BOOL: "bool"}
_KEY_SLOTS = {ValueType.STRING: "string_val", ValueType.INT64: "int64_val", ValueType.INT32: "int32_val", ValueType.BOOL: "bool_val"}


@dataclass(frozen=True)
class View:
    """A feature view as the registry has it: its join keys with their types, its features, its TTL."""

    name: str
    feast: FeatureView = field(repr=False)
    keys: dict[str, ValueType]
    types: dict[str, pa.DataType]
    ttl_us: int
    """0: values never expire."""

    @staticmethod
    def of(view: FeatureView) -> View:
        """The view ``view`` of a Feast registry."""
        ttl = view.ttl or timedelta(0)
        return View(
            name=str(view.projection.name_to_use()),
            feast=view,
            keys={c.name: c.dtype.to_value_type() for c in view.entity_columns},
            types={f.name: _arrow_type(f.dtype) for f in view.features},
            ttl_us=ttl // timedelta(microseconds=1),
        )


@dataclass(frozen=True)
class Catalog:
    """What the registry holds, as of one look at it."""

    views: dict[str, View]
    services: dict[str, tuple[tuple[str, str], ...]]

    def references(self, refs: Iterable[str]) -> list[tuple[str, str]]:
        """(view, feature) of ``view:feature`` strings; NotFoundError for what the registry does not have."""
        return self.resolved([(r.split(":")[0], r.split(":")[1]) for r in refs])

    def resolved(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """``pairs`` themselves, when the registry has them all."""
        for view, feature in pairs:
            if view not in self.views:
                raise NotFoundError(f"unknown feature view {view[:60]!r}; the registry has {_some(self.views)}")
            if feature not in self.views[view].types:
                raise NotFoundError(f"unknown feature {feature[:60]!r} of view {view!r}; it has {_some(self.views[view].types)}")
        return list(pairs)

    def service(self, name: str) -> list[tuple[str, str]]:
        """(view, feature) of a feature service."""
        if name not in self.services:
            raise NotFoundError(f"unknown feature service {name[:60]!r}; the registry has {_some(self.services) or 'none'}")
        return self.resolved(self.services[name])

    def key_fields(self, views: Iterable[str]) -> list[RequestField]:
        """The join keys that reading the views takes."""
        keys: dict[str, str] = {}
        for view in views:
            for key, kind in self.views[view].keys.items():
                keys[key] = _KEY_DTYPES.get(kind, "string")
        return [RequestField(name, dtype) for name, dtype in keys.items()]


@dataclass(frozen=True)
class ViewRows:
    """What one view answered for N entities. Values are null unless their status is PRESENT."""

    view: str
    columns: dict[str, pa.Array]
    statuses: dict[str, npt.NDArray[np.uint8]]
    """Per feature, N codes: indices into STATUSES."""
    row_status: npt.NDArray[np.uint8]
    """N codes: PRESENT, NOT_FOUND or OUTSIDE_MAX_AGE."""
    timestamps_us: npt.NDArray[np.int64]
    """Event timestamps; 0 where there is no row."""
    ages: npt.NDArray[np.float64]
    """Seconds from the event timestamp to now; NaN where there is no row."""
    fingerprints: list[str | None]
    """Of the rows that are PRESENT."""
    revisions: list[int | None]
    """Of the rows that are there, PRESENT or too old; None where a view keeps none."""
    as_of_us: int
    """The instant that ages and TTLs were judged at."""


def load_repo_config(repo: Path, timeout_seconds: float = 5.0) -> RepoConfig:
    """The Feast configuration of ``<repo>/feature_store.yaml``, without its offline store and batch engine.

    Serving reads neither, and their classes would drag their dependencies in (Beam among them). ``${VARIABLES}`` are expanded.
    The store's own time limits are ``timeout_seconds`` unless the file sets them.
    """
    path = repo / "feature_store.yaml"
    try:
        raw = yaml.safe_load(os.path.expandvars(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(f"feature_repo {str(repo)!r}: has no feature_store.yaml; give the folder of a Feast repository") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
        raise ConfigError(f"{path}: cannot be read as YAML ({type(e).__name__}); fix the file") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: is no mapping; it needs at least project, registry and online_store")
    raw = {k: v for k, v in raw.items() if k not in ("offline_store", "batch_engine", "feature_server")}
    try:
        # A string, not a mapping: Feast then does not import the class.
        config = RepoConfig(**raw, offline_store="dask", repo_path=repo)
        _limit_waits(config.online_store, timeout_seconds)
    except Exception as e:
        raise ConfigError(f"{path}: {' '.join(str(e).split())[:300]}") from e
    return config


def _limit_waits(store: Any, seconds: float) -> None:
    if isinstance(store, OrderedOnlineStoreConfig):
        store.limit_waits(seconds)
    elif store is not None and store.type == "redis":  # Feast's own
        from serving.online_store.redis import limited

        store.connection_string = limited(store.connection_string, seconds)


class OnlineFeatures:
    """Reads features for entities. The catalog is replaced whole by :meth:`refresh`; reads are safe from many threads."""

    def __init__(self, repo: Path, now_us: Callable[[], int] | None = None, timeout_seconds: float = 5.0) -> None:
        """``now_us`` is the clock; by default the online store's own ``as_of`` where its configuration has one, else the wall clock."""
        self._repo = repo
        self.config = load_repo_config(repo, timeout_seconds)
        own = self.config.online_store
        as_of = own.as_of if isinstance(own, OrderedOnlineStoreConfig) else None
        default = wall_us if as_of is None else (lambda: micros_of(as_of))
        self.now_us = now_us or default
        self._lock = threading.Lock()
        self._feast: FeatureStore | None = None
        self._store: OnlineStore | None = None
        self._catalog: Catalog | None = None
        self.problem = "the feature registry is not read yet"
        """Why there is no catalog, or the last refresh failed; empty when all is well."""
        self.store_problem = ""
        """Why the online store could not be read, until :meth:`connect` finds all of it readable again; empty when all is well."""

    @property
    def catalog(self) -> Catalog:
        """The catalog of the last good refresh; StoreError while there has been none."""
        if self._catalog is None:
            raise StoreError(f"{self.problem}; run 'feast apply' in the feature repository")
        return self._catalog

    def refresh(self) -> None:
        """Look at the registry again. A registry that cannot be read leaves the last catalog in place and sets ``problem``."""
        try:
            path = self.config.registry.path
            if self.config.registry.registry_type == "file" and "://" not in path and not (self._repo / path).exists():
                raise FileNotFoundError(path)  # Feast would make an empty one
            if self._feast is None:
                self._feast = FeatureStore(repo_path=str(self._repo), config=self.config)
            self._feast.refresh_registry()
            views = {v.name: v for v in (View.of(v) for v in self._feast.list_feature_views(allow_cache=True))}
            services = {
                s.name: tuple((str(p.name_to_use()), f.name) for p in s.feature_view_projections for f in p.features)
                for s in self._feast.list_feature_services()
            }
        except Exception as e:
            if not self.problem:
                log.warning("feature registry: cannot be read", exc_info=e)
            self.problem = f"the feature registry cannot be read ({type(e).__name__})"
            self._feast = None
            return
        self.problem = "" if views else "the feature registry has no feature views"
        if views:
            self._catalog = Catalog(views, services)

    def connect(self) -> None:
        """Open the online store and read one row of each view, so that the first request finds warm connections. Raises StoreError."""
        for view in self.catalog.views.values():
            slots = [_KEY_SLOTS.get(kind, "string_val") for kind in view.keys.values()]
            values = [Value(**{slot: "" if slot == "string_val" else 0}) for slot in slots]  # type: ignore[arg-type]
            self._rows(view, [EntityKey(join_keys=list(view.keys), entity_values=values)], list(view.types)[:1])
        if self.store_problem:
            log.warning("online store: it can be read again")
            self.store_problem = ""

    def read(self, pairs: Sequence[tuple[str, str]], entities: Mapping[str, list[Any]], rows: int) -> dict[str, ViewRows]:
        """Features ``(view, feature)`` for N = ``rows`` entities, by view. Equal entities are read once.

        ``entities`` holds a list of N values for each join key of the views. Raises StoreError when the store fails.
        """
        wanted: dict[str, list[str]] = {}
        for view, feature in pairs:
            wanted.setdefault(view, []).append(feature)
        catalog, now = self.catalog, self.now_us()
        for view in wanted:
            if view not in catalog.views:
                raise StoreError(f"feature view {view!r} is not in the registry; run 'feast apply' in the feature repository")
        return {view: self._read_view(catalog.views[view], features, entities, now) for view, features in wanted.items()}

    def _read_view(self, view: View, features: list[str], entities: Mapping[str, list[Any]], now: int) -> ViewRows:
        position: dict[Any, int] = {}
        inverse = [position.setdefault(key, len(position)) for key in zip(*(entities[k] for k in view.keys), strict=True)]
        slots = [_KEY_SLOTS.get(kind, "string_val") for kind in view.keys.values()]
        names = list(view.keys)
        keys = [EntityKey(join_keys=names, entity_values=[Value(**{s: v}) for s, v in zip(slots, key, strict=True)]) for key in position]
        extra = [own for own in (FINGERPRINT, REVISION) if own in view.types and own not in features]
        rows = self._rows(view, keys, [*features, *extra])
        found = np.array([values is not None for _, values in rows])
        times = np.array([micros_of(t) if t is not None else 0 for t, _ in rows], dtype=np.int64)
        times[~found] = 0
        expired = found & (now - times > view.ttl_us) if view.ttl_us else np.zeros(len(rows), dtype=bool)
        row_status = np.where(found, np.where(expired, OUTSIDE_MAX_AGE, PRESENT), NOT_FOUND).astype(np.uint8)
        take = np.array(inverse, dtype=np.int64)
        columns, statuses = {}, {}
        live = [values if s == PRESENT else None for (_, values), s in zip(rows, row_status, strict=True)]
        for feature in features:
            values, status = _column(view, feature, live, row_status)
            columns[feature], statuses[feature] = (
                (values, status) if len(rows) == len(take) else (values.take(pa.array(take)), status[take])
            )
        prints = [_python(v[FINGERPRINT]) if v is not None and FINGERPRINT in v else None for v in live]
        revisions = [_python(v[REVISION]) if v is not None and REVISION in v else None for _, v in rows]
        ages = np.where(found, (now - times) / 1e6, np.nan)
        return ViewRows(
            view=view.name,
            columns=columns,
            statuses=statuses,
            row_status=row_status[take],
            timestamps_us=times[take],
            ages=ages[take],
            fingerprints=[prints[i] for i in inverse],
            revisions=[revisions[i] for i in inverse],
            as_of_us=now,
        )

    def _rows(self, view: View, keys: list[EntityKey], features: list[str]) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        # Our own stores withhold what is older than the TTL from Feast's readers; here the age itself is wanted.
        return self._asked(
            lambda store: (
                store.online_read_stored(self.config, view.feast, keys, features)
                if isinstance(store, OrderedOnlineStore)
                else store.online_read(self.config, view.feast, keys, features)
            )
        )

    def applied_fingerprint(self, view: str) -> str | None:
        """The fingerprint whose rows the online store takes for the view; None if it takes any. Raises StoreError."""
        return self._asked(lambda store: store.applied_fingerprint(self.config, view) if isinstance(store, OrderedOnlineStore) else None)

    def _asked(self, question: Callable[[OnlineStore], T]) -> T:
        with self._lock:
            if self._store is None:
                self._store = get_online_store_from_config(self.config.online_store)
                if isinstance(self._store, OrderedOnlineStore):
                    self._store.clock = lambda: self.now_us()
            store = self._store
        try:
            return question(store)
        except Exception as e:  # whatever the store's client raises
            with self._lock:
                if self._store is store:
                    self._store = None  # a broken connection is not kept: the next read opens a new one
            problem = f"the online store cannot be read ({type(e.__cause__ or e).__name__})"
            # While a store stays away every request fails: its trace is logged once, not a thousand times a second.
            log.warning("online store: a read failed", exc_info=e) if problem != self.store_problem else log.debug("%s", problem)
            self.store_problem = problem
            raise StoreError(f"{problem}; try again") from e


def checked_entities(fields: Sequence[RequestField], entities: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The entities of a request, with exactly the join keys and types of ``fields``."""
    expected = {f.name for f in fields}
    if missing := expected - entities.keys():
        raise InvalidRequestError(f"entities lack {_some(missing)}; these features need {_some(expected)}")
    if unknown := entities.keys() - expected:
        raise InvalidRequestError(f"entities have the unknown key {_some(unknown)}; these features need {_some(expected)}")
    return {f.name: checked_column(entities[f.name], f, f"entities.{f.name}[{{i}}]") for f in fields}


def _column(
    view: View,
    feature: str,
    rows: list[dict[str, Value] | None],
    row_status: npt.NDArray[np.uint8],
) -> tuple[pa.Array, npt.NDArray[np.uint8]]:
    kind = view.types[feature]
    raw = [_python(row[feature]) if row is not None and feature in row else None for row in rows]
    if pa.types.is_timestamp(kind):
        raw = [None if v is None else v * 1_000_000 for v in raw]
    try:
        values = pa.array(raw, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as e:
        raise StoreError(f"the online store holds a value of {view.name}:{feature} that is no {kind}; materialize the view again") from e
    status = row_status.copy()
    for i, (row, value) in enumerate(zip(rows, raw, strict=True)):
        if value is None and row is not None:
            status[i] = NULL if feature in row else NOT_FOUND
    return values, status


def _python(value: Value) -> Any:
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    out = getattr(value, kind)
    return list(out.val) if kind.endswith("_list_val") else out


def _arrow_type(kind: Any) -> pa.DataType:
    return pa.list_(_ARROW[kind.base_type]) if isinstance(kind, Array) else _ARROW[kind]


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(repr(n[:60]) for n in ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")
