"""A served model: its specification, the encoding of its inputs, and the SavedModel called directly.

``to_model_inputs`` is also what training feeds the model with: nulls are encoded in this one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from serving.errors import ModelError, ModelInputError
from serving.model_files import check_model_files
from serving.projections import FeatureSet, Projection
from serving.protocol import RequestField
from transforms.tensorflow_settings import settle_tensorflow
from transforms.tensors import bytes_tensor, number_tensor

__all__ = ["INPUT_DTYPES", "SPEC_FILE", "LoadedModel", "ModelSpec", "load_model", "to_model_inputs"]

SPEC_FILE = "tandem.json"
INPUT_DTYPES = ("float32", "string", "int64")
_REF = re.compile(r"([^:]+?)(?::|__)(.+)")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ModelSpec:
    """``tandem.json`` of a model version: what a request holds, what is read online, what the SavedModel takes."""

    name: str
    version: int
    fingerprints: dict[str, str]
    """Fingerprint of the transform graph of each feature view (by its name in the registry) that the model was trained on."""
    feature_service: str
    entity_keys: tuple[str, ...]
    request_fields: tuple[RequestField, ...]
    features: tuple[tuple[str, str], ...]
    """(view, feature) of everything that is read from the online store; a view by its name in the feature service."""
    inputs: tuple[tuple[str, str], ...]
    """(tensor, dtype) of the signature; a tensor is called as its request field, or ``view__feature``."""
    output: str = "probability"
    run: str = ""
    created: str = ""
    projections: dict[str, Projection] = field(default_factory=dict)
    """What the names of views in ``features`` stand for, where they are not simply a view of the registry."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def read(self) -> FeatureSet:
        """Everything that is read from the online store."""
        return FeatureSet(self.features, self.projections)

    def fingerprint(self, name: str) -> str | None:
        """That of the view called ``name`` in ``features``; None for one that has no graph."""
        return self.fingerprints.get(self.read.projection(name).view)

    @staticmethod
    def parse(text: bytes, where: str) -> ModelSpec:
        """The specification in ``text``; a mistake in it is one ModelError that starts with ``where``."""
        try:
            raw = orjson.loads(text)
        except orjson.JSONDecodeError as e:
            raise ModelError(f"{where}: not valid JSON ({e.msg}); push the version again") from None
        try:
            nullable = set(raw.get("nullable", ()))
            spec = ModelSpec(
                name=str(raw["name"]),
                version=int(raw["version"]),
                fingerprints={str(k): str(v) for k, v in raw["fingerprints"].items()},
                feature_service=str(raw["feature_service"]),
                entity_keys=tuple(str(k) for k in raw["entity_keys"]),
                request_fields=tuple(RequestField(str(n), str(t), n in nullable) for n, t in raw["request_fields"]),
                features=tuple(_reference(r) for r in raw["features"]),
                inputs=tuple((str(n), str(t)) for n, t in raw["inputs"]),
                output=str(raw.get("output", "probability")),
                run=str(raw.get("run", "")),
                created=str(raw.get("created", "")),
                projections={str(name): Projection.of(p) for name, p in raw.get("projections", {}).items()},
                raw=raw,
            )
        except KeyError as e:
            raise ModelError(f"{where}: lacks {e.args[0]!r}; push the version again") from None
        except (TypeError, ValueError, AttributeError) as e:
            raise ModelError(f"{where}: {str(e).splitlines()[0]}; push the version again") from None
        spec._check(where)
        return spec

    def _check(self, where: str) -> None:
        for f in self.request_fields:
            if f.dtype not in ("string", "int64", "float64", "bool", "timestamp"):
                raise ModelError(f"{where}: request field {f.name!r} has the unknown dtype {f.dtype!r}")
            if f.nullable and f.name in self.entity_keys:
                raise ModelError(f"{where}: entity key {f.name!r} cannot be nullable")
        given = {f.name for f in self.request_fields} | set(self.entity_keys) | {f"{v}__{f}" for v, f in self.features}
        for name, dtype in self.inputs:
            if name not in given:
                raise ModelError(f"{where}: input {name!r} is neither a request field nor a feature")
            if dtype not in INPUT_DTYPES:
                raise ModelError(f"{where}: input {name!r} has dtype {dtype!r}; it must be one of {', '.join(INPUT_DTYPES)}")
        if not self.inputs:
            raise ModelError(f"{where}: has no inputs")


def _reference(text: Any) -> tuple[str, str]:
    match = _REF.fullmatch(str(text))
    if match is None:
        raise ValueError(f"feature {text!r} is not of the form 'view:feature'")
    return match[1], match[2]


def to_model_inputs(table: pa.Table, spec: ModelSpec | Sequence[tuple[str, str]]) -> dict[str, Array]:
    """The model's input tensors, each of shape [n, 1], from a table with a column per input (others are ignored).

    ``spec`` is a ModelSpec, or just its inputs: pairs of (column, dtype).

    * ``float32``: from int64, float64, float32 or bool columns; null becomes NaN.
    * ``string``: UTF-8 bytes (an object array); null becomes b"".
    * ``int64``: from int64 or timestamp (microseconds) columns; null becomes -1.

    Raises ModelInputError where a column is missing or of another type.
    """
    inputs = spec.inputs if isinstance(spec, ModelSpec) else spec
    return {name: _encode(table, name, dtype) for name, dtype in inputs}


def _encode(table: pa.Table, name: str, dtype: str) -> Array:
    index = table.schema.get_field_index(name)
    if index < 0:
        raise ModelInputError(f"model input {name!r}: no such column in the features; give one column of that name")
    column, kind = table.column(index), table.schema.field(index).type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind):
        kind = {"float32": pa.float32(), "string": pa.string(), "int64": pa.int64()}[dtype]
        column = column.cast(kind)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if dtype == "float32" and numeric:
        # By way of float64: the rounding to float32 is then one and the same for every source type.
        if not pa.types.is_floating(kind):
            column = column.cast(pa.int64()).cast(pa.float64(), safe=False)
        with np.errstate(over="ignore"):
            values = column.cast(pa.float64()).to_numpy().astype(np.float32)
    elif dtype == "string" and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        values = np.empty(len(column), dtype=object)
        values[:] = pc.fill_null(column.cast(pa.binary()), b"").to_pylist()
    elif dtype == "int64" and (pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("us", tz=kind.tz))
        values = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
    else:
        raise ModelInputError(f"model input {name!r}: a column of {kind} cannot be fed as {dtype}; change the model's inputs")
    encoded: Array = values.reshape(-1, 1)
    return encoded


class LoadedModel:
    """A SavedModel in memory: its signature's concrete function, called with constants. Safe to call from many threads."""

    def __init__(self, spec: ModelSpec, path: Path, saved: Any, function: Any, tensors: dict[str, Any]) -> None:
        self.spec = spec
        self.path = path
        self._saved = saved  # the signature holds only weak references to the model's variables and tables
        self._function = function
        self._tensors = tensors

    def predict(self, table: pa.Table) -> Array:
        """Predictions for N rows: a float array of shape [N], or [N, k] for a model with k outputs per row."""
        inputs = to_model_inputs(table, self.spec)
        n = table.num_rows
        args = {}
        for name, tensor in self._tensors.items():
            values = inputs[name]
            shape = (n,) if tensor.shape.rank == 1 else (n, 1)
            if values.dtype == object:
                args[name] = bytes_tensor(pa.array(values[:, 0], pa.binary()), shape)
            else:
                args[name] = number_tensor(values.reshape(shape).astype(tensor.dtype.as_numpy_dtype))
        out: Array = self._function(**args)[self.spec.output].numpy()
        if out.ndim == 0 or out.shape[0] != n:
            raise ModelError(f"model {self.spec.name!r} version {self.spec.version}: output has shape {out.shape} for {n} rows")
        return out[:, 0] if out.ndim == 2 and out.shape[1] == 1 else out


def load_model(path: Path, spec: ModelSpec) -> LoadedModel:
    """Load and warm up the SavedModel in ``path``; it is called with one and with two rows of nulls before it is returned.

    Raises ModelError, of one line, whatever is wrong with the files.
    """
    settle_tensorflow()
    import tensorflow as tf

    what = f"model {spec.name!r} version {spec.version}"
    check_model_files(path, spec.raw, what)
    try:
        saved = tf.saved_model.load(str(path))
        function = saved.signatures["serving_default"]
        tensors = dict(function.structured_input_signature[1])
        outputs = set(function.structured_outputs)
    except Exception as e:  # whatever TensorFlow raises over damaged files
        raise ModelError(f"{what}: cannot be loaded ({type(e).__name__}); push it again") from e
    declared = dict(spec.inputs)
    if set(tensors) != set(declared):
        odd = ", ".join(sorted(set(tensors) ^ set(declared))[:8])
        raise ModelError(f"{what}: {SPEC_FILE} and the signature differ in the inputs {odd}; push it again")
    for name, tensor in tensors.items():
        if tensor.dtype.name != declared[name]:
            raise ModelError(f"{what}: input {name!r} is {tensor.dtype.name} in the signature, {declared[name]} in {SPEC_FILE}")
    if spec.output not in outputs:
        raise ModelError(f"{what}: the signature has no output {spec.output!r}; it has {', '.join(sorted(outputs))}")
    model = LoadedModel(spec, path, saved, function, tensors)
    try:
        for n in (1, 2):
            model.predict(pa.table({name: pa.nulls(n) for name in declared}))
    except ModelError:
        raise
    except Exception as e:
        raise ModelError(f"{what}: fails on its first call ({type(e).__name__}); push it again") from e
    return model
