"""The feature services that a repository's files define, and how they differ from those that are applied."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.feature_store.inside import inside
from serving.projections import FeatureSet
from transforms.definitions import RESERVED
from transforms.errors import DefinitionError

__all__ = ["check_fields", "check_services", "defined_services", "unlike_the_registry"]


def defined_services(repo: Path) -> dict[str, Any]:
    """The ``feast.FeatureService`` objects of the repository by name, found as ``feast apply`` finds them. Raises what its files raise."""
    from feast.repo_operations import parse_repo

    with inside(repo):
        return {service.name: service for service in parse_repo(repo).feature_services}


def check_services(services: dict[str, Any], views: dict[str, Any]) -> None:
    """Raise DefinitionError for a service that cannot be applied: a feature that its view does not have now that graphs are applied, or two
    views of one name. ``views``: those of the repository by name."""
    for service in services.values():
        for p in service.feature_view_projections:
            have = {f.name for f in views[p.name].features} if p.name in views else None
            missing = [name for name in p.desired_features if have is not None and name not in have]
            if missing:
                known = ", ".join(sorted(set(have or ()) - set(RESERVED)))
                raise DefinitionError(
                    f"feature service {service.name!r}: view {p.name!r} has no feature {missing[0]!r}; it has {known}:"
                    " correct the service, or run 'tandem batch' and apply that run if the preprocessing_fn was changed"
                )
        FeatureSet.of_service(service)


def check_fields(views: Iterable[Any]) -> None:
    """Raise DefinitionError where two features would be one field of Redis: Feast keeps all views of an entity in one hash, whose fields
    are called by 32 bits of murmur3 over ``view:feature``. Nothing else tells them apart, and the store would give one's value for both."""
    from feast.infra.online_stores.helpers import _mmh3

    taken: dict[tuple[tuple[str, ...], bytes], str] = {}
    for view in views:
        keys = tuple(sorted(c.name for c in view.entity_columns) or view.entities)
        for feature in view.features:
            name = f"{view.name}:{feature.name}"
            other = taken.setdefault((keys, _mmh3(name)), name)
            if other != name:
                raise DefinitionError(
                    f"features {other!r} and {name!r} have the same field in Redis (Feast names fields by a 32-bit hash), so one would be"
                    " read as the other; rename one of them"
                )


def unlike_the_registry(service: Any, applied: FeatureSet) -> str:
    """How a service of the repository's files differs from what is applied of it, and what to run; empty where it does not."""
    found = FeatureSet.of_service(service)
    pending = [f"{p.name_to_use()}:{n}" for p in service.feature_view_projections for n in p.desired_features]
    mine = dict.fromkeys([*(f"{v}:{n}" for v, n in found.pairs if n not in RESERVED), *pending])
    theirs = dict.fromkeys(f"{v}:{n}" for v, n in applied.pairs if n not in RESERVED)
    new, gone = [r for r in mine if r not in theirs], [r for r in theirs if r not in mine]
    moved = [name for name in found.names if name in applied.names and found.projection(name) != applied.projection(name)]
    parts = [f"not applied yet: {_some(new)}"] if new else []
    parts += [f"taken out: {_some(gone)}"] if gone else []
    parts += [f"other keys: {_some(moved)}"] if moved else []
    parts += ["another order"] if not parts and list(mine) != list(theirs) else []
    if not parts:
        return ""
    mend = "tandem batch, then tandem apply" if pending else "tandem apply"
    what = f"feature service {service.name!r} in the files differs from the applied one, which is used"
    return f"{what} ({'; '.join(parts)}); to train on that of the files, run {mend} first"


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
