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
import tempfile
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
from transforms.definitions import ARROW_TYPES, EVENT_TIMESTAMP, FINGERPRINT, RESERVED, TIMESTAMP, micros
from transforms.errors import DataError, FingerprintError
from transforms.instants import instant, micros_of

__all__ = ["SPLITS", "TrainingSet", "build_training_set", "check_spine", "feature_references", "split_by_time"]

SPLITS = ("train", "eval", "test")
ROWS_PER_FILE = 50_000


@dataclass(frozen=True)
class TrainingSet:
    """A visible training set: its folder, the model's raw inputs and the manifest as written."""

    id: str
    path: Path
    columns: tuple[Column, ...]
    fingerprints: dict[str, str]
    manifest: dict[str, Any]

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


def feature_references(store: Any, features: str | Sequence[str]) -> list[tuple[str, str]]:
    """(view, feature) pairs of a Feast feature service or of ``"view:feature"`` texts; Tandem's own columns left out."""
    if isinstance(features, str):
        try:
            service = store.get_feature_service(features)
        except Exception:
            raise DataError(f"Feast knows no feature service {features!r}; define it and run `tandem apply`") from None
        pairs = [(p.name_to_use(), f.name) for p in service.feature_view_projections for f in p.features]
    else:
        pairs = [(view, name) for view, _, name in (ref.partition(":") for ref in features)]
    return [(view, name) for view, name in pairs if name not in RESERVED]


def check_spine(spine: pa.Table, model: Model) -> pa.Table:
    """The spine with exactly the model's columns and types, in order of time."""
    fields = {f.name: f.arrow_type for f in model.request_fields}
    wanted = [EVENT_TIMESTAMP, *dict.fromkeys([*model.entity_keys, *fields]), model.label, *([model.weight] if model.weight else [])]
    missing = [name for name in wanted if name not in spine.column_names]
    if missing:
        raise DataError(f"spine {model.spine!r} lacks the column {', '.join(missing)}; it has {', '.join(spine.column_names)}")
    if not spine.num_rows:
        raise DataError(f"spine {model.spine!r} has no labelled requests in the range; widen it, or is the event log empty?")
    columns = {}
    for name in wanted:
        column = spine.column(name)
        target = TIMESTAMP if name == EVENT_TIMESTAMP else pa.float64() if name in (model.label, model.weight) else fields.get(name)
        if target is not None and column.type != target:
            try:
                column = column.cast(pa.int8()).cast(target) if pa.types.is_boolean(column.type) else column.cast(target)
            except pa.ArrowInvalid as e:
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


def _join(store: Any, spine: pa.Table, model: Model, pairs: Sequence[tuple[str, str]]) -> tuple[pa.Table, dict[str, str]]:
    """The spine with a column ``view__feature`` per pair, and the fingerprint of each view."""
    views = list(dict.fromkeys(view for view, _ in pairs))
    row = "tandem_row"
    asked = spine.select([*dict.fromkeys(model.entity_keys), EVENT_TIMESTAMP]).append_column(row, pa.array(np.arange(spine.num_rows)))
    refs = [f"{view}:{name}" for view, name in pairs] + [f"{view}:{FINGERPRINT}" for view in views]
    found = store.get_historical_features(entity_df=asked.to_pandas(), features=refs, full_feature_names=True).to_arrow()
    if found.num_rows != spine.num_rows or not np.array_equal(found.column(row).to_numpy(), np.arange(spine.num_rows)):
        raise DataError(
            f"the offline store gave {found.num_rows:,} rows for {spine.num_rows:,} requests, or in another order; "
            "use offline_store type tandem.serving.offline_store.AsofOfflineStore in feature_store.yaml"
        )
    fingerprints: dict[str, str] = {}
    for view in views:
        values = [v for v in pc.unique(found.column(f"{view}__{FINGERPRINT}")).to_pylist() if v is not None]
        if not values:
            raise DataError(f"feature view {view!r} has no row for any request; run `tandem batch` over their range first")
        if len(values) > 1:
            short = ", ".join(sorted(v[:12] for v in values))
            raise FingerprintError(
                f"feature view {view!r}: rows of {len(values)} fingerprints ({short}) in one training set; "
                "run `tandem batch` over the whole range"
            )
        fingerprints[view] = values[0]
    for view, name in pairs:
        spine = spine.append_column(f"{view}__{name}", found.column(f"{view}__{name}"))
    return spine, fingerprints


def _feature_column(view: str, name: str, kind: pa.DataType) -> Column:
    known = {t: dtype for dtype, t in ARROW_TYPES.items()}
    dtype = known.get(kind, "float64" if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind) else None)
    if dtype is None or dtype == "timestamp":
        raise DataError(f"feature {view}:{name} is {kind}; a model takes text, numbers and truth values: leave it out of the service")
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
    features: Sequence[tuple[str, str]] | None = None,
) -> TrainingSet:
    """Join, check, split and write the training set of ``model``; the same content gives the same, already written set.

    ``pins`` (view -> Pin) names the offline files to join with, as of some moment; ``features`` the (view, feature) pairs of then,
    where the model's feature service may have changed since.

    Raises DataError for an unusable spine or an empty split, FingerprintError if rows of one view stem from several graphs.
    """
    spine = check_spine(spine, model)
    pairs = list(features) if features is not None else feature_references(store, model.features)
    if not pairs:
        raise DataError(f"model {model.name!r}: {model.features!r} names no features; add feature views to the service")
    from serving.offline_store import pinned

    with pinned(pins or {}):
        table, fingerprints = _join(store, spine, model, pairs)
    columns = (*model.request_columns, *(_feature_column(v, n, table.schema.field(f"{v}__{n}").type) for v, n in pairs))
    masks, borders = split_by_time(table.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy(), model.split, micros(model.label_delay))
    query = {
        "model": model.canonical(),
        "features": [f"{v}:{n}" for v, n in pairs],
        "fingerprints": fingerprints,
        "spine_sha256": _hash_table(spine),
        "borders_us": list(borders),
    }
    values = _hash_table(table)
    identity = hashlib.sha256(json.dumps([query, values], sort_keys=True).encode()).hexdigest()[:16]
    label = table.column(model.label).to_numpy()
    manifest = {
        "id": identity,
        **query,
        "values_sha256": values,
        "created": now.astimezone(UTC).isoformat(timespec="seconds"),
        "columns": [[c.name, c.dtype, c.view, c.feature] for c in columns],
        "borders": [_utc(b) for b in borders],
        "splits": {name: {"rows": int(m.sum()), "positives": int(label[m].sum())} for name, m in masks.items()},
        "left_out_at_borders": int(table.num_rows - sum(m.sum() for m in masks.values())),
        "null_share": {c.name: round(table.column(c.name).null_count / table.num_rows, 4) for c in columns},
    }
    target = layout.training_set(data, identity)
    if not (target / layout.MANIFEST).is_file():
        _write(table, masks, manifest, target)
    return TrainingSet(identity, target, columns, fingerprints, json.loads((target / layout.MANIFEST).read_text("utf-8")))


def _write(table: pa.Table, masks: dict[str, npt.NDArray[np.bool_]], manifest: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".set-", dir=target.parent))
    try:
        for name, mask in masks.items():
            (work / name).mkdir()
            rows = table.filter(pa.array(mask))
            for i, start in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
                pq.write_table(
                    rows.slice(start, ROWS_PER_FILE), work / name / f"part-{i:05d}.parquet", coerce_timestamps="us", compression="zstd"
                )
        (work / layout.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        work.chmod(0o755)
        try:
            os.rename(work, target)
        except OSError:
            if not (target / layout.MANIFEST).is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
