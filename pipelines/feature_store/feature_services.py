"""The feature services that a repository's files define, and how they differ from those that are applied."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines.feature_store.inside import inside
from pipelines.lake import runs
from pipelines.lake.graphs import graph_for
from pipelines.lake.value_code import meaning, value_files
from pipelines.project.repository import load_repo
from serving.projections import FeatureSet
from transforms.definitions import RESERVED, FeatureGroup, duration_name
from transforms.errors import DefinitionError, GraphError, some_of

__all__ = ["check_fields", "check_services", "defined_services", "edited_since", "short_ttl", "unlike_the_registry"]


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
    parts = [f"not applied yet: {some_of(new)}"] if new else []
    parts += [f"taken out: {some_of(gone)}"] if gone else []
    parts += [f"other keys: {some_of(moved)}"] if moved else []
    parts += ["another order"] if not parts and list(mine) != list(theirs) else []
    if not parts:
        return ""
    fix = "tandem batch, then tandem apply" if pending else "tandem apply"
    what = f"feature service {service.name!r} in the files differs from the applied one; using the applied one"
    return f"{what} ({'; '.join(parts)}); to train on the one in the files, run {fix} first"


def edited_since(repo: Path, data: Path, views: Iterable[str]) -> list[str]:
    """A line for each of the views whose group the repository's files define otherwise than it is applied, and one that names the files
    whose code (a preprocessing_fn) was edited since the applied graphs were made. Raises what the files raise."""
    loaded, out = load_repo(repo), []
    code = {name: meaning(path)[:16] for name, path in value_files(repo, repo, loaded.settings.definitions).items() if name[:5] == "repo/"}
    own = f"repo/{loaded.settings.definitions}.py"  # what it says of groups is compared as such
    complete = [r for r in runs.list_runs(data) if r.kind == "batch" and r.status == "complete"]
    edited: dict[str, None] = {}
    for group in (loaded.groups[view] for view in views if view in loaded.groups):
        try:
            fingerprint = graph_for(data, group, "tandem batch, then tandem apply")
        except GraphError as error:
            out.append(f"{error}; until then, the applied one is used")
            continue
        made_by = (r for r in reversed(complete) if r.record.fingerprints.get(group.name) == fingerprint and not r.manifest.get("pinned"))
        if group.preprocessing_fn is None or (run := next(made_by, None)) is None:
            continue
        then = run.record.code.get("value_files", {})
        edited |= {name: None for name in {*then, *code} if name[:5] == "repo/" and name != own and then.get(name) != code.get(name)}
    if edited:
        names = ", ".join(sorted(name.removeprefix("repo/") for name in edited))
        fix = "to train on the current code, run tandem batch and tandem apply first"
        out.append(f"the code was edited after the applied graphs were made ({names}), which are still used; {fix}")
    return out


def short_ttl(group: FeatureGroup) -> str:
    """What to say of a group whose ``ttl`` is shorter than its longest window; empty of others."""
    if group.ttl_us is None or group.ttl_us >= group.longest_us:
        return ""
    ttl, longest = (duration_name(timedelta(microseconds=us)) for us in (group.ttl_us, group.longest_us))
    return (
        f"{group.name}: ttl {ttl} is shorter than its longest window {longest}: values are withheld while their events still count;"
        " make ttl at least the window, or None for never"
    )
