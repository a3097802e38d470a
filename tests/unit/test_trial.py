"""A function tried on some rows: the values of the graph that the job saves, and of each mistake the job's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.analysis import analyze_groups
from pipelines.training import trial
from tests.unit import graph_build
from tests.unit.test_graph import _mistakes
from tests.unit.test_in_process import deep, many, of_beam_alone, per_key
from transforms.graph import TransformGraph

ROWS = graph_build.rows(100)


def tried(function: Any, folder: Path) -> None:
    trial.try_groups({"zone_fares": (graph_build.GROUP, function, ROWS)}, folder, {}, lambda line: None)


def job(function: Any, folder: Path) -> TransformGraph:
    folder.mkdir()
    pq.write_table(pa.Table.from_batches([ROWS]), folder / "rows.parquet")
    found = analyze_groups({"zone_fares": (graph_build.GROUP, function, [str(folder / "rows.parquet")])}, folder / "graphs")
    return TransformGraph.load(folder / "graphs" / "zone_fares" / found["zone_fares"])


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """No analyzer; dense and sparse outputs, a number that is held outside."""
    import tensorflow as tf

    half = tf.constant([0.5] * 200)[0]
    return {"half": tf.cast(inputs["count_1h"], tf.float32) * half, "mean_out": inputs["fare_mean_1h"]}


@pytest.mark.parametrize("function", [plain, graph_build.function(), many, deep], ids=lambda f: f.__name__)
def test_a_trial_gives_the_jobs_values_and_saves_nothing(function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[TransformGraph] = []
    monkeypatch.setattr(trial, "check_row_by_row", lambda graph, rows, what: graphs.append(graph))
    monkeypatch.setattr(trial, "analyze_groups", lambda *args, **named: pytest.fail("the job's way"))
    tried(function, tmp_path / "trial")
    (graph,) = graphs
    assert graph.apply(ROWS).equals(job(function, tmp_path / "job").apply(ROWS))
    assert not list((tmp_path / "trial").rglob("saved_model.pb"))


def refused(tmp_path: Path) -> dict[str, Any]:
    """Functions that the job refuses, by what it says."""
    import tensorflow as tf

    (tmp_path / "rates").write_text("2")
    keys, values = tf.constant(["t1"]), tf.constant([1], tf.int64)
    elsewhere = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
    calls: list[int] = []

    def count(x: dict[str, Any]) -> Any:
        return tf.cast(x["count_1h"], tf.float32)

    def changing(x: dict[str, Any]) -> dict[str, Any]:
        import tensorflow_transform as tft

        calls.append(1)
        return {"a": tft.scale_to_z_score(count(x), name=f"call_{len(calls)}")}

    def looked_up(x: dict[str, Any]) -> dict[str, Any]:
        trips = x["trip_last_1h"]
        return {"a": tf.SparseTensor(trips.indices, elsewhere.lookup(trips.values), trips.dense_shape)}

    return {
        "depends on the other rows": lambda x: {"a": count(x) - tf.reduce_mean(count(x))},
        "PyFunc": lambda x: {"a": tf.ensure_shape(tf.numpy_function(lambda v: v, [x["count_1h"]], tf.int64), [None, 1])},
        "ReadFile": lambda x: {"a": count(x) * tf.strings.to_number(tf.io.read_file(str(tmp_path / "rates")))},
        "is a RaggedTensor": lambda x: {"a": tf.RaggedTensor.from_sparse(x["fare_last_3_1h"])},
        "failed on a batch": lambda x: {"a": tf.ensure_shape(x["count_1h"], [3, 1])},
        "untracked": looked_up,
        "does not exist in the graph": changing,
    }


def told(work: Any, *args: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        work(*args)
    return f"{caught.type.__name__}: {caught.value}"


def alike(text: str) -> str:
    """Without what is another each time: temporary folders, and numbers in names that TensorFlow or the function counts."""
    return re.sub(r"/\S+/transform_fn|\d+", "...", text)


def test_of_each_mistake_a_trial_says_what_the_job_says(tmp_path: Path) -> None:
    for i, (words, function) in enumerate({**_mistakes(), **refused(tmp_path)}.items()):
        said = told(tried, function, tmp_path / f"trial-{i}")
        assert words in said
        assert alike(said) == alike(told(job, function, tmp_path / f"job-{i}"))


@pytest.mark.parametrize("function", [per_key, of_beam_alone], ids=lambda f: f.__name__)
def test_what_a_trial_does_not_know_is_tried_by_the_job(function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def analyzed(work: Any, *args: Any, **named: Any) -> dict[str, str]:
        asked.extend(work)
        return analyze_groups(work, *args, **named)

    monkeypatch.setattr(trial, "analyze_groups", analyzed)
    tried(function, tmp_path)
    assert asked == ["zone_fares"]
