"""Features as a model or a request names them: ``(view, feature)`` pairs, and what those views are.

Feast lets a feature service use a view under another name (``with_name``) and with other key columns (``with_join_key_map``): origin and
destination, buyer and seller. Training, the server and the tools that compare their answers all read such a service here, so that they mean
the same by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transforms.errors import DefinitionError

__all__ = ["FeatureSet", "Projection"]


@dataclass(frozen=True)
class Projection:
    """A use of a view: ``view`` is its name in the registry, ``join_keys`` maps its key fields to the columns of a request or a spine that
    hold them. A key field that is not in the map has a column of its own name."""

    view: str
    join_keys: Mapping[str, str] = field(default_factory=dict)

    def column(self, key: str) -> str:
        """The column that holds the view's key field ``key``."""
        return self.join_keys.get(key, key)

    def to_json(self) -> dict[str, Any]:
        """For manifests and ``tandem.json``."""
        return {"view": self.view, "join_keys": dict(sorted(self.join_keys.items()))}

    def text(self) -> str:
        """One line, the same for equal projections: how the request log names one."""
        return json.dumps(self.to_json(), sort_keys=True)

    @staticmethod
    def of(raw: Mapping[str, Any]) -> Projection:
        """What :meth:`to_json` gave. Raises KeyError, TypeError or AttributeError for anything else."""
        return Projection(str(raw["view"]), {str(k): str(v) for k, v in raw.get("join_keys", {}).items()})


@dataclass(frozen=True)
class FeatureSet:
    """``pairs``: (name of a use of a view, feature), in order. ``projections``: what these names stand for, but for those that are simply
    the name of a view with its own keys."""

    pairs: tuple[tuple[str, str], ...]
    projections: Mapping[str, Projection] = field(default_factory=dict)

    def projection(self, name: str) -> Projection:
        """What the view called ``name`` here is."""
        return self.projections.get(name) or Projection(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the uses, each once, in order."""
        return tuple(dict.fromkeys(name for name, _ in self.pairs))

    @property
    def views(self) -> tuple[str, ...]:
        """The registry's views that these read, each once, in order."""
        return tuple(dict.fromkeys(self.projection(name).view for name in self.names))

    def only(self, pairs: Iterable[tuple[str, str]]) -> FeatureSet:
        """The same with some of the pairs."""
        return FeatureSet(tuple(pairs), self.projections)

    def to_json(self) -> dict[str, Any]:
        """The projections, JSON-able; empty where there are none."""
        return {name: p.to_json() for name, p in sorted(self.projections.items()) if name in self.names}

    @staticmethod
    def of(references: Sequence[str], projections: Mapping[str, Any] | None = None) -> FeatureSet:
        """From ``"view:feature"`` texts and what :meth:`to_json` gave."""
        pairs = tuple((view, name) for view, _, name in (ref.partition(":") for ref in references))
        return FeatureSet(pairs, {name: Projection.of(raw) for name, raw in (projections or {}).items()})

    @staticmethod
    def of_service(service: Any) -> FeatureSet:
        """That of a ``feast.FeatureService``. Raises DefinitionError where two of its views have one name: Feast cannot tell them apart;
        and where two keys of a view are mapped to one column."""
        pairs: list[tuple[str, str]] = []
        projections: dict[str, Projection] = {}
        for p in service.feature_view_projections:
            name, use = str(p.name_to_use()), Projection(p.name, {str(k): str(v) for k, v in (p.join_key_map or {}).items()})
            if name in {n for n, _ in pairs}:
                raise DefinitionError(
                    f"feature service {service.name!r}: two of its views are called {name!r}; give each a name of its own,"
                    f" e.g. view.with_name('from_{name}').with_join_key_map({{...}})"
                )
            if len(set(use.join_keys.values())) < len(use.join_keys):
                raise DefinitionError(
                    f"feature service {service.name!r}: two keys of {p.name!r} are mapped to one column; give each a column of its own"
                )
            if use != Projection(name):
                projections[name] = use
            pairs += [(name, f.name) for f in p.features]
        return FeatureSet(tuple(pairs), projections)
