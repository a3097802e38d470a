"""TF-Transform's analysis without a Beam pipeline: the bits that Beam gives; what only Beam can do is left to it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch import analysis, beam_options
from pipelines.batch.analysis import adapter_config, analyze_groups, graph_inputs, wrap_preprocessing_fn
from pipelines.batch.beam_options import in_this_process, options
from pipelines.batch.in_process import Analysis, Unknown
from tests.unit import graph_build
from transforms.graph import TransformGraph

SIZES = (400, 1, 37, 90)


@pytest.fixture
def files(tmp_path):
    found = [tmp_path / f"part-{i}.parquet" for i in range(len(SIZES))]
    for i, (file, n) in enumerate(zip(found, SIZES, strict=True)):
        pq.write_table(pa.Table.from_batches([graph_build.rows(n, seed=i)]), file)
    return found


def many(inputs):
    """An analyzer of each common kind, in two phases: what is learnt of what was learnt."""
    import tensorflow as tf
    import tensorflow_transform as tft

    mean, trip, count = inputs["fare_mean_1h"], inputs["trip_last_1h"], inputs["count_1h"]
    real = tf.cast(count, tf.float32)
    return {
        "twice": tft.bucketize(tft.scale_to_z_score(mean), num_buckets=5),
        "common": tft.compute_and_apply_vocabulary(trip, frequency_threshold=5, num_oov_buckets=2, vocab_filename="common"),
        "counted": tft.compute_and_apply_vocabulary(count, top_k=30, num_oov_buckets=1, vocab_filename="counted"),
        "spread": real * tf.cast(tft.max(count) - tft.min(count), tf.float32) + tf.sqrt(tft.var(mean)) + tft.sum(real),
        "wide": tft.scale_to_z_score(inputs["fare_last_3_1h"]),
    }


def deep(inputs):
    """Three phases, and a vocabulary without a word: Beam's runner in the process gives up on it."""
    import tensorflow as tf
    import tensorflow_transform as tft

    real = tf.cast(inputs["count_1h"], tf.float32)
    return {
        "thrice": tft.scale_to_0_1(tf.cast(tft.bucketize(real - tft.mean(real), num_buckets=9), tf.float32)),
        "none": tft.compute_and_apply_vocabulary(inputs["trip_last_1h"], frequency_threshold=100_000, vocab_filename="none"),
    }


def per_key(inputs):
    import tensorflow as tf
    import tensorflow_transform as tft

    key = tf.reshape(tf.sparse.to_dense(inputs["trip_last_1h"], default_value=""), [-1])
    return {"of_trip": tft.scale_to_z_score_per_key(tf.reshape(tf.cast(inputs["count_1h"], tf.float32), [-1]), key=key)}


def test_the_graphs_are_those_of_beam_to_the_bit(files, tmp_path, monkeypatch):
    work = {"fares": (graph_build.GROUP, graph_build.function(), files), "many": (graph_build.GROUP, many, files)}
    here = analyze_groups(work, tmp_path / "here")
    monkeypatch.setattr(beam_options, "in_this_process", lambda asked: False)
    assert here == analyze_groups(work, tmp_path / "beam")


def test_what_is_learnt_of_what_was_learnt_and_a_vocabulary_without_words(files, tmp_path):
    found = analyze_groups({"deep": (graph_build.GROUP, deep, files)}, tmp_path / "here")
    out = TransformGraph.load(tmp_path / "here" / "deep" / found["deep"]).apply(graph_build.rows(400)).to_pydict()
    assert sorted(set(out["thrice"])) == pytest.approx([i / 8 for i in range(9)])
    assert {x for x in out["none"] if x is not None} == {-1}


def test_a_function_is_traced_once_for_each_phase_and_never_for_metadata_that_no_graph_reads(files, tmp_path):
    calls = []

    def counted(inputs):
        calls.append(1)
        return graph_build.function()(inputs)

    found = analyze_groups({"fares": (graph_build.GROUP, counted, files)}, tmp_path / "graphs")
    assert len(calls) == 3  # what its analyzers are; what they learn from; what is saved
    assert not list((tmp_path / "graphs" / "fares" / found["fares"]).rglob(".tft_metadata"))


def test_rows_are_read_once_for_each_phase_however_many_analyzers(files, tmp_path, monkeypatch):
    reads, genuine = [], analysis.read_batches

    def read(given, columns):
        reads.append(given)
        return genuine(given, columns)

    monkeypatch.setattr(analysis, "read_batches", read)
    analyze_groups({"many": (graph_build.GROUP, many, files)}, tmp_path / "read")
    assert reads == [[str(f) for f in files]] * 2 + [[str(f) for f in files]], "two phases; and the sample that is checked row by row"


def test_an_analyzer_that_is_not_known_is_for_beam_before_a_row_is_read(tmp_path):
    inputs = graph_inputs(graph_build.GROUP)

    def read():
        raise AssertionError("a row was read")

    with pytest.raises(Unknown, match="PerKey"):
        Analysis(wrap_preprocessing_fn(per_key, inputs, "per key"), adapter_config(inputs), read, tmp_path / "work")


def test_jobs_on_other_runners_or_several_workers_stay_beams():
    assert in_this_process(None)
    assert in_this_process(options())
    assert in_this_process(options("DirectRunner"))
    assert not in_this_process(options("DirectRunner", ["--direct_num_workers=2"]))
    assert not in_this_process(options("FlinkRunner"))
