"""The file of an online store that is one, and what an erasure would leave of a subject in it: told of a copy that is erased and written
anew, as the file itself would be."""

from __future__ import annotations

import copy
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from pipelines.feature_store.store import checked_online, open_store
from pipelines.forgetting.online_rows import without_online_rows
from pipelines.forgetting.subject import Subject
from pipelines.project.repository import Repo
from serving.registry_place import has_store
from transforms.errors import StoreError, TandemError

__all__ = ["online_copy_without", "online_files"]


def online_files(repo: Repo) -> set[Path]:
    """The file of the store, and those beside it that are its own; none of a store that is no file, or cannot be opened."""
    path = _path_of(repo)
    return {path.with_name(f"{path.name}{more}").resolve() for more in ("", "-wal", "-shm", "-journal")} if path is not None else set()


def _path_of(repo: Repo) -> Path | None:
    try:
        store = open_store(repo) if has_store(repo.path) else None
    except TandemError:
        return None
    path = getattr(store.config.online_store, "path", None) if store is not None else None
    return repo.path / path if path else None


def online_copy_without(repo: Repo, subject: Subject, folder: Path) -> Path | None:
    """A copy of the store's file in ``folder`` that has nothing of the subject but what an erasure would leave; None where it is no file
    of SQLite, or cannot be read. Takes the file's size twice there. Raises StoreError, for want of room too."""
    from feast.infra.online_stores.helpers import get_online_store_from_config

    path, out = _path_of(repo), folder / "online.db"
    if path is None or not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)) as there, closing(sqlite3.connect(out)) as made:
            size = int(there.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0])
            if (free := shutil.disk_usage(folder).free) < size:
                raise StoreError(
                    f"--dry-run copies the online store {path}, which takes {size:,} bytes twice, to {folder.parent}, which has {free:,};"
                    " make room"
                )
            there.backup(made)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return None
        raise _no_copy(path, folder, error) from None
    store = open_store(repo)
    config = copy.copy(store.config)
    config._online_store = config.online_store.model_copy(update={"path": str(out)})
    online = checked_online(get_online_store_from_config(config.online_store))
    try:
        for view in store.list_feature_views():
            without_online_rows(online, config, view, subject)
        online.compact(config, [])
    except StoreError as error:
        raise _no_copy(path, folder, error.__cause__ or error) from None
    return out


def _no_copy(path: Path, folder: Path, error: BaseException) -> StoreError:
    return StoreError(f"--dry-run could not erase a copy of the online store {path} in {folder.parent} ({error}); make room there")
