"""Rows of a query: by DuckDB, over what it attaches, or by a driver of ADBC."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipelines.sources.tables.duckdb_attach import attach, check_moments, extension_package, kind_of
from pipelines.sources.tables.table_reader import Rows, TableReader, masked_values, needs, secret
from transforms.errors import ConfigError, DataError
from transforms.tables import Query

__all__ = ["QueryTable"]

ROWS = 65_536


class QueryTable(TableReader):
    """Nothing but its rows names what a query says; their number is known without them."""

    table: Query

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """See the base class."""
        with self._asked(self.table.sql) as (batches, values):
            yield Rows(self._with_own_errors(batches, values))

    def count(self) -> int | None:
        """See the base class; None of what is no query that another can count, such as several statements."""
        import duckdb

        counted = f"SELECT count(*) FROM ({self.table.sql.strip().rstrip(';')}\n) AS counted"
        if self.table.driver is None:
            try:
                duckdb.extract_statements(counted)
            except duckdb.ParserException:
                return None
        with self._asked(counted) as (batches, values):
            return int(next(iter(self._with_own_errors(batches, values))).column(0)[0].as_py())

    @contextmanager
    def _asked(self, sql: str) -> Iterator[tuple[Any, list[str]]]:
        """The batches of what is asked, and the values that nothing may show."""
        if self.table.driver is not None:
            with self._by_adbc(self.table.driver, secret(self.name, str(self.table.uri)), sql) as asked:
                yield asked
            return
        import duckdb

        given = {name: secret(self.name, variable) for name, variable in self.table.attach.items()}
        values = list(given.values())
        connection = duckdb.connect(":memory:")
        try:
            zones = {name: attach(connection, name, place) for name, place in given.items()}
            found: Any = connection.execute(sql)
            streamed = getattr(found, "to_arrow_reader", None) or found.fetch_record_batch  # its name before DuckDB 1.4
            batches = streamed(ROWS)
            check_moments(self.name, zones, batches.schema)
            yield batches, values
        except duckdb.Error as error:
            raise self._failed(error, values) from None
        finally:
            connection.close()

    @contextmanager
    def _by_adbc(self, driver: str, uri: str, sql: str) -> Iterator[tuple[Any, list[str]]]:
        options, values = self._options(uri)
        package = driver.replace("_", "-")
        manifest, dbapi = self._driver(driver, package)
        given = self._arguments(package, inspect.signature(dbapi.connect).parameters, uri, options)
        try:
            with dbapi.connect(*([driver] if manifest else []), **given) as connection, connection.cursor() as cursor:
                cursor.execute(sql)
                yield cursor.fetch_record_batch(), values
        except ImportError as error:
            raise needs(package, error, package) from None
        except (dbapi.Error, OSError) as error:
            if manifest and "Could not load" in str(error):
                raise ConfigError(
                    f"source {self.name!r}: ADBC has no driver {driver!r} where this runs; install its manifest (dbc install {driver}), or"
                    " name a package, such as adbc_driver_postgresql"
                ) from None
            raise self._failed(error, values) from None

    def _arguments(self, package: str, taken: Mapping[str, inspect.Parameter], uri: str, options: dict[str, str] | None) -> dict[str, Any]:
        """What a driver connects with, by the parameters that it has: some take an address, some options, some both, not all autocommit."""
        address = next((name for name in ("uri", "path") if name in taken), None)
        given: dict[str, Any] = {}
        if options is None:
            if address is None:
                raise ConfigError(
                    f"source {self.name!r}: {package} takes options and no address; have {self.table.uri} hold a JSON object of them, such"
                    ' as {"adbc.bigquery.sql.project_id": "..."}'
                )
            given[address] = uri
        else:
            rest = dict(options)
            if address in rest:
                given[str(address)] = rest.pop(str(address))
            elif address is not None and taken[address].default is inspect.Parameter.empty:
                raise ConfigError(f"source {self.name!r}: {package} needs {address!r} among the options that {self.table.uri} holds")
            if rest and "db_kwargs" not in taken:
                raise ConfigError(f"source {self.name!r}: {package} takes an address alone; have {self.table.uri} hold it, and no options")
            given |= {"db_kwargs": rest} if rest else {}
        if "autocommit" in taken or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
            given["autocommit"] = True  # else the driver has a transaction of its own, in which nothing is written
        return given

    def _driver(self, driver: str, package: str) -> tuple[bool, Any]:
        """Whether a driver is found by its manifest, as dbc installs them, since it is no package; and the module that connects."""
        try:
            return False, importlib.import_module(f"{driver}.dbapi")
        except ImportError as error:
            if driver.startswith("adbc_driver_"):
                raise needs(package, error, package) from None
        try:
            return True, importlib.import_module("adbc_driver_manager.dbapi")
        except ImportError as error:
            raise needs("adbc-driver-manager", error) from None

    def _options(self, uri: str) -> tuple[dict[str, str] | None, list[str]]:
        """The options that an address is, where it is a JSON object of them; and what nothing may show."""
        if not uri.lstrip().startswith("{"):
            return None, [uri]
        try:
            found = {str(name): str(value) for name, value in json.loads(uri).items()}
        except (ValueError, RecursionError):
            raise ConfigError(f"source {self.name!r}: {self.table.uri} begins as a JSON object of options and is none") from None
        return found, [uri, *found.values()]

    def _with_own_errors(self, batches: Any, values: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except (pa.ArrowException, OSError) as error:  # the database went away, or a row cannot be read
            raise self._failed(error, values) from None

    def _failed(self, error: BaseException, values: Any) -> DataError | ConfigError:
        told = masked_values(str(error), values)
        if "extension" in told.lower():
            packages = [extension_package(kind) for name in self.table.attach.values() if (kind := kind_of(secret(self.name, name)))]
            fix = f" (pip install {' '.join(sorted(set(packages)))})" if packages else ""
            return ConfigError(f"source {self.name!r}: {told}; install DuckDB's extension where this runs{fix}, or give driver= of ADBC")
        return DataError(f"source {self.name!r}: its query failed: {told}; correct the query or what it is run on")
