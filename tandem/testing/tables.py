"""The contract of a table (:mod:`pipelines.sources.tables.table_reader`): a snapshot is the rows of one moment, found again, and no secret
of its place is told.

A kind of table of another package is tested by a class and what stands on its other side::

    class TestMyTable(TableContract):
        @pytest.fixture
        def place(self, tmp_path):
            return MyPlace(tmp_path)  # a Place
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipelines.lake import layout
from pipelines.project.extensions import TABLES
from pipelines.sources.event_files import events as events_of
from pipelines.sources.event_files import list_files
from pipelines.sources.tables.snapshots import take_snapshot
from pipelines.sources.tables.table_reader import TableReader
from tandem.testing.formats import AHEAD, NOW, events
from transforms.definitions import EventSource, Field
from transforms.errors import ConfigError, DataError
from transforms.fields import DType
from transforms.tables import Table

__all__ = ["Place", "TableContract"]


class Place(ABC):
    """A table somewhere: a real database, a folder, whatever it is. It is there at first, without a row or not yet filled."""

    secrets: tuple[str, ...] = ()
    """Passwords, addresses: what must not be shown."""

    @abstractmethod
    def table(self) -> Table:
        """Its declaration: what a source is given as ``table=``."""

    @abstractmethod
    def fill(self, rows: pa.Table) -> None:
        """Have it hold these rows and no others, whatever it held; the columns are the same each time."""

    @abstractmethod
    def gone(self) -> None:
        """Have it not be there."""


class TableContract:
    """One fixture to override: ``place``."""

    dtypes: ClassVar[tuple[DType, ...]] = ("float64", "int64", "bool", "timestamp", "string")
    """Those that the table can hold, beside the text that identifies an event. The time of an event is an int64 of microseconds where
    ``timestamp`` is not among them."""
    many: ClassVar[int] = 2_000
    """So many rows are more than one batch."""
    changes_while_read: ClassVar[bool] = True
    """Somebody may change it while it is read; some databases lock it."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """Where the table is."""
        raise NotImplementedError("override the fixture place")

    @pytest.fixture
    def source(self, place: Place) -> EventSource:
        """A source with a field of each of :attr:`dtypes`."""
        fields = [Field("flight", "string", required=True), *(Field(f"a_{dtype}", dtype) for dtype in self.dtypes)]
        return EventSource(name="departures", fields=fields, event_time="at", tie_breaker="flight", table=place.table())

    def rows(self, source: EventSource, n: int, seed: int = 0) -> pa.Table:
        """N rows that the table can hold."""
        made = pa.Table.from_batches([events(source, n, seed)])
        if "timestamp" not in self.dtypes:
            made = made.set_column(made.schema.get_field_index("at"), "at", made.column("at").cast(pa.int64()))
        return made

    def test_its_rows_are_events(self, place: Place, source: EventSource, tmp_path: Path) -> None:
        rows = self.rows(source, 200)
        place.fill(rows)
        taken = take_snapshot(tmp_path / "data", source)
        assert taken["rows"] == 200 and taken["kind"] == place.table().kind and taken == json.loads(json.dumps(taken))
        assert harvest(tmp_path / "data", source) == wanted(rows, source)

    def test_it_may_be_without_rows(self, place: Place, source: EventSource, tmp_path: Path) -> None:
        place.fill(self.rows(source, 0))
        assert take_snapshot(tmp_path / "data", source)["rows"] == 0
        assert harvest(tmp_path / "data", source) == []

    def test_the_same_rows_are_the_same_snapshot(self, place: Place, source: EventSource, tmp_path: Path) -> None:
        """Whoever takes it, and when: runs find their inputs again by it."""
        place.fill(self.rows(source, 200))
        taken, other = (take_snapshot(tmp_path / name, source) for name in ("data", "other"))
        assert taken == other == take_snapshot(tmp_path / "data", source)
        files = [[(f.name, f.sha256) for f in list_files(tmp_path / name, source, None, None)] for name in ("data", "other")]
        assert files[0] == files[1] and files[0]

    def test_later_changes_are_another_snapshot(self, place: Place, source: EventSource, tmp_path: Path) -> None:
        before, after = self.rows(source, 50, seed=1), self.rows(source, 60, seed=2)
        place.fill(before)
        first, known = take_snapshot(tmp_path / "data", source), reader_of(source).identity()
        place.fill(after)
        assert harvest(tmp_path / "data", source) == wanted(before, source), "not seen in it"
        assert not known or reader_of(source).identity() != known
        second = take_snapshot(tmp_path / "data", source)
        assert harvest(tmp_path / "data", source) == wanted(after, source)
        assert second["sha256"] != first["sha256"]

    def test_what_names_its_rows(self, place: Place, source: EventSource) -> None:
        place.fill(self.rows(source, 20))
        reader = reader_of(source)
        known = dict(reader.identity())
        assert known == dict(reader_of(source).identity()) == json.loads(json.dumps(known))
        with reader.open() as rows:
            assert sum(batch.num_rows for batch in rows.batches) == 20
            assert dict(rows.identity) == known or not known

    def test_its_columns_are_those_that_it_has(self, place: Place, source: EventSource) -> None:
        rows = self.rows(source, self.many)
        place.fill(rows)
        with reader_of(source).open() as opened:
            schemas = [batch.schema.remove_metadata() for batch in opened.batches]
        assert sorted(schemas[0].names) == sorted(rows.schema.names)
        assert all(schema == schemas[0] for schema in schemas), "of the same types in each batch"

    def test_it_is_read_in_batches(self, place: Place, source: EventSource) -> None:
        place.fill(self.rows(source, self.many))
        with reader_of(source).open() as opened:
            sizes = [batch.num_rows for batch in opened.batches]
        assert sum(sizes) == self.many and max(sizes) < self.many, "memory is bounded by some batches"

    def test_a_change_while_it_is_read_is_not_seen(self, place: Place, source: EventSource) -> None:
        """Or it is an error, after which the run is begun again. No row of after stands among those of before."""
        if not self.changes_while_read:
            pytest.skip("nobody can change it while it is read")
        before = self.rows(source, self.many)
        place.fill(before)
        told = ""
        try:
            with reader_of(source).open() as opened:
                found = [next(opened.batches)]
                place.fill(self.rows(source, self.many, seed=9))
                found += opened.batches
        except DataError as error:
            told = str(error)
        if told:
            assert len(told.splitlines()) == 1 and repr(source.name) in told
            return
        keys = [key for batch in found for key in batch.column(batch.schema.get_field_index("flight")).to_pylist()]
        assert sorted(keys) == sorted(before.column("flight").to_pylist())

    def test_a_table_that_is_gone(self, place: Place, source: EventSource, tmp_path: Path) -> None:
        """One line that names the source and no secret; what was taken before is as it was."""
        data, rows = tmp_path / "data", self.rows(source, 20)
        place.fill(rows)
        taken = take_snapshot(data, source)
        note = (layout.snapshot(data, source.name) / ".snapshot").read_text("utf-8")
        place.gone()
        with pytest.raises((ConfigError, DataError)) as caught:
            take_snapshot(data, source)
        told = str(caught.value)
        assert len(told.splitlines()) == 1 and repr(source.name) in told
        shown = (told, note, json.dumps(taken), repr(reader_of(source)), repr(source.table))
        assert not [secret for secret in place.secrets for text in shown if secret in text]
        assert harvest(data, source) == wanted(rows, source)
        assert [p.name for p in layout.snapshot(data, "").iterdir()] == [source.name]


def reader_of(source: EventSource) -> TableReader:
    """A new reader of a source's table, as a run makes it."""
    assert source.table is not None
    found: Any = TABLES.load(source.table.kind)
    assert issubclass(found, TableReader)
    reader: TableReader = found(source.name, source.table)
    return reader


def harvest(data: Path, source: EventSource) -> list[dict[str, Any]]:
    """The events of the snapshot, in order of their keys. Raises AssertionError for dead letters."""
    out: list[dict[str, Any]] = []
    for file in list_files(data, source, None, None):
        for valid, letters in events_of(file.path, source, NOW, AHEAD):
            assert not letters.num_rows, letters.to_pylist()[:3]
            out += whole_numbers(valid)
    return sorted(out, key=lambda event: str(event["flight"]))


def wanted(rows: pa.Table, source: EventSource) -> list[dict[str, Any]]:
    """Rows as :func:`harvest` gives them."""
    return sorted(whole_numbers(rows.select(source.arrow_schema.names)), key=lambda event: str(event["flight"]))


def whole_numbers(rows: Any) -> list[dict[str, Any]]:
    """Rows with timestamps as microseconds."""
    names = rows.schema.names
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in rows.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.to_pylist() for c in columns), strict=True)]
