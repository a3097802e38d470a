"""What ``feature_store.yaml`` says, read in one way, and where Feast's registry is, whatever folder a process works in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.feast_mistakes import mistake_in
from serving.yaml_text import YamlMistake, yaml_value
from transforms.errors import ConfigError, ours_in

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

__all__ = ["absolute_database", "feast_config", "feast_settings", "feast_store", "has_store", "with_absolute_registry"]

_OURS = "tandem.serving.offline_store.AsofOfflineStore"
"""The offline store that 'tandem init' writes: of it alone, without settings, there is nothing to be told that its module would tell."""


def has_store(repo: Path) -> bool:
    """Whether there is a ``feature_store.yaml``, which may be one that cannot be read."""
    return os.path.lexists(repo / "feature_store.yaml")


def feast_settings(repo: Path) -> dict[str, Any]:
    """The settings of ``<repo>/feature_store.yaml`` as they are written, ``${VARIABLES}`` expanded. Raises ConfigError, one line.

    Not by Feast's own reader: that drops repeated keys in silence, and writes out aliases that stand for billions of values.
    """
    path = repo / "feature_store.yaml"
    try:
        found = yaml_value(os.path.expandvars(path.read_text("utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"feature_repo {str(repo)!r}: has no feature_store.yaml; give the folder of a Feast repository") from None
    except YamlMistake as error:
        raise ConfigError(f"{path}: {error}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({type(error).__name__}); fix the file") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is not a mapping; it needs at least project, registry and online_store")
    return found


def feast_config(repo: Path) -> RepoConfig:
    """Feast's configuration of the repository, whose registry is found from everywhere. Raises ConfigError for settings that are wrong, or
    name a store that cannot be loaded: one line that repeats no value."""
    from feast.repo_config import RepoConfig

    settings = feast_settings(repo)
    if settings.get("offline_store") == {"type": _OURS}:
        settings["offline_store"] = _OURS  # the same to Feast, which then imports it, and DuckDB with it, at its first use
    try:
        config = RepoConfig(**settings)
    except Exception as error:  # of pydantic, of Feast, and of the modules of a store, which may be one of ours
        if (ours := ours_in(error)) is not None:
            raise ours from None
        raise ConfigError(f"feature_store.yaml: {mistake_in(error)}; correct it") from error
    config.repo_path = repo
    return with_absolute_registry(config, repo)


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
    """The repository's ``feast.FeatureStore``, whose registry could be read. Raises as ``feast_config``, and what Feast does for
    a registry."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo), config=feast_config(repo))
    _ = store.registry  # newer Feast opens it at its first use, in the middle of whatever wants it
    return store
