"""TF-Transform's analysis without a Beam pipeline around it: its own phases, graphs and combiners.

TF-Transform describes an analysis as a graph of operations and gives that to Beam: some two hundred steps per group, each described,
shipped and run, and a SavedModel written and loaded again for each phase. Here the same operations are called one after the other; a phase
is a traced function. What is to be accumulated of rows is asked for (:class:`~pipelines.batch.learning.Fold`), a round per phase, and
done share by share, in this process or by workers. The bits of one share are those of Beam with one bundle. Which analyzers there are is
TF-Transform's to say: one that this module does not know is left to Beam.

TensorFlow, TF-Transform and Beam are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.batch.learning import Fold, Lines, Phases, accumulate, learnt_constants
from pipelines.batch.operations import LATER, Unknown, operations

__all__ = ["Analysis"]

Read = Callable[[], Iterator[pa.RecordBatch]]


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
        self.graph: Any = graph
        if graph.get_collection(tf.compat.v1.GraphKeys.TRAINABLE_VARIABLES):
            raise Unknown("a variable")  # an error, which is told there
        self.assets: dict[str, str] = annotators.get_asset_annotations(graph)
        annotators.clear_asset_annotations(graph)
        self.analyzers = graph_tools.get_analyzers_fingerprint(graph, inputs)
        self._last, _, _ = analysis_graph_builder.build(graph, inputs, outputs, (), None)
        self._nodes: Any = nodes
        self._kinds = operations()
        self._done: dict[str, Sequence[Any]] = {}
        self._answers: dict[str, Iterable[Any]] = {}
        self._wanted: list[Fold] = []
        self.vocabularies: dict[str, Path] = {}
        self.learnt: Sequence[Any] = ()
        """(tensor, value, type) of all that was learnt, once nothing is wanted any more."""
        self._traverse(lambda operation, values: (None,) * operation.num_outputs)  # what is unknown is known before any work

    def save(self) -> Path:
        """Run all phases over the rows as one share, and write the SavedModel; returns its folder."""
        while wanted := self.wanted():
            self.give([[one] for one in accumulate(self.phases, wanted, self.read())])
        return self.written()

    def wanted(self) -> list[Fold]:
        """What must be accumulated next; none: all is learnt."""
        self._wanted = []
        found = self._traverse(self._operated)
        if found is not LATER:
            self.learnt = found
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
        return LATER

    def _operated(self, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
        if operation.label in self._done:
            return self._done[operation.label]
        if any(value is LATER for value in values):
            return (LATER,) * int(operation.num_outputs)
        found = self._kinds[type(operation)].run(self, operation, values)
        if not any(each is LATER for each in found):
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

    def written(self) -> Path:
        """Write the SavedModel of the function with what was learnt; returns its folder."""
        target = self.folder / "transform_fn"
        if self.metadata:
            learnt = learnt_constants(self.learnt)
            _helper().trace_and_write_v2_saved_model(
                str(target), self.function, self.specs, str(self.folder), self.analyzers, learnt, {}, None
            )
            return target
        from tensorflow_transform.saved import saved_transform_io_v2

        context, function = self._with_learnt()
        made = saved_transform_io_v2.write_v2_saved_model(context.module_to_export, function, "transform_fn", str(target), None)
        self._validate(made.graph)
        return target

    def traced(self) -> tuple[Any, list[Any]]:
        """The function with what was learnt, as it is traced for the SavedModel: a concrete function, and the tables and other resources
        that were made meanwhile, which are to be held as long as it is used."""
        from tensorflow.python.trackable import resource
        from tensorflow_transform import annotators as typed_annotators

        annotators: Any = typed_annotators
        context, function = self._with_learnt()
        tracker = resource.ResourceTracker()
        with resource.resource_tracker_scope(tracker), annotators.object_tracker_scope(annotators.ObjectTracker()):
            made = function.get_concrete_function()
        self._validate(made.graph)
        return made, [context, *tracker.resources]

    def _with_learnt(self) -> tuple[Any, Any]:
        import tensorflow as tf
        from tensorflow_transform import graph_context

        context = graph_context.TFGraphContext(tf.Module(), str(self.folder), learnt_constants(self.learnt))
        return context, _helper().get_traced_transform_fn(self.function, self.specs, context, {})

    def _validate(self, graph: Any) -> None:
        """Raise RuntimeError where the function has other analyzers than when it was traced first."""
        from tensorflow_transform import tf2_utils

        _helper()._validate_analyzers_fingerprint(self.analyzers, graph, tf2_utils.get_structured_inputs_from_func_graph(graph))


def _helper() -> Any:
    from tensorflow_transform import impl_helper

    return impl_helper
