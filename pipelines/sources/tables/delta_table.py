"""Rows of a Delta table at one version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipelines.sources.tables.table_reader import Rows, TableReader, guarded, masked_values, needs, secret
from transforms.errors import DataError
from transforms.tables import Delta

__all__ = ["DeltaReader"]


class DeltaReader(TableReader):
    """A version is known by the table's id and its number."""

    table: Delta

    def _opened(self) -> Any:
        try:
            from deltalake import DeltaTable
        except ImportError as error:
            raise needs("deltalake", error) from None
        options = {key: secret(self.name, variable) for key, variable in self.table.options.items()}
        try:
            return DeltaTable(self.table.path, version=self.table.version, storage_options=options or None)
        except Exception as error:  # of its own, of many kinds
            told = masked_values(str(error), options.values())
            raise DataError(
                f"source {self.name!r}: no Delta table can be read at {self.table.path}: {told}; correct path or version"
            ) from None

    def identity(self) -> Mapping[str, Any]:
        """The table's id and version."""
        table = self._opened()
        return {"kind": "delta", "path": self.table.path, "id": str(table.metadata().id), "version": int(table.version())}

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """See the base class."""
        table = self._opened()
        identity = {"kind": "delta", "path": self.table.path, "id": str(table.metadata().id), "version": int(table.version())}
        yield Rows(guarded(_batches(table), f"source {self.name!r}: version {identity['version']} of its Delta table"), identity)


def _batches(table: Any) -> Iterator[pa.RecordBatch]:
    from deltalake import QueryBuilder

    rows: Any = QueryBuilder().register("events", table).execute("SELECT * FROM events")
    yield from pa.RecordBatchReader.from_stream(rows)
