"""What a repository's definitions say of a subject: which columns hold its keys, and which do not."""

from __future__ import annotations

from dataclasses import replace

from pipelines.feature_store.store import open_store
from pipelines.forgetting.subject import Subject
from pipelines.project.repository import Repo
from serving.registry_place import has_store
from transforms.errors import TandemError
from transforms.event_source import EventSource

__all__ = ["as_defined", "keys_of"]


def as_defined(repo: Repo, subject: Subject) -> Subject:
    """The subject with the columns that keep, or are joined by, its keys, those that hold none of them, and the mapped sources that read
    them."""
    names = {name for name, _ in subject.keys}
    mapped = tuple(keys_of(s, names) for s in repo.sources.values() if s.mapped and names <= {f.name for f in s.fields})
    kept = _kept(repo, names) | _joined_as(repo, names)
    return replace(subject, kept=kept, others=_others(repo, names, {column for _, column in kept}), sources=mapped)


def keys_of(source: EventSource, names: set[str]) -> EventSource:
    """The source as far as the keys are its fields: what else events repeat of a record need not fit into memory. Where fields are
    computed, all of it."""
    if any(f.value is not None for f in source.all_fields):
        return source
    return replace(source, fields=[f for f in source.fields if f.name in names | {source.tie_breaker}], where=None)


def _kept(repo: Repo, keys: set[str]) -> frozenset[tuple[str, str]]:
    """(key, feature) where a feature is a value of the key's field: the last one, or among the most frequent ones."""
    return frozenset(
        (str(f.aggregate.column), f.name)
        for group in repo.groups.values()
        for f in group.features
        if f.aggregate.column in keys and f.aggregate.keeps_unit and f.output.dtype == group.source.field(str(f.aggregate.column)).dtype
    )


def _joined_as(repo: Repo, keys: set[str]) -> frozenset[tuple[str, str]]:
    """(key, column) where a service joins a view by a column of another name. None are known of a store that cannot be opened."""
    try:
        services = open_store(repo).list_feature_services() if has_store(repo.path) else []
    except TandemError:
        return frozenset()
    maps = [p.join_key_map or {} for service in services for p in service.feature_view_projections]
    return frozenset((key, column) for each in maps for key, column in each.items() if key in keys and column != key)


def _others(repo: Repo, keys: set[str], kept: set[str]) -> frozenset[str]:
    """The columns that hold no value of the keys: features that count or add up, and what is another field, or of one."""
    features = {f.name for group in repo.groups.values() for f in group.features}
    return frozenset((features | {f.name for s in repo.sources.values() for f in s.all_fields}) - keys - kept)
