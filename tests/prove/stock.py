"""The negative control: Feast's own online stores, written as one would without Tandem. Everything else of the stream stays."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

import pyarrow as pa
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig, _table_id
from feast.utils import _convert_arrow_to_proto
from redis.exceptions import RedisError

from serving.online_store.base import OrderedOnlineStore, WriteResult
from transforms.errors import StoreError

__all__ = ["StockRedisOnlineStore", "StockSqliteOnlineStore"]


class _Stock:
    """What the stream asks of a store, by the stock writer: every row in the order given, and no promise. It claims to be ordered."""

    def write_rows(self, config: Any, view: Any, rows: pa.RecordBatch) -> Any:
        table = pa.Table.from_batches([rows])
        keys = {c.name: c.dtype.to_value_type() for c in view.entity_columns}
        self.online_write_batch(config, view, _convert_arrow_to_proto(table, view, keys), None)  # type: ignore[attr-defined]
        return WriteResult(rows.num_rows, 0, 0)

    def apply_fingerprint(self, config: Any, view: str, fingerprint: str) -> None:
        """Stock stores know of none."""

    def applied_fingerprint(self, config: Any, view: str) -> None:
        """None is applied."""

    def claim(self, config: Any, owner: str, take: bool = False) -> str:
        """Stock stores are anybody's."""
        return owner

    def owner(self, config: Any) -> None:
        """Nobody has claimed them."""

    def mark_generation(self, config: Any, name: str, value: int, at_least: int | None = None) -> bool:
        """Stock stores keep no markers: nobody would notice that rows were lost."""
        return True

    def online_read_stored(self, config: Any, table: Any, entity_keys: Any, requested_features: Any = None) -> Any:
        """As Feast's own reader has it."""
        return self.online_read(config, table, entity_keys, requested_features)  # type: ignore[attr-defined]

    def sync(self, config: Any) -> None:
        """Stock stores promise nothing about the disk."""


class StockSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    type: Literal["tests.prove.stock.StockSqliteOnlineStore"] = "tests.prove.stock.StockSqliteOnlineStore"  # type: ignore[assignment]


class StockSqliteOnlineStore(_Stock, SqliteOnlineStore):
    def write_rows(self, config: Any, view: Any, rows: pa.RecordBatch) -> Any:
        connection = self._get_conn(config)
        try:
            connection.execute("PRAGMA busy_timeout = 5000")  # a second writer may be there
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {_table_id(config.project, view)} (entity_key BLOB, feature_name TEXT, value BLOB,"
                " vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
            )  # as its `update` does for `feast apply`
            return super().write_rows(config, view, rows)
        except sqlite3.Error as error:
            raise StoreError(f"sqlite: {error}") from None  # so that the stream waits for it, as it does for ours


class StockRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    type: Literal["tests.prove.stock.StockRedisOnlineStore"] = "tests.prove.stock.StockRedisOnlineStore"  # type: ignore[assignment]


class StockRedisOnlineStore(_Stock, RedisOnlineStore):
    def write_rows(self, config: Any, view: Any, rows: pa.RecordBatch) -> Any:
        try:
            return super().write_rows(config, view, rows)
        except (RedisError, OSError) as error:
            raise StoreError(f"redis is away: {error}") from None  # so that the stream waits for it, as it does for ours


class _Dropping(_Stock):
    """What it cannot write at once it drops."""

    def write_rows(self, config: Any, view: Any, rows: pa.RecordBatch) -> Any:
        try:
            return super().write_rows(config, view, rows)
        except (StoreError, RedisError, sqlite3.Error, OSError):
            return WriteResult(0, 0, 0)


class DroppingSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    type: Literal["tests.prove.stock.DroppingSqliteOnlineStore"] = "tests.prove.stock.DroppingSqliteOnlineStore"  # type: ignore[assignment]


class DroppingSqliteOnlineStore(_Dropping, StockSqliteOnlineStore):
    pass


class DroppingRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    type: Literal["tests.prove.stock.DroppingRedisOnlineStore"] = "tests.prove.stock.DroppingRedisOnlineStore"  # type: ignore[assignment]


class DroppingRedisOnlineStore(_Dropping, StockRedisOnlineStore):
    pass


for _store in (StockSqliteOnlineStore, StockRedisOnlineStore, DroppingSqliteOnlineStore, DroppingRedisOnlineStore):
    OrderedOnlineStore.register(_store)
