"""``tandem apply``: Feast's own command in process, with the applied graphs made known to the online store."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.feature_store.feature_services import check_fields, check_services
from pipelines.feature_store.inside import inside
from pipelines.feature_store.ownership import check_rows, claim_rows
from pipelines.feature_store.put_back import unchanged_on_failure
from pipelines.feature_store.sql_registry import database_of, one_transaction, unreachable_registry
from pipelines.lake.data_files import replaced
from pipelines.lake.folder_identity import identity_of
from pipelines.lake.user_output import stdout_to_stderr
from pipelines.project.repository import Repo, load_module
from serving.feast_mistakes import NO_ONLINE_STORE, mistake_in
from serving.registry_place import feast_config, feast_settings, feast_store, has_store
from transforms.errors import ConfigError, StoreError, TandemError, ours_in

if TYPE_CHECKING:
    from serving.online_store.base import OrderedOnlineStore

__all__ = ["apply", "checked_online", "open_store", "ordered_store", "registry_file", "registry_in", "whole_registry_files"]


def open_store(repo: Repo) -> Any:
    """The repository's ``feast.FeatureStore``. Raises ConfigError, one line."""
    whole_registry_files()
    if not has_store(repo.path):
        raise ConfigError(f"{repo.path} has no feature_store.yaml; see 'tandem init' for an example")
    try:
        return feast_store(repo.path)
    except Exception as error:
        raise (
            unreachable_registry(repo.path, error) or ours_in(error) or ConfigError(f"feature_store.yaml: {mistake_in(error)}; correct it")
        ) from None


def ordered_store(store: Any) -> OrderedOnlineStore:
    """The online store of a ``feast.FeatureStore``. Raises ConfigError for one of Feast's own, which know no order of writes."""
    return checked_online(store._get_provider().online_store)


def checked_online(online: Any) -> OrderedOnlineStore:
    """The online store, if it is one with an order of writes. Raises ConfigError else, and for None, as Feast says that there is none."""
    from serving.online_store.base import OrderedOnlineStore

    if online is None:
        raise ConfigError(NO_ONLINE_STORE)
    if not isinstance(online, OrderedOnlineStore):
        raise ConfigError(
            f"feature_store.yaml: online_store {type(online).__name__} has no ordered write;"
            " use one of tandem.serving.online_store: sqlite.OrderedSqliteOnlineStore, redis.OrderedRedisOnlineStore,"
            " postgres.OrderedPostgresOnlineStore, dynamodb.OrderedDynamoDBOnlineStore"
        )
    return online


def whole_registry_files() -> None:
    """From now on Feast's registry file is replaced as a whole in this process. Feast empties it and then writes it: a server that looked
    in between, every two seconds, knew no view, and a kill left it so."""
    from feast.infra.registry.file import FileRegistryStore

    real = FileRegistryStore._write_registry
    if getattr(real, "whole", False):
        return

    def write(self: Any, registry_proto: Any) -> None:
        with replaced(self._filepath, durable=True) as out:
            beside = copy.copy(self)
            beside._filepath = Path(out.name)
            real(beside, registry_proto)

    write.whole = True  # type: ignore[attr-defined]
    FileRegistryStore._write_registry = write  # type: ignore[method-assign]


def registry_file(repo: Path) -> Path | None:
    """The file of Feast's registry, where it is one on this machine. Raises ConfigError for settings that cannot be read.

    Reads the settings as Feast does, but does not have it load what else they name: the stores are a second of imports.
    """
    config = feast_settings(repo).get("registry")
    given = config if isinstance(config, dict) else {"path": config}
    place, kind = given.get("path"), given.get("registry_type", "file")
    return repo / place if isinstance(place, str) and place and kind == "file" and "://" not in place else None


def registry_in(file: Path) -> Any:
    """Feast's registry that a file holds; None where it is damaged: Feast writes it in place, and a kill may leave it in part. Raises
    OSError."""
    from feast.protos.feast.core.Registry_pb2 import Registry
    from google.protobuf.message import DecodeError

    try:
        return Registry.FromString(file.read_bytes())
    except DecodeError:
        return None


def apply(repo: Repo, fingerprints: Mapping[str, str], take_over: bool = False) -> None:
    """``feast apply`` in the repository, and ``fingerprints`` (group -> graph) made the ones that the online store takes rows of.
    ``take_over``: also where another data folder writes them now.

    Raises what is wrong with the definitions, the registry or the store, in one line; then registry and store are as they were, unless it
    is a HalfApplied.
    """
    from feast.infra.online_stores.helpers import get_online_store_from_config
    from feast.repo_operations import apply_total, parse_repo

    from serving.online_store.base import OrderedOnlineStore

    whole_registry_files()
    # Feast imports the definitions under their bare names; they must see the graphs that were just applied.
    for stem in (p.stem for p in repo.path.glob("*.py")):
        sys.modules.pop(stem, None)
    load_module(repo.path, repo.settings.definitions)
    database = database_of(repo.path)
    with inside(repo.path), stdout_to_stderr():  # stdout is for results
        with _one_line(repo):
            found = parse_repo(repo.path)
            check_fields([*found.feature_views, *found.stream_feature_views])
            check_services({s.name: s for s in found.feature_services}, {v.name: v for v in found.feature_views})
            config = feast_config(repo.path)
            store = None if config.online_store is None else get_online_store_from_config(config.online_store)
        online = store if isinstance(store, OrderedOnlineStore) else None
        if online is not None and not take_over:
            check_rows(repo, online, config)
        file = registry_file(repo.path)
        together = nullcontext() if database is None else one_transaction()
        mine = "" if online is None else identity_of(repo.data)
        with unchanged_on_failure(file, online, config, fingerprints, database is not None, mine), _one_line(repo), together:
            apply_total(config, repo.path, skip_source_validation=True)
            if online is not None:
                for name, fingerprint in fingerprints.items():
                    online.apply_fingerprint(config, name, fingerprint)
                claim_rows(repo, online, config, take_over)  # last: an apply that fails leaves the mark where it was


@contextmanager
def _one_line(repo: Repo) -> Iterator[None]:
    """What Feast raises in the body, as ours."""
    try:
        yield
    except SystemExit as stop:
        raise StoreError(f"feast apply stopped with {stop.code}; see its message above") from None
    except TandemError:
        raise
    except Exception as error:
        if (away := unreachable_registry(repo.path, error)) is not None:
            raise away from error
        raise StoreError(f"feast apply: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
