"""Analysis: a user's ``preprocessing_fn`` over the feature rows of history becomes a frozen transform graph.

What is learnt of few rows is learnt in this process (:mod:`pipelines.batch.in_process`); where the groups together have more than a share
may have, share by share (:mod:`pipelines.batch.learning`), by an engine's workers where there are some. The same rows in the same files
give the same graph, whoever learns them: each share is read in the order of its file names as one sequence of batches, and shares are put
together in their order.
An analyzer that only Beam knows is run by one pipeline in this process for all such groups, which reads each as one sequence.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.in_process import Analysis
from pipelines.batch.learning import Arrived, Asked, Learners, accumulate, sent
from pipelines.batch.operations import Unknown
from pipelines.batch.row_shares import RowRange, read_batches, shares_of
from transforms.data_folder import SPEC_FILE
from transforms.definitions import RESERVED, FeatureGroup
from transforms.errors import GraphError
from transforms.functions.travel import Travelling
from transforms.graph import TransformGraph, save_graph
from transforms.graph_columns import input_width, tensor_values, with_width
from transforms.plain_paths import plain_path

__all__ = [
    "adapter_config",
    "analyze_groups",
    "begin_analysis",
    "check_row_by_row",
    "graph_inputs",
    "outputs_of",
    "to_tft_batch",
    "what_of",
    "wrap_preprocessing_fn",
]

PreprocessingFn = Callable[[dict[str, Any]], dict[str, Any]]
SHARE_ROWS = 4_000_000
SAMPLE = 97
"""How many rows are checked one by one against the batch."""

_OUTPUT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def graph_inputs(group: FeatureGroup) -> pa.Schema:
    """The columns that a group's graph may read: its aggregates, lists with their width."""
    fields = []
    for feature in group.features:
        f, width = feature.arrow_field, feature.output.width
        fields.append(f if width is None else with_width(f, width))
    return pa.schema(fields)


def _tft_field(field: pa.Field) -> pa.Field:
    inner = field.type.value_type if pa.types.is_list(field.type) else field.type
    kind = pa.float32() if pa.types.is_floating(inner) else pa.large_binary() if pa.types.is_string(inner) else pa.int64()
    return pa.field(field.name, pa.large_list(kind))


def to_tft_batch(batch: pa.RecordBatch, inputs: pa.Schema) -> pa.RecordBatch:
    """The columns of ``inputs`` as TF-Transform reads them: lists of float32, int64 or bytes; null is an empty list."""
    arrays = []
    for f in inputs:
        column = batch.column(batch.schema.get_field_index(f.name))
        if pa.types.is_list(f.type):
            lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            values = column.flatten()
        else:
            lengths = column.is_valid().to_numpy(zero_copy_only=False)
            values = column.drop_null()
        target = _tft_field(f).type
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        arrays.append(pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(tensor_values(values), target.value_type)))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([_tft_field(f) for f in inputs]))


def adapter_config(inputs: pa.Schema) -> Any:
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

    representations = {}
    for f in inputs:
        r = schema_pb2.TensorRepresentation()
        if f.nullable or pa.types.is_list(f.type):
            r.varlen_sparse_tensor.column_name = f.name
        else:
            r.dense_tensor.column_name = f.name
            r.dense_tensor.shape.dim.add().size = 1
        representations[f.name] = r
    return TensorAdapterConfig(pa.schema([_tft_field(f) for f in inputs]), representations)


def wrap_preprocessing_fn(function: PreprocessingFn, inputs: pa.Schema, what: str) -> PreprocessingFn:
    """``function`` with checked outputs and with inputs of one fixed width, so that analysis and :class:`TransformGraph` agree.

    Sparse inputs get the dense shape ``[rows, width]``. Outputs are cast to what Tandem stores (float32, int64, string).
    ``what`` names group and function in errors. Raises GraphError for whatever is wrong with the function.
    """

    def preprocessing_fn(tensors: dict[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        given = {}
        for name, value in tensors.items():
            width = input_width(inputs.field(name)) if name in inputs.names else 0
            if isinstance(value, tf.SparseTensor) and width:
                value = tf.SparseTensor(value.indices, value.values, tf.stack([value.dense_shape[0], tf.constant(width, tf.int64)]))
            given[name] = value
        try:
            out = function(dict(given))
        except GraphError:
            raise
        except Exception as error:
            raise GraphError(
                f"{what} failed: {type(error).__name__}: {_first_line(error)}; fix the function{_place(error, function)}"
            ) from error
        if not isinstance(out, dict) or not out:
            raise GraphError(
                f"{what} returned {type(out).__name__ if out != {} else 'an empty dict'}; return a dict of output name to tensor"
            )
        return {name: _checked(name, value, inputs, what, tf) for name, value in out.items()}

    return preprocessing_fn


def _checked(name: Any, value: Any, inputs: pa.Schema, what: str, tf: Any) -> Any:
    if not isinstance(name, str) or not _OUTPUT.fullmatch(name):
        raise GraphError(
            f"{what}: output name {name!r} is not a valid name; use lower-case words joined by single underscores, e.g. 'delay_z'"
        )
    if name in inputs.names or name in RESERVED:
        raise GraphError(f"{what}: output {name!r} is already the name of a column; rename it, e.g. '{name}_out'")
    if not isinstance(value, tf.Tensor | tf.SparseTensor):
        raise GraphError(
            f"{what}: output {name!r} is a {type(value).__name__}; return a tf.Tensor of [rows] or [rows, 1] or a tf.SparseTensor"
        )
    if isinstance(value, tf.Tensor) and (value.shape.rank not in (1, 2) or (value.shape.rank == 2 and value.shape[1] is None)):
        raise GraphError(f"{what}: output {name!r} has shape {value.shape}; return one value per row, of shape [rows] or [rows, 1]")
    if value.dtype in (tf.float32, tf.int64, tf.string):
        return value
    if value.dtype.is_floating:
        return tf.cast(value, tf.float32)
    if value.dtype.is_integer or value.dtype.is_bool:
        return tf.cast(value, tf.int64)
    raise GraphError(f"{what}: output {name!r} has type {value.dtype.name}; return float32, int64 or string")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """`` (file.py, line 7)``: where in the user's file the error arose."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    trace, line = error.__traceback__, None
    while trace is not None and code is not None:
        if trace.tb_frame.f_code.co_filename == code.co_filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({Path(code.co_filename).name}, line {line})" if code is not None and line else ""


def outputs_of(group: FeatureGroup, function: PreprocessingFn) -> dict[str, str]:
    """The outputs that a group's function gives, with their types (float32, int64, string), by a call on symbolic tensors: no data is
    needed. Raises GraphError for whatever is wrong with the function."""
    inputs, found = graph_inputs(group), dict[str, str]()
    _trace(group, inputs, _noting(wrap_preprocessing_fn(function, inputs, what_of(group, function)), found))
    return found


def begin_analysis(group: FeatureGroup, function: PreprocessingFn, folder: Path) -> tuple[dict[str, str], Analysis | None]:
    """What :func:`outputs_of` gives, and the analysis that can be gone on with: both of one trace. ``folder`` is the
    analysis' own until it has ended. None for one that Beam is needed for. Raises GraphError for whatever is wrong with the function."""
    inputs, found = graph_inputs(group), dict[str, str]()
    begun = _begun(group, _noting(wrap_preprocessing_fn(function, inputs, what_of(group, function)), found), inputs, folder)
    return found or outputs_of(group, function), begun


def _begun(group: FeatureGroup, function: PreprocessingFn, inputs: pa.Schema, folder: Path) -> Analysis | None:
    try:
        return Analysis(function, adapter_config(inputs), lambda: iter(()), folder)
    except Unknown:
        return None
    except GraphError:
        raise
    except Exception as error:
        raise _untraceable(group, error) from error


def _noting(function: PreprocessingFn, found: dict[str, str]) -> PreprocessingFn:
    """``function``, which puts the names and types of its outputs into ``found``."""

    def noted(tensors: dict[str, Any]) -> dict[str, Any]:
        out = function(tensors)
        found.update({name: value.dtype.name for name, value in out.items()})
        return out

    return noted


def what_of(group: FeatureGroup, function: PreprocessingFn, name: str = "") -> str:
    """Group and function, for errors; ``name``: what whoever asks calls the group (default: its own name)."""
    return f"group {(name or group.name)!r}: preprocessing_fn {group.preprocessing_fn or getattr(function, '__name__', 'function')!r}"


def _trace(group: FeatureGroup, inputs: pa.Schema, function: PreprocessingFn) -> None:
    """Call the function once on symbolic tensors, so that its mistakes surface before the pipeline starts."""
    import tensorflow as tf
    import tensorflow_transform as tft

    specs: dict[str, Any] = {}
    for f in inputs:
        inner = f.type.value_type if pa.types.is_list(f.type) else f.type
        dtype = tf.float32 if pa.types.is_floating(inner) else tf.string if pa.types.is_string(inner) else tf.int64
        sparse = f.nullable or pa.types.is_list(f.type)
        specs[f.name] = tf.SparseTensorSpec([None, None], dtype) if sparse else tf.TensorSpec([None, 1], dtype)
    try:
        tft.get_analyze_input_columns(function, specs, force_tf_compat_v1=False)  # type: ignore[arg-type]
    except GraphError:
        raise
    except Exception as error:
        raise _untraceable(group, error) from error


def _untraceable(group: FeatureGroup, error: Exception) -> GraphError:
    return GraphError(f"group {group.name!r}: preprocessing_fn cannot be traced: {_first_line(error)}; fix the function")


class _ReadGroup:
    """(ranges of rows) -> TF-Transform batches. A plain callable, so that Beam pickles nothing but a schema."""

    def __init__(self, inputs: pa.Schema) -> None:
        self.inputs = inputs

    def __call__(self, rows: Sequence[RowRange]) -> Iterator[pa.RecordBatch]:
        for batch in read_batches(rows, self.inputs.names):
            yield to_tft_batch(batch, self.inputs)


def analyze_groups(
    groups: Mapping[str, tuple[FeatureGroup, PreprocessingFn | None, Sequence[str]]],
    graphs_dir: str | os.PathLike[str],
    pipeline_options: Any = None,
    progress: Callable[[str], None] | None = None,
    temp_dir: str | os.PathLike[str] | None = None,
    share_rows: int = SHARE_ROWS,
    workers: Learners | None = None,
) -> dict[str, str]:
    """Build the graph of every group; save each as ``graphs_dir/<group>/<fingerprint>``.

    ``groups`` maps a name to (group, its function or None, Parquet files of feature rows). Returns name -> fingerprint.
    ``temp_dir`` is where the job keeps its files while it runs (workers elsewhere must see it; default: the system's). Groups of more than
    ``share_rows`` rows are learnt in shares of no more. ``workers`` (None: all is learnt here) learn what is wanted of
    groups that have more than ``share_rows`` rows together: this process itself reads no more than that.
    Raises GraphError that names group and function: for a mistake in a function, for a group without any rows, and for
    outputs of a row that depend on the other rows of its batch.
    """
    say = progress or (lambda line: None)
    root = Path(graphs_dir)
    done: dict[str, str] = {}
    work: dict[str, _Work] = {}
    for name, (group, function, given) in groups.items():
        inputs, files = graph_inputs(group), sorted(str(f) for f in given)
        if function is None:
            path = save_graph(None, root / name / "{fingerprint}", group.definition_hash(), inputs)
            done[name] = TransformGraph.load(path).fingerprint
            continue
        what = what_of(group, function, name)
        rows = {f: pq.read_metadata(f).num_rows for f in files}
        shares = shares_of(rows, share_rows)
        if not shares:
            raise GraphError(f"{what} has no feature rows to analyze; run over a time range that has events of {group.source.name!r}")
        work[name] = _Work(group, inputs, function, [RowRange(f, 0, n) for f, n in rows.items() if n], shares, what)
    if not work:
        return {name: done[name] for name in groups}

    from pipelines.batch.beam_options import in_this_process

    with tempfile.TemporaryDirectory(prefix="analyze-", dir=plain_path(temp_dir or tempfile.gettempdir())) as temp:
        say(f"analyzing {len(work)} group{'s' if len(work) > 1 else ''}: {', '.join(work)}")
        here: dict[str, Analysis] = {}
        if in_this_process(pipeline_options):
            made = {n: _begun(w.group, w.function, w.inputs, Path(temp) / n) for n, w in work.items()}
            here = {n: a for n, a in made.items() if a is not None}
        _analyze_by_beam({n: w for n, w in work.items() if n not in here}, temp, pipeline_options)
        _learn(here, work, workers, share_rows)
        for name, w in work.items():
            model = here[name].written() if name in here else Path(temp) / name / "transform_fn"
            path = save_graph(model, root / name / "{fingerprint}", w.group.definition_hash(), w.inputs, w.check)
            done[name] = path.name
            outputs = json.loads((path / SPEC_FILE).read_text("utf-8"))["outputs"]
            say(f"graph of {name}: {path.name[:12]}, {len(outputs)} outputs")
    return {name: done[name] for name in groups}


@dataclass(frozen=True)
class _Work:
    """A group whose function is to be analyzed over its rows, in ``files`` and ``shares``; ``what`` names both."""

    group: FeatureGroup
    inputs: pa.Schema
    given: PreprocessingFn
    files: list[RowRange]
    shares: list[list[RowRange]]
    what: str

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(one.end for one in self.files)

    @property
    def function(self) -> PreprocessingFn:
        """The function, checked."""
        return wrap_preprocessing_fn(self.given, self.inputs, self.what)

    def check(self, graph: TransformGraph) -> None:
        """Raises GraphError where a row's outputs depend on the other rows of its batch."""
        check_row_by_row(graph, next(read_batches(self.files, self.inputs.names)).slice(0, SAMPLE), self.what)


def _learn(analyses: Mapping[str, Analysis], work: Mapping[str, _Work], workers: Learners | None, share_rows: int) -> None:
    """Write ``transform_fn`` into the folder of each analysis, in rounds: what is wanted of all groups' rows is accumulated at once."""
    waiting = dict(analyses)
    while wanted := {n: folds for n, a in waiting.items() if (folds := a.wanted())}:
        waiting = {n: analyses[n] for n in wanted}
        much = sum(work[n].rows for n in wanted) > share_rows
        remote = set(wanted) if workers is not None and much else set[str]()
        answers: dict[str, Sequence[Any]] = {}
        if workers is not None and remote:
            asked = {
                n: Asked(
                    Travelling(w.given, w.group.preprocessing_fn or ""), w.inputs, w.what, [analyses[n].portable(f) for f in wanted[n]]
                )
                for n in remote
                if (w := work[n])
            }
            answers |= workers.accumulated(asked, {n: work[n].shares for n in remote})
        for name in wanted.keys() - remote:
            rows, phases = _ReadGroup(work[name].inputs), analyses[name].phases
            each = [accumulate(phases, wanted[name], rows(share)) for share in work[name].shares]
            # Of several, what workers would send: bits must not depend on whether any did.
            answers[name] = [one if len(one) == 1 else Arrived([partial(sent, x) for x in one]) for one in zip(*each, strict=True)]
        for name, answer in answers.items():
            analyses[name].give(answer)


def _analyze_by_beam(work: Mapping[str, _Work], temp: str, pipeline_options: Any) -> None:
    """Write ``temp/<name>/transform_fn`` for each group, all in one pipeline."""
    for w in work.values():
        _trace(w.group, w.inputs, w.function)
    if not work:
        return
    import apache_beam as typed_beam
    import tensorflow_transform.beam as typed_tft_beam

    from pipelines.batch.beam_options import options

    beam: Any = typed_beam
    tft_beam: Any = typed_tft_beam

    with beam.Pipeline(options=options() if pipeline_options is None else pipeline_options) as pipeline:
        for name, w in work.items():
            rows = (
                pipeline
                | f"Files of {name}" >> beam.Create([w.files], reshuffle=False)
                | f"Rows of {name}" >> beam.FlatMap(_ReadGroup(w.inputs))
            )
            # A folder each: TF-Transform names a vocabulary's file by its feature alone, and two groups may have one of a name.
            with tft_beam.Context(temp_dir=f"{temp}/tmp/{name}", force_tf_compat_v1=False):
                fn = (rows, adapter_config(w.inputs)) | f"Analyze {name}" >> tft_beam.AnalyzeDataset(w.function)
                _ = fn | f"Write {name}" >> tft_beam.WriteTransformFn(f"{temp}/{name}")


def check_row_by_row(graph: TransformGraph, batch: pa.RecordBatch, what: str) -> None:
    """Raise GraphError unless the graph gives every row of the batch, alone, the same bits as in the batch."""
    whole = graph.apply(batch)
    for i in range(batch.num_rows):
        alone = graph.apply(batch.slice(i, 1))
        for f in graph.output_schema:
            a, b = (x.column(x.schema.get_field_index(f.name)) for x in (alone, whole.slice(i, 1)))
            if not _same_bits(a, b):
                raise GraphError(
                    f"{what}: output {f.name!r} of a row depends on the other rows of its batch ({b[0].as_py()!r} among {batch.num_rows}, "
                    f"{a[0].as_py()!r} alone); use tft.mean and the like instead of tf.reduce_mean over rows"
                )


def _same_bits(a: pa.Array, b: pa.Array) -> bool:
    if a.equals(b):
        return True
    flat = (x.flatten() if pa.types.is_list(x.type) else x for x in (a, b))
    x, y = (np.asarray(v.to_numpy(zero_copy_only=False)) for v in flat)
    return x.shape == y.shape and x.dtype.kind == "f" and a.null_count == b.null_count and x.tobytes() == y.tobytes()
