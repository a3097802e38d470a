"""The transform graph: a TF-Transform SavedModel over Arrow batches, with a fingerprint that names what it computes.

One class for batch, stream and request path. TensorFlow is imported on the first load of a graph that has outputs;
Beam and TF-Transform never are.

**How columns become tensors.** float64 is cast to float32; int64, bool and timestamp (microseconds) become int64;
strings become byte strings. A column declared nullable, or a list, is a ``SparseTensor`` of dense shape
``[rows, width]`` (width 1 for a scalar, the declared length for a list) in which a null is a value that is not there.
A column declared not nullable is a dense ``[rows, 1]`` tensor. Outputs go the same way back: a missing value of a
sparse output is null in Arrow; an output of width 1 is a scalar column, a wider one a list column.

**The value of a row does not depend on its batch.** Vectorised kernels compute whole SIMD packets and the left-over
elements by different code, so the last bit of ``log1p(x)`` could depend on how many rows are in the batch.
``apply`` therefore pads every tensor to whole packets with copies of values from the batch, works in chunks of
bounded size, and cuts the padding off again.

Small batches do not pay TensorFlow's overhead: they go through a plan of numpy calls (:mod:`transforms.plan`), if that gave
TensorFlow's bits on samples when the graph was loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from transforms.data_folder import SPEC_FILE
from transforms.errors import GraphError, may_not_read
from transforms.fingerprint import model_hashes, read_proto, sha
from transforms.graph_columns import LANES, GraphColumn, input_width, to_arrow, with_width
from transforms.graph_plan import checked_plan, plan_on
from transforms.graph_row import RowReader
from transforms.plain_paths import plain_path
from transforms.tensorflow_reach import reaching, stays_below
from transforms.tensorflow_settings import settle_tensorflow
from transforms.tensors import tensors_of

if TYPE_CHECKING:
    from transforms.plan import Plan

__all__ = ["TransformGraph", "check_files", "graph_fingerprint", "input_width", "save_graph", "with_width"]

log = logging.getLogger("tandem.graph")

MODEL = "transform_fn"
FORMAT = 1
CHUNK = 8192
"""The most rows that one call of the TensorFlow function gets."""
PLANNED = 2048
"""Batches of up to so many rows go through the plan: TensorFlow has an overhead per call, numpy a lower speed."""

_SCALARS = {str(t): t for t in (pa.string(), pa.int64(), pa.float64(), pa.float32(), pa.bool_(), pa.timestamp("us", tz="UTC"))}


def _type_name(kind: pa.DataType) -> str:
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)


def _type_of(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(_type_of(name[5:-1]))
    if name not in _SCALARS:
        raise GraphError(f"a transform graph has no columns of type {name!r}; it takes {', '.join(_SCALARS)} and lists of them")
    return _SCALARS[name]


def _schema_json(schema: pa.Schema) -> list[list[Any]]:
    return [[f.name, _type_name(f.type), f.nullable, input_width(f)] for f in schema]


def _schema_of(rows: Sequence[Sequence[Any]]) -> pa.Schema:
    out = []
    for name, kind, nullable, width in rows:
        f = pa.field(name, _type_of(kind), nullable=nullable)
        out.append(with_width(f, width) if pa.types.is_list(f.type) and width else f)
    return pa.schema(out)


def graph_fingerprint(model: Path | None, definition_hash: str, inputs: pa.Schema, outputs: pa.Schema) -> str:
    """SHA-256 (hex) over the definition, the columns and what the SavedModel in folder ``model`` computes.

    Two builds of the same function on the same data agree, in whatever process; another constant, vocabulary,
    operation or definition does not. ``model`` is None for a group without a preprocessing function.
    """
    head = json.dumps([FORMAT, definition_hash, _schema_json(inputs), _schema_json(outputs)], separators=(",", ":")).encode()
    if model is None:
        return sha(head).hex()
    return sha(head, *model_hashes(model)).hex()


# --------------------------------------------------------------------------------------------------------- graph


class TransformGraph:
    """A frozen transform: Arrow batch in, Arrow batch of the output columns out. Safe to call from many threads.

    ``fingerprint`` names what it computes; ``input_schema`` and ``output_schema`` are Arrow schemas; ``path`` is its
    folder (None for one that was never saved). Make one with :meth:`load` or :meth:`empty`.
    """

    def __init__(
        self, path: Path | None, fingerprint: str, input_schema: pa.Schema, output_schema: pa.Schema, model: Path | None = None
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.input_schema = input_schema
        self.output_schema = output_schema
        self._columns: list[GraphColumn] = []
        self._function: Any = None
        self._plan: Plan | None = None
        self._row: RowReader | None = None
        self._fixed: list[int] = []
        self.plan_problem = "it has no outputs"
        """Why small batches go through TensorFlow; empty where they go through a plan of numpy calls."""
        if model is not None:
            self._load(model)

    def __repr__(self) -> str:
        return f"TransformGraph({self.fingerprint[:12]}, outputs={self.output_schema.names})"

    @classmethod
    def empty(cls, definition_hash: str, input_schema: pa.Schema) -> TransformGraph:
        """The graph of a group without a preprocessing function: no outputs, no TensorFlow."""
        none = pa.schema([])
        return cls(None, graph_fingerprint(None, definition_hash, input_schema, none), input_schema, none)

    @classmethod
    def load(cls, path: str | os.PathLike[str], fingerprint: str | None = None) -> TransformGraph:
        """Load the graph saved in folder ``path`` and verify every byte of it.

        With ``fingerprint`` the graph must be that one. Raises GraphError if anything is missing, damaged or another, and DataError if this
        user may not read it.
        """
        root = Path(path)
        manifest = _checked_manifest(root)
        try:
            inputs, outputs = _schema_of(manifest["inputs"]), _schema_of(manifest["outputs"])
            model = root / MODEL if manifest["files"] else None
            actual = graph_fingerprint(model, manifest["definition_hash"], inputs, outputs)
            if actual != manifest["fingerprint"]:
                raise GraphError(
                    f"transform graph {root}: it computes {actual[:12]}, not {str(manifest['fingerprint'])[:12]} as it says; build it again"
                )
        except (KeyError, TypeError, ValueError) as error:
            raise GraphError(f"transform graph {root}: {SPEC_FILE} is damaged ({error!r}); restore the folder or build it again") from None
        if fingerprint is not None and actual != fingerprint:
            raise GraphError(f"transform graph {root} is {actual[:12]}, but {fingerprint[:12]} is wanted; choose the folder of that graph")
        return cls(root, actual, inputs, outputs, model)

    def _load(self, model: Path) -> None:
        settle_tensorflow()
        import tensorflow as tf

        proto = read_proto(model)
        try:
            outside = reaching(proto)
        except Exception as error:
            raise GraphError(f"transform graph {model}: it cannot be read ({type(error).__name__}); build it again") from None
        if outside:
            raise GraphError(
                f"transform graph {model}: it has the operations {', '.join(outside)}: it may run no Python and touch no files but its own;"
                " take them out of the preprocessing function"
            )
        try:
            self._model = tf.saved_model.load(str(plain_path(model)))
            function = self._model.transform_fn
        except Exception as error:
            raise GraphError(f"transform graph {model} does not load: {str(error).splitlines()[0]}; build it again") from None
        function = function.concrete_functions[0] if hasattr(function, "concrete_functions") else function
        row = self._use(function, tf)
        self._plan, self.plan_problem = checked_plan(self._function, self.input_schema, self._arrays, self._called, row)
        if self._plan is None:
            log.info("transform graph %s: small batches go through TensorFlow: %s", self.fingerprint[:12], self.plan_problem)

    @classmethod
    def of_traced(cls, function: Any, input_schema: pa.Schema, rows: pa.RecordBatch) -> TransformGraph:
        """The graph of a concrete function that was not saved, to apply it to ``rows``: without a fingerprint, with a plan that was held
        against TensorFlow on these rows alone. Raises GraphError where :meth:`load` would, once it was saved."""
        import tensorflow as tf

        graph = cls(None, "", input_schema, pa.schema([]))
        graph._use(function, tf)
        graph.output_schema = _output_schema(graph)
        arrays = graph._arrays(rows)
        graph._plan = plan_on(graph._function, arrays, graph._called(arrays))
        return graph

    def _use(self, function: Any, tf: Any) -> RowReader:
        """Apply this concrete function; returns what reads a single row."""
        self._specs = dict(function.structured_input_signature[0][0])
        missing = sorted(set(self._specs) - set(self.input_schema.names))
        if missing:
            raise GraphError(f"the graph reads {', '.join(missing)}, which its input schema lacks; add the columns")
        self._columns = [GraphColumn(self.input_schema.field(name), self._specs[name], tf) for name in sorted(self._specs)]
        row = self._row = RowReader(self._columns)
        self._fixed = row.fixed
        width = sum(3 if c.sparse else 1 for c in self._columns)
        arguments = [tf.TensorSpec(t.shape, t.dtype) for t in function.inputs[:width]]
        parts: dict[str, int] = {}

        def flat(*tensors: Any) -> list[Any]:
            # Flat tensors in and out: matching a dict of sparse tensors costs a call more than running the graph.
            components: list[Any] = []
            for name, value in sorted(function(*tensors).items()):
                if hasattr(value, "row_splits"):
                    raise GraphError(f"output {name!r} is a ragged tensor; return a tf.SparseTensor: x.to_sparse()")
                sparse = isinstance(value, tf.SparseTensor)
                parts[name] = 3 if sparse else 1
                components += [value.indices, value.values, value.dense_shape] if sparse else [value]
            return components

        self._function = tf.function(flat, input_signature=arguments, autograph=False).get_concrete_function()
        self._parts = parts
        return row

    def _arrays(self, batch: pa.RecordBatch) -> list[np.ndarray[Any, Any]]:
        rows = batch.num_rows + LANES + -batch.num_rows % LANES
        flat: list[np.ndarray[Any, Any]] = []
        names = batch.schema.names
        with np.errstate(over="ignore"):  # of float64 beyond float32
            for column in self._columns:
                if column.name not in names:
                    raise GraphError(f"the batch has no column {column.name!r}; it has {', '.join(names)}")
                values = batch.column(names.index(column.name))
                if values.type != column.kind:
                    raise GraphError(f"column {column.name!r} is {values.type}, but the graph takes {column.kind}; cast it")
                flat += column.arrays(values, rows)
        return flat

    def _called(self, arrays: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The flat outputs of the TensorFlow function. Raises what TensorFlow raises."""
        return [t.numpy() for t in self._function(*tensors_of(arrays))]

    def raw(self, batch: pa.RecordBatch) -> dict[str, list[np.ndarray[Any, Any]]]:
        """The arrays of each output for one padded call: [dense], or [indices, values, dense shape] of a sparse one.

        The rows past ``batch.num_rows`` are padding. Needs one row at least.
        """
        plan = self._plan if batch.num_rows <= PLANNED else None
        row = self._row.read(batch) if plan is not None and self._row is not None and batch.num_rows == 1 else None
        arrays, alike = (self._arrays(batch), None) if row is None else row
        found: list[np.ndarray[Any, Any]] | None = None
        if plan is not None:
            with suppress(Exception):  # TensorFlow is asked, and says what is wrong with the batch
                found = plan.run(arrays, alike, self._fixed)
        try:
            flat = iter(self._called(arrays) if found is None else found)
        except Exception as error:
            raise GraphError(f"the transform graph failed on a batch of {batch.num_rows} rows: {str(error).splitlines()[0]}") from None
        return {name: [next(flat) for _ in range(count)] for name, count in self._parts.items()}

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The outputs of the graph for a batch of N rows: ``output_schema``, N rows in the same order.

        Reads the columns of ``input_schema`` (others are ignored). Bit for bit independent of how rows are batched.
        Raises GraphError if a column is missing, of another type, or null where it was declared not to be.
        """
        schema, n = self.output_schema, batch.num_rows
        if not len(schema):
            # Arrow keeps the row count of a batch without columns in a struct array alone.
            return pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
        if n == 0:
            return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
        parts = []
        for start in range(0, n, CHUNK):
            part = batch.slice(start, CHUNK) if n > CHUNK else batch
            out = self.raw(part)
            parts.append([to_arrow(f.name, out[f.name], part.num_rows, f.type) for f in schema])
        columns = parts[0] if len(parts) == 1 else [pa.concat_arrays(list(c)) for c in zip(*parts, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def _read_manifest(root: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((root / SPEC_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise GraphError(f"no transform graph in {root}: {SPEC_FILE} is missing; build it with `tandem batch`") from None
    except PermissionError as error:
        raise may_not_read(error) from None
    except (OSError, ValueError, RecursionError):
        raise GraphError(f"transform graph {root}: {SPEC_FILE} is damaged; restore the folder or build it again") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise GraphError(f"transform graph {root}: {SPEC_FILE} is damaged; restore the folder or build it again")
    return manifest


def check_files(path: str | os.PathLike[str], fingerprint: str) -> None:
    """Whether the files saved in folder ``path`` are those of the graph ``fingerprint``, by their hashes: without TensorFlow, and without
    what they compute, of which :meth:`TransformGraph.load` makes sure, too. Raises GraphError and DataError as it does."""
    said = _checked_manifest(Path(path)).get("fingerprint")
    if said != fingerprint:
        raise GraphError(f"transform graph {path} is {str(said)[:12]}, but {fingerprint[:12]} is wanted; choose the folder of that graph")


def _checked_manifest(root: Path) -> dict[str, Any]:
    """The manifest, whose files are there, as it says, and nothing beside them. Raises GraphError; DataError where this user may not read
    them."""
    manifest = _read_manifest(root)
    for name, expected in manifest["files"].items():
        if not stays_below(name) or _hash_of(root / name) != expected:
            raise GraphError(f"transform graph {root}: {name} is missing or damaged; restore the folder or build it again")
    for file in sorted((root / MODEL).rglob("*")):  # TensorFlow knows a graph by several names, so one more may be taken for it
        name = file.relative_to(root).as_posix()
        if name not in manifest["files"] and (file.is_symlink() or not file.is_dir()):
            raise GraphError(f"transform graph {root}: {name} does not belong to it; restore the folder or build it again")
    return manifest


def _hash_of(file: Path) -> str | None:
    """The SHA-256 of a file; None where there is none that can be read. Raises DataError where this user may not."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    except PermissionError as error:
        raise may_not_read(error) from None
    except OSError:
        return None


def _versions() -> dict[str, str]:
    out = {}
    for name in ("tensorflow", "tensorflow-transform", "pyarrow", "numpy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def _output_schema(graph: TransformGraph) -> pa.Schema:
    """Find the output columns of a SavedModel by one call on made-up rows: the tensors' second dimension says scalar or list."""
    inputs = graph.input_schema
    sample = []
    for f in inputs:
        inner = f.type.value_type if pa.types.is_list(f.type) else f.type
        value: Any = "" if pa.types.is_string(inner) else True if pa.types.is_boolean(inner) else 1
        sample.append(pa.array([[value]] if pa.types.is_list(f.type) else [value], f.type))
    out = graph.raw(pa.RecordBatch.from_arrays(sample, schema=inputs))
    types = {"float32": pa.float32(), "int64": pa.int64(), "object": pa.string()}
    fields = []
    for name, parts in out.items():
        shape = parts[0].shape if len(parts) == 1 else tuple(parts[2])
        value = parts[len(parts) // 2]
        dtype = types.get(value.dtype.name)
        if dtype is None or len(shape) not in (1, 2):
            raise GraphError(f"output {name!r} is {value.dtype} of shape {shape}; return float32, int64 or string of [rows] or [rows, n]")
        fields.append(pa.field(name, dtype if len(shape) == 1 or shape[1] == 1 else pa.list_(dtype)))
    return pa.schema(fields)


def save_graph(
    transform_fn: str | os.PathLike[str] | None,
    path: str | os.PathLike[str],
    definition_hash: str,
    input_schema: pa.Schema,
    check: Callable[[TransformGraph], None] = lambda graph: None,
) -> Path:
    """Save a TF-Transform SavedModel folder (None: an empty graph) as the folder ``path``, in one atomic step.

    ``{fingerprint}`` in ``path`` is replaced. If the folder is there already with the same fingerprint, it is kept; one whose files are
    damaged is replaced. ``check`` is called with the graph before anything is saved; what it raises leaves nothing.
    Returns the path. Raises GraphError if the model is no transform graph or does not fit ``input_schema``.
    """
    model = Path(transform_fn) if transform_fn is not None else None
    graph = TransformGraph(None, "", input_schema, pa.schema([]), model)
    outputs = graph.output_schema = _output_schema(graph) if model is not None else pa.schema([])
    fingerprint = graph.fingerprint = graph_fingerprint(model, definition_hash, input_schema, outputs)
    check(graph)
    target = Path(str(path).replace("{fingerprint}", fingerprint))
    if _is_whole(target, fingerprint):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work, aside = (target.parent / f".graph-{os.urandom(8).hex()}" for _ in range(2))
    work.mkdir()
    try:
        if model is not None:
            shutil.copytree(model, work / MODEL)
        files = {str(f.relative_to(work)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(work.rglob("*")) if f.is_file()}
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "definition_hash": definition_hash,
            "inputs": _schema_json(input_schema),
            "outputs": _schema_json(outputs),
            "files": files,
            "versions": _versions(),
        }
        (work / SPEC_FILE).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        try:
            work.rename(target)
        except OSError:  # it is there: damaged, or saved by somebody else meanwhile
            if not _is_whole(target, fingerprint):
                with suppress(FileNotFoundError):
                    target.rename(aside)
                with suppress(OSError):
                    work.rename(target)
                TransformGraph.load(target, fingerprint)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _is_whole(folder: Path, fingerprint: str) -> bool:
    try:
        TransformGraph.load(folder, fingerprint)
    except GraphError:
        return False
    return True
