"""Analysis and transform of feature rows: Tandem's graph against stock TF-Transform on instance dicts, and calls of few rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.analysis import analyze_groups
from tests.bench.report import Part, cpu_of
from tests.bench.windows import departures, feature_group, tandem
from transforms.graph import TransformGraph

LEAST = "warm; CPU of all threads, least of 5 rounds in turn"


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same function for both."""
    import tensorflow as tf
    import tensorflow_transform as tft

    return {
        "busy_z": tft.scale_to_z_score(tf.math.log1p(tf.cast(inputs["count_3h"], tf.float32))),
        "delay_z": tft.scale_to_z_score(inputs["dep_delay_mean_3h"]),
        "delay_bucket": tft.bucketize(inputs["dep_delay_mean_24h"], 8),
        "worst_z": tft.scale_to_z_score(inputs["dep_delay_max_24h"]),
    }


def _stock(rows: list[dict[str, Any]], spec: dict[str, Any], out: str) -> None:
    """Analyze and transform as TF-Transform's guide does; the instances end in Beam, as Tandem's rows end in memory."""
    import apache_beam as typed_beam
    import tensorflow_transform.beam as typed_tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    beam: Any = typed_beam
    tft_beam: Any = typed_tft_beam
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    with tempfile.TemporaryDirectory() as temp, beam.Pipeline("DirectRunner") as p, tft_beam.Context(temp_dir=temp):
        raw = p | beam.Create(rows)
        _, fn = (raw, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
        _ = fn | tft_beam.WriteTransformFn(out)


def _each(calls: int, ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of one call of each way; they take turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        for _ in range(20):
            way()
    for _ in range(calls):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            took[name].append(time.perf_counter() - start)
    return {name: median(t) for name, t in took.items()}


def _planned(graph: TransformGraph, batch: pa.RecordBatch) -> pa.RecordBatch:
    if graph._plan is None:
        raise ValueError(f"the graph has no plan: {graph.plan_problem}")
    return graph.apply(batch)


def _called(graph: TransformGraph, batch: pa.RecordBatch) -> pa.RecordBatch:
    plan, graph._plan = graph._plan, None
    try:
        return graph.apply(batch)
    finally:
        graph._plan = plan


def run(quick: bool = False) -> list[Part]:
    """Analysis and transform of many rows, then single calls of 1 and 100 rows."""
    import tensorflow as tf
    import tensorflow_transform as typed_tft

    tft: Any = typed_tft  # a package of star imports
    group = feature_group("carrier", 15)
    rows = tandem(departures(), group).slice(0, 5_000 if quick else 50_000)
    names = [f.name for f in group.features]
    spec = {
        f.arrow_field.name: tf.io.FixedLenFeature([1], tf.int64) if not f.arrow_field.nullable else tf.io.VarLenFeature(tf.float32)
        for f in group.features
    }
    dicts = [{n: [] if r[n] is None else [r[n]] for n in names} for r in rows.to_pylist()]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        pq.write_table(pa.Table.from_batches([rows]), f"{folder}/rows.parquet")
        start = time.perf_counter()
        print_ = analyze_groups({group.name: (group, preprocessing_fn, [f"{folder}/rows.parquet"])}, f"{folder}/graphs")[group.name]
        analyzed = time.perf_counter()
        graph = TransformGraph.load(Path(folder) / "graphs" / group.name / print_)
        ours = graph.apply(rows)
        done = time.perf_counter()
        _stock(dicts, spec, f"{folder}/stock")
        stock = time.perf_counter() - done
        part = Part(
            f"analyze + transform of {rows.num_rows:,} feature rows: 3 z-scores, 1 bucketize",
            "rows",
            "cold: each for the first time in its process; wall time",
        )
        part.add(
            "tandem", done - start, rows.num_rows, f"of it transform {done - analyzed:.2f} s; fingerprint and check of single rows included"
        )
        part.add(f"tft {tft.__version__}, instance dicts", stock, rows.num_rows, "dicts made beforehand")
        parts = [part]
        layer = tft.TFTransformOutput(f"{folder}/stock").transform_features_layer()

        def by_layer(batch: pa.RecordBatch) -> dict[str, Any]:
            given = {}
            for name in names:
                column = batch.column(name)
                valid = column.is_valid().to_numpy(zero_copy_only=False)
                values = column.drop_null().to_numpy(zero_copy_only=False)
                if isinstance(spec[name], tf.io.FixedLenFeature):
                    given[name] = tf.constant(values.reshape(-1, 1))
                    continue
                at = np.stack([np.flatnonzero(valid), np.zeros(len(values), np.int64)], axis=1)
                given[name] = tf.SparseTensor(at, values.astype(np.float32), [len(batch), 1])
            return {n: (t.values if isinstance(t, tf.SparseTensor) else t).numpy() for n, t in layer(given).items()}

        theirs = by_layer(rows)
        for name in ("busy_z", "delay_z", "worst_z"):
            mine = ours.column(name).drop_null().to_numpy(zero_copy_only=False)
            if not np.allclose(mine, theirs[name].ravel(), rtol=1e-4, atol=1e-4):
                raise ValueError(f"{name}: the graphs differ by up to {np.abs(mine - theirs[name].ravel()).max()}")
        for n in (1, 64, 4096):
            batch = rows.slice(1_000, n)
            took = cpu_of(
                100 if n < 4096 else 20,
                {"numpy plan (tandem)": partial(_planned, graph, batch), "TensorFlow": partial(_called, graph, batch)},
            )
            if not _planned(graph, batch).equals(_called(graph, batch)):
                raise ValueError(f"plan and TensorFlow differ on {n} rows")
            part = Part(f"a graph applied to {n:,} row{'s' if n > 1 else ''}, CPU: Arrow in, Arrow out, equal bits", "calls", LEAST)
            for name, seconds in took.items():
                part.add(name, seconds, 1)
            parts.append(part)
        for n in (1, 100):
            batch = rows.slice(1_000, n)
            took_each = _each(
                200, {"TransformGraph.apply": partial(graph.apply, batch), "tft layer, called eagerly": partial(by_layer, batch)}
            )
            part = Part(f"one call of {n} row{'s' if n > 1 else ''}: Arrow in, values out", "calls", "warm; wall time, median of 200")
            for name, each in took_each.items():
                part.add(name, each, 1)
            parts.append(part)
    return parts
