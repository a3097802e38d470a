"""What ``tandem apply`` would change in Feast's registry, of what Tandem makes of the definitions: entities, views, feature services.

A registry that is a file or a database is read as it lies there, for Feast writes into one that it opens. Of another kind nothing is known
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.feature_store.sql_registry import database_of, registered
from pipelines.feature_store.store import registry_file, registry_in
from pipelines.project.config import data_for_feast
from pipelines.project.repository import Repo, load_module
from serving.feast_objects import DEFINITION, feast_objects, load_outputs
from serving.registry_place import feast_config, has_store
from transforms.definitions import FINGERPRINT, duration_name

__all__ = ["FeastChange", "Registry", "feast_changes", "registry_of"]


@dataclass(frozen=True)
class FeastChange:
    """``sign`` is +, ~ or -; ``kind`` entity, view or feature service; ``words``: how it differs."""

    sign: str
    kind: str
    name: str
    words: str = ""


@dataclass(frozen=True)
class Registry:
    """What is registered, each as a few comparable facts by name."""

    entities: Mapping[str, Mapping[str, Any]]
    views: Mapping[str, Mapping[str, Any]]
    services: Mapping[str, Mapping[str, Any]]
    damaged: str = ""
    """Its file, where that is no registry: apply sets it aside and makes it anew."""


def registry_of(repo: Repo, groups: Collection[str] = ()) -> Registry | None:
    """What Feast's registry holds, of feature services what they ask of ``groups`` (none: all); None without a ``feature_store.yaml``, and
    where it is neither a file of this machine nor a database, or cannot be read. One that is not there, or is damaged, holds nothing.
    Raises ConfigError for a ``feature_store.yaml`` that apply would refuse."""
    if not has_store(repo.path):
        return None
    feast_config(repo.path)
    database, path = database_of(repo.path), registry_file(repo.path)
    if database is None and path is None:
        return None
    if path is not None and not path.is_file():
        return Registry({}, {}, {})
    from feast import Entity, FeatureService, FeatureView
    from feast.protos.feast.core.Entity_pb2 import Entity as EntityProto
    from feast.protos.feast.core.FeatureService_pb2 import FeatureService as ServiceProto
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView as ViewProto

    try:
        if database is not None:
            if (found := registered(*database)) is None:
                return None
            entities: Iterable[Any] = map(EntityProto.FromString, found["entities"])
            views: Iterable[Any] = map(ViewProto.FromString, found["feature_views"])
            services: Iterable[Any] = map(ServiceProto.FromString, found["feature_services"])
        elif path is not None:
            held = registry_in(path)
            if held is None:
                return Registry({}, {}, {}, damaged=str(path.resolve()))
            entities, views, services = held.entities, held.feature_views, held.feature_services
        return Registry(
            {e.name: _entity(e) for e in map(Entity.from_proto, entities)},
            {v.name: _view(v) for v in map(FeatureView.from_proto, views)},
            _services(map(FeatureService.from_proto, services), groups),
        )
    except Exception:  # of another Feast, say
        return None


def defined(repo: Repo, groups: Collection[str] = ()) -> Registry:
    """What the definitions make of it, with the graphs that are applied now; of services as :func:`registry_of`."""
    from feast import FeatureService

    outputs = load_outputs(repo.data, repo.groups.values(), damaged=True)
    made = feast_objects(repo.groups.values(), data_for_feast(repo.path), outputs)
    module = vars(load_module(repo.path, repo.settings.definitions)).values()
    services = _services((s for s in module if isinstance(s, FeatureService)), groups)
    return Registry({e.name: _entity(e) for e in made.entities}, {v.name: _view(v) for v in made.views}, services)


def _entity(e: Any) -> dict[str, Any]:
    return {"value type": str(getattr(e.value_type, "name", e.value_type)), "description": e.description}


def _view(v: Any) -> dict[str, Any]:
    keys = {c.name for c in v.entity_columns}
    return {
        "ttl": duration_name(v.ttl) if v.ttl else "never",
        "description": v.description,
        "keys": ", ".join(sorted(v.entities)),
        "features": {f.name: str(f.dtype) for f in v.features if f.name not in keys},
        "definition": (v.tags or {}).get(DEFINITION),
        "graph": (v.tags or {}).get(FINGERPRINT),
    }


def _services(found: Iterable[Any], groups: Collection[str]) -> dict[str, dict[str, Any]]:
    """Service -> what it asks of ``groups`` (none: of all views); without services that ask nothing of them."""
    asked = {s.name: _asked(s, groups) for s in found}
    return {n: {"features": features} for n, features in asked.items() if features or not groups}


def _asked(service: Any, groups: Collection[str]) -> dict[str, list[str]]:
    asked = {}
    for p in service.feature_view_projections:
        if not groups or p.name in groups:
            names = [*(f.name for f in p.features), *getattr(p, "desired_features", ())]
            asked[p.name_to_use()] = list(dict.fromkeys(names))
    return asked


def feast_changes(now: Registry, then: Registry, regraphed: Mapping[str, str]) -> list[FeastChange]:
    """``regraphed``: the groups that will have another graph -> which (``a new one``): their views change with it. Views of somebody else's
    are left alone."""
    ours = {n: v for n, v in then.views.items() if v["definition"] is not None or n in now.views}
    kept = {k for n, v in then.views.items() if n not in ours or n in now.views for k in v["keys"].split(", ")}
    keys = {k for v in ours.values() for k in v["keys"].split(", ")} - (kept - now.entities.keys())
    out = [*_of("entity", now.entities, {n: e for n, e in then.entities.items() if n in keys or n in now.entities}, {})]
    out += _of("view", now.views, ours, regraphed)
    return out + [c for c in _of("feature service", now.services, then.services, {}) if c.sign != "-"]


def _of(
    kind: str, now: Mapping[str, Mapping[str, Any]], then: Mapping[str, Mapping[str, Any]], regraphed: Mapping[str, str]
) -> Iterable[FeastChange]:
    for name in dict.fromkeys([*now, *then]):
        if name not in then:
            yield FeastChange("+", kind, name)
        elif name not in now:
            yield FeastChange("-", kind, name, "with its rows in the online store" if kind == "view" else "")
        else:
            words = list(_words(then[name], now[name]))
            if name in regraphed:
                words = [w for w in words if not w.startswith(("graph", "definition"))] + [f"its graph: {regraphed[name]}"]
            if words:
                yield FeastChange("~", kind, name, "; ".join(words))


def _words(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    for fact, value in now.items():
        if value == then[fact]:
            continue
        if fact == "features":
            yield from _features(then[fact], value)
        elif fact in ("definition", "graph", "description"):
            yield f"{fact} changed"
        else:
            yield f"{fact} {then[fact]} -> {value}"


def _features(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    for what, names in (
        ("new", [n for n in now if n not in then]),
        ("gone", [n for n in then if n not in now]),
        ("changed", [n for n in now if n in then and now[n] != then[n]]),
    ):
        if names:
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            yield f"{what}: {some}"
