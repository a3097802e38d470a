"""Rows of an Iceberg table at one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipelines.sources.tables.table_reader import Rows, TableReader, guarded, masked_values, needs
from transforms.errors import DataError
from transforms.tables import Iceberg

__all__ = ["IcebergReader"]


class IcebergReader(TableReader):
    """A snapshot is known by the table's UUID and its number."""

    table: Iceberg

    def _opened(self) -> tuple[Any, int | None]:
        try:
            from pyiceberg.catalog import load_catalog
        except ImportError as error:
            raise needs("pyiceberg", error) from None
        try:
            table = load_catalog(self.table.catalog).load_table(self.table.table)
        except Exception as error:  # of its own, of many kinds
            told = masked_values(str(error), [])
            raise DataError(
                f"source {self.name!r}: no Iceberg table {self.table.table} of catalog {self.table.catalog!r}: {told}; correct one of both"
            ) from None
        if self.table.snapshot is not None:
            if table.snapshot_by_id(self.table.snapshot) is None:
                raise DataError(f"source {self.name!r}: {self.table.table} has no snapshot {self.table.snapshot}; it may have expired")
            return table, self.table.snapshot
        current = table.current_snapshot()
        return table, None if current is None else int(current.snapshot_id)

    def identity(self) -> Mapping[str, Any]:
        """The table's UUID and snapshot."""
        table, snapshot = self._opened()
        return {"kind": "iceberg", "table": self.table.table, "id": str(table.metadata.table_uuid), "snapshot": snapshot}

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """See the base class."""
        table, snapshot = self._opened()
        identity = {"kind": "iceberg", "table": self.table.table, "id": str(table.metadata.table_uuid), "snapshot": snapshot}
        yield Rows(guarded(_batches(table, snapshot), f"source {self.name!r}: snapshot {snapshot} of its Iceberg table"), identity)


def _batches(table: Any, snapshot: int | None) -> Iterator[pa.RecordBatch]:
    if snapshot is not None:
        yield from table.scan(snapshot_id=snapshot).to_arrow_batch_reader()
