"""SECURITY M1: which operations of TensorFlow a served model may have: the registry of the installed TensorFlow is gone through."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_hostile_models import pushed, refused
from transforms.tensorflow_reach import reaching
from transforms.tensorflow_settings import settle_tensorflow

FOUND = """
CSVDataset CSVDatasetV2 CacheDataset CacheDatasetV2 CreateSummaryDbWriter CreateSummaryFileWriter DataServiceDataset DataServiceDatasetV4
DatasetFromGraph DatasetToTFRecord DebugIdentity DebugIdentityV2 DebugIdentityV3 DistributedSave DumpTensor ExperimentalCSVDataset
ExperimentalDatasetToTFRecord ExperimentalLMDBDataset FixedUnigramCandidateSampler GenerateVocabRemapping ImportEvent LMDBDataset
LMDBReader LoadAndRemapMatrix LoadDataset MatchingFiles MergeV2Checkpoints PyFunc ReadFile RecordInput RegisterDataset RegisterDatasetV2
Restore RestoreSlice RestoreV2 RpcClient RpcServer Save SaveDatasetV2 SaveSlices SaveV2 Skipgram SnapshotChunkDataset SnapshotDataset
SnapshotDatasetV2 SqlDataset TFRecordDataset WholeFileReaderV2 WriteFile EagerPyFunc PyFuncStateless RemoteCall XlaCustomCall Copy
InitializeTableFromTextFileV2 Abort ImmutableConst TfLiteSubgraphExecute SerializeTRTResource FileSystemSetConfiguration CollectiveBcastSend
""".split()  # noqa: SIM905 (a list of names)
NEEDED = """
Add AddV2 AsString Assert BiasAdd Bucketize Cast ConcatV2 Const CudnnRNNV3 Einsum FusedBatchNormV3 GatherV2 HashTableV2 Identity If
LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 MatMul MutableHashTableV2 NoOp ParseExampleV2 PartitionedCall Placeholder PrintV2
RaggedTensorToTensor RandomUniform ReadVariableOp RegexReplace Relu Reshape ResourceGather ResourceScatterAdd Select SelectV2 Sigmoid
SparseToDense StatefulPartitionedCall StatelessIf StatelessWhile StringJoin StringSplitV2 StringToHashBucketFast TensorArrayV3
TensorListReserve VarHandleOp While
""".split()  # noqa: SIM905
INWARD_DATASETS = {
    *("FlatMapDataset", "InitializeTableFromDataset", "MapDataset", "ParallelMapDatasetV2", "RangeDataset", "TensorSliceDataset"),
    "ZipDataset",
}
OUTWARD = re.compile(r"dataset|iterator|reader|lmdb|summarywriter|write.*summary|pyfunc|debug.*identity|snapshot|file|rpc", re.IGNORECASE)
"""Names of operations that move data over a model's border."""
PLACES = re.compile(r"(^|_)(file|files|filename|filenames|filepattern|path|paths|url|urls|address|dir|directory|ckpt)(_|$)")
"""Names of arguments that say where."""
TEXT = 7


def model_of(*operations: str) -> Any:
    """A SavedModel with a function in which each of these stands, with nothing said of it."""
    from tensorflow.core.protobuf import saved_model_pb2

    made = saved_model_pb2.SavedModel()
    meta = made.meta_graphs.add()
    meta.object_graph_def.nodes.add()
    function = meta.graph_def.library.function.add()
    function.signature.name = "served"
    for each in operations:
        node = function.node_def.add(name=each, op=each)
        node.input.extend(["elsewhere", "elsewhere"])
    return made


def registry() -> Any:
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    settle_tensorflow()
    return op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())).op


def test_every_operation_of_the_registry_that_names_a_place_is_refused() -> None:
    """A new TensorFlow adds none silently. Three that reach a file by the value of an attribute are looked at by it. Of datasets those are
    let in that a table of a transform graph is filled by; of them, none reads a file but the one below."""
    operations = registry()
    assert len(operations) > 1000
    outward = {
        each.name
        for each in operations
        if OUTWARD.search(each.name)
        or any(PLACES.search(a.name) for a in each.input_arg if a.type == TEXT)
        or any(PLACES.search(a.name) for a in each.attr if a.type in ("string", "list(string)"))
    }
    assert len(outward) > 200
    assert outward - set(reaching(model_of(*outward))) == INWARD_DATASETS


def test_those_that_were_found_are_refused_and_a_new_one_too() -> None:
    assert set(reaching(model_of(*FOUND, "OfTomorrow"))) == {*FOUND, "OfTomorrow"}


def test_what_inference_needs_is_let_in() -> None:
    assert reaching(model_of(*NEEDED)) == []


def _after(operation: Callable[[str], Any]) -> Callable[[str], Callable[[Any], Any]]:
    def made(path: str) -> Callable[[Any], Any]:
        import tensorflow as tf

        def run(a: Any) -> Any:
            done = operation(path)
            with tf.control_dependencies([done] if done is not None else []):
                return a * 2

        return run

    return made


def _raw(name: str, **arguments: Any) -> Callable[[str], Any]:
    def made(path: str) -> Any:
        import tensorflow as tf

        return getattr(tf.raw_ops, name)(**{key: value(path) if callable(value) else value for key, value in arguments.items()})

    return made


def _records(path: str) -> Any:
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensors("x")
    return tf.raw_ops.DatasetToTFRecord(input_dataset=rows._variant_tensor, filename=path, compression_type="")


def _debugged(path: str) -> Any:
    import tensorflow as tf

    return tf.raw_ops.DebugIdentityV2(input=tf.constant(1.0), debug_urls=[f"file://{path}"], tfdbg_run_id="r")


def _table(path: str) -> Any:
    import tensorflow as tf

    table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    return tf.raw_ops.InitializeTableFromTextFileV2(table_handle=table, filename=path, key_index=-2, value_index=-1)


RUN: dict[str, Callable[[str], Any]] = {
    "DatasetToTFRecord": _records,
    "DebugIdentityV2": _debugged,
    "InitializeTableFromTextFileV2": _table,
    "MergeV2Checkpoints": _raw("MergeV2Checkpoints", checkpoint_prefixes=lambda path: [path], destination_prefix=lambda path: path + "2"),
    "RestoreV2": lambda path: _raw("RestoreV2", prefix=path, tensor_names=["a"], shape_and_slices=[""], dtypes=["float32"])(path)[0],
    "SaveV2": _raw("SaveV2", prefix=lambda path: path, tensor_names=["a"], shape_and_slices=[""], tensors=[1.0]),
}


@pytest.mark.parametrize("operation", RUN)
def test_a_real_export_that_reaches_a_file_is_refused_before_it_runs(tmp_path: Path, operation: str) -> None:
    """By TensorFlow's own export, in which the saver has operations of the same names."""
    place = tmp_path / "traces"
    place.mkdir()
    spec = pushed(tmp_path / "1", _after(RUN[operation])(str(place / "written")))
    refused(tmp_path / "1", spec, rf"its graph has the operations .*{operation}.*: a served model runs no Python and touches no files")
    assert not list(place.iterdir())


def exported(folder: Path) -> Any:
    """A module with a vocabulary file, exported; its message."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    words = folder.parent / "words.txt"
    words.write_text("a\nb\n")
    module = tf.Module()
    start = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticHashTable(start, -1)
    module.weight = tf.Variable(2.0)
    module.serve = tf.function(lambda w: {"p": module.table.lookup(w)}, input_signature=[tf.TensorSpec([None], tf.string, name="w")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def test_a_vocabulary_is_an_asset_of_the_model_and_no_other_file(tmp_path: Path) -> None:
    made = exported(tmp_path / "1")
    assert reaching(made) == []
    made.meta_graphs[0].asset_file_def[0].filename = "../../../../etc/passwd"
    assert reaching(made) == ["InitializeTableFromTextFileV2"]


def _word_first(number: Any, word: Any) -> Any:
    return word, number


def exported_records(folder: Path) -> Any:
    """A module whose table is filled from a file of records by a dataset, exported; its message."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    words = folder.parent / "words.gz"
    with tf.io.TFRecordWriter(str(words), "GZIP") as out:
        out.write(b"a")
        out.write(b"b")
    module = tf.Module()
    module.words = tf.saved_model.Asset(str(words))
    records = tf.data.TFRecordDataset(module.words.asset_path, "GZIP")
    module.rows = records.enumerate().map(_word_first)
    module.table = tf.lookup.StaticHashTable(tf.data.experimental.DatasetInitializer(module.rows), -1)
    module.serve = tf.function(lambda w: {"p": module.table.lookup(w)}, input_signature=[tf.TensorSpec([None], tf.string, name="w")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settle_tensorflow()
    return exported_records(tmp_path_factory.mktemp("records") / "1")


def _part(meta: Any, kind: str) -> Any:
    """The function of a part of the name; of those that TensorFlow exports twice the one that objects run, or that it calls."""
    functions = {each.signature.name: each for each in meta.graph_def.library.function}
    creator = next(functions[name] for name, f in meta.object_graph_def.concrete_functions.items() if "creator" in name and f.bound_inputs)
    called = next(node.attr["f"].func.name for node in creator.node_def if node.op == "StatefulPartitionedCall")
    return {"creator": creator, "pruned": functions[called]}.get(kind) or next(f for name, f in functions.items() if kind in name)


def _step(meta: Any, kind: str, operation: str) -> Any:
    return next(node for node in _part(meta, kind).node_def if node.op == operation)


def _another_asset(meta: Any) -> None:
    for each in meta.asset_file_def:
        each.filename = "../../../../etc/passwd"


def _another_capture(meta: Any) -> None:
    meta.object_graph_def.concrete_functions[_part(meta, "creator").signature.name].bound_inputs[0] = 0


def _constant_where_it_is_read(meta: Any) -> None:
    _step(meta, "read_one_file", "TFRecordDataset").input[0] = "compression_type:output:0"


def _constant_of_the_rows(meta: Any) -> None:
    _step(meta, "pruned", "TensorSliceDataset").input[0] = "Const/_0:output:0"


def _computed(meta: Any) -> None:
    _step(meta, "creator", "ExpandDims").op = "StringUpper"


def _rows_of_another_kind(meta: Any) -> None:
    _step(meta, "pruned", "FlatMapDataset").input[0] = "RangeDataset/_3:handle:0"


def _another_runs_it(meta: Any) -> None:
    _step(meta, "pruned", "FlatMapDataset").op = "MapDataset"


def _more_than_the_rows(meta: Any) -> None:
    _part(meta, "read_one_file").signature.input_arg.insert(0, type(_part(meta, "pruned").signature.input_arg[0])(name="first"))


def _arguments_in_lists(meta: Any) -> None:
    _part(meta, "read_one_file").signature.input_arg[0].number_attr = "N"


def _asked_for(kind: str) -> Callable[[Any], None]:
    def forged(meta: Any) -> None:
        served = _part(meta, "signature_wrapper")
        call = served.node_def.add(name="more", op="StatefulPartitionedCall", input=[served.signature.input_arg[0].name])
        call.attr["f"].func.name = _part(meta, kind).signature.name

    return forged


FORGED: dict[str, Callable[[Any], None]] = {
    "its asset lies elsewhere": _another_asset,
    "what is captured is no asset": _another_capture,
    "a constant text where it is read": _constant_where_it_is_read,
    "a constant text as the rows": _constant_of_the_rows,
    "a computed name": _computed,
    "rows of another kind of dataset": _rows_of_another_kind,
    "another operation runs the function that reads": _another_runs_it,
    "an argument beyond the rows": _more_than_the_rows,
    "arguments whose places in a call nobody knows": _arguments_in_lists,
    "a request's text, by the function that reads": _asked_for("read_one_file"),
    "a request's text, by the function that makes the rows": _asked_for("pruned"),
}


def test_a_dataset_may_fill_a_table_from_an_asset(records: Any) -> None:
    """As TF-Transform has it of vocabularies in TFRecord files; a real graph of it: test_graph."""
    operations = {node.op for each in records.meta_graphs[0].graph_def.library.function for node in each.node_def}
    assert operations >= {"TFRecordDataset", "InitializeTableFromDataset"} and reaching(records) == []


@pytest.mark.parametrize("forgery", FORGED)
def test_a_dataset_reads_no_file_but_an_asset(records: Any, forgery: str) -> None:
    made = type(records).FromString(records.SerializeToString())
    FORGED[forgery](made.meta_graphs[0])
    assert reaching(made) == ["TFRecordDataset"]


def test_the_savers_functions_are_called_by_the_saver_alone(tmp_path: Path) -> None:
    """An export whose served function calls the function by which the model is saved writes where a request says."""
    made = exported(tmp_path / "1")
    functions = made.meta_graphs[0].graph_def.library.function
    (saver,) = (each.signature.name for each in functions if "traced_save" in each.signature.name)
    (served,) = (each for each in functions if each.signature.name.startswith("__inference_signature_wrapper"))
    call = served.node_def.add(name="more", op="StatefulPartitionedCall")
    call.attr["f"].func.name = saver
    assert set(reaching(made)) == {"MergeV2Checkpoints", "SaveV2", "ShardedFilename"}


def test_a_signature_may_not_be_the_savers_function(tmp_path: Path) -> None:
    """Nor where an object names it that the list of functions leaves out."""
    made = exported(tmp_path / "1")
    (saver,) = (f.signature.name for f in made.meta_graphs[0].graph_def.library.function if "traced_save" in f.signature.name)
    made.meta_graphs[0].object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = saver
    assert set(reaching(made)) == {"MergeV2Checkpoints", "SaveV2", "ShardedFilename"}
