"""Each of our kinds of tables is held to the contract that ships: on real ones of Delta, Iceberg, DuckDB and SQLite."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import ClassVar

import duckdb
import pyarrow as pa
import pytest

from tandem.testing.tables import Place, TableContract
from transforms.definitions import Delta, Iceberg, Query


class DeltaFolder(Place):
    def __init__(self, folder: Path) -> None:
        self.deltalake = pytest.importorskip("deltalake")
        self.folder = folder / "lake"

    def table(self) -> Delta:
        return Delta(str(self.folder))

    def fill(self, rows: pa.Table) -> None:
        self.deltalake.write_deltalake(str(self.folder), rows, mode="overwrite")

    def gone(self) -> None:
        shutil.rmtree(self.folder)


class TestDelta(TableContract):
    many = 50_000

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return DeltaFolder(tmp_path)


class IcebergCatalog(Place):
    secrets = ("hunter22",)

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        catalogs = pytest.importorskip("pyiceberg.catalog")
        properties = {
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/warehouse",
            "token": "hunter22",
        }
        self.catalog = catalogs.load_catalog("lake", **properties)
        monkeypatch.setattr("pyiceberg.catalog.load_catalog", lambda name: self.catalog)
        self.catalog.create_namespace("air")

    def table(self) -> Iceberg:
        return Iceberg("air.departures", "lake")

    def fill(self, rows: pa.Table) -> None:
        if not self.catalog.table_exists("air.departures"):
            self.catalog.create_table("air.departures", rows.schema)
        self.catalog.load_table("air.departures").overwrite(rows)

    def gone(self) -> None:
        self.catalog.drop_table("air.departures")


class TestIceberg(TableContract):
    many = 150_000

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        return IcebergCatalog(tmp_path, monkeypatch)


class DuckDb(Place):
    """What DuckDB attaches; it lets nobody write while it reads."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "hunter22.duckdb"
        self.secrets = (str(self.file), "hunter22")
        monkeypatch.setenv("AIR_DB", str(self.file))

    def table(self) -> Query:
        return Query("SELECT * FROM air.departures ORDER BY flight", attach={"air": "AIR_DB"})

    def fill(self, rows: pa.Table) -> None:
        with duckdb.connect(str(self.file)) as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("given", rows)
            db.execute("CREATE OR REPLACE TABLE departures AS SELECT * FROM given")

    def gone(self) -> None:
        self.file.unlink()


class TestQuery(TableContract):
    many = 100_000
    changes_while_read = False

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        return DuckDb(tmp_path, monkeypatch)


class Sqlite(Place):
    """What a driver of ADBC reads."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("adbc_driver_sqlite")
        self.file = folder / "hunter22.db"
        self.secrets = (str(self.file), "hunter22")
        monkeypatch.setenv("AIR_URI", str(self.file))

    def table(self) -> Query:
        return Query("SELECT * FROM departures ORDER BY flight", driver="adbc_driver_sqlite", uri="AIR_URI")

    def fill(self, rows: pa.Table) -> None:
        kinds = {"string": "TEXT", "double": "REAL"}
        with sqlite3.connect(self.file) as db:
            db.execute("PRAGMA journal_mode = WAL")
            columns = ", ".join(f"{f.name} {kinds.get(str(f.type), 'INTEGER')}" for f in rows.schema)
            db.execute(f"CREATE TABLE IF NOT EXISTS departures ({columns})")
            db.execute("DELETE FROM departures")
            marks = ", ".join("?" * rows.num_columns)
            db.executemany(f"INSERT INTO departures VALUES ({marks})", zip(*(c.to_pylist() for c in rows.columns)))
        db.close()

    def gone(self) -> None:
        for file in self.file.parent.glob(f"{self.file.name}*"):
            file.unlink()


class TestAdbc(TableContract):
    dtypes: ClassVar = ("float64", "int64", "string")
    many = 5_000

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        return Sqlite(tmp_path, monkeypatch)
