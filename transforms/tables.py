"""Tables as sources of events: what a batch run takes a snapshot of before it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from transforms.errors import DefinitionError

__all__ = ["Delta", "Iceberg", "Query", "Table"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Table:
    """Base of all kinds of tables. What lies in one is never in the definition's fingerprint: it is a place, as files are."""

    kind: ClassVar[str] = ""
    """The name of the class that reads it, in the entry point group ``tandem.tables``."""


@dataclass(frozen=True)
class Delta(Table):
    """A Delta table at ``path``, a folder or a URL. ``version``: that one (by default the newest when a run begins). ``options`` maps
    options of the storage to the environment variables that hold them."""

    path: str
    version: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise DefinitionError(f"Delta: path {self.path!r} is no place; write a folder or a URL")
        if self.version is not None and (isinstance(self.version, bool) or not isinstance(self.version, int) or self.version < 0):
            raise DefinitionError(f"Delta: version {self.version!r} is no version; write a number from 0 up, or leave it out")
        _check_variables("Delta: options", self.options)


@dataclass(frozen=True)
class Iceberg(Table):
    """An Iceberg table, ``"namespace.table"``, of a ``catalog`` that pyiceberg's own configuration names (``PYICEBERG_CATALOG__...``, or
    its ``.pyiceberg.yaml``). ``snapshot``: that one (by default the newest when a run begins)."""

    table: str
    catalog: str = "default"
    snapshot: int | None = None
    kind: ClassVar[str] = "iceberg"

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or "." not in self.table:
            raise DefinitionError(f"Iceberg: table {self.table!r} is no 'namespace.table'; write one")
        if self.snapshot is not None and (isinstance(self.snapshot, bool) or not isinstance(self.snapshot, int)):
            raise DefinitionError(f"Iceberg: snapshot {self.snapshot!r} is no snapshot's number; write one, or leave it out")


@dataclass(frozen=True)
class Query(Table):
    """What a query says when a run begins; end it with ``ORDER BY``, so that equal rows are an equal snapshot.

    DuckDB runs it, over what ``attach`` names: ``{"shop": "SHOP_DB"}`` attaches what the environment variable ``SHOP_DB`` (or the file that
    ``SHOP_DB_FILE`` names) holds, such as ``postgres:dbname=shop host=db`` or ``sqlite:/data/shop.db``. With a ``driver`` of ADBC, that one
    runs it at the address in the variable ``uri``, or with the options that are there as a JSON object: a package such as
    ``"adbc_driver_postgresql"`` or ``"adbc_driver_snowflake"``, or what a manifest names, such as ``"mysql"`` after ``dbc install mysql``.
    """

    sql: str
    attach: Mapping[str, str] = field(default_factory=dict)
    driver: str | None = None
    uri: str | None = None
    kind: ClassVar[str] = "query"

    def __post_init__(self) -> None:
        if not isinstance(self.sql, str) or not self.sql.strip():
            raise DefinitionError("Query: there is no SQL; write Query('SELECT ... ORDER BY ...')")
        if (self.driver is None) != (self.uri is None):
            raise DefinitionError(
                "Query: driver= names ADBC's driver and uri= the environment variable with its address; give both or none"
            )
        if self.driver is not None and self.attach:
            raise DefinitionError("Query: attach= is DuckDB's, driver= is another engine's; give one of both")
        if self.driver is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", self.driver):
            raise DefinitionError(f"Query: driver {self.driver!r} is no package; write one such as 'adbc_driver_postgresql'")
        _check_variables("Query: attach", self.attach)
        if self.uri is not None:
            _check_variables("Query: uri", {"uri": self.uri})
        for name in self.attach:
            if not _VARIABLE.fullmatch(name):
                raise DefinitionError(f"Query: attach {name!r} is no name of a database; write one such as 'shop'")


def _check_variables(what: str, options: Mapping[str, str]) -> None:
    for name, variable in options.items():
        if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
            # What stands there may be a secret that does not belong into a definition: it is not shown.
            raise DefinitionError(
                f"{what}: {name!r} is given a value; name the environment variable of it, e.g. 'SHOP_DB'; a definition keeps no secrets"
            )
