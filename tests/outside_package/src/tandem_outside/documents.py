"""A table: a folder of JSON documents, one event each. Who writes them puts each in place by a rename."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tandem.pipelines.sources.tables.table_reader import Rows, TableReader
from tandem.transforms.errors import DataError
from tandem.transforms.tables import Table

BATCH = 500


@dataclass(frozen=True)
class Documents(Table):
    """The ``*.json`` of a folder; ``columns`` maps members of a document to Arrow's names of types. One that it has not is null."""

    folder: str
    columns: Mapping[str, str] = field(default_factory=dict)
    kind: ClassVar[str] = "outside_documents"


class DocumentsReader(TableReader):
    """Nothing but its rows names what a folder holds; one that changes while it is read is an error."""

    table: Documents

    @contextmanager
    def open(self) -> Iterator[Rows]:
        yield Rows(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in self.table.columns.items()])
        found = self.listed()
        for first in range(0, len(found), BATCH):
            yield pa.RecordBatch.from_pylist([self.document(name, schema) for name, *_ in found[first : first + BATCH]], schema)
        if self.listed() != found:
            raise DataError(f"source {self.name!r}: {self.table.folder} changed while it was read; run it again")

    def listed(self) -> list[tuple[Any, ...]]:
        """The documents by name, with what changes when one is replaced."""
        try:
            with os.scandir(self.table.folder) as entries:
                return sorted(
                    (e.name, e.stat().st_ino, e.stat().st_mtime_ns, e.stat().st_size) for e in entries if e.name.endswith(".json")
                )
        except OSError as error:
            raise DataError(f"source {self.name!r}: {self.table.folder}: {error.strerror}; correct the folder") from None

    def document(self, name: str, schema: pa.Schema) -> dict[str, Any]:
        """One document, as a row of the schema. Raises DataError."""
        try:
            found = json.loads((Path(self.table.folder) / name).read_bytes())
            pa.RecordBatch.from_pylist([found], schema)
        except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
            told = " ".join(str(error).split())[:200]
            raise DataError(f"source {self.name!r}: {name} is no document of its columns: {told}; correct or remove it") from None
        return dict(found)
