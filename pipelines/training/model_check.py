"""Feature services and models in ``tandem check``: do the names that they use exist, and do the types fit.

Asked twice. First of what the definitions say, in milliseconds; then, when preprocessing functions were traced, of their outputs as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.feature_store.feature_services import check_fields, defined_services
from pipelines.lake.counted import counted
from pipelines.project.repository import Repo, no_such_name
from pipelines.project.written_names import surely_lacks, told_at_once
from pipelines.training.user_code import load_function, no_such_function
from serving.projections import FeatureSet
from serving.registry_place import feast_config, has_store
from transforms.definitions import RESERVED
from transforms.errors import ConfigError, DataError, TandemError

__all__ = ["KnownFeatures", "check_features", "check_named", "check_names", "check_services", "read_services"]


class KnownFeatures:
    """The features of a repository's groups with their types, and its feature services. ``outputs``: of the preprocessing functions that
    are known, by group; ``untraced``: groups of which they are not, where a name that the group does not have is no mistake yet."""

    def __init__(self, repo: Repo, outputs: Mapping[str, Mapping[str, str]], untraced: Collection[str]) -> None:
        self.groups, self.untraced = repo.groups, set(untraced)
        self.types = {n: {f.name: str(f.arrow_field.type) for f in g.features} for n, g in repo.groups.items()}
        self.services: dict[str, Any] | None = None
        """By name; None where they could not be read."""
        self.add(outputs)

    def add(self, outputs: Mapping[str, Mapping[str, str]]) -> None:
        """These functions were traced."""
        self.untraced -= set(outputs)
        for name, types in outputs.items():
            self.types[name] |= types

    def missing(self, group: str, feature: str) -> bool:
        """Whether the repository's group surely has no such feature."""
        return group in self.types and group not in self.untraced and feature not in self.types[group]


def read_services(repo: Repo, known: KnownFeatures) -> str:
    """Read the feature services that the files define. Raises what is wrong with the files, or ConfigError."""
    from serving.feast_objects import feast_objects

    if not has_store(repo.path):
        raise ConfigError(f"{repo.path.name} has no feature_store.yaml, which says where rows are stored; 'tandem init' writes one to copy")
    feast_config(repo.path)
    check_fields(feast_objects(repo.groups.values(), repo.data).views)
    services = defined_services(repo.path)
    for service in services.values():
        FeatureSet.of_service(service)
    known.services = services
    return ""


def check_services(known: KnownFeatures) -> str:
    """Raise DataError for a feature that there is not; the line that says how many services there are."""
    for service in (known.services or {}).values():
        for p in service.feature_view_projections:
            for name in p.desired_features:
                if known.missing(p.name, name):
                    has = ", ".join(sorted(known.types[p.name]))
                    raise DataError(f"feature service {service.name!r}: {p.name!r} has no feature {name!r}; it has {has}")
    if known.services is None:
        return ""
    return counted(known.services, "feature service") + (f": {', '.join(known.services)}" if known.services else "")


def check_named(repo: Repo, reference: str, ask: Callable[[str], Any], lacking: Callable[[Path, str], TandemError] = no_such_name) -> str:
    """Raise what is wrong with ``"module:name"`` where that is told without TensorFlow: ``lacking`` by the module's text, or by
    ``ask`` where that loads nothing. Otherwise nothing is asked yet."""
    module, _, name = reference.partition(":")
    if surely_lacks(repo.path, module, name):
        raise lacking(repo.path, reference)
    if told_at_once(repo.path, module):
        ask(reference)
    return ""


def check_names(repo: Repo, reference: str) -> str:
    """The model's own name in the repository and those of its functions, likewise."""
    check_named(repo, reference, repo.attribute)
    model = repo.attribute(reference)
    for function in (model.spine, model.preprocessing_fn, model.run_fn):
        check_named(repo, function, partial(load_function, repo.path), no_such_function)
    return ""


def check_features(repo: Repo, reference: str, known: KnownFeatures) -> str:
    """Raise DataError for a feature, a key or a type that the model cannot have; the line that says what it has."""
    model = repo.attribute(reference)
    what = f"model {model.name!r}"
    if isinstance(model.features, str):
        if known.services is None:
            return f"{what}: its features are not checked without its feature service"
        if model.features not in known.services:
            there = ", ".join(known.services) or "none"
            raise DataError(f"{what}: no file defines the feature service {model.features!r}; there is {there}")
        service = known.services[model.features]
        wanted = FeatureSet.of_service(service)
        pending = [(p.name_to_use(), n) for p in service.feature_view_projections for n in p.desired_features]
        pairs = [pair for pair in dict.fromkeys([*wanted.pairs, *pending]) if pair[1] not in RESERVED]
    else:
        wanted = FeatureSet.of(model.features)
        pairs = list(wanted.pairs)
    unfit: dict[str, str] = {}
    for name, feature in pairs:
        use = wanted.projection(name)
        group = known.groups.get(use.view)
        if group is None:
            continue  # a view of the user's own
        if known.missing(use.view, feature):
            raise DataError(f"{what}: group {use.view!r} has no feature {feature!r}; it has {', '.join(sorted(known.types[use.view]))}")
        if (kind := known.types[use.view].get(feature, "")).startswith(("list", "timestamp")):
            unfit[f"{name}:{feature} is {kind}"] = feature
        for key in (use.column(k) for k in group.entity.keys):
            if key not in model.entity_keys:
                raise DataError(f"{what}: the features of {name!r} are found by {key!r}, which is none of its entity_keys; add it")
    if unfit:
        names = ", ".join(f'"{feature}"' for feature in dict.fromkeys(unfit.values()))
        how = f": views.features(without=[{names}])" if isinstance(model.features, str) else " of its features="
        raise DataError(f"{what}: a model takes strings, numbers and booleans, and {', '.join(unfit)}; leave them out{how}")
    return f"{what}: {counted(model.request_fields, 'request field')}, {counted(pairs, 'feature')}"
