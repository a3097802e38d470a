"""The offline store: Feast's DuckDB store with a point-in-time join that keeps every row of the spine, in order.

The join is DuckDB's ``ASOF JOIN`` over the Parquet of all runs. It runs per view, on integer microseconds; nothing passes
through pandas, so types stay exact. DuckDB never loads or downloads an extension here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import StrictStr

from serving.feast_types import arrow_type
from serving.offline_job import AsofJob
from serving.offline_rows import OfflineRows, one_line, pinned, quoted
from serving.offline_spine import spine_and_time
from serving.online_store.base import OrderedOnlineStoreConfig, configured_now
from serving.spines import EXACT_FLOAT, key_column
from transforms.definitions import REVISION
from transforms.errors import DataError, StoreError
from transforms.instants import instant, micros_of

__all__ = ["AsofJob", "AsofOfflineStore", "AsofOfflineStoreConfig", "connection", "latest_of_view", "latest_rows", "pinned"]

_US = timedelta(microseconds=1)


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Configuration of the store; all of it may be left out."""

    type: StrictStr = "tandem.serving.offline_store.AsofOfflineStore"
    memory_limit: str = "2GB"
    """Above this DuckDB spills to ``temp_directory``."""
    threads: int | None = None
    """By default one per core."""
    temp_directory: str | None = None
    """By default a folder of its own under the system's, removed afterwards."""


class AsofOfflineStore(DuckDBOfflineStore):
    """Point-in-time joins that drop nothing, and the latest rows; both read the rows that count: :mod:`serving.offline_rows`."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """For each spine row and view: the row of its key with the greatest event time <= the spine's, unless older than the view's TTL.

        ``entity_df`` is a DataFrame, an Arrow table or a DuckDB query; all its rows come back in their order, with all its
        columns and one column per feature, of the declared type. A row whose windows are all empty (revision 0) does not expire.
        """
        if filter_by_created_timestamp:  # of Feast 0.67
            raise StoreError("filter_by_created_timestamp is not supported by this store; a row's event_timestamp says when it was known")
        if odfvs := OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry):
            raise StoreError(f"on-demand view {odfvs[0].name!r} is not supported by this store; compute it in a preprocessing_fn")
        with connection(config) as db:
            spine, at = spine_and_time(db, entity_df)
        times = spine.column(at)
        bounds = pc.min_max(times).as_py()

        def run() -> pa.Table:
            out = spine
            with connection(config) as db:
                for view in feature_views:
                    name = str(view.projection.name_to_use())
                    wanted = [r.split(":", 1)[1] for r in feature_refs if r.split(":", 1)[0] == name]
                    columns = _join(db, config, view, wanted, spine, at)
                    for feature in wanted:
                        label = f"{name}__{feature}" if full_feature_names else feature
                        if label in out.column_names:
                            raise DataError(
                                f"two columns would be called {label!r}; rename the spine's, or ask with full_feature_names=True"
                            )
                        out = out.append_column(label, columns[feature])
            return out

        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[c for c in spine.column_names if c != at],
            min_event_timestamp=bounds["min"],
            max_event_timestamp=bounds["max"],
        )
        return AsofJob(run, metadata, full_feature_names, entity_df if isinstance(entity_df, pd.DataFrame) else None)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Per key the latest of the rows that count (:mod:`serving.offline_rows`) with ``start_date`` <= event time <= ``end_date``.

        For an ordered online store not after its now: it refuses what lies ahead, and would be left without the row that is true now.
        """
        end_date = _not_ahead(config, end_date)
        columns = [
            *join_key_columns,
            *feature_name_columns,
            timestamp_field,
            *([created_timestamp_column] if created_timestamp_column else []),
        ]

        def run() -> pa.Table:
            with connection(config) as db:
                source = OfflineRows(db, config, data_source)
                return latest_rows(db, source, join_key_columns, columns, timestamp_field, created_timestamp_column, start_date, end_date)

        return AsofJob(lambda: _for_materialize(_safely(run), join_key_columns))

    @staticmethod
    def pull_all_from_table_or_query(  # type: ignore[override, unused-ignore]  # Feast 0.48 knows no created_timestamp_column here
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows with ``start_date`` <= event time <= ``end_date`` (None: no such bound), in no order.

        Of the rows that agree in key and event time the one that counts is given (:mod:`serving.offline_rows`). Newer Feast materializes by
        this: who names the column of creation has rows as :meth:`pull_latest_from_table_or_query` gives them, not after the store's now.
        """
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)
            end_date = _not_ahead(config, end_date or datetime.max)

        def run() -> pa.Table:
            with connection(config) as db:
                source = OfflineRows(db, config, data_source)
                if source.empty:
                    return pa.table({c: pa.array([], pa.null()) for c in columns})
                source.need(columns)
                picked = [f"{source.column(c)} AS {quoted(c)}" for c in columns]
                within = source.between(timestamp_field, start_date or datetime.min, end_date or datetime.max)
                every = not created_timestamp_column
                query = source.counting(picked, within, join_key_columns, timestamp_field, created_timestamp_column, every)
                table = _one_chunk(db.sql(query).to_arrow_table())
                return _for_materialize(table, join_key_columns) if created_timestamp_column else _keyed(table, join_key_columns)

        return AsofJob(lambda: _safely(run))


def _not_ahead(config: RepoConfig, end: datetime) -> datetime:
    """``end``, and for an ordered online store not after its now: what it refuses would hide the row that is true now."""
    return min(end, instant(configured_now(config)), key=micros_of) if isinstance(config.online_store, OrderedOnlineStoreConfig) else end


def _join(db: Any, config: RepoConfig, view: FeatureView, wanted: Sequence[str], spine: pa.Table, at: str) -> dict[str, Any]:
    """The columns ``wanted`` of a view, one value per spine row."""
    types = {f.name: arrow_type(f.dtype) for f in view.features}
    mapping = dict(view.projection.join_key_map or {})
    keys = {c.name: mapping.get(c.name, c.name) for c in view.entity_columns if c.name != DUMMY_ENTITY_ID}
    for key in keys.values():
        if key not in spine.column_names:
            raise DataError(f"view {view.name!r}: the spine has no column {key!r}; it has {', '.join(spine.column_names)}")
    n = spine.num_rows
    source = OfflineRows(db, config, view.batch_source, view.name)
    if source.empty or n == 0:
        return {w: _nulls(n, types[w]) for w in wanted}
    batch: Any = view.batch_source
    source.need([*keys, batch.timestamp_field, *wanted])
    narrow = {f"k{i}": key_column(spine, column, source.kind(key), view.name) for i, (key, column) in enumerate(keys.items())}
    us = spine.column(at).cast(pa.int64())
    db.register("spine", pa.table({**narrow, "us": us, "row": pa.array(range(n), pa.int64())}))
    ttl = view.ttl // _US if view.ttl else None
    bounds = pc.min_max(us).as_py()
    if bounds["max"] is None:
        return {w: _nulls(n, types[w]) for w in wanted}
    time = source.micros(batch.timestamp_field)
    lasting = f"coalesce({source.column(REVISION)}, 1) = 0" if REVISION in source.types else "false"
    picked = [
        *(f"{source.column(k)} AS k{i}" for i, k in enumerate(keys)),
        f"{time} AS us",
        f"{lasting} AS lasts",
        *(f"{source.column(w)} AS f{i}" for i, w in enumerate(wanted)),
    ]
    lower = f" AND ({time} >= {bounds['min'] - ttl} OR {lasting})" if ttl is not None else ""
    some = "".join(f" AND {source.column(k)} IN (SELECT k{i} FROM spine)" for i, k in enumerate(keys))
    rows = source.counting(
        picked, f"{time} <= {bounds['max']}{lower}{some}", list(keys), batch.timestamp_field, batch.created_timestamp_column
    )
    fresh = f"(f.lasts OR f.us >= s.us - {ttl})" if ttl is not None else "true"
    query = f"""
        WITH f AS ({rows})
        SELECT {", ".join([*(f"CASE WHEN {fresh} THEN f{i} END AS f{i}" for i in range(len(wanted))), "s.row"])}
        FROM spine s ASOF LEFT JOIN f ON {" AND ".join([*(f"s.k{i} = f.k{i}" for i in range(len(keys))), "s.us >= f.us"])}
        ORDER BY s.row"""
    try:
        found = db.sql(query).to_arrow_table()
    except duckdb.Error as e:
        raise StoreError(f"view {view.name!r}: the join failed: {one_line(e)}; check the types of the spine's keys") from e
    finally:
        db.unregister("spine")
    if found.num_rows != n:
        raise StoreError(f"view {view.name!r}: the join gave {found.num_rows} rows for {n}; this is a defect, please report it")
    return {w: _declared(found.column(i), types[w], f"{view.name}:{w}") for i, w in enumerate(wanted)}


def _declared(column: Any, kind: pa.DataType | None, feature: str) -> Any:
    """Values of the type that a view declares. Raises StoreError for one that this type does not hold."""
    try:
        return _cast(column, kind)
    except pa.ArrowException as e:
        raise StoreError(
            f"feature {feature!r} is declared {kind} and its files hold {column.type}: {one_line(e)}; correct the view"
        ) from None


def latest_rows(
    db: Any,
    source: OfflineRows,
    keys: Sequence[str],
    columns: Sequence[str],
    timestamp_field: str,
    created: str | None,
    start: datetime,
    end: datetime,
) -> pa.Table:
    """Per key the latest of the rows that count with ``start`` <= event time <= ``end``: ``columns``, in no order."""
    if source.empty:
        return pa.table({c: pa.array([], pa.null()) for c in columns})
    source.need(columns)
    names = [source.column(k) for k in keys]
    within = source.between(timestamp_field, start, end)
    narrow = [*(f"{k} AS k{i}" for i, k in enumerate(names)), f"{source.micros(timestamp_field)} AS us"]
    wide = [*narrow, *(f"{source.column(c)} AS {quoted(c)}" for c in columns)]
    # The latest time per key from narrow columns first; only the rows that have it are then read in full.
    same = " AND ".join([*(f"c.k{i} IS NOT DISTINCT FROM b.k{i}" for i in range(len(names))), "c.us = b.us"])
    some = ", ".join([*(f"k{i}" for i in range(len(names))), "max(us) AS us"])
    return _one_chunk(
        db.sql(f"""
        WITH b AS (SELECT {some} FROM ({source.counting(narrow, within, keys, timestamp_field, created)}) GROUP BY ALL)
        SELECT {", ".join(f"c.{quoted(c)}" for c in columns)}
        FROM ({source.counting(wide, within, keys, timestamp_field, created)}) c JOIN b ON {same}""").to_arrow_table()
    )


def latest_of_view(db: Any, source: OfflineRows, view: FeatureView, start: datetime, end: datetime) -> pa.Table:
    """:func:`latest_rows` of a view: its join keys, its time and its features."""
    batch: Any = view.batch_source
    keys = [c.name for c in view.entity_columns]
    columns = [*keys, batch.timestamp_field, *(f.name for f in view.features)]
    return latest_rows(db, source, keys, columns, batch.timestamp_field, batch.created_timestamp_column, start, end)


@contextmanager
def connection(config: RepoConfig) -> Iterator[Any]:
    """A DuckDB of one's own, with the store's settings."""
    own = config.offline_store
    with tempfile.TemporaryDirectory(prefix="tandem-duckdb-") as folder:
        settings: dict[str, Any] = {
            "memory_limit": getattr(own, "memory_limit", "2GB"),
            "temp_directory": getattr(own, "temp_directory", None) or folder,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "true",
        }
        if getattr(own, "threads", None):
            settings["threads"] = own.threads
        db = duckdb.connect(":memory:", config=settings)
        try:
            db.execute("SET TimeZone = 'UTC'")
            yield db
        finally:
            db.close()


def _safely(run: Callable[[], pa.Table]) -> pa.Table:
    try:
        return run()
    except duckdb.Error as e:
        raise StoreError(f"the offline rows cannot be read: {one_line(e)}") from e


def _for_materialize(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """As Feast takes it to its online store: it turns integers with nulls into floats on the way to its protos; above 2^53 those go as
    text, which it parses exactly."""
    for i, f in enumerate(table.schema):
        column = table.column(i)
        if pa.types.is_int64(f.type) and f.name not in keys and column.null_count:
            bounds = pc.min_max(column).as_py()
            if bounds["max"] is not None and max(bounds["max"], -bounds["min"]) > EXACT_FLOAT:
                table = table.set_column(i, f.name, column.cast(pa.string()))
    return _keyed(table, keys)


def _keyed(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows of a view without entities have one key, which Feast wants as a column."""
    return table if keys else table.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * table.num_rows, pa.string()))


def _one_chunk(table: pa.Table) -> pa.Table:
    """Some of Feast's code looks at the first record batch of a table alone."""
    names = {f.name: _plain(f.type) for f in table.schema}
    return pa.table({n: _cast(table.column(n), t) for n, t in names.items()}).combine_chunks()


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return pa.timestamp(kind.unit, tz="UTC") if pa.types.is_timestamp(kind) and kind.tz else kind


def _nulls(n: int, kind: pa.DataType | None) -> Any:
    return pa.nulls(n, kind if kind is not None else pa.null())


def _cast(column: Any, kind: pa.DataType | None) -> Any:
    if kind is None or (column.type == kind and (not pa.types.is_list(kind) or column.type.value_field.name == kind.value_field.name)):
        return column
    if not pa.types.is_list(kind) or not pa.types.is_list(column.type):
        return column.cast(kind)
    chunks = []
    for c in column.chunks:  # DuckDB names a list's values after the column; the name is part of the type
        part = pa.concat_arrays([c])
        chunks.append(
            pa.Array.from_buffers(kind, len(part), part.buffers()[:2], part.null_count, part.offset, [part.values.cast(kind.value_type)])
        )
    return pa.chunked_array(chunks, type=kind)
