"""A query by ADBC's driver of Flight SQL, a real one, on a server of that protocol: what Dremio, InfluxDB, GizmoSQL and others speak."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from google.protobuf.any_pb2 import Any as Packed

from pipelines.sources.event_files import events, list_files
from pipelines.sources.tables.snapshots import take_snapshot
from transforms.definitions import EventSource, Field, Query
from transforms.errors import DataError

pytest.importorskip("adbc_driver_flightsql", reason="adbc-driver-flightsql is not installed here")
T0 = datetime(2024, 5, 1, 10, tzinfo=UTC)


class Server(flight.FlightServerBase):
    """Statements alone, each run by DuckDB over one table."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        times = pa.array([T0 + timedelta(seconds=n) for n in range(1000)], pa.timestamp("us", "UTC"))
        self.orders = pa.table({"order_id": pa.array(range(1000)), "at": times})

    def run(self, sql: str) -> pa.Table:
        connection = duckdb.connect()
        try:
            connection.register("orders", self.orders)
            return connection.execute(sql).arrow()
        except duckdb.Error as error:
            raise flight.FlightServerError(str(error)) from None
        finally:
            connection.close()

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        packed = Packed.FromString(descriptor.command)
        assert packed.type_url.endswith("CommandStatementQuery")
        size, begin = packed.value[1], 2  # its first field: the text of the query
        if size > 127:
            size, begin = (size & 127) | packed.value[2] << 7, 3
        sql = packed.value[begin : begin + size]
        return flight.FlightInfo(self.run(sql.decode()).schema, descriptor, [flight.FlightEndpoint(sql, [])], -1, -1)

    def do_get(self, context: Any, ticket: Any) -> Any:
        return flight.RecordBatchStream(self.run(ticket.ticket.decode()))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.shutdown()
    thread.join()


def orders(sql: str) -> EventSource:
    table = Query(sql, driver="adbc_driver_flightsql", uri="SHOP_URI")
    return EventSource("orders", [Field("order_id", "int64", required=True)], "at", "order_id", table=table)


@pytest.mark.parametrize("as_options", [False, True])
def test_rows_and_mistakes(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_options: bool) -> None:
    address = f"grpc://127.0.0.1:{server.port}"
    monkeypatch.setenv("SHOP_URI", json.dumps({"uri": address}) if as_options else address)
    source = orders("SELECT * FROM orders ORDER BY order_id")
    assert take_snapshot(tmp_path, source)["rows"] == 1000
    found = [
        event
        for file in list_files(tmp_path, source, None, None, hashes=False)
        for valid, _ in events(file.path, source, 2 * 10**15, 0, name=file.name)
        for event in valid.to_pylist()
    ]
    assert [(e["order_id"], e["at"]) for e in found] == [(n, T0 + timedelta(seconds=n)) for n in range(1000)]
    with pytest.raises(DataError, match=r"source 'orders': its query failed: .*nowhere") as caught:
        take_snapshot(tmp_path, orders("SELECT 1 FROM nowhere"))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URI", "grpc://127.0.0.1:1")
    with pytest.raises(DataError, match=r"source 'orders': its query failed: .*refused") as caught:
        take_snapshot(tmp_path, orders("SELECT 1"))
    assert "\n" not in str(caught.value)
