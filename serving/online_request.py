"""What requests for online features ask for, looked up in the registry once for all requests of one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from serving.catalog import Catalog
from serving.features import checked_entities
from serving.principals import Principal
from serving.projections import FeatureSet
from serving.protocol import OnlineRequest, RequestField
from serving.request_errors import ForbiddenError, InvalidRequestError
from transforms.definitions import ARROW_TYPES

__all__ = ["Forms", "OnlineAsked", "OnlineForm"]

_MOST = 256
"""Forms that are kept: a request may have any."""
_MOST_TEXT = 1_000
"""Characters of the names of a form's entities: it may name any, also such as nobody knows."""


@dataclass(frozen=True)
class OnlineForm:
    """A feature service or references, names in full or not, and which entities are given."""

    features: FeatureSet
    views: tuple[str, ...]
    """The registry's views that are read."""
    fields: list[RequestField]
    """The entities that these need."""
    others: list[RequestField]
    """Keys of other views that the request gives. As in Feast's server they are given back; what nobody knows is passed over."""
    names: list[str]
    """The columns of the answer: entities, then features."""
    types: dict[str, pa.DataType]
    """Of the entities that are needed."""
    twice: str | None
    """A name that two columns of the answer would have."""

    @staticmethod
    def of(catalog: Catalog, request: OnlineRequest, principal: Principal) -> OnlineForm:
        """Raises ForbiddenError, NotFoundError and InvalidRequestError."""
        service = request.feature_service
        views = FeatureSet.of(request.features).views if service is None else catalog.views_of(service)
        _need(principal, service, views)  # before anything is said of them
        features = catalog.references(request.features, principal) if service is None else catalog.service(service, principal)
        fields = catalog.key_fields(features)
        needed = {f.name for f in fields}
        others = [f for f in catalog.known_keys() if f.name not in needed and f.name in request.entities]
        names = [f.name for f in (*fields, *others)] + [
            f"{view}__{feature}" if request.full_feature_names else feature for view, feature in features.pairs
        ]
        seen: set[str] = set()
        twice = next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
        return OnlineForm(features, views, fields, others, names, {f.name: ARROW_TYPES[f.dtype] for f in fields}, twice)


@dataclass(frozen=True)
class OnlineAsked:
    """A request, checked."""

    form: OnlineForm
    entities: dict[str, list[Any]] = field(repr=False)
    given: dict[str, list[Any]] = field(repr=False)
    """The entities, and what is given back beside them."""
    rows: int

    @property
    def values(self) -> int:
        """How many values the answer will have."""
        return self.rows * len(self.form.names)


class Forms:
    """The forms of one catalog. Safe from many threads."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._known: dict[Any, OnlineForm] = {}

    def asked(self, request: OnlineRequest, principal: Principal) -> OnlineAsked:
        """What a request asks for. Raises ForbiddenError, NotFoundError and InvalidRequestError."""
        principal.need("view", *{reference.partition(":")[0] for reference in request.features})
        key = (request.feature_service, request.features, request.full_feature_names, *request.entities)
        form = self._known.get(key)
        if form is None:
            form = OnlineForm.of(self.catalog, request, principal)
            if sum(map(len, request.entities)) <= _MOST_TEXT:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known[key] = form
        else:
            _need(principal, request.feature_service, form.views)
        entities = checked_entities(form.fields, request.entities)
        given = {**entities, **checked_entities(form.others, request.entities)} if form.others else entities
        if form.twice is not None:
            raise InvalidRequestError(f'two columns would be called {form.twice!r}; ask with "full_feature_names": true')
        return OnlineAsked(form, entities, given, request.rows)


def _need(principal: Principal, service: str | None, views: Sequence[str]) -> None:
    """Raise ForbiddenError where ``principal`` may not read all these views.

    By one text whether ``service`` is there or not: which services there are, and what they read, is told to nobody who may not ask them.
    One of which no view is known takes the scope of all views.
    """
    if service is None:
        principal.need("view", *views)
    elif not all(principal.may("view", view) for view in views or ("*",)):
        raise ForbiddenError(
            f"{principal.name[:60]!r} lacks a scope for what feature service {service[:60]!r} reads, or there is no such service;"
            " ask the server's operator for it"
        )
