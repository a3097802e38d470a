"""The training set: labelled requests joined point in time with Feast's features, split by time, versioned by content.

A set lies in ``data/training/<id>/{train,eval,test}/part-*.parquet`` with a ``manifest.json``; ``id`` is a hash of the
query (spine, feature references, fingerprints of the views, split) and of the values. A set becomes visible whole, by
one rename, and is never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.training.definition import Column, Model, input_dtype
from pipelines.training.training_set_record import Split, TrainingSetRecord
from serving.projections import FeatureSet
from transforms.definitions import ARROW_TYPES, EVENT_TIMESTAMP, FINGERPRINT, RESERVED, TIMESTAMP, micros
from transforms.errors import DataError, FingerprintError
from transforms.instants import instant, micros_of

__all__ = ["SPLITS", "TrainingSet", "build_training_set", "check_spine", "feature_references", "join_features", "split_by_time"]

SPLITS = ("train", "eval", "test")
ROWS_PER_FILE = 50_000


@dataclass(frozen=True)
class TrainingSet:
    """A visible training set: its folder, the model's raw inputs and its manifest as written."""

    id: str
    path: Path
    columns: tuple[Column, ...]
    fingerprints: dict[str, str]
    record: TrainingSetRecord

    def read(self, split: str) -> pa.Table:
        """The rows of a split in order of time: event timestamp, entity keys, request fields, features, label, weight."""
        return pa.concat_tables([pq.read_table(f) for f in sorted((self.path / split).glob("*.parquet"))])


def split_by_time(
    event_us: npt.NDArray[np.int64], split: tuple[Any, Any], label_delay_us: int = 0
) -> tuple[dict[str, npt.NDArray[np.bool_]], tuple[int, int]]:
    """Masks of the rows of train < t1 <= eval < t2 <= test, and (t1, t2) in microseconds.

    ``event_us``: int64 microseconds of shape [n]. With shares, t1 and t2 are the times of the rows at those shares in
    order of time; rows of one instant are never parted. Rows less than ``label_delay_us`` before a border are in no split.
    Raises DataError if a split would be empty.
    """
    if isinstance(split[0], datetime):
        first, second = (micros_of(s) for s in split)
    elif len(event_us):
        rising = np.sort(event_us)
        first, second = (int(rising[min(int(len(rising) * share), len(rising) - 1)]) for share in split)
    else:
        first = second = 0
    masks = {
        "train": event_us < first - label_delay_us,
        "eval": (event_us >= first) & (event_us < second - label_delay_us),
        "test": event_us >= second,
    }
    for name, mask in masks.items():
        if not mask.any():
            raise DataError(
                f"the {name} split is empty ({len(event_us):,} labelled requests, borders {_utc(first)} and {_utc(second)}); "
                "widen the range or move the split"
            )
    return masks, (first, second)


def _utc(us: int) -> str:
    return instant(us).strftime("%Y-%m-%d %H:%M:%SZ")


def feature_references(store: Any, features: str | Sequence[str]) -> FeatureSet:
    """The features of a Feast feature service, or those that ``"view:feature"`` texts name; Tandem's own columns left out.

    Raises DataError, one line, for what the registry does not have.
    """
    if isinstance(features, str):
        from feast.errors import FeatureServiceNotFoundException

        try:
            found = FeatureSet.of_service(store.get_feature_service(features))
        except FeatureServiceNotFoundException:
            raise DataError(f"Feast has no feature service {features!r}; define it and run `tandem apply`") from None
    else:
        found = FeatureSet.of(features)
    _views(store, found, "run `tandem apply` or correct the name")
    return found.only((view, name) for view, name in found.pairs if name not in RESERVED)


def _views(store: Any, features: FeatureSet, fix: str) -> dict[str, Any]:
    """The Feast views behind the names of ``features``, each as a projection with the features asked of it. Raises DataError."""
    from feast.feature_view_projection import FeatureViewProjection

    known = {v.name: v for v in (*store.list_feature_views(), *store.list_stream_feature_views())}
    on_demand = {v.name for v in store.list_on_demand_feature_views()}
    out = {}
    for name in features.names:
        use = features.projection(name)
        if use.view in on_demand:
            raise DataError(f"on-demand view {use.view!r}: a model is not trained on what is computed on demand; use a preprocessing_fn")
        if use.view not in known:
            raise DataError(f"feature view {use.view!r} is not in the registry; it has {', '.join(sorted(known)) or 'none'}: {fix}")
        view = known[use.view]
        fields = {f.name: f for f in view.features}
        wanted = [feature for of, feature in features.pairs if of == name]
        if unknown := [feature for feature in wanted if feature not in fields]:
            raise DataError(f"feature view {use.view!r} has no feature {unknown[0]!r}; it has {', '.join(sorted(fields))}: {fix}")
        keys = {c.name for c in view.entity_columns}
        if odd := sorted(set(use.join_keys) - keys):
            raise DataError(f"feature view {use.view!r} has no join key {odd[0]!r} to map; it has {', '.join(sorted(keys))}: {fix}")
        projection = FeatureViewProjection.from_definition(view)
        projection.name_alias, projection.join_key_map = name if name != use.view else None, dict(use.join_keys)
        projection.features = [fields[feature] for feature in dict.fromkeys([*wanted, *({FINGERPRINT} & fields.keys())])]
        out[name] = view.with_projection(projection)
    return out


def check_spine(spine: pa.Table, model: Model) -> pa.Table:
    """The spine with exactly the model's columns and types, in order of time. Text may come in any of Arrow's layouts."""
    from serving.spines import plain_text

    fields = {f.name: f.arrow_type for f in model.request_fields}
    wanted = [EVENT_TIMESTAMP, *dict.fromkeys([*model.entity_keys, *fields]), model.label, *([model.weight] if model.weight else [])]
    missing = [name for name in wanted if name not in spine.column_names]
    if missing:
        raise DataError(f"spine {model.spine!r} lacks the column {', '.join(missing)}; it has {', '.join(spine.column_names)}")
    if not spine.num_rows:
        raise DataError(f"spine {model.spine!r} has no labelled requests in the range; widen it, or is the event log empty?")
    columns = {}
    for name in wanted:
        column = plain_text(spine.column(name))
        key = any(of(column.type) for of in (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean))
        if name in model.entity_keys and name not in fields and not key:
            raise DataError(f"spine {model.spine!r}: the entity key {name!r} is {column.type}; a key is text or whole numbers: cast it")
        target = TIMESTAMP if name == EVENT_TIMESTAMP else pa.float64() if name in (model.label, model.weight) else fields.get(name)
        if target is not None and column.type != target:
            try:
                column = column.cast(pa.int8()).cast(target) if pa.types.is_boolean(column.type) else column.cast(target)
            except pa.ArrowException as e:
                why = str(e).splitlines()[0]
                raise DataError(f"spine {model.spine!r}: column {name!r} is {column.type}, not {target}: {why}; cast it") from None
        columns[name] = column
    table = pa.table(columns)
    never_null = [EVENT_TIMESTAMP, *model.entity_keys, model.label, *(f.name for f in model.request_fields if f.required)]
    for name in dict.fromkeys(never_null):
        if table.column(name).null_count:
            raise DataError(f"spine {model.spine!r}: {table.column(name).null_count:,} nulls in {name!r}; leave those rows out")
    labels = set(pc.unique(table.column(model.label)).to_pylist())
    if not labels <= {0.0, 1.0}:
        raise DataError(f"spine {model.spine!r}: label {model.label!r} has values {sorted(labels)[:4]}; it must be 0 or 1")
    order = np.argsort(table.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy(), kind="stable")
    return table.take(pa.array(order))


def join_features(store: Any, spine: pa.Table, model: Model, features: FeatureSet) -> tuple[pa.Table, dict[str, str]]:
    """The spine with a column ``view__feature`` per pair of ``features``, and the fingerprint of each view of the registry that has one."""
    from feast.feature_view import DUMMY_ENTITY_ID

    from serving.offline_store import AsofOfflineStore

    views = _views(store, features, "run `tandem apply`")
    row = "tandem_row"
    for name, view in views.items():
        use = features.projection(name)
        for key in (use.column(c.name) for c in view.entity_columns if c.name != DUMMY_ENTITY_ID):
            if key not in model.entity_keys:
                raise DataError(
                    f"model {model.name!r}: the features of {name!r} are found by {key!r}, which is none of its entity_keys"
                    f" ({', '.join(model.entity_keys)}); add it there and to the spine"
                )
    asked = spine.select([*dict.fromkeys(model.entity_keys), EVENT_TIMESTAMP]).append_column(row, pa.array(np.arange(spine.num_rows)))
    provider = store._get_provider()
    # Feast's own entry takes no projections but those of a service in the registry.
    found = provider.get_historical_features(
        store.config,
        list(views.values()),
        [f"{name}:{f.name}" for name, view in views.items() for f in view.projection.features],
        asked if isinstance(provider.offline_store, AsofOfflineStore) else asked.to_pandas(),
        store.registry,
        store.project,
        True,
    ).to_arrow()
    if found.num_rows != spine.num_rows or not np.array_equal(found.column(row).to_numpy(), np.arange(spine.num_rows)):
        raise DataError(
            f"the offline store gave {found.num_rows:,} rows for {spine.num_rows:,} requests, or in another order; "
            "use offline_store type tandem.serving.offline_store.AsofOfflineStore in feature_store.yaml"
        )
    fingerprints: dict[str, str] = {}
    for name, view in views.items():
        column = f"{name}__{FINGERPRINT}"
        if column not in found.column_names:  # a view that is not made by Tandem
            continue
        values = {v for v in pc.unique(found.column(column)).to_pylist() if v is not None}
        if not values:
            by = ", ".join(features.projection(name).column(c.name) for c in view.entity_columns)
            what = f"feature view {name!r}" if name == view.name else f"feature view {view.name!r} as {name!r}"
            raise DataError(f"{what} has no row for any request (found by {by}); run `tandem batch` over their range first")
        values |= {fingerprints[view.name]} if view.name in fingerprints else set()
        if len(values) > 1:
            short = ", ".join(sorted(v[:12] for v in values))
            raise FingerprintError(
                f"feature view {view.name!r}: rows of {len(values)} fingerprints ({short}) in one training set; "
                "run `tandem batch` over the whole range"
            )
        fingerprints[view.name] = values.pop()
    for view, name in features.pairs:
        spine = spine.append_column(f"{view}__{name}", found.column(f"{view}__{name}"))
    return spine, fingerprints


def _feature_column(view: str, name: str, kind: pa.DataType) -> Column:
    known = {t: dtype for dtype, t in ARROW_TYPES.items()}
    dtype = known.get(kind, "float64" if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind) else None)
    if dtype is None or dtype == "timestamp":
        raise DataError(f"feature {view}:{name} is {kind}; a model takes strings, numbers and booleans: remove it from the service")
    return Column(f"{view}__{name}", input_dtype(dtype), view, name)


def _hash_table(table: pa.Table) -> str:
    """SHA-256 over names, types and values, whatever the chunks: the table's IPC stream in batches of one size."""
    digest = hashlib.sha256(str(table.schema.remove_metadata()).encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=ROWS_PER_FILE):
        for column in batch.columns:
            digest.update(column.is_null().cast(pa.uint8()).to_numpy().tobytes())
            if pa.types.is_string(column.type):
                filled = pc.fill_null(column, "")
                digest.update(pc.binary_length(filled).to_numpy().tobytes())
                digest.update("".join(filled.to_pylist()).encode())
            elif pa.types.is_boolean(column.type):
                digest.update(pc.fill_null(column, False).cast(pa.uint8()).to_numpy().tobytes())
            else:
                plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
                digest.update(plain.fill_null(0).to_numpy().tobytes())
    return digest.hexdigest()


def build_training_set(
    model: Model,
    spine: pa.Table,
    store: Any,
    data: Path,
    now: datetime,
    pins: Mapping[str, Any] | None = None,
    features: FeatureSet | None = None,
) -> TrainingSet:
    """Join, check, split and write the training set of ``model``; the same content gives the same, already written set.

    ``pins`` (view -> Pin) names the offline files to join with, as of some moment; ``features`` the features of then,
    where the model's feature service may have changed since.

    Raises DataError for an unusable spine or an empty split, FingerprintError if rows of one view stem from several graphs.
    """
    spine = check_spine(spine, model)
    features = features if features is not None else feature_references(store, model.features)
    pairs = features.pairs
    if not pairs:
        raise DataError(f"model {model.name!r}: {model.features!r} names no features; add feature views to the service")
    from serving.offline_store import pinned

    with pinned(pins or {}):
        table, fingerprints = join_features(store, spine, model, features)
    columns = (*model.request_columns, *(_feature_column(v, n, table.schema.field(f"{v}__{n}").type) for v, n in pairs))
    masks, borders = split_by_time(table.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy(), model.split, micros(model.label_delay))
    query: dict[str, Any] = {
        "model": model.canonical(),
        "features": [f"{v}:{n}" for v, n in pairs],
        **({"projections": projections} if (projections := features.to_json()) else {}),
        "fingerprints": fingerprints,
        "spine_sha256": _hash_table(spine),
        "borders_us": list(borders),
    }
    values = _hash_table(table)
    identity = hashlib.sha256(json.dumps([query, values], sort_keys=True).encode()).hexdigest()[:16]
    label = table.column(model.label).to_numpy()
    record = TrainingSetRecord(
        id=identity,
        **query,
        values_sha256=values,
        created=now.astimezone(UTC).isoformat(timespec="seconds"),
        columns=list(columns),
        borders=[_utc(b) for b in borders],
        splits={name: Split(int(m.sum()), int(label[m].sum())) for name, m in masks.items()},
        left_out_at_borders=int(table.num_rows - sum(m.sum() for m in masks.values())),
        null_share={c.name: round(table.column(c.name).null_count / table.num_rows, 4) for c in columns},
    )
    target = layout.training_set(data, identity)
    if not (target / layout.MANIFEST).is_file():
        _write(table, masks, record, target)
    kept = TrainingSetRecord.load(target)
    if kept is None:
        raise DataError(f"{target / layout.MANIFEST} cannot be read; delete {target}, and the training set is made again")
    return TrainingSet(identity, target, columns, fingerprints, kept)


def _write(table: pa.Table, masks: dict[str, npt.NDArray[np.bool_]], record: TrainingSetRecord, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".set-{os.urandom(8).hex()}"
    work.mkdir()
    try:
        for name, mask in masks.items():
            (work / name).mkdir()
            rows = table.filter(pa.array(mask))
            for i, start in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
                pq.write_table(
                    rows.slice(start, ROWS_PER_FILE), work / name / f"part-{i:05d}.parquet", coerce_timestamps="us", compression="zstd"
                )
        (work / layout.MANIFEST).write_text(json.dumps(record.to_dict(), indent=1) + "\n", "utf-8")
        try:
            os.rename(work, target)
        except OSError:
            if not (target / layout.MANIFEST).is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
