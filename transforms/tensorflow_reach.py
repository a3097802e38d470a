"""What in a SavedModel would reach beyond it: files that are not its own, Python, other machines.

TensorFlow's registry of operations decides, not a list of forbidden names, so that an operation of a newer TensorFlow is refused until
it is known. Of those with a state (files, sockets and queues are state) only the kinds that inference needs are let in: variables,
tables, calls, random numbers. Of those without, all but the ones that are named, or have an argument that is named, as a file, an
address or the like. The saver's own may stand in what no signature and no initializer runs; a table is read from an asset of the model,
also by a dataset, as TF-Transform reads a vocabulary of ``file_format="tfrecord_gzip"``.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import Any

__all__ = ["only_computes", "reaching", "stays_below"]

_STATEFUL = re.compile(
    r"(Assign|AssignAdd|AssignSub)VariableOp|Variable(V2)?|VariableShape|VarHandleOp|VarIsInitializedOp|ReadVariableOp|DisableCopyOnRead"
    r"|DestroyResourceOp|IsResourceHandleRefCounting|Resource(Gather|Scatter|Apply|SparseApply|StridedSliceAssign|CountUpTo)\w*"
    r"|(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|LookupTable\w+|InitializeTable(V2)?"
    r"|StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(V2)?|Print(V2)?|Empty|GuaranteeConst|Timestamp"
    r"|Random(Crop|Gamma|Poisson|PoissonV2|Shuffle|StandardNormal|Uniform|UniformInt)|Stateful\w*(Normal|Uniform|UniformFullInt|UniformInt|"
    r"NormalV2|Binomial)|(ParameterizedT|T)runcatedNormal|Multinomial|NonDeterministicInts|Rng(ReadAndSkip|Skip)|StatelessRandomGetAlg"
    r"|(Uniform|LogUniform|LearnedUnigram|ThreadUnsafeUnigram|All)CandidateSampler"
    r"|TensorArray\w*|Stack(Close|Pop|Push)?(V2)?|CudnnRNN\w*"
)
_NAME = re.compile(
    r"Dataset|Iterator|Reader|SummaryWriter|SummaryDb|Write\w*Summary|StatsAggregator|Debug|LMDB|File|PyFunc|Snapshot|Rpc|TPU|Tpu|TRT|Xla|Collective|Nccl|Send|Recv|Remote|Checkpoint"
    r"|TfLite|Mlir|^Abort$|^Copy(Host)?$"
)
_ARGUMENT = re.compile(r"file|path|url|address|directory|endpoint|prefix|descriptor_source|debug_ops|memory_region|(^|_)dir(_|$)")
_TEXT = 7  # the number of DT_STRING
_SAVING = frozenset({"SaveV2", "MergeV2Checkpoints", "ShardedFilename"})
_FILES = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1, "TFRecordDataset": 0}
"""Operations that read files which may be the model's assets, and the input that names them."""
_DATASETS = frozenset({"FlatMapDataset", "InitializeTableFromDataset", "MapDataset", "ParallelMapDatasetV2", "RangeDataset",
                       "TensorSliceDataset", "ZipDataset"})  # fmt: skip
"""Operations on datasets that move what they are given, or run a function of the graph on it."""
_SAME_TEXTS = frozenset({"ExpandDims", "Identity", "Reshape"})
"""Operations whose output has the texts of their first input."""
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_RUN_AT_LOAD = frozenset({"saved_model_main_op", "legacy_init_op"})
"""The collections by which an export of TensorFlow 1 names what runs when it is loaded; later ones have a signature for it."""
_BY_VALUE = {"PrintV2": ("output_stream", rb"(?!file:).*"), "DecodeProtoV2": ("descriptor_source", rb"local://|bytes://.*|"),
             "EncodeProto": ("descriptor_source", rb"local://|bytes://.*|")}  # fmt: skip
"""Operations that reach a file by the value of an attribute alone, and the values by which they reach none."""


def reaching(saved_model: Any) -> list[str]:
    """The operations of a ``SavedModel`` (the message) that reach beyond it, by name."""
    modern = len(saved_model.meta_graphs) == 1 and saved_model.meta_graphs[0].HasField("object_graph_def")
    return sorted({name for meta in saved_model.meta_graphs for name in _Graph(meta, modern).reaching()})


def only_computes(graph: Any, but: Container[str] = ()) -> bool:
    """Whether a ``GraphDef`` has no functions, and no operations ``but`` some that have a state or do more than compute on what they are
    given."""
    from tensorflow.python.framework import op_def_registry

    operations = {node.op for node in graph.node if node.op not in but}
    return not graph.library.function and all(_inward(one) and not op_def_registry.get(one).is_stateful for one in operations)


@cache
def _inward(operation: str) -> bool:
    """Whether an operation of TensorFlow's registry computes on what it is given, and reaches nothing else."""
    from tensorflow.python.framework import op_def_registry

    known = op_def_registry.get(operation)
    if known is None or _NAME.search(operation):
        return False
    if known.is_stateful:
        return _STATEFUL.fullmatch(operation) is not None
    texts = [a.name for a in known.input_arg if a.type == _TEXT] + [a.name for a in known.attr if a.type in ("string", "list(string)")]
    return not any(_ARGUMENT.search(name) for name in texts)


class _Graph:
    """One graph of a SavedModel with its functions. ``modern``: TensorFlow loads it by its objects, and runs none of the outer nodes."""

    def __init__(self, meta: Any, modern: bool) -> None:
        self._meta, self._modern = meta, modern
        self._outer = {node.name: node for node in meta.graph_def.node}
        self._functions = {function.signature.name: function for function in meta.graph_def.library.function}
        self._assets = {_node(each.tensor_info.name) for each in _assets(meta) if stays_below(each.filename)}
        objects = meta.object_graph_def
        self._objects_run = {*objects.concrete_functions}
        for each in objects.nodes:
            self._objects_run |= {*each.function.concrete_functions, each.bare_concrete_function.concrete_function_name}
        self._restoring = self._before([meta.saver_def.restore_op_name])
        roots = [tensor.name for signature in meta.signature_def.values() for tensor in signature.outputs.values()]
        for key in _RUN_AT_LOAD & set(meta.collection_def):
            roots += meta.collection_def[key].node_list.value
        self._served = self._before(roots)
        self._saves = self._run_by(self._outer.keys() - self._served - self._restoring)
        self._restores = self._run_by(self._outer.keys() - self._served)

    def reaching(self) -> Iterator[str]:
        """The names of operations that reach beyond it."""
        for node in self._outer.values():
            if not self._allowed(node, ""):
                yield node.op
        for name, function in self._functions.items():
            yield from (node.op for node in function.node_def if not self._allowed(node, name))

    def _allowed(self, node: Any, function: str) -> bool:
        if node.op in self._functions:  # a call, as it was written in TensorFlow 1
            return True
        if node.op in _BY_VALUE:
            attribute, inward = _BY_VALUE[node.op]
            return re.fullmatch(inward, bytes(node.attr[attribute].s), re.DOTALL) is not None
        if node.op in _SAVING:
            return function in self._saves if function else node.name not in self._served | self._restoring
        if node.op == "RestoreV2":
            if function:  # objects are restored by Python, from the model's own files: nobody runs this one
                return self._modern and function in self._restores
            if node.name in self._restoring:
                own = _node(node.input[0]) == _node(self._meta.saver_def.filename_tensor_name)
                return own and node.name not in self._served
            return node.name not in self._served
        if node.op in _FILES:
            return self._is_asset(node.input[_FILES[node.op]], function, frozenset())
        return node.op in _DATASETS or _inward(node.op)

    def _before(self, names: Iterable[str]) -> set[str]:
        """The outer nodes that these need, and they themselves."""
        found: set[str] = set()
        left = [_node(name) for name in names]
        while left:
            name = left.pop()
            if name in self._outer and name not in found:
                found.add(name)
                left += [_node(each) for each in self._outer[name].input]
        return found

    def _run_by(self, nodes: set[str]) -> set[str]:
        """The functions that only these outer nodes run: none that others call, nor the objects, nor a function whose caller is unknown."""
        reached = self._called(self._outer[name] for name in nodes)
        elsewhere = (self._objects_run | (self._functions.keys() - reached)) & self._functions.keys()
        inner = [node for name in elsewhere for node in self._functions[name].node_def]
        return reached - elsewhere - self._called([*(self._outer[name] for name in self._outer.keys() - nodes), *inner])

    def _called(self, nodes: Iterable[Any]) -> set[str]:
        """The functions that these nodes call, and those that they call in turn."""
        found: set[str] = set()
        left = list(nodes)
        while left:
            for name in _calls(left.pop()) & self._functions.keys() - found:
                found.add(name)
                left += self._functions[name].node_def
        return found

    def _is_asset(self, tensor: str, function: str, seen: frozenset[tuple[str, str]]) -> bool:
        """Whether texts are paths of the model's assets alone, whoever runs the node that takes them."""
        name = _node(tensor)
        if (function, name) in seen:
            return True
        seen |= {(function, name)}
        arguments = self._arguments(function)
        if name in arguments:
            at = arguments.index(name)
            return self._bound(function, at, len(arguments)) and all(
                given is not None and self._is_asset(given, caller, seen)
                for caller, node in self._all_nodes()
                if function in _calls(node) and not (self._modern and not caller)
                for given in [self._given(function, at, node, caller)]
            )
        node = self._find(name, function)
        if node is not None and node.op in _SAME_TEXTS:
            return self._is_asset(node.input[0], function, seen)
        return not function and name in self._assets

    def _given(self, function: str, at: int, node: Any, caller: str) -> str | None:
        """What a node of the caller gives to an argument of a function that it runs: of a dataset that is made of tensors, a tensor of
        which the argument gets each row. None where nothing says it."""
        if node.op in _CALLS:
            return str(node.input[at])
        if node.op != "FlatMapDataset":
            return None
        rows = self._find(_node(node.input[0]), caller)
        if rows is None or rows.op != "TensorSliceDataset" or at >= len(rows.attr["Toutput_types"].list.type):
            return None
        return str(rows.input[at])

    def _find(self, name: str, function: str) -> Any:
        """The node of this name in a function, or outside all; None where there is none."""
        if not function:
            return self._outer.get(name)
        return next((node for node in self._functions[function].node_def if node.name == name), None)

    def _arguments(self, function: str) -> list[str]:
        """The names of a function's arguments; none of one that has lists of them, as those stand at no place of their own in a call."""
        found = self._functions[function].signature.input_arg if function else []
        return [] if any(each.number_attr or each.type_list_attr for each in found) else [each.name for each in found]

    def _bound(self, function: str, place: int, arguments: int) -> bool:
        """Whether an argument is bound to an asset wherever objects call the function; a caller's own text is none."""
        objects = self._meta.object_graph_def
        if function not in objects.concrete_functions:
            return function not in self._objects_run
        bound = objects.concrete_functions[function].bound_inputs
        at = place - (arguments - len(bound))
        if at < 0:
            return False
        found = objects.nodes[bound[at]]
        return found.WhichOneof("kind") == "asset" and stays_below(self._meta.asset_file_def[found.asset.asset_file_def_index].filename)

    def _all_nodes(self) -> Iterator[tuple[str, Any]]:
        yield from (("", node) for node in self._outer.values())
        yield from ((name, node) for name, function in self._functions.items() for node in function.node_def)


def _assets(meta: Any) -> list[Any]:
    """What a graph says of its assets; in an export of TensorFlow 1 a collection says it."""
    from tensorflow.core.protobuf import meta_graph_pb2

    packed = meta.collection_def["saved_model_assets"].any_list.value if "saved_model_assets" in meta.collection_def else []
    return [*meta.asset_file_def, *(meta_graph_pb2.AssetFileDef.FromString(each.value) for each in packed)]


def _calls(node: Any) -> set[str]:
    """The names of the functions that a node calls."""
    values = node.attr.values()
    return {node.op, *(v.func.name for v in values if v.HasField("func")), *(f.name for v in values for f in v.list.func)}


def _node(tensor: str) -> str:
    """The node that a tensor, or a control input, is of."""
    return tensor.removeprefix("^").partition(":")[0]


def stays_below(filename: str) -> bool:
    """Whether a file's path stays in the folder that it is taken from."""
    path = PurePosixPath(filename)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in filename
