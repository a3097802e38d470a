"""TF-Transform's analysis in this process: its own phases, graphs and combiners, without a Beam pipeline around them.

TF-Transform describes an analysis as a graph of operations and gives that to Beam: some two hundred steps per group, each described,
shipped and run, and a SavedModel written and loaded again for each phase. Here the same operations are called one after the other, on rows
that are read in their order; a phase is a traced function. The bits are those of Beam with one bundle. Which analyzers there are is
TF-Transform's to say: one that this module does not know is left to Beam, and so is every job on another runner.

TensorFlow, TF-Transform and Beam are imported inside functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["Analysis", "Unknown"]

Read = Callable[[], Iterator[pa.RecordBatch]]
KEPT = 4_000_000
"""So many numbers and words of a phase stay in memory for the next analyzer; of longer histories the rows are read again."""


class Unknown(Exception):
    """An operation that is for Beam."""


class Analysis:
    """The analysis of one preprocessing function: traced when it is made, run by :meth:`save`.

    ``function`` takes and gives tensors, ``config`` says how ``read()``'s batches become tensors, ``folder`` is for temporary files.
    ``metadata``: whether the folder also says what the outputs are, in ``.tft_metadata``, which TFX reads and a transform graph does not:
    TF-Transform traces the function once more for it. Raises :class:`Unknown` for an analyzer that Beam is needed for, and what the
    function raises.
    """

    def __init__(
        self, function: Callable[[dict[str, Any]], dict[str, Any]], config: Any, read: Read, folder: Path, metadata: bool = False
    ) -> None:
        import tensorflow as tf
        from tensorflow_transform import annotators, graph_tools, nodes
        from tensorflow_transform.beam import analysis_graph_builder
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapter

        self.function, self.read, self.folder, self.metadata = function, read, folder, metadata
        self.adapter: Any = TensorAdapter(config)
        self.specs = self.adapter.OriginalTypeSpecs()
        folder.mkdir(parents=True, exist_ok=True)
        graph, inputs, outputs = _helper().trace_preprocessing_function(function, self.specs, False, str(folder))
        if graph.get_collection(tf.compat.v1.GraphKeys.TRAINABLE_VARIABLES):
            raise Unknown("a variable")  # an error, which is told there
        self.assets: dict[str, str] = annotators.get_asset_annotations(graph)
        annotators.clear_asset_annotations(graph)
        self.analyzers = graph_tools.get_analyzers_fingerprint(graph, inputs)
        self._last, _, _ = analysis_graph_builder.build(graph, inputs, outputs, (), None)
        self._nodes: Any = nodes
        self._kinds = _operations()
        self._traverse(lambda operation, values: (None,) * operation.num_outputs)  # what is unknown is known before any work

    def save(self) -> Path:
        """Run all phases, and write the SavedModel of the function with what was learnt; returns its folder."""
        (folder,) = self._traverse(lambda operation, values: self._kinds[type(operation)](self, operation, values))
        return folder  # type: ignore[no-any-return]

    def _traverse(self, call: Callable[[Any, Sequence[Any]], Sequence[Any]]) -> Any:
        kinds = self._kinds

        class Visitor(self._nodes.Visitor):  # type: ignore[misc, name-defined]
            def visit(self, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
                known = kinds.get(type(operation))
                if known is None or not known.takes(operation):
                    raise Unknown(type(operation).__name__)
                return call(operation, values)

            def validate_value(self, value: Any) -> None:
                """Anything is one."""

        return self._nodes.Traverser(Visitor()).visit_value_node(self._last)

    def traced(self, bindings: Sequence[Any], names: dict[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function up to the tensors ``names``, with what ``bindings`` say was learnt before, as one call on a batch's tensors."""
        import tensorflow as tf
        from tensorflow_transform import graph_context

        module = tf.Module()
        context = graph_context.TFGraphContext(module, str(self.folder), _learnt(bindings))
        called = _helper().get_traced_transform_fn(self.function, self.specs, context, names).get_concrete_function()

        def call(tensors: dict[str, Any]) -> dict[str, Any]:
            assert module is not None  # owns the tables
            return called(tensors)  # type: ignore[no-any-return]

        return call

    def written(self, bindings: Sequence[Any]) -> Path:
        """The SavedModel of the whole function."""
        target = self.folder / "transform_fn"
        if self.metadata:
            _helper().trace_and_write_v2_saved_model(
                str(target), self.function, self.specs, str(self.folder), self.analyzers, _learnt(bindings), {}, None
            )
            return target
        import tensorflow as tf
        from tensorflow_transform import graph_context, tf2_utils
        from tensorflow_transform.saved import saved_transform_io_v2

        context = graph_context.TFGraphContext(tf.Module(), str(self.folder), _learnt(bindings))
        function = _helper().get_traced_transform_fn(self.function, self.specs, context, {})
        graph = saved_transform_io_v2.write_v2_saved_model(context.module_to_export, function, "transform_fn", str(target), None).graph
        _helper()._validate_analyzers_fingerprint(self.analyzers, graph, tf2_utils.get_structured_inputs_from_func_graph(graph))
        return target


def _helper() -> Any:
    from tensorflow_transform import impl_helper

    return impl_helper


class _Rows:
    """A batch's tensors through a traced function, for each batch; computed again for each analyzer unless they are few."""

    def __init__(self, analysis: Analysis, call: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.analysis, self.call = analysis, call
        self.kept: list[dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[dict[str, Any]] | None = []
        size = 0
        for batch in self.analysis.read():
            tensors = self.analysis.adapter.ToBatchTensors(batch, produce_eager_tensors=True)
            found = {name: _array(value) for name, value in self.call(tensors).items()}
            size += sum(getattr(value, "size", KEPT) for value in found.values())
            if kept is not None:
                kept.append(found)
            if size > KEPT:
                kept = None
            yield found
        self.kept = kept


class _Each:
    """``function`` of each element of a collection, for as often as it is asked."""

    def __init__(self, function: Callable[[Any], Any], of: Iterable[Any]) -> None:
        self.function, self.of = function, of

    def __iter__(self) -> Iterator[Any]:
        return map(self.function, self.of)


def _array(value: Any) -> Any:
    import tensorflow as tf

    return np.asarray(value) if isinstance(value, tf.Tensor) else value


def _learnt(bindings: Sequence[Any]) -> Any:
    """Tensors by the name of the one that they replace; None where nothing was learnt yet, as TF-Transform has it."""
    import tensorflow as tf

    return {name: tf.constant(value, tf.dtypes.as_dtype(kind)) for name, value, kind in bindings} or None


# ------------------------------------------------------------------------------------------------- operations of TF-Transform


class _Kind:
    """How one kind of operation is run: ``run(analysis, operation, values)`` gives a tuple of collections, one per output."""

    def __init__(self, run: Callable[[Analysis, Any, Sequence[Any]], Sequence[Any]], takes: Callable[[Any], bool] | None = None) -> None:
        self.run, self.takes = run, takes or (lambda operation: True)

    def __call__(self, analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
        return self.run(analysis, operation, values)


def _operations() -> dict[type, _Kind]:
    """By the class of TF-Transform's operation. Raises :class:`Unknown` where a release of it has other ones."""
    try:
        from tensorflow_transform import analyzer_nodes as analyzers
        from tensorflow_transform.beam import analyzer_impls, beam_nodes

        packed: Any = analyzer_impls._PackedCombinerWrapper
        single: Any = analyzer_impls._CombinerWrapper
        frequency = analyzer_impls._VocabOrderingType.FREQUENCY
        return {
            beam_nodes.ExtractInputForSavedModel: _Kind(lambda a, op, values: (None,)),
            beam_nodes.CreateSavedModel: _Kind(_graph),
            beam_nodes.ApplySavedModel: _Kind(lambda a, op, values: (_Rows(a, values[0]),)),
            beam_nodes.ExtractFromDict: _Kind(_chosen),
            beam_nodes.Flatten: _Kind(lambda a, op, values: ([x for value in values for x in value],)),
            beam_nodes.CreateTensorBinding: _Kind(lambda a, op, values: ((op.tensor_name, *values[0], op.dtype_enum),)),
            analyzers.PackedCombineAccumulate: _Kind(lambda a, op, values: ([_folded(packed(op.combiners, False), values[0])],)),
            analyzers.PackedCombineMerge: _Kind(lambda a, op, values: ([_folded(packed(op.combiners, True), values[0])],)),
            analyzers.CacheableCombineAccumulate: _Kind(lambda a, op, values: ([_folded(single(op.combiner, False), values[0])],)),
            analyzers.CacheableCombineMerge: _Kind(lambda a, op, values: ([_folded(single(op.combiner, True), values[0])],)),
            analyzers.ExtractCombineMergeOutputs: _Kind(_outputs),
            analyzers.ExtractPackedCombineMergeOutputs: _Kind(_outputs),
            analyzers.AddKey: _Kind(lambda a, op, values: ([(op.key, value) for value in values[0]],)),
            analyzers.VocabularyAccumulate: _Kind(_counted, lambda op: op.vocab_ordering_type == frequency),
            analyzers.VocabularyMerge: _Kind(_counts_first, lambda op: op.vocab_ordering_type == frequency),
            analyzers.VocabularyPrune: _Kind(_pruned, lambda op: op.key_fn is None),
            analyzers.VocabularyCount: _Kind(lambda a, op, values: ([np.int64(max(1, sum(1 for _ in values[0])))],)),
            analyzers.VocabularyOrderAndWrite: _Kind(_vocabulary, lambda op: op.file_format == "text" and not op.fingerprint_shuffle),
        }
    except (ImportError, AttributeError) as error:
        raise Unknown(f"this release of TF-Transform: {error}") from None


def _graph(analysis: Analysis, operation: Any, bindings: Sequence[Any]) -> Sequence[Any]:
    if operation.label == "CreateSavedModel":  # the last one, which nothing is computed with
        return ([analysis.written(bindings)],)
    return (analysis.traced(bindings, {key: tensor.name for key, tensor in operation.output_signature.items()}),)


def _chosen(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    keys = operation.keys
    many = isinstance(keys, tuple)
    return (_Each(lambda found: tuple(found[k] for k in keys) if many else found[keys], values[0]),)


def _folded(combine: Any, elements: Iterable[Any]) -> Any:
    """What Beam's ``CombineFn`` makes of all elements of one bundle."""
    whole = combine.create_accumulator()
    for element in elements:
        whole = combine.add_input(whole, element)
    whole = combine.merge_accumulators([combine.create_accumulator(), combine.compact(whole)])  # of a quantile sketch, a step of its own
    return combine.extract_output(combine.compact(whole))


def _outputs(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    (found,) = values[0]
    return tuple([output] for output in found)


def _counted(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    counts: Counter[Any] = Counter()
    for (words,) in values[0]:
        counts.update(words.tolist())
    return (list(counts.items()),)


def _counts_first(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    return ([(count, word) for word, count in values[0]],)


def _pruned(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    kept = [(count, word) for count, word in values[0] if count >= operation.frequency_threshold]
    if operation.input_dtype != "string":
        kept = [(count, str(word).encode()) for count, word in kept]
    return (kept if operation.top_k is None else sorted(kept, reverse=True)[: operation.top_k],)


def _vocabulary(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    """A line per word, the most frequent first; the path of the file."""
    from tensorflow_transform import analyzers

    counts = sorted(values[0], reverse=True)
    if not counts:
        counts = [analyzers.get_empy_vocabulary_dummy_value(operation.input_dtype)]
    file = analysis.folder / operation.vocab_filename
    with file.open("wb") as out:
        for count, word in counts:
            out.write((b"%d " % count if operation.store_frequency else b"") + word + b"\n")
    return ([np.array(str(file))],)
