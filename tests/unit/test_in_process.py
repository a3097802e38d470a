"""TF-Transform's analysis without a Beam pipeline: the bits that Beam gives; what only Beam can do is left to it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch import analysis, beam_options, row_shares
from pipelines.batch.analysis import adapter_config, analyze_groups, graph_inputs, wrap_preprocessing_fn
from pipelines.batch.beam_options import in_this_process, options
from pipelines.batch.in_process import Analysis
from pipelines.batch.operations import Unknown
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


def dense(inputs):
    """(count, mean, its key, a label) of each row, as vectors."""
    import tensorflow as tf

    def flat(name, default):
        return tf.reshape(tf.sparse.to_dense(inputs[name], default_value=default), [-1])

    count = tf.reshape(inputs["count_1h"], [-1])
    return count, flat("fare_mean_1h", 0.0), flat("trip_last_1h", ""), tf.cast(count > 40, tf.int64)


def per_key(inputs):
    """What is learnt of each key's rows."""
    import tensorflow as tf
    import tensorflow_transform as tft

    count, mean, key, _ = dense(inputs)
    real = tf.cast(count, tf.float32)
    return {
        "z": tft.scale_to_z_score_per_key(mean, key=key),
        "scaled": tft.scale_to_0_1_per_key(real, key=key),
        "bucket": tft.bucketize_per_key(real, key, num_buckets=3),
        "keys": real * tf.cast(tf.reduce_sum(tft.count_per_key(key)[1]), tf.float32),
        "kept": tft.scale_by_min_max_per_key(real, key=key, output_min=2.0, output_max=5.0, key_vocabulary_filename="of_keys"),
    }


def words(inputs):
    """Vocabularies that are more than counts."""
    import tensorflow as tf
    import tensorflow_transform as tft

    count, mean, key, label = dense(inputs)
    weight = tf.abs(mean)

    def numbered(name, **how):
        return tft.compute_and_apply_vocabulary(key, vocab_filename=name, name=name, num_oov_buckets=1, **how)

    asset = tft.vocabulary(key, weights=weight, store_frequency=True, vocab_filename="frequencies")
    covering = {"key_fn": first_letters, "coverage_top_k": 2, "top_k": 3}
    return {
        "weighted": numbered("weighted", weights=weight, top_k=9),
        "informed": numbered("informed", labels=label, use_adjusted_mutual_info=True, min_diff_from_avg=0.0),
        "informing": numbered("informing", labels=label, frequency_threshold=0.5),
        "both": numbered("both", labels=label, weights=weight, top_k=7),
        "shuffled": numbered("shuffled", fingerprint_shuffle=True),
        "placed": numbered("placed", reserved_tokens=["t1", "never"]),
        "none_left": numbered("none_left", reserved_tokens=["t1"], top_k=3, frequency_threshold=10**6),
        "covering": tft.apply_vocabulary(key, tft.vocabulary(key, vocab_filename="covering", **covering)),
        "often": count * tf.cast(tf.strings.length(tf.strings.as_string(tf.strings.length(asset))), tf.int64),
    }


def first_letters(word):
    return word[:2]


def of_beam_alone(inputs):
    """An analyzer that is a pipeline of Beam's own."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft

    @beam.ptransform_fn
    def total(batches):
        return batches | beam.Map(lambda found: int(found[0].sum())) | beam.CombineGlobally(sum)

    (found,) = tft.experimental.ptransform_analyzer([inputs["count_1h"]], total(), [tf.int64], [[]])
    return {"of_all": inputs["count_1h"] - found}


@pytest.mark.parametrize("functions", [{"fares": graph_build.function(), "many": many}, {"per_key": per_key}, {"words": words}], ids=list)
def test_the_graphs_are_those_of_beam_to_the_bit(functions, files, tmp_path, monkeypatch):
    work = {name: (graph_build.GROUP, function, files) for name, function in functions.items()}
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
    reads, genuine = [], row_shares.read_batches

    def read(given, columns):
        reads.append([(rows.file, rows.whole) for rows in given])
        return genuine(given, columns)

    monkeypatch.setattr(analysis, "read_batches", read)
    analyze_groups({"many": (graph_build.GROUP, many, files)}, tmp_path / "read")
    assert reads == [[(str(f), True) for f in files]] * 3, "two phases; and the sample that is checked row by row"


def test_an_analyzer_that_is_not_known_is_for_beam_before_a_row_is_read(tmp_path):
    inputs = graph_inputs(graph_build.GROUP)

    def read():
        raise AssertionError("a row was read")

    with pytest.raises(Unknown, match="PTransform"):
        Analysis(wrap_preprocessing_fn(of_beam_alone, inputs, "of Beam"), adapter_config(inputs), read, tmp_path / "work")


def test_jobs_on_other_runners_or_several_workers_stay_beams():
    assert in_this_process(None)
    assert in_this_process(options())
    assert in_this_process(options("DirectRunner"))
    assert not in_this_process(options("DirectRunner", ["--direct_num_workers=2"]))
    assert not in_this_process(options("FlinkRunner"))
