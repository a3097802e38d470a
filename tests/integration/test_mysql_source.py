"""MySQL as a source of events: a real server (MariaDB), attached by DuckDB, from ``tandem infer`` to rows."""

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
from tests.mysql_server import PASSWORD, MySqlServer, missing_programs, mysql_server
from transforms.definitions import EventSource, Field, Query
from transforms.errors import ConfigError, DataError

if missing := missing_programs():
    pytest.skip(f"no MySQL here: {', '.join(missing)} missing (Debian: mariadb-server-core, mariadb-client-core)", allow_module_level=True)
if find_spec("duckdb_extension_mysql_scanner") is None:
    pytest.skip(f"DuckDB's extension for MySQL is not here: pip install {extension_package('mysql')}", allow_module_level=True)

NOW = 20_000 * 86_400_000_000
ROWS = 300
ORDERS = """
    SET time_zone = '+00:00';
    CREATE TABLE orders (order_id BIGINT PRIMARY KEY, customer_id INT NOT NULL, amount DECIMAL(12, 2), paid BOOLEAN NOT NULL,
        state ENUM('new', 'paid') NOT NULL, created_at TIMESTAMP(6) NOT NULL, local_at DATETIME(6) NOT NULL, day DATE NOT NULL,
        note VARCHAR(50) NOT NULL, hits INT UNSIGNED NOT NULL, extra JSON NOT NULL);
    INSERT INTO orders SELECT seq, seq % 9, IF(seq % 10 = 0, NULL, seq * 0.25), seq % 2 = 0, IF(seq % 2 = 0, 'new', 'paid'),
        TIMESTAMP('2024-03-30 23:30:00.25') + INTERVAL seq MINUTE, TIMESTAMP('2024-05-01 02:00:00') + INTERVAL seq MINUTE, '2024-05-01',
        CONCAT('Zürich 🛒 ', seq), 4000000000 + seq, JSON_OBJECT('n', seq) FROM seq_0_to_299;
"""
FIELDS = [Field("order_id", "int64", required=True), Field("note", "string"), Field("extra", "string")]
BEGAN = 1_711_841_400_250_000
"""2024-03-30 23:30:00.25 UTC: the rows go on over a change of daylight saving in Europe."""


@pytest.fixture(scope="module")
def server() -> Iterator[MySqlServer]:
    with mysql_server() as running:
        running.execute(ORDERS)
        yield running


@pytest.fixture
def gives_utc(server: MySqlServer, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether DuckDB's extension has sessions be in UTC whatever the server's zone is, which is far from it."""
    import duckdb

    monkeypatch.setenv("SHOP_DB", f"mysql:{server.address}")
    server.execute("SET GLOBAL time_zone = '+05:00'")
    return tuple(map(int, duckdb.__version__.split(".")[:2])) >= (1, 5)


def source(sql: str, event_time: str = "created_at") -> EventSource:
    return EventSource("orders", FIELDS, event_time, "order_id", table=Query(sql, attach={"shop": "SHOP_DB"}))


def taken(data: Path, src: EventSource) -> list[dict[str, Any]]:
    """The events of a snapshot, in order; none is refused."""
    assert take_snapshot(data, src)["rows"] == ROWS
    pairs = [pair for f in list_files(data, src, None, None) for pair in events(f.path, src, NOW, 0)]
    assert [letter for _, letters in pairs for letter in letters.to_pylist()] == []
    return sorted((e for batch, _ in pairs for e in batch.to_pylist()), key=lambda e: e["order_id"])


def micros(events: list[dict[str, Any]], name: str) -> list[int]:
    return [round(e[name].timestamp() * 1e6) for e in events]


def test_from_infer_to_events(server: MySqlServer, gives_utc: bool, tmp_path: Path) -> None:
    server.execute("SET GLOBAL time_zone = '+00:00'")
    table = table_named('Query("SELECT * FROM shop.orders ORDER BY order_id", attach={"shop": "SHOP_DB"})')
    assert table is not None
    made = infer_table(table, zone="UTC")
    assert PASSWORD not in made.text
    found: dict[str, Any] = {}
    exec(compile(made.text, "orders.py", "exec"), found)
    src: EventSource = found["orders"]
    assert src.event_time == "created_at" and src.tie_breaker == "order_id"
    rows = taken(tmp_path / "data", src)
    assert micros(rows, "created_at") == [BEGAN + n * 60_000_000 for n in range(ROWS)]
    assert micros(rows, "local_at") == [1_714_528_800_000_000 + n * 60_000_000 for n in range(ROWS)]
    assert [e["amount"] for e in rows] == [None if n % 10 == 0 else n / 4 for n in range(ROWS)]
    assert [e["paid"] for e in rows[:2]] == [True, False] and [e["state"] for e in rows[:2]] == ["new", "paid"]
    assert [e["note"] for e in rows] == [f"Zürich 🛒 {n}" for n in range(ROWS)] and rows[7]["hits"] == 4_000_000_007
    assert [e["extra"] for e in rows[:2]] == ['{"n": 0}', '{"n": 1}']


def test_moments_are_what_they_are_whatever_zone_the_server_is_in(gives_utc: bool, tmp_path: Path) -> None:
    """MySQL gives TIMESTAMPs in its session's time: an extension that cannot set it would shift them by hours, and is refused."""
    src = source("SELECT order_id, note, extra, created_at FROM shop.orders")
    if gives_utc:
        assert micros(taken(tmp_path / "data", src), "created_at") == [BEGAN + n * 60_000_000 for n in range(ROWS)]
        return
    with pytest.raises(ConfigError, match=r"not in UTC \(shop: \+05:00\).*TIMESTAMPs such as created_at; set default_time_zone"):
        take_snapshot(tmp_path / "data", src)
    local = source("SELECT order_id, note, extra, local_at FROM shop.orders", "local_at")
    assert micros(taken(tmp_path / "data", local), "local_at")[0] == 1_714_528_800_000_000, "a DATETIME has no zone"


def test_what_fails_is_one_line_without_its_password(
    server: MySqlServer, gives_utc: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, sql in ((server.address, "SELECT * FROM shop.nothing"), (server.address.replace(PASSWORD, "wrong-" + PASSWORD), "SELECT 1")):
        monkeypatch.setenv("SHOP_DB", f"mysql:{value}")
        with pytest.raises(DataError, match=r"its query failed: .*(nothing|Access denied)") as caught:
            take_snapshot(tmp_path / "data", source(sql))
        assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_written(server: MySqlServer, gives_utc: bool, tmp_path: Path) -> None:
    for sql in ("DELETE FROM shop.orders", "CREATE TABLE shop.other (n INT)"):
        with pytest.raises(DataError, match="read-only"):
            take_snapshot(tmp_path / "data", source(sql))
