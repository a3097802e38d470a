"""PostgreSQL as a source of events: a real server, asked by ADBC's driver, from ``tandem infer`` to rows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipelines.inference.infer_source import infer_table
from pipelines.inference.table_records import table_named
from pipelines.sources.event_files import events, list_files
from pipelines.sources.tables.duckdb_attach import extension_package
from pipelines.sources.tables.snapshots import take_snapshot
from tests.postgres_server import DATABASE, PASSWORD, USER, PostgresServer, postgres_server
from transforms.definitions import EventSource, Field, Query
from transforms.errors import DataError

pytest.importorskip("adbc_driver_postgresql")
NOW = 20_000 * 86_400_000_000
ROWS = 300
ORDERS = """
    CREATE TABLE orders (order_id bigint PRIMARY KEY, customer_id int NOT NULL, amount numeric(12, 2), paid boolean NOT NULL,
        state text NOT NULL, created_at timestamptz NOT NULL, local_at timestamp NOT NULL, day date NOT NULL, tags text[], device uuid,
        extra jsonb);
    INSERT INTO orders SELECT i, i % 9, CASE WHEN i % 10 = 0 THEN NULL ELSE i * 0.25 END, i % 2 = 0, (ARRAY['new', 'paid'])[1 + i % 2],
        timestamptz '2024-05-01 00:00:00+00' + i * interval '1 minute', timestamp '2024-05-01 02:00:00' + i * interval '1 minute',
        date '2024-05-01', ARRAY['a', 'b'], md5(i::text)::uuid, jsonb_build_object('n', i)
        FROM generate_series(0, 299) i
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        with running.connect() as db:
            db.execute(ORDERS)
        yield running


def test_from_infer_to_events(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DB", f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/{DATABASE}")
    table = table_named('Query("SELECT * FROM orders ORDER BY order_id", driver="adbc_driver_postgresql", uri="SHOP_DB")')
    assert table is not None
    made = infer_table(table, zone="Europe/Paris")
    assert PASSWORD not in made.text
    found: dict[str, Any] = {}
    exec(compile(made.text, "orders.py", "exec"), found)
    src: EventSource = found["orders"]
    assert src.event_time == "created_at" and src.tie_breaker == "order_id"
    data = tmp_path / "data"
    assert take_snapshot(data, src)["rows"] == ROWS
    pairs = [pair for f in list_files(data, src, None, None) for pair in events(f.path, src, NOW, 0)]
    assert [letter for _, letters in pairs for letter in letters.to_pylist()] == []
    taken = sorted((e for batch, _ in pairs for e in batch.to_pylist()), key=lambda e: e["order_id"])
    assert [e["amount"] for e in taken] == [None if n % 10 == 0 else n / 4 for n in range(ROWS)]
    assert [e["local_at"] for e in taken] == [e["created_at"] for e in taken]  # two hours ahead of UTC in May
    assert {e["state"] for e in taken} == {"new", "paid"} and taken[1]["tags"] == ["a", "b"]
    assert [e["extra"] for e in taken[:2]] == ['{"n": 0}', '{"n": 1}'] and len({e["device"] for e in taken}) == ROWS


@pytest.mark.skipif(
    find_spec("duckdb_extension_postgres_scanner") is None, reason=f"DuckDB's extension: pip install {extension_package('postgres')}"
)
def test_by_duckdb_the_events_are_the_same(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"SHOP_URI": f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/{DATABASE}"}
    places["SHOP_DB"] = f"postgres:host=127.0.0.1 port={server.port} user={USER} password={PASSWORD} dbname={DATABASE}"
    for name, place in places.items():
        monkeypatch.setenv(name, place)
    columns = "order_id, amount::double precision AS amount, paid, state, created_at, local_at"
    fields = [Field("order_id", "int64", required=True), Field("amount", "float64"), Field("paid", "bool"), Field("local_at", "timestamp")]
    tables = [
        Query(f"SELECT {columns} FROM orders", driver="adbc_driver_postgresql", uri="SHOP_URI"),
        Query(f"SELECT {columns} FROM shop.orders", attach={"shop": "SHOP_DB"}),
    ]
    found = []
    for n, table in enumerate(tables):
        src = EventSource("orders", fields, "created_at", "order_id", table=table)
        assert take_snapshot(tmp_path / str(n), src)["rows"] == ROWS
        pairs = [pair for f in list_files(tmp_path / str(n), src, None, None) for pair in events(f.path, src, NOW, 0)]
        found.append(sorted((e for batch, _ in pairs for e in batch.to_pylist()), key=lambda e: e["order_id"]))
    assert len(found[0]) == ROWS and found[0] == found[1]


def test_what_fails_is_one_line_without_its_password(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [Field("order_id", "int64", required=True)]
    address = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/{DATABASE}"
    for value, sql in ((address, "SELECT * FROM nothing"), (address.replace(PASSWORD, "wrong-" + PASSWORD), "SELECT 1")):
        monkeypatch.setenv("SHOP_DB", value)
        src = EventSource("orders", fields, "at", "order_id", table=Query(sql, driver="adbc_driver_postgresql", uri="SHOP_DB"))
        with pytest.raises(DataError, match=r"its query failed: .*(nothing|password authentication failed)") as caught:
            take_snapshot(tmp_path / "data", src)
        assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)
