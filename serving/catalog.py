"""What the feature registry holds, for reading: views, their keys and types, feature services. Immutable, replaced whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from serving.feast_types import arrow_type
from serving.principals import ANYBODY, Principal
from serving.projections import FeatureSet, Projection
from serving.protocol import RequestField
from serving.request_errors import InvalidRequestError, NotFoundError
from transforms.errors import DefinitionError, StoreError

__all__ = ["Catalog", "View", "entity_key", "some_of"]

_KEY_DTYPES = {ValueType.STRING: "string", ValueType.INT64: "int64", ValueType.INT32: "int64", ValueType.BOOL: "bool"}
_KEY_SLOTS = {ValueType.STRING: "string_val", ValueType.INT64: "int64_val", ValueType.INT32: "int32_val", ValueType.BOOL: "bool_val"}


@dataclass(frozen=True)
class View:
    """A feature view as the registry has it, or a use of one: the request's columns that are its keys with their types, its features, its
    TTL."""

    name: str
    feast: FeatureView = field(repr=False)
    keys: dict[str, ValueType]
    stored_keys: tuple[str, ...]
    """The view's own names of its keys, in the order of ``keys``; of a view without an entity the one that Feast gives to all its rows."""
    types: dict[str, pa.DataType | None]
    """None: a type of Feast's that Arrow has no equal of; its values are given as they come."""
    ttl_us: int
    """0: values never expire."""
    unaskable: str = ""
    """Why nobody can ask for its rows; empty: one can."""

    @staticmethod
    def of(view: FeatureView) -> View:
        """The view ``view`` of a Feast registry."""
        ttl = view.ttl or timedelta(0)
        keys = {c.name: c.dtype.to_value_type() for c in view.entity_columns if c.name != DUMMY_ENTITY_ID}
        odd = [f"{key!r} of {kind.name.lower()}" for key, kind in keys.items() if not _is_key(kind)]
        return View(
            name=str(view.projection.name_to_use()),
            feast=view,
            keys=keys,
            stored_keys=tuple(c.name for c in view.entity_columns) or (DUMMY_ENTITY_ID,),
            types={f.name: arrow_type(f.dtype) for f in view.features},
            ttl_us=ttl // timedelta(microseconds=1),
            unaskable=f"feature view {view.name!r} has the key {odd[0]}, by which no request can ask; make it text or int64" if odd else "",
        )

    def used(self, name: str, projection: Projection) -> View:
        """The view under another name, with the request's columns that ``projection`` takes its keys from."""
        return replace(self, name=name, keys={projection.column(key): kind for key, kind in self.keys.items()})


@dataclass(frozen=True)
class Catalog:
    """What the registry holds, as of one look at it."""

    views: dict[str, View]
    services: dict[str, FeatureSet | str]
    """By name; a text says why a service cannot be asked."""
    on_demand: frozenset[str] = frozenset()
    """Names of the views that are computed by Python code at each request. They are not answered."""

    @staticmethod
    def of(store: FeatureStore) -> Catalog:
        """That of a Feast repository, by its registry as it was last refreshed."""
        stored = [*store.list_feature_views(allow_cache=True), *store.list_stream_feature_views(allow_cache=True)]
        return Catalog(
            {v.name: v for v in map(View.of, stored)},
            {s.name: _service(s) for s in store.list_feature_services()},
            frozenset(v.name for v in store.list_on_demand_feature_views(allow_cache=True)),
        )

    def references(self, refs: Sequence[str], principal: Principal = ANYBODY) -> FeatureSet:
        """``view:feature`` strings; NotFoundError for what the registry does not have."""
        return self.resolved(FeatureSet.of(refs), principal)

    def resolved(self, features: FeatureSet, principal: Principal = ANYBODY) -> FeatureSet:
        """``features`` itself, when the registry has all of it. What an error names is of views that ``principal`` may read, where it may
        read those of ``features``."""
        for name, feature in features.pairs:
            view = features.projection(name).view
            if view in self.on_demand:
                raise InvalidRequestError(
                    f"feature view {view[:60]!r} is an on-demand view, whose Python code this server does not run;"
                    " use 'feast serve' for it, or compute it in a preprocessing_fn"
                )
            if view not in self.views:
                known = some_of(v for v in self.views if principal.may("view", v))
                raise NotFoundError(f"unknown feature view {view[:60]!r}; the registry has {known or 'none that you have access to'}")
            if self.views[view].unaskable:
                raise InvalidRequestError(self.views[view].unaskable)
            if feature not in self.views[view].types:
                raise NotFoundError(f"unknown feature {feature[:60]!r} of view {view!r}; it has {some_of(self.views[view].types)}")
        return features

    def views_of(self, service: str) -> tuple[str, ...]:
        """The registry's views that a feature service reads, whether they are there or not; none of one that is not there or cannot be
        asked. This, unlike :meth:`service`, tells nothing of them, so it comes before any question of scopes."""
        found = self.services.get(service)
        return found.views if isinstance(found, FeatureSet) else ()

    def service(self, name: str, principal: Principal = ANYBODY) -> FeatureSet:
        """The features of a feature service. Raises NotFoundError for an unknown one, and as :meth:`resolved`."""
        if name not in self.services:
            raise NotFoundError(f"unknown feature service {name[:60]!r}; the registry has {some_of(self.services) or 'none'}")
        found = self.services[name]
        if isinstance(found, str):
            raise InvalidRequestError(found)
        return self.resolved(found, principal)

    def used(self, features: FeatureSet) -> dict[str, View]:
        """The views that ``features`` reads, by their names there. Raises StoreError for one that the registry does not have (any more)."""
        out = {}
        for name in features.names:
            projection = features.projection(name)
            if projection.view not in self.views:
                raise StoreError(f"feature view {projection.view!r} is not in the registry; run 'feast apply' in the feature repository")
            out[name] = self.views[projection.view].used(name, projection)
        return out

    def key_fields(self, features: FeatureSet) -> list[RequestField]:
        """The columns of a request that reading the features takes. Raises InvalidRequestError where two views take one column as keys of
        different types (by ``with_join_key_map``)."""
        keys: dict[str, str] = {}
        for view in self.used(features).values():
            for key, kind in view.keys.items():
                dtype = _KEY_DTYPES.get(kind, "string")
                if keys.setdefault(key, dtype) != dtype:
                    raise InvalidRequestError(
                        f"these features take {key[:60]!r} as a key of {keys[key]} and of {dtype}; map their keys to columns of their own"
                    )
        return [RequestField(name, dtype) for name, dtype in keys.items()]

    def known_keys(self) -> list[RequestField]:
        """Every key that some view has, under its own name; null is a value of it here."""
        keys = {key: _KEY_DTYPES.get(kind, "string") for view in self.views.values() for key, kind in view.keys.items()}
        return [RequestField(name, dtype, nullable=True) for name, dtype in keys.items()]


@cache
def _is_key(kind: ValueType) -> bool:
    """Whether a request can hold a key of this type, and Feast can store rows by it."""
    slot = _KEY_SLOTS.get(kind)
    try:
        if slot is not None:
            value = Value()
            setattr(value, slot, "" if slot == "string_val" else 0)
            serialize_entity_key(EntityKey(join_keys=["k"], entity_values=[value]), entity_key_serialization_version=3)
    except ValueError:
        return False
    return slot is not None


def entity_key(view: View, values: Sequence[Any] | None) -> EntityKey:
    """The stored key of ``values``, one for each of the view's keys; with None of some key of the right types."""
    if not view.keys:
        return EntityKey(join_keys=list(view.stored_keys), entity_values=[Value(string_val=DUMMY_ENTITY_VAL)] * len(view.stored_keys))
    slots = [_KEY_SLOTS.get(kind, "string_val") for kind in view.keys.values()]
    if values is None:
        values = ["" if slot == "string_val" else 0 for slot in slots]
    try:
        stored = [Value(**{slot: value}) for slot, value in zip(slots, values, strict=True)]
    except ValueError as e:  # an int32 key that is more
        raise InvalidRequestError(f"entity {' '.join(str(e).split())[:100]}; {view.name!r} has keys of 32 bits") from None
    return EntityKey(join_keys=list(view.stored_keys), entity_values=stored)


def _service(service: Any) -> FeatureSet | str:
    try:
        return FeatureSet.of_service(service)
    except DefinitionError as error:
        return str(error)


def some_of(names: Iterable[str]) -> str:
    """Some of the names, sorted and quoted, for a message."""
    ordered = sorted(names)
    return ", ".join(repr(n[:60]) for n in ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")
