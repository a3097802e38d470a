"""The transform graph: one fingerprint per computation, one value per row, damage never goes unseen."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.batch.analysis import analyze_groups, check_row_by_row, graph_inputs
from tests.examples import examples
from tests.unit import graph_build
from transforms.errors import GraphError
from transforms.graph import TransformGraph, save_graph
from transforms.own_program import module_command

ROOT = Path(__file__).parents[2]


def in_process(folder: Path, seed: int, *names: str) -> dict[str, str]:
    own = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "XDG_CACHE_HOME": str(folder.parent)}
    env = os.environ | own
    command = module_command("tests.unit.graph_build", str(folder), *names)
    ran = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / "fingerprints.json").read_text())


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """The graphs of another process, their fingerprints, and those of this one, which has built others before."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second") / "my [1]*?"  # no pattern: a folder's name
    second.mkdir()
    return first / "graphs", in_process(first, 1, *graph_build.VARIANTS), graph_build.build(str(second), ["code", "base"])


@pytest.fixture(scope="module")
def folder(builds):
    graphs, fingerprints, _ = builds
    return graphs / "base" / fingerprints["base"]


@pytest.fixture(scope="module")
def graph(folder):
    return TransformGraph.load(folder)


@pytest.fixture(scope="module")
def whole(graph):
    batch = graph_build.rows(20_000, seed=7)
    return batch, graph.apply(batch)


def same(a: pa.RecordBatch, b: pa.RecordBatch) -> None:
    assert a.schema.equals(b.schema)
    for name, x, y in zip(a.schema.names, a.columns, b.columns, strict=True):
        assert x.equals(y), name


def test_two_processes_build_the_same_fingerprint(builds):
    _, first, second = builds
    assert first["base"] == second["base"]


def test_groups_analyzed_together_keep_their_own_vocabularies(folder, builds):
    """The variant beside it in the same job has a vocabulary of the same name, over 41 words instead of 40."""
    (vocabulary,) = (folder / "transform_fn/assets").iterdir()
    (other,) = (builds[0] / "vocabulary" / builds[1]["vocabulary"] / "transform_fn/assets").iterdir()
    assert set(vocabulary.read_text().split()) <= {f"t{i}" for i in range(40)}
    assert vocabulary.read_bytes() != other.read_bytes()


def test_another_constant_code_or_vocabulary_is_another_fingerprint(builds):
    assert len(set(builds[1].values())) == len(graph_build.VARIANTS)


def test_a_vocabulary_in_records_gives_the_values_of_one_in_lines(builds, whole):
    """TF-Transform's other file format, whose table a dataset fills from the graph's own asset."""
    graphs, fingerprints, _ = builds
    folder = graphs / "records" / fingerprints["records"]
    assert [path.suffix for path in (folder / "transform_fn/assets").iterdir()] == [".gz"]
    batch, out = whole
    records = TransformGraph.load(folder)
    for size in (300, batch.num_rows):  # of small batches and of large ones
        same(records.apply(batch.slice(0, size)), out.slice(0, size))


def test_outputs_keep_nulls_rows_and_order(graph, whole):
    batch, out = whole
    assert out.num_rows == batch.num_rows
    assert out.schema.names == sorted(out.schema.names)
    column = {name: out.column(i) for i, name in enumerate(out.schema.names)}
    given_ = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    for name in ("mean_z", "mean_bucket", "squashed", "grown"):
        assert column[name].is_null().equals(given_["fare_mean_1h"].is_null()), name
    assert column["trip"].equals(given_["trip_last_1h"])
    assert column["fares"].equals(given_["fare_last_3_1h"].cast(pa.list_(pa.float32())))
    expected = [-1 if v is None else int(v) for v in given_["paid_last_1h"].to_pylist()]
    assert column["filled"].to_pylist() == expected
    assert out.schema.field("trip_id").type == pa.int64()


def test_a_row_alone_has_the_bits_it_has_among_others(graph, whole):
    batch, out = whole
    for i in np.random.default_rng(3).integers(0, batch.num_rows, 300).tolist():
        same(graph.apply(batch.slice(i, 1)), out.slice(i, 1))


@pytest.mark.parametrize("size", range(1, 101))
def test_every_small_batch_size_gives_the_same_bits(graph, whole, size):
    batch, out = whole
    same(graph.apply(batch.slice(size * 11, size)), out.slice(size * 11, size))


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 300), max_size=8), n=st.integers(0, 300))
def test_any_split_gives_the_same_bits(graph, seed, cuts, n):
    batch = graph_build.rows(n, seed=seed)
    borders = [0, *sorted(min(c, n) for c in cuts), n]
    parts = [graph.apply(batch.slice(a, b - a)) for a, b in itertools.pairwise(borders)]
    out = pa.Table.from_batches(parts).combine_chunks()
    assert out.equals(pa.Table.from_batches([graph.apply(batch)]).combine_chunks())


def test_threads_share_a_graph(graph, whole):
    batch, out = whole
    starts = list(range(0, 4000, 37))
    with ThreadPoolExecutor(4) as pool:
        for start, part in zip(starts, pool.map(lambda s: graph.apply(batch.slice(s, 37)), starts), strict=True):
            same(part, out.slice(start, 37))


def test_all_null_and_no_rows(graph):
    batch = graph_build.rows(3)
    nulls = [pa.nulls(3, f.type) if f.nullable else c for f, c in zip(batch.schema, batch.columns, strict=True)]
    out = graph.apply(pa.RecordBatch.from_arrays(nulls, schema=batch.schema))
    assert out.column(out.schema.get_field_index("mean_z")).null_count == 3
    assert graph.apply(batch.slice(0, 0)).num_rows == 0


def test_a_moved_folder_works_without_beam(graph, folder, whole, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    batch, out = whole
    same(TransformGraph.load(moved, graph.fingerprint).apply(batch.slice(0, 50)), out.slice(0, 50))
    code = (
        "import sys; from transforms.graph import TransformGraph as G; assert 'tensorflow' not in sys.modules;"
        f"G.load({str(moved)!r}); assert not {{'apache_beam', 'tensorflow_transform'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)


def test_damage_is_seen(folder, tmp_path):
    files = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
    assert any(f.name == "saved_model.pb" for f in files)
    assert any("assets" in f.parts for f in files)
    for file in files:
        for harm in ("flip", "remove"):
            copy = tmp_path / f"{file.name}-{harm}"
            shutil.copytree(folder, copy)
            if harm == "remove":
                (copy / file).unlink()
            else:
                data = bytearray((copy / file).read_bytes())
                data[len(data) // 2] ^= 1
                (copy / file).write_bytes(bytes(data))
            if file.name != "tandem.json" or harm == "remove":
                with pytest.raises(GraphError, match=r"missing or damaged|is missing"):
                    TransformGraph.load(copy)


@pytest.mark.parametrize("name", ["saved_model.cpb", "variables/more", "assets.extra/x"])
@pytest.mark.parametrize("how", ["file", "link to nothing"])
def test_one_more_file_is_refused(folder, tmp_path, name, how):
    """SECURITY M1, of a graph: TensorFlow knows one by several names (``saved_model.cpb``), and may prefer what nobody saved."""
    copy = tmp_path / "graph"
    shutil.copytree(folder, copy)
    file = copy / "transform_fn" / name
    file.parent.mkdir(exist_ok=True)
    if how == "file":
        file.write_bytes(b"x")
    else:
        file.symlink_to(tmp_path / "nothing")
    with pytest.raises(GraphError, match=f"transform_fn/{name} does not belong to it"):
        TransformGraph.load(copy)


def test_a_changed_manifest_is_seen(folder, tmp_path):
    text = (folder / "tandem.json").read_text()
    for old, new in (('"fare_mean_1h"', '"fare_mean_2h"'), ('"float"', '"int64"'), ('"fingerprint": "', '"fingerprint": "0'), ("{", "[")):
        copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, copy)
        (copy / "tandem.json").write_text(text.replace(old, new, 1))
        with pytest.raises(GraphError):
            TransformGraph.load(copy)


def no_graph(made):
    made.ClearField("meta_graphs")


def cycle(made):
    nodes = next(f for f in functions(made) if len(f.node_def) > 3).node_def
    for node in nodes:
        node.input[:] = [f"{nodes[0].name}:0"]


def calls_itself(made):
    for function in functions(made):
        for node in function.node_def:
            node.attr["f"].func.name = function.signature.name


def input_of_nothing(made):
    for function in functions(made):
        for node in function.node_def:
            node.input[:] = ["nothing:0"]


def no_objects(made):
    made.meta_graphs[0].object_graph_def.ClearField("nodes")


def asset_elsewhere(made):
    made.meta_graphs[0].asset_file_def[0].filename = "../../../outside"


def asset_not_there(made):
    made.meta_graphs[0].asset_file_def[0].filename = "nothing"


def functions(made):
    return made.meta_graphs[0].graph_def.library.function


def cut_off(made):
    return made.SerializeToString()[:-100]


@pytest.mark.parametrize(
    "harm", [no_graph, cycle, calls_itself, input_of_nothing, no_objects, asset_elsewhere, asset_not_there, cut_off, lambda made: b""]
)
def test_a_graph_that_says_of_itself_that_it_is_whole_is_read_with_care(folder, tmp_path, harm):
    """SECURITY M1, of a graph: whoever changes its files can change the hashes beside them, too. A cycle was walked for ever; others ended
    in a traceback."""
    from tensorflow.core.protobuf import saved_model_pb2

    copy = tmp_path / "a" / "graph"
    shutil.copytree(folder, copy)
    (tmp_path / "a" / "outside").write_text("a line of somebody else's\n")
    file = copy / "transform_fn" / "saved_model.pb"
    made = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    file.write_bytes(cut if (cut := harm(made)) is not None else made.SerializeToString())
    manifest = json.loads((copy / "tandem.json").read_text())
    manifest["files"]["transform_fn/saved_model.pb"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (copy / "tandem.json").write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match=r"^transform graph .*; build it again$"):
        TransformGraph.load(copy)


@pytest.mark.parametrize("name", ["../outside", "{outside}", "", "transform_fn/../../outside", "a\0b"])
def test_a_manifest_names_files_of_its_own_folder_alone(folder, tmp_path, name):
    copy, outside = tmp_path / "graph", tmp_path / "outside"
    shutil.copytree(folder, copy)
    outside.write_bytes(b"x")
    manifest = json.loads((copy / "tandem.json").read_text())
    manifest["files"][name.format(outside=outside)] = hashlib.sha256(b"x").hexdigest()
    (copy / "tandem.json").write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match="is missing or damaged"):
        TransformGraph.load(copy)


@pytest.mark.parametrize("what", ["python", "a file"])
def test_a_function_that_reaches_beyond_its_graph_is_refused(tmp_path, what):
    """SECURITY M1: as of a model. What Python makes of a row no other process knows, and a file is another one tomorrow."""
    import tensorflow as tf

    (tmp_path / "rates").write_text("2")

    class Module(tf.Module):
        @tf.function(input_signature=[{"count_1h": tf.TensorSpec([None], tf.int64)}])
        def transform_fn(self, inputs):
            count = inputs["count_1h"]
            if what == "python":
                twice = tf.numpy_function(lambda x: x * 2, [count], tf.int64)
            else:
                twice = count * tf.strings.to_number(tf.io.read_file(str(tmp_path / "rates")), tf.int64)
            return {"twice": tf.ensure_shape(twice, [None])}

    tf.saved_model.save(Module(), str(tmp_path / "model"))
    schema = pa.schema([pa.field("count_1h", pa.int64(), nullable=False)])
    operation = {"python": "PyFunc", "a file": "ReadFile"}[what]
    with pytest.raises(GraphError, match=rf"it has the operations {operation}: .*; take them out of the preprocessing function"):
        save_graph(tmp_path / "model", tmp_path / "graphs" / "{fingerprint}", "0" * 64, schema)
    assert not (tmp_path / "graphs").exists()


def test_another_pinned_fingerprint_is_refused(folder):
    with pytest.raises(GraphError, match="is wanted"):
        TransformGraph.load(folder, "0" * 64)


def test_input_that_does_not_fit_is_one_clear_error(graph):
    batch = graph_build.rows(3)
    with pytest.raises(GraphError, match="no column 'count_1h'"):
        graph.apply(pa.RecordBatch.from_arrays(batch.columns[3:], schema=pa.schema(list(batch.schema)[3:])))
    at = batch.schema.get_field_index("count_1h")
    for column, message in ((pa.array([1.0, 2.0, 3.0]), "is double, but the graph takes int64"), (pa.array([1, None, 3]), "has nulls")):
        columns = [column if i == at else c for i, c in enumerate(batch.columns)]
        with pytest.raises(GraphError, match=message):
            graph.apply(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))


def test_a_group_without_a_function_has_an_empty_graph(tmp_path):
    inputs = graph_inputs(graph_build.GROUP)
    done = analyze_groups({"plain": (graph_build.GROUP, None, [])}, tmp_path)
    empty = TransformGraph.load(tmp_path / "plain" / done["plain"])
    assert empty.fingerprint == TransformGraph.empty(graph_build.GROUP.definition_hash(), inputs).fingerprint
    assert empty.apply(graph_build.rows(5)).num_columns == 0
    assert empty.apply(graph_build.rows(5)).num_rows == 5
    other = save_graph(None, tmp_path / "other", "another definition", inputs)
    assert TransformGraph.load(other).fingerprint != empty.fingerprint


def _mistakes():
    import tensorflow as tf

    return {
        "failed: KeyError: 'nonsense'": lambda x: {"a": x["nonsense"]},
        "returned list": lambda x: [x["count_1h"]],
        "an empty dict": lambda x: {},
        "is already the name of a column": lambda x: {"count_1h": x["count_1h"]},
        "is not a valid name": lambda x: {"Bad name": x["count_1h"]},
        "is a float": lambda x: {"a": 1.0},
        "has shape": lambda x: {"a": tf.reduce_sum(x["count_1h"])},
        "has type complex64": lambda x: {"a": tf.cast(x["count_1h"], tf.complex64)},
    }


@pytest.fixture
def files(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_batches([graph_build.rows(50)]), tmp_path / "rows.parquet")
    return [tmp_path / "rows.parquet"]


def test_a_mistake_in_a_function_is_one_error_that_names_it(files, tmp_path):
    for message, function in _mistakes().items():
        with pytest.raises(GraphError) as caught:
            analyze_groups({"fares": (graph_build.GROUP, function, files)}, tmp_path / "graphs")
        text = str(caught.value)
        assert message in text
        assert text.startswith("group 'fares': preprocessing_fn 'preprocessing:zone_fares'")
        assert "\n" not in text
    assert not (tmp_path / "graphs").exists()


def test_no_rows_is_an_error(tmp_path):
    with pytest.raises(GraphError, match="no feature rows to analyze"):
        analyze_groups({"fares": (graph_build.GROUP, graph_build.function(), [])}, tmp_path)


def test_a_function_that_looks_at_its_batch_is_refused(files, tmp_path):
    import tensorflow as tf

    def leaky(x):
        count = tf.cast(x["count_1h"], tf.float32)
        return {"centred": count - tf.reduce_mean(count)}

    with pytest.raises(GraphError, match="'centred' of a row depends on the other rows"):
        analyze_groups({"fares": (graph_build.GROUP, leaky, files)}, tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


def test_check_row_by_row_accepts_an_honest_graph(graph):
    check_row_by_row(graph, graph_build.rows(40), "honest")
