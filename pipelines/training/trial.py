"""A preprocessing function tried on some rows, as ``tandem check`` does: what analysis would tell of it, and nothing is saved.

Of few rows, most of what an analysis costs is tracing, and a SavedModel that is written, loaded and compared. Here analyzers learn from the
graph that is traced already, and the function with what they learnt is called as it was traced for the SavedModel. That is done for
functions that only compute and look up words in tables of their own. What a SavedModel can refuse beside that (variables, functions within
it, tables of others, operations that reach beyond it) is left to the job's analysis, :mod:`pipelines.batch.analysis`, and so is whatever
fails here but for a mistake that is told in the same words: the job's count.

TensorFlow is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.analysis import (
    SAMPLE,
    PreprocessingFn,
    adapter_config,
    analyze_groups,
    begin_analysis,
    check_row_by_row,
    graph_inputs,
    to_tft_batch,
    what_of,
)
from pipelines.batch.in_process import Analysis
from pipelines.batch.learning import Phase, Phases, accumulate
from transforms.definitions import FeatureGroup
from transforms.errors import GraphError
from transforms.graph import TransformGraph
from transforms.tensorflow_reach import only_computes

__all__ = ["try_groups"]

_LOOKUPS = frozenset({"LookupTableFindV2", "LookupTableSizeV2"})


def try_groups(
    groups: Mapping[str, tuple[FeatureGroup, PreprocessingFn, pa.RecordBatch]],
    folder: Path,
    begun: Mapping[str, Analysis],
    progress: Callable[[str], None],
) -> None:
    """Analyze each function over its rows and apply it to them, alone and together. ``groups`` maps a name to (group, its function, feature
    rows); ``folder`` is for files meanwhile; ``begun``: analyses that :func:`~pipelines.batch.analysis.begin_analysis` made.

    Raises GraphError that names group and function, as :func:`~pipelines.batch.analysis.analyze_groups` does.
    """
    progress(f"analyzing {len(groups)} group{'s' if len(groups) > 1 else ''}: {', '.join(groups)}")
    left: dict[str, tuple[FeatureGroup, PreprocessingFn, list[str]]] = {}
    for name, (group, function, rows) in groups.items():
        made = begun[name] if name in begun else begin_analysis(group, function, folder / "analyses" / name)[1]
        if made is None or not _is_tried(made, group, function, rows):
            file = folder / f"{name}.rows.parquet"
            pq.write_table(pa.Table.from_batches([rows]), file)
            left[name] = (group, function, [str(file)])
    if left:
        analyze_groups(left, folder / "graphs", temp_dir=folder)


def _is_tried(analysis: Analysis, group: FeatureGroup, function: PreprocessingFn, rows: pa.RecordBatch) -> bool:
    """Whether all is known of a function; not, where only the job can tell."""
    inputs = graph_inputs(group)
    try:
        phases = _PartsOfGraph(analysis, inputs) if not _resources(analysis.graph) and _computes(analysis.graph) else analysis.phases
        while wanted := analysis.wanted():
            analysis.give([[one] for one in accumulate(phases, wanted, [to_tft_batch(rows, inputs)])])
        traced, held = analysis.traced()
        own = {id(one.resource_handle) for one in held if hasattr(one, "resource_handle")}
        if not own >= {id(one) for one in _resources(traced.graph)} or not _computes(traced.graph, _LOOKUPS):
            return False
        sample = rows.slice(0, SAMPLE)
        check_row_by_row(TransformGraph.of_traced(traced, inputs, sample), sample, what_of(group, function))
    except GraphError:
        raise
    except Exception:
        return False
    return True


def _resources(graph: Any) -> list[Any]:
    """What a graph takes from outside that is no value: tables, variables."""
    import tensorflow as tf

    return [outer for outer, _ in graph.captures if outer.dtype in (tf.resource, tf.variant)]


def _computes(graph: Any, but: frozenset[str] = frozenset()) -> bool:
    return only_computes(graph.as_graph_def(), but)


class _PartsOfGraph(Phases):
    """Phases of a function as parts of the graph that it was traced to, run by sessions."""

    def __init__(self, analysis: Analysis, inputs: pa.Schema) -> None:
        super().__init__(analysis.function, adapter_config(inputs), analysis.folder)
        self.graph = analysis.graph

    def _traced(self, phase: Phase) -> Callable[[Any], dict[str, Any]]:
        import tensorflow as tf

        session, asked = tf.compat.v1.Session(graph=self.graph), dict(phase.names)
        given = {inner.name: outer.numpy() for outer, inner in self.graph.captures}
        given |= {name: value for name, value, _ in phase.bindings}

        def call(tensors: Any) -> dict[str, Any]:
            flat = tf.nest.flatten(tensors, expand_composites=True)
            rows = {place.name: each.numpy() for place, each in zip(self.graph.inputs, flat, strict=False)}
            return dict(session.run(asked, given | rows))

        return call
