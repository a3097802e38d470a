"""A sample of a table's rows, where the table is named as a definition names it: ``Delta("/lake/orders")``."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.inference.sampling import Sample, Steps, maps_as_objects, sample_records, types_of
from pipelines.project.extensions import TABLES
from pipelines.sources.file_formats.physical import plain_columns
from transforms.errors import DataError, DefinitionError
from transforms.tables import Delta, Iceberg, Query, Table

__all__ = ["sample_table", "table_named"]

_KINDS: dict[str, type[Any]] = {"Delta": Delta, "Iceberg": Iceberg, "Query": Query}
_NAMED = re.compile(rf"\s*({'|'.join(_KINDS)})\s*\(", re.ASCII)


def table_named(what: str) -> Table | None:
    """The table that a text names, in the words of a definition; a folder that is a Delta table is that one. None: it names another thing.
    Nothing of the text is run. Raises DataError for words that are no such table."""
    if not _NAMED.match(what):
        return Delta(str(Path(what).resolve())) if (Path(what) / "_delta_log").is_dir() else None
    try:
        call = ast.parse(what.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is more than one call")
        values = [ast.literal_eval(a) for a in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        found: Table = _KINDS[call.func.id](*values, **named)
        return found
    except DefinitionError as error:
        raise DataError(str(error)) from None
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        told = str(error).splitlines()[0] if isinstance(error, (TypeError, SyntaxError)) else "its values are to be plain ones"
        raise DataError(f'not a table as written in a definition ({told}); write one such as Delta("/lake/orders")') from None


def sample_table(name: str, table: Table, rows: int, explode: str | None = None) -> Sample:
    """A sample of the first ``rows`` rows of a table as it is now. ``name`` is the source's. Raises DataError and ConfigError."""
    reader: Any = TABLES.load(table.kind)(name, table)
    records: list[dict[str, Any]] = []
    types: dict[Steps, pa.DataType] = {}
    with reader.open() as found:
        for batch in (plain_columns(pa.Table.from_batches([each])) for each in found.batches):  # as a snapshot holds them
            for column, kind in zip(batch.schema.names, batch.schema.types, strict=True):
                types_of(kind, (column,), types)
            records += itertools.islice(maps_as_objects(batch), rows - len(records))
            if len(records) >= rows:
                break
    if not records:
        raise DataError(f"source {name!r}: its table holds no rows now; nothing can be said of it")
    sample = sample_records(records, explode, None, types)
    sample.kind = "table"
    return sample
