"""What reads a kind of table: its rows as Arrow batches, and by what these rows are known.

A kind of another package is a class below :class:`TableReader`, named as an entry point of the group ``tandem.tables`` by the ``kind`` of
its declaration, a class below :class:`transforms.tables.Table`.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from pipelines.project.secrets import masked
from transforms.errors import ConfigError, DataError
from transforms.tables import Table

__all__ = ["Rows", "TableReader", "guarded", "masked_values", "needs", "secret"]


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(\S*)@")


@dataclass
class Rows:
    """``batches`` of a table as it is at one moment, and what names that moment: ``identity``, JSON-able, {} where nothing but the rows
    themselves tells. Nothing secret is in it."""

    batches: Iterator[pa.RecordBatch]
    identity: Mapping[str, Any] = field(default_factory=dict)


class TableReader(ABC):
    """One table of one source."""

    def __init__(self, name: str, table: Table) -> None:
        self.name, self.table = name, table

    def identity(self) -> Mapping[str, Any]:
        """What names the rows that :meth:`open` would give now, known without reading them; {} where they must be read to know."""
        return {}

    def count(self) -> int | None:
        """How many rows :meth:`open` would give now, where that can be known without reading them; None where it cannot. Looked at where
        nothing else names the rows. Raises as :meth:`open`."""
        return None

    @abstractmethod
    def open(self) -> AbstractContextManager[Rows]:
        """The rows, streamed: memory is bounded by some batches. Raises ConfigError and DataError, one line without secrets."""


def guarded(batches: Iterator[pa.RecordBatch], what: str) -> Iterator[pa.RecordBatch]:
    """The batches; what their library raises for a table that it cannot read (a file that is gone, a feature that it does not know) is one
    DataError, of whatever kind it was. What is done with a batch is none of its business."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:  # of its own, of many kinds
            raise DataError(f"{what} cannot be read: {masked_values(str(error), [])}") from None
        yield batch


def secret(name: str, variable: str) -> str:
    """The value of an environment variable, or of the file that ``<variable>_FILE`` names. Raises ConfigError."""
    if value := os.environ.get(variable):
        return value
    if file := os.environ.get(f"{variable}_FILE"):
        try:
            with open(file, encoding="utf-8") as f:
                return f.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{variable}_FILE: {file} cannot be read; correct the path or its permissions") from None
    raise ConfigError(f"source {name!r} needs {variable}: set it in the environment, or {variable}_FILE to a file that holds it")


_BROUGHT = {"deltalake", "pyiceberg", "adbc-driver-sqlite", "adbc-driver-postgresql", "adbc-driver-manager"}


def needs(package: str, error: ImportError, name: str = "") -> ConfigError:
    """What to say where a package is missing. ``name``: as PyPI has it, where the extra ``tables`` may not bring it."""
    fix = "'tandem-features[tables]'" if not name or name in _BROUGHT or not name.startswith("adbc-driver-") else name
    return ConfigError(f"this source is a table that {package} reads, which is not installed ({error}); pip install {fix}")


def masked_values(text: str, values: Iterable[str]) -> str:
    """A text on one line without some values, or parts of them that may be passwords: words, what stands behind ``=``, and what stands
    before the host of an address, as it is or decoded. Nor with passwords from elsewhere, such as a catalog's own configuration."""
    out = " ".join(text.split())
    parts: set[str] = set()
    for value in values:
        parts |= {value, *value.replace(";", " ").split(), *(p.rpartition("=")[2] for p in value.split())}
        for address in _ADDRESS.findall(value):
            password = address.partition(":")[2]
            # Where it holds an @ or a slash undecoded, others take its parts for a host.
            parts |= {address, password, unquote(password), *re.split(r"[@/:]", password)}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= 4:
            out = out.replace(part, "***")
    return masked(out)[:300]
