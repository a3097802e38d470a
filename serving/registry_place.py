"""Where Feast's registry is, whatever folder a process works in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

__all__ = ["absolute_database", "feast_store", "with_absolute_registry"]


def absolute_database(url: str, repo: Path) -> str:
    """A database's URL, of a SQLite file with its path from the repository's folder: SQLite opens it anew for each thread, from wherever
    the process works then."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(.*)", url)
    return url if found is None else f"{found[1]}{(repo / found[2]).resolve()}{found[3]}"


def with_absolute_registry(config: RepoConfig, repo: Path) -> RepoConfig:
    """Feast's configuration, changed so that a registry in a SQLite file is found from everywhere."""
    if config.registry.registry_type == "sql":
        for name in ("path", "read_path"):
            if url := getattr(config.registry, name, None):
                setattr(config.registry, name, absolute_database(url, repo))
    return config


def feast_store(repo: Path) -> FeatureStore:
    """The repository's ``feast.FeatureStore``, whose registry could be read. Raises what Feast does."""
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    config = with_absolute_registry(load_repo_config(repo, repo / "feature_store.yaml"), repo)
    store = FeatureStore(repo_path=str(repo), config=config)
    _ = store.registry  # newer Feast opens it at its first use, in the middle of whatever wants it
    return store
