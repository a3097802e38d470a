"""Feast's registry in an SQL database (``registry_type: sql``): an apply is one transaction, and a look at it writes nothing.

Feast applies each object in a transaction of its own, so that a server which looks in between sees a half, and a kill leaves one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.registry_place import absolute_database, feast_settings
from transforms.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

__all__ = ["database_of", "one_transaction", "place_of", "registered", "unreachable_registry"]

_WAIT_SECONDS = 60
"""For another apply to end."""


def database_of(repo: Path) -> tuple[str, str] | None:
    """(project, URL of the database) of Feast's registry, where it is one. Raises ConfigError."""
    settings = feast_settings(repo)
    found = settings.get("registry")
    if not isinstance(found, dict) or found.get("registry_type") != "sql":
        return None
    return str(settings.get("project")), absolute_database(str(found.get("read_path") or found.get("path")), repo)


def place_of(url: str) -> str:
    """A database's URL without its user and password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        made = make_url(url)
    except ArgumentError:
        return "(its path is no database URL)"
    where = f"{made.host}:{made.port}" if made.port else made.host or ""
    return f"{made.drivername}://{where}/{made.database or ''}"


def unreachable_registry(repo: Path, error: Exception) -> StoreError | None:
    """One line of a registry's database that cannot be used; None if the error is of something else."""
    if not type(error).__module__.startswith("sqlalchemy."):
        return None
    try:
        found = database_of(repo)
    except ConfigError:
        found = None
    where = "" if found is None else f" {place_of(found[1])}"
    what = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())[:200]
    fix = "start it there, or correct registry.path in feature_store.yaml"
    if "database is locked" in what or "lock timeout" in what:
        fix = "another apply is using it; try again when it has finished"
    return StoreError(f"the registry's database{where}: {what}; {fix}")


@contextmanager
def one_transaction() -> Iterator[None]:
    """All that Feast's registries in databases, made inside, are told inside is one transaction of each: whoever looks sees all of it or
    nothing, also after a kill. One at a time per project's database; what is raised takes it back."""
    from feast.infra.registry import sql

    module: Any = sql
    real = module.create_engine
    made: list[_Together] = []

    def create_engine(*given: Any, **named: Any) -> Any:
        engine = real(*given, **named)
        made.append(_Together(engine))
        return engine

    module.create_engine = create_engine
    try:
        yield
    except BaseException:
        for one in made:
            one.end(False)
        raise
    else:
        for one in made:
            one.end(True)
    finally:
        module.create_engine = real


class _Together:
    """An engine whose transactions are one."""

    def __init__(self, engine: Engine) -> None:
        self._begin, self._engine = engine.begin, engine
        self._lock = threading.RLock()
        self._open: tuple[Any, Any] | None = None
        engine.begin = self._joined  # type: ignore[method-assign]

    @contextmanager
    def _joined(self) -> Iterator[Any]:
        with self._lock:
            if self._open is None:
                context = self._begin()
                connection = context.__enter__()
                self._open = context, connection
                _alone(connection)
            yield self._open[1]

    def end(self, well: bool) -> None:
        self._engine.begin = self._begin  # type: ignore[method-assign]
        if self._open is not None:
            context, connection = self._open
            self._open = None
            if not well:
                connection.rollback()
            context.__exit__(None, None, None)
        self._engine.dispose()


def _alone(connection: Any) -> None:
    """Wait until no other apply is at work in this database, and keep others out."""
    kind = connection.dialect.name
    if kind == "sqlite":
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif kind == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS}s'")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7382511064118903022)")


def registered(project: str, url: str) -> Mapping[str, list[bytes]] | None:
    """The serialized objects that are registered, by the names of Feast's tables (entities, feature_views, feature_services); empty where
    there are no tables yet. None where the database cannot be asked."""
    from feast.infra.registry import sql
    from sqlalchemy import create_engine, inspect, select
    from sqlalchemy.exc import SQLAlchemyError

    columns = {sql.entities: "entity_proto", sql.feature_views: "feature_view_proto", sql.feature_services: "feature_service_proto"}
    found: dict[str, list[bytes]] = {}
    try:
        engine = create_engine(url)
        try:
            if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
                return {table.name: [] for table in columns}  # looking at it would make it
            with engine.connect() as connection:
                there = set(inspect(connection).get_table_names())
                for table, column in columns.items():
                    asked = select(table.c[column]).where(table.c.project_id == project)
                    found[table.name] = [bytes(row[0]) for row in connection.execute(asked)] if table.name in there else []
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, OSError):
        return None
    return found
