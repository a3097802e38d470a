"""Tables as sources: snapshots as event files, known by what they are; no secret in a definition, an error or a manifest."""

from __future__ import annotations

import json
import sqlite3
import sys
import types
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipelines.inference.infer_source import infer_table
from pipelines.inference.table_records import table_named
from pipelines.sources.event_files import events, inventory, list_files
from pipelines.sources.tables import query_table, snapshots
from pipelines.sources.tables.query_table import QueryTable
from pipelines.sources.tables.snapshots import take_snapshot
from pipelines.sources.tables.table_reader import masked_values
from transforms.definitions import Delta, EventSource, FeatureGroup, Field, Iceberg, Query
from transforms.errors import ConfigError, DataError, DefinitionError

NOW = 20_000 * 86_400_000_000
START = datetime(2024, 5, 1, tzinfo=UTC)
FIELDS = [Field("order_id", "int64", required=True), Field("amount", "float64"), Field("shop", "string")]


def source(table: Any) -> EventSource:
    return EventSource(name="orders", fields=FIELDS, event_time="at", tie_breaker="order_id", table=table)


def rows(data: Path, src: EventSource) -> list[tuple[Any, ...]]:
    found = [pair for f in list_files(data, src, None, None) for pair in events(f.path, src, NOW, 0)]
    assert sum(b.num_rows for _, b in found) == 0
    return sorted((e["order_id"], e["amount"], e["shop"], e["at"]) for v, _ in found for e in v.to_pylist())


WANTED = [(i, i / 4, "s'x" if i % 2 else None, START + timedelta(minutes=i)) for i in range(300)]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of DuckDB with orders, whose place is a secret."""
    path = tmp_path / "a shop's.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute('CREATE TABLE orders (order_id BIGINT, amount DOUBLE, shop VARCHAR, "at" TIMESTAMP)')
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", [(i, a, s, t.replace(tzinfo=None)) for i, a, s, t in WANTED])
    monkeypatch.setenv("SHOP_DB", str(path))
    return path


QUERY = Query("SELECT * FROM shop.orders ORDER BY order_id", attach={"shop": "SHOP_DB"})


def test_a_query_is_a_snapshot(tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "GROUP_ROWS", 64)
    monkeypatch.setattr(snapshots, "FILE_ROWS", 128)
    src, data, said = source(QUERY), tmp_path / "data", list[str]()
    with pytest.raises(DataError, match="no snapshot yet; 'tandem batch' takes one"):
        inventory(data, src, None, None)
    taken = take_snapshot(data, src, said.append)
    assert (taken["kind"], taken["rows"]) == ("query", 300)
    assert rows(data, src) == WANTED
    found = inventory(data, src, None, None)
    assert ([f.name for f in found.files], found.passed_over) == ([f"tables/orders/part-0000{i}.parquet" for i in range(3)], [])
    hashes = [f.sha256 for f in found.files]
    assert take_snapshot(data, src, said.append) == taken
    assert said[-1] == "orders: 300 rows, the same as before"
    with duckdb.connect(str(shop)) as db:
        db.execute("DELETE FROM orders WHERE order_id = 7")
    assert take_snapshot(data, src, said.append)["sha256"] != taken["sha256"]
    assert rows(data, src) == [r for r in WANTED if r[0] != 7]
    assert [f.sha256 for f in list_files(data, src, None, None)] != hashes
    assert sorted(p.name for p in (data / "tables").iterdir()) == ["orders"]


def test_the_same_rows_in_another_order_are_the_same_snapshot(tmp_path: Path, shop: Path) -> None:
    src, data, said = source(replace(QUERY, sql="SELECT * FROM shop.orders ORDER BY amount DESC, order_id")), tmp_path / "data", list[str]()
    taken = take_snapshot(data, source(QUERY))
    files = [f.sha256 for f in list_files(data, src, None, None)]
    assert take_snapshot(data, src, said.append) == taken and said[-1] == "orders: 300 rows, the same as before"
    assert [f.sha256 for f in list_files(data, src, None, None)] == files


def test_secrets_are_named_and_never_shown(tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, data = source(QUERY), tmp_path / "data"
    monkeypatch.delenv("SHOP_DB")
    with pytest.raises(ConfigError, match="source 'orders' needs SHOP_DB: set it in the environment, or SHOP_DB_FILE"):
        take_snapshot(data, src)
    (tmp_path / "secret").write_text(f"{shop}\n")
    monkeypatch.setenv("SHOP_DB_FILE", str(tmp_path / "secret"))
    take_snapshot(data, src)
    assert "a shop's" not in (data / "tables/orders/.snapshot").read_text()
    for value in (
        "postgres:host=127.0.0.1 port=1 user=me password=hunter22 dbname=x",
        "mysql:host=127.0.0.1 password=hunter22",
        "/no/hunter22.db",
    ):
        monkeypatch.setenv("SHOP_DB", value)
        with pytest.raises((ConfigError, DataError)) as caught:
            take_snapshot(data, src)
        assert "hunter22" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert rows(data, src) == WANTED  # what was there before is there
    with pytest.raises(DataError, match=r"its query failed: .*nothing_here"):
        take_snapshot(data, source(Query("SELECT * FROM nothing_here")))


def test_a_driver_of_adbc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URI", str(tmp_path / "shop.db"))
    missing = source(Query("SELECT 1", driver="adbc_driver_nowhere", uri="SHOP_URI"))
    with pytest.raises(ConfigError, match=r"adbc-driver-nowhere reads, which is not installed .*; pip install adbc-driver-nowhere$"):
        take_snapshot(tmp_path / "data", missing)
    pytest.importorskip("adbc_driver_sqlite")
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("CREATE TABLE orders (order_id INTEGER, amount REAL, shop TEXT, at INTEGER)")
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", [(i, a, s, int(t.timestamp()) * 1_000_000) for i, a, s, t in WANTED])
    db.close()
    src = source(Query("SELECT * FROM orders ORDER BY order_id", driver="adbc_driver_sqlite", uri="SHOP_URI"))
    assert src.table is not None and QueryTable("orders", src.table).count() == 300
    assert take_snapshot(tmp_path / "data", src)["rows"] == 300
    assert rows(tmp_path / "data", src) == WANTED
    with pytest.raises(DataError, match="its query failed"):
        take_snapshot(tmp_path / "data", source(Query("SELECT * FROM nothing", driver="adbc_driver_sqlite", uri="SHOP_URI")))


def test_a_driver_that_a_manifest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``dbc install`` writes them, for MySQL and the like: SQLite's driver, under a name of ours."""
    driver = pytest.importorskip("adbc_driver_sqlite")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "orders_db.toml").write_text(f'manifest_version = 1\n[Driver]\nshared = "{driver._driver_path()}"\n')
    monkeypatch.setenv("ADBC_DRIVER_PATH", str(tmp_path / "manifests"))
    monkeypatch.setenv("SHOP_URI", str(tmp_path / "shop.db"))
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("CREATE TABLE orders (order_id INTEGER, at INTEGER)")
        db.executemany("INSERT INTO orders VALUES (?, ?)", [(i, int(t.timestamp()) * 1_000_000) for i, _, _, t in WANTED])
    db.close()
    query = Query("SELECT * FROM orders ORDER BY order_id", driver="orders_db", uri="SHOP_URI")
    assert take_snapshot(tmp_path / "data", source(query))["rows"] == 300
    monkeypatch.setenv("SHOP_URI", json.dumps({"uri": str(tmp_path / "shop.db")}))  # as options
    assert take_snapshot(tmp_path / "other", source(query))["rows"] == 300
    with pytest.raises(ConfigError, match=r"ADBC has no driver 'my_db' where this runs; install its manifest \(dbc install my_db\)"):
        take_snapshot(tmp_path / "data", source(replace(query, driver="my_db")))


def test_a_driver_that_takes_options_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As BigQuery's: its package has this signature."""
    module = types.ModuleType("adbc_driver_options.dbapi")
    asked = list[Any]()

    def connect(db_kwargs: Any = None, conn_kwargs: Any = None, **kwargs: Any) -> Any:
        asked.append(db_kwargs)
        raise OSError(f"project {db_kwargs['project']} is away, as {db_kwargs['key']} says")

    module.connect, module.Error = connect, ValueError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "adbc_driver_options", types.ModuleType("adbc_driver_options"))
    monkeypatch.setitem(sys.modules, "adbc_driver_options.dbapi", module)
    src = source(Query("SELECT 1", driver="adbc_driver_options", uri="SHOP_URI"))
    for value, said in (
        ("project-1", "adbc-driver-options takes options and no address; have SHOP_URI hold a JSON object of them"),
        ('{"project":', "SHOP_URI begins as a JSON object of options and is none"),
        ('{"project": "p", "key": "hunter22"}', "its query failed: project p is away, as *** says"),
    ):
        monkeypatch.setenv("SHOP_URI", value)
        with pytest.raises((ConfigError, DataError)) as caught:
            take_snapshot(tmp_path / "data", src)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert asked == [{"project": "p", "key": "hunter22"}]


def address_first(uri: Any, db_kwargs: Any = None, *, autocommit: bool = False) -> Any:  # as Flight SQL's
    raise OSError(f"{uri} with {db_kwargs}, {autocommit}")


def path_alone(path: Any = None, *, fetch: int = 1) -> Any:  # as DuckDB's
    raise OSError(f"{path} as it is")


@pytest.mark.parametrize(
    ("connect", "value", "said"),
    [
        (address_first, "grpc://h:1", "grpc://h:1 with None, True"),
        (address_first, '{"uri": "grpc://h:1"}', "grpc://h:1 with None, True"),
        (address_first, '{"uri": "grpc://h:1", "username": "me"}', "grpc://h:1 with {'username': 'me'}, True"),
        (address_first, '{"username": "me"}', "adbc-driver-shaped needs 'uri' among the options that SHOP_URI holds"),
        (path_alone, "shop.db", "shop.db as it is"),
        (path_alone, '{"path": "shop.db"}', "shop.db as it is"),
        (path_alone, '{"path": "shop.db", "threads": "2"}', "adbc-driver-shaped takes an address alone; have SHOP_URI hold it"),
    ],
)
def test_what_a_driver_connects_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Any, value: str, said: str) -> None:
    """By the parameters that its own connect has."""
    module = types.ModuleType("adbc_driver_shaped.dbapi")
    module.connect, module.Error = connect, ValueError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "adbc_driver_shaped", types.ModuleType("adbc_driver_shaped"))
    monkeypatch.setitem(sys.modules, "adbc_driver_shaped.dbapi", module)
    monkeypatch.setattr(query_table, "masked_values", lambda text, values: text)
    monkeypatch.setenv("SHOP_URI", value)
    with pytest.raises((ConfigError, DataError)) as caught:
        take_snapshot(tmp_path / "data", source(Query("SELECT 1", driver="adbc_driver_shaped", uri="SHOP_URI")))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def table() -> pa.Table:
    ids, amounts, shops, times = zip(*WANTED, strict=True)
    return pa.table({"order_id": ids, "amount": amounts, "shop": shops, "at": pa.array(times, pa.timestamp("us", "UTC"))})


def test_delta(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    place, data = str(tmp_path / "lake"), tmp_path / "data"
    deltalake.write_deltalake(place, table())
    src, said = source(Delta(place)), list[str]()
    first = take_snapshot(data, src, said.append)
    assert (first["kind"], first["version"], first["rows"]) == ("delta", 0, 300)
    assert rows(data, src) == WANTED
    said.clear()
    assert take_snapshot(data, src, said.append) == first
    assert said == []  # its version says that nothing is to be read
    deltalake.DeltaTable(place).delete("order_id >= 200")
    assert take_snapshot(data, src)["version"] == 1
    assert rows(data, src) == WANTED[:200]
    assert take_snapshot(data, source(Delta(place, version=0)))["sha256"] == first["sha256"]
    with pytest.raises(DataError, match="no Delta table can be read"):
        take_snapshot(data, source(Delta(place, version=9)))
    assert rows(data, src) == WANTED


def test_iceberg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog_of = pytest.importorskip("pyiceberg.catalog")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{tmp_path}/warehouse")
    catalog = catalog_of.load_catalog("lake", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("shop")
    made = catalog.create_table("shop.orders", table().schema)
    made.append(table().slice(0, 200))
    monkeypatch.setattr("pyiceberg.catalog.load_catalog", lambda name: catalog)
    data, src = tmp_path / "data", source(Iceberg("shop.orders", "lake"))
    first = take_snapshot(data, src)
    assert (first["kind"], first["rows"]) == ("iceberg", 200)
    made.append(table().slice(200))
    assert take_snapshot(data, src)["rows"] == 300
    assert rows(data, src) == WANTED
    assert take_snapshot(data, source(Iceberg("shop.orders", "lake", snapshot=first["snapshot"])))["rows"] == 200
    with pytest.raises(DataError, match="has no snapshot 7"):
        take_snapshot(data, source(Iceberg("shop.orders", "lake", snapshot=7)))


@pytest.mark.parametrize("table", [Delta("x", options={"key": "KEY"}), QUERY, Iceberg("a.b")])
def test_a_source_of_a_table_has_a_hash(table: Any) -> None:
    """As batch runs need it, though options are a mapping; and another table is another source."""
    assert hash(source(table)) == hash(source(table)) and source(table) == source(table) != source(Delta("y"))


def test_infer_of_a_table_takes_its_rows(tmp_path: Path, shop: Path) -> None:
    """In the words of a definition, which stand in the one that it writes; that takes a snapshot and reads each row."""
    words = """Query('SELECT order_id, amount, shop, "at" FROM shop.orders ORDER BY order_id', attach={"shop": "SHOP_DB"})"""
    table = table_named(words)
    assert isinstance(table, Query)
    made = infer_table(table, zone="UTC", rows=200)
    assert "inferred from a query, 200 rows" in made.text and str(shop) not in made.text and "files=" not in made.text
    found: dict[str, Any] = {}
    exec(compile(made.text, "orders.py", "exec"), found)
    src = found["orders"]
    assert src.table == table and src.event_time == "at"
    take_snapshot(tmp_path / "data", src)
    assert rows(tmp_path / "data", src) == WANTED


def test_infer_of_a_delta_folder(tmp_path: Path) -> None:
    """What the table holds, and not the files beside its log, of which some may be of rows that were deleted."""
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(str(tmp_path / "orders"), table())
    deltalake.DeltaTable(str(tmp_path / "orders")).delete("order_id >= 200")
    found = table_named(str(tmp_path / "orders"))
    assert found == Delta(str(tmp_path / "orders"))
    text = infer_table(found).text
    assert f'table=Delta("{tmp_path}/orders")' in text and "200 rows" in text


@pytest.mark.parametrize(
    "words", ["Delta()", "Delta('x', version=f())", "Query('SELECT 1').sql", "Delta(1) or 1", "Query(", "Iceberg('a')"]
)
def test_words_that_name_no_table(words: str) -> None:
    with pytest.raises(DataError) as caught:
        table_named(words)
    assert "\n" not in str(caught.value)


def test_other_words_name_no_table(tmp_path: Path) -> None:
    assert [table_named(w) for w in ("orders", "a/Delta(x)", "Delta", str(tmp_path), "Query.csv")] == [None] * 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Query(" "), "there is no SQL"), (lambda: Query("SELECT 1", driver="x"), "give both or none"),
        (lambda: Query("SELECT 1", attach={"a": "postgres:password=hunter22"}), "a definition keeps no secrets"),
        (lambda: Query("SELECT 1", attach={"a b": "DB"}), "is no name of a database"), (lambda: Delta("x", version=-1), "version -1"),
        (lambda: Delta("x", options={"key": "sk-hunter22!"}), "a definition keeps no secrets"),
        (lambda: Iceberg("orders"), "'namespace.table'"),
        (lambda: source("orders"), "write Delta"), (lambda: EventSource(
            name="o", fields=FIELDS, event_time="at", tie_breaker="order_id", table=Delta("x"), files="events/o"), "drop table= or files="),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(make: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        make()
    assert "hunter22" not in str(caught.value)


def test_where_events_lie_is_no_part_of_the_definition() -> None:
    from transforms.definitions import Count, Entity, hours

    def group(src: EventSource) -> str:
        return FeatureGroup("g", src, Entity("order_id"), hours(1), None, [Count(over=hours(1))]).definition_hash()

    plain = EventSource(name="orders", fields=FIELDS, event_time="at", tie_breaker="order_id", files="events/orders")
    assert group(plain) == group(source(QUERY)) == group(source(Delta("x")))
    assert json.dumps(QUERY.attach)  # plain values: a definition can be pickled and shown


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("postgresql://ann:hunter22@db/shop", "could not connect: postgresql://ann:hunter22@db/shop"),
        ("postgresql://ann:hunter22@db/shop", "password hunter22 of ann is wrong"),
        ("postgresql://ann:hun%40ter22@db/shop", "could not translate host name 'hun@ter22'"),
        ("postgresql://ann:first@hunter22@db/shop", "could not translate host name 'hunter22@db'"),
        ("postgresql://ann:first/hunter22@db/shop", "invalid port: hunter22"),
        ("host=db password=hunter22", "FATAL: hunter22"),
        ("Driver={x};Server=db;Pwd=hunter22;", "login failed: Pwd=hunter22"),
        ("", "Could not parse SQLAlchemy URL from 'postgresql+psycopg2://ann:hunter22@db:x/y'"),
        ("", "{'token': 'hunter22', 'uri': 'http://db'} is refused"),
        ("", "401 for Authorization: Bearer hunter22"),
    ],
)
def test_no_error_holds_a_password(value: str, told: str) -> None:
    """Of an address too, whole, decoded or cut where a driver took a part of it for something else."""
    found = masked_values(told, [value] if value else [])
    assert "hunter22" not in found and "ter22" not in found
    assert "***" in found
