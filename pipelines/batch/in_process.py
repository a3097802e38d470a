"""TF-Transform's analysis without a Beam pipeline around it: its own phases, graphs and combiners.

TF-Transform describes an analysis as a graph of operations and gives that to Beam: some two hundred steps per group, each described,
shipped and run, and a SavedModel written and loaded again for each phase. Here the same operations are called one after the other; a phase
is a traced function. What is to be accumulated of rows is asked for (:class:`~pipelines.batch.learning.Fold`), a round per phase, and
done share by share, in this process or by workers. The bits of one share are those of Beam with one bundle. Which analyzers there are is
TF-Transform's to say: one that this module does not know is left to Beam.

TensorFlow, TF-Transform and Beam are imported inside functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.batch.learning import Fold, Lines, Phase, Phases, accumulate, finished, learnt_constants

__all__ = ["Analysis", "Unknown"]

Read = Callable[[], Iterator[pa.RecordBatch]]


class Unknown(Exception):
    """An operation that is for Beam."""


class Analysis:
    """The analysis of one preprocessing function: traced when it is made, run by :meth:`save`, or by who answers :meth:`wanted`.

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

        self.function, self.read, self.folder, self.metadata = function, read, folder, metadata
        self.phases = Phases(function, config, folder)
        self.specs = self.phases.specs
        graph, inputs, outputs = _helper().trace_preprocessing_function(function, self.specs, False, str(folder))
        if graph.get_collection(tf.compat.v1.GraphKeys.TRAINABLE_VARIABLES):
            raise Unknown("a variable")  # an error, which is told there
        self.assets: dict[str, str] = annotators.get_asset_annotations(graph)
        annotators.clear_asset_annotations(graph)
        self.analyzers = graph_tools.get_analyzers_fingerprint(graph, inputs)
        self._last, _, _ = analysis_graph_builder.build(graph, inputs, outputs, (), None)
        self._nodes: Any = nodes
        self._kinds = _operations()
        self._done: dict[str, Sequence[Any]] = {}
        self._answers: dict[str, Iterable[Any]] = {}
        self._wanted: list[Fold] = []
        self.vocabularies: dict[str, Path] = {}
        self.model: Path | None = None
        """The folder of the SavedModel of the function with what was learnt; None until nothing is wanted any more."""
        self._traverse(lambda operation, values: (None,) * operation.num_outputs)  # what is unknown is known before any work

    def save(self) -> Path:
        """Run all phases over the rows as one share, and write the SavedModel; returns its folder."""
        while wanted := self.wanted():
            self.give([[one] for one in accumulate(self.phases, wanted, self.read())])
        assert self.model is not None
        return self.model

    def wanted(self) -> list[Fold]:
        """What must be accumulated next; none: the SavedModel is written."""
        self._wanted = []
        found = self._traverse(self._operated)
        if found is not _LATER:
            self.model = found
        return self._wanted

    def give(self, answers: Sequence[Iterable[Any]]) -> None:
        """Answer :meth:`wanted`: for each fold the accumulators of the shares, in their order."""
        for fold, answer in zip(self._wanted, answers, strict=True):
            self._answers[fold.label] = answer

    def portable(self, fold: Fold) -> Fold:
        """A fold for another machine."""
        bindings = []
        for name, value, kind in fold.phase.bindings:
            file = self.vocabularies.get(str(value)) if isinstance(value, np.ndarray) and value.dtype.kind == "U" else None
            bindings.append((name, value if file is None else Lines(file.name, file.read_bytes()), kind))
        return replace(fold, phase=replace(fold.phase, bindings=bindings))

    def accumulated(self, fold: Fold) -> Any:
        """The accumulators of a fold; where there are none yet, it is wanted."""
        if fold.label in self._answers:
            return self._answers[fold.label]
        self._wanted.append(fold)
        return _LATER

    def _operated(self, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
        if operation.label in self._done:
            return self._done[operation.label]
        if any(value is _LATER for value in values):
            return (_LATER,) * int(operation.num_outputs)
        found = self._kinds[type(operation)](self, operation, values)
        if not any(each is _LATER for each in found):
            self._done[operation.label] = found
        return found

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

    def written(self, bindings: Sequence[Any]) -> Path:
        """The SavedModel of the whole function."""
        target = self.folder / "transform_fn"
        learnt = learnt_constants(bindings)
        if self.metadata:
            _helper().trace_and_write_v2_saved_model(
                str(target), self.function, self.specs, str(self.folder), self.analyzers, learnt, {}, None
            )
            return target
        import tensorflow as tf
        from tensorflow_transform import graph_context, tf2_utils
        from tensorflow_transform.saved import saved_transform_io_v2

        context = graph_context.TFGraphContext(tf.Module(), str(self.folder), learnt)
        function = _helper().get_traced_transform_fn(self.function, self.specs, context, {})
        graph = saved_transform_io_v2.write_v2_saved_model(context.module_to_export, function, "transform_fn", str(target), None).graph
        _helper()._validate_analyzers_fingerprint(self.analyzers, graph, tf2_utils.get_structured_inputs_from_func_graph(graph))
        return target


_LATER = object()
"""In the place of what is not learnt yet."""


def _helper() -> Any:
    from tensorflow_transform import impl_helper

    return impl_helper


@dataclass(frozen=True)
class _Rows:
    """A phase's tensors of each batch, or those called ``keys``: described, and computed by whoever accumulates them."""

    phase: Phase
    keys: Any = None


class _Each:
    """``function`` of each element of a collection, for as often as it is asked."""

    def __init__(self, function: Callable[[Any], Any], of: Iterable[Any]) -> None:
        self.function, self.of = function, of

    def __iter__(self) -> Iterator[Any]:
        return map(self.function, self.of)


class _All:
    """The elements of several collections, one after the other."""

    def __init__(self, of: Sequence[Iterable[Any]]) -> None:
        self.of = of

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.of)


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
            beam_nodes.ApplySavedModel: _Kind(lambda a, op, values: (_Rows(values[0]),)),
            beam_nodes.ExtractFromDict: _Kind(_chosen),
            beam_nodes.Flatten: _Kind(lambda a, op, values: (_All(values),)),
            beam_nodes.CreateTensorBinding: _Kind(lambda a, op, values: ((op.tensor_name, *values[0], op.dtype_enum),)),
            analyzers.PackedCombineAccumulate: _Kind(lambda a, op, values: _accumulated(a, op, values, packed(op.combiners, False))),
            analyzers.PackedCombineMerge: _Kind(lambda a, op, values: ([_folded(packed(op.combiners, True), values[0])],)),
            analyzers.CacheableCombineAccumulate: _Kind(lambda a, op, values: _accumulated(a, op, values, single(op.combiner, False))),
            analyzers.CacheableCombineMerge: _Kind(lambda a, op, values: ([_folded(single(op.combiner, True), values[0])],)),
            analyzers.ExtractCombineMergeOutputs: _Kind(_outputs),
            analyzers.ExtractPackedCombineMergeOutputs: _Kind(_outputs),
            analyzers.AddKey: _Kind(lambda a, op, values: (_Each(lambda value: (op.key, value), values[0]),)),
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
        return (analysis.written(bindings),)
    return (Phase(operation.label, {key: tensor.name for key, tensor in operation.output_signature.items()}, bindings),)


def _chosen(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    keys = operation.keys
    if isinstance(values[0], _Rows):
        return (replace(values[0], keys=keys),)
    many = isinstance(keys, tuple)
    return (_Each(lambda found: tuple(found[k] for k in keys) if many else found[keys], values[0]),)


def _accumulated(analysis: Analysis, operation: Any, values: Sequence[Any], combine: Any) -> Sequence[Any]:
    (rows,) = values
    return (analysis.accumulated(Fold(operation.label, rows.phase, rows.keys, combine)),)


def _folded(combine: Any, elements: Iterable[Any]) -> Any:
    """What Beam's ``CombineFn`` makes of all elements of one bundle."""
    whole = combine.create_accumulator()
    for element in elements:
        whole = combine.add_input(whole, element)
    return finished(combine, whole)


def _outputs(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    (found,) = values[0]
    return tuple([output] for output in found)


def _counted(analysis: Analysis, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
    (shares,) = _accumulated(analysis, operation, values, None)
    if shares is _LATER:
        return (_LATER,)
    counts: Counter[Any] = Counter()
    for share in shares:
        counts.update(share)
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
    analysis.vocabularies[str(file)] = file
    return ([np.array(str(file))],)
