"""Rows of a query: by DuckDB, over what it attaches, or by a driver of ADBC."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipelines.sources.tables.table_reader import Rows, TableReader, masked_values, needs, secret
from transforms.errors import ConfigError, DataError
from transforms.tables import Query

__all__ = ["QueryTable"]

ROWS = 65_536


class QueryTable(TableReader):
    """Nothing but its rows names what a query says."""

    table: Query

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """See the base class."""
        if self.table.driver is not None:
            with self._by_adbc(self.table.driver, secret(self.name, str(self.table.uri))) as rows:
                yield rows
            return
        import duckdb

        given = {name: secret(self.name, variable) for name, variable in self.table.attach.items()}
        connection = duckdb.connect(":memory:")
        try:
            for name, place in given.items():
                kind, colon, rest = place.partition(":")
                typed = f" (TYPE {kind}, READ_ONLY)" if colon and kind in ("postgres", "mysql", "sqlite") else " (READ_ONLY)"
                where = rest if typed.startswith(" (TYPE") else place
                connection.execute(f"ATTACH '{where.replace(chr(39), chr(39) * 2)}' AS {name}{typed}")
            found: Any = connection.execute(self.table.sql)
            streamed = getattr(found, "to_arrow_reader", None) or found.fetch_record_batch  # its name before DuckDB 1.4
            yield Rows(self._told(streamed(ROWS), given.values()))
        except duckdb.Error as error:
            raise self._failed(error, given.values()) from None
        finally:
            connection.close()

    @contextmanager
    def _by_adbc(self, driver: str, uri: str) -> Iterator[Rows]:
        try:
            dbapi: Any = importlib.import_module(f"{driver}.dbapi")
        except ImportError as error:
            raise needs(driver.replace("_", "-"), error) from None
        try:
            with dbapi.connect(uri) as connection, connection.cursor() as cursor:
                cursor.execute(self.table.sql)
                yield Rows(self._told(cursor.fetch_record_batch(), [uri]))
        except (dbapi.Error, OSError) as error:
            raise self._failed(error, [uri]) from None

    def _told(self, batches: Any, values: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except (pa.ArrowException, OSError) as error:  # the database went away, or a row cannot be read
            raise self._failed(error, values) from None

    def _failed(self, error: BaseException, values: Any) -> DataError | ConfigError:
        told = masked_values(str(error), values)
        if "extension" in told.lower():
            return ConfigError(f"source {self.name!r}: {told}; install DuckDB's extension where this runs, or give driver= of ADBC")
        return DataError(f"source {self.name!r}: its query failed: {told}; correct the query or what it is run on")
