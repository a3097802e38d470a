"""``tandem check``: whether the online store and the registry's database let us in. Nothing is written."""

from __future__ import annotations

from pipelines.feature_store.sql_registry import database_of, place_of, registered
from pipelines.project.repository import Repo
from transforms.errors import StoreError

__all__ = ["check_stores"]

_SECONDS = 5.0


def check_stores(repo: Repo) -> str:
    """What is there. Raises ConfigError for settings that are wrong, StoreError for what does not answer, one line each."""
    from feast.infra.online_stores.helpers import get_online_store_from_config

    from serving.features import load_repo_config
    from serving.online_store.base import OrderedOnlineStore

    config = load_repo_config(repo.path, _SECONDS)
    store = None if config.online_store is None else get_online_store_from_config(config.online_store)
    if isinstance(store, OrderedOnlineStore):
        store.reach(config)
    database = database_of(repo.path)
    place = "" if database is None else place_of(database[1])
    if database is not None and registered(*database) is None:
        raise StoreError(f"the registry's database {place} cannot be read; start it there, or correct registry.path in feature_store.yaml")
    return f"online store: {'none' if store is None else type(store).__name__}" + (f"; registry: {place}" if place else "")
