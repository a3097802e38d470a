"""A served model: its specification, and what runs it.

``to_model_inputs`` is also what training feeds the model with: nulls are encoded in one place (:mod:`serving.model_inputs`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from serving.model_files import check_model_files, unverified
from serving.model_inputs import INPUT_DTYPES, Columns, encoded
from serving.projections import FeatureSet, Projection
from serving.protocol import RequestField
from serving.request_errors import ModelError
from serving.shared_calls import SharedCalls

__all__ = ["INPUT_DTYPES", "MODEL_FILES", "LoadedModel", "ModelSpec", "ModelSpecFile", "Runner", "load_model", "to_model_inputs"]

log = logging.getLogger("tandem.serving")

MODEL_FILES = ("saved_model.pb", "model.onnx")
"""By which a version's kind is known: a SavedModel of TensorFlow, or an ONNX model."""
_REF = re.compile(r"([^:]+?)(?::|__)(.+)")

Array = npt.NDArray[Any]


class ModelSpecFile(TypedDict):
    """``tandem.json`` as JSON; what it says: :class:`ModelSpec`. ``request_fields`` and ``inputs`` are pairs of name and dtype,
    ``features`` are ``view:feature``, ``nullable`` are names of request fields, ``created`` is UTC in ISO 8601."""

    name: str
    version: int
    fingerprints: dict[str, str]
    feature_service: str
    entity_keys: list[str]
    request_fields: list[list[str]]
    nullable: list[str]
    features: list[str]
    inputs: list[list[str]]
    output: str
    training_set: str
    run: str
    created: NotRequired[str]
    projections: NotRequired[dict[str, Any]]


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


def to_model_inputs(table: Columns, spec: ModelSpec | Sequence[tuple[str, str]]) -> dict[str, Array]:
    """The model's input tensors, each of shape [n, 1], from a table (or arrays) with a column per input; others are ignored.

    ``spec`` is a ModelSpec, or just its inputs: pairs of (column, dtype). See :func:`serving.model_inputs.encoded`.
    """
    return encoded([table], spec.inputs if isinstance(spec, ModelSpec) else spec)


class Runner(Protocol):
    """What computes a model's predictions."""

    lanes: int
    """Batches are padded to a multiple of so many rows."""
    platform: str
    """What Open Inference calls its kind."""
    most: int
    """The most rows of one call."""
    merges: bool
    """Whether a row's prediction has the same bits in any batch, so that requests may share one."""

    def __call__(self, inputs: dict[str, Array]) -> Array:
        """The output for N rows, of shape [N] or [N, k]. Safe to call from many threads."""
        ...


class LoadedModel:
    """A model in memory. Safe to call from many threads."""

    def __init__(self, spec: ModelSpec, path: Path, runner: Runner) -> None:
        self.spec = spec
        self.path = path
        self.runner = runner
        self.calls = SharedCalls(self)
        """For requests that may share a call."""

    @property
    def merges(self) -> bool:
        """Whether a row's prediction has the same bits in any batch."""
        return self.runner.merges

    def predict(self, columns: Columns) -> Array:
        """Predictions for N rows: a float array of shape [N], or [N, k] for a model with k outputs per row."""
        n, most = _rows(columns), self.runner.most
        if n <= most:
            return self.predict_together([columns])
        parts = [{name: _slice(columns, name, start, most) for name, _ in self.spec.inputs} for start in range(0, n, most)]
        return np.concatenate([self.predict_together([part]) for part in parts])

    def predict_together(self, batches: Sequence[Columns]) -> Array:
        """Predictions for the rows of all ``batches``, one below the other, in one call: ``runner.most`` rows at most."""
        n = sum(map(_rows, batches))
        rows = n + -n % self.runner.lanes
        out = self.runner(encoded(batches, self.spec.inputs, rows))
        if out.ndim == 0 or out.shape[0] != rows:
            raise ModelError(f"model {self.spec.name!r} version {self.spec.version}: output has shape {out.shape} for {rows} rows")
        return out[:n, 0] if out.ndim == 2 and out.shape[1] == 1 else out[:n]


def _runner(path: Path, spec: ModelSpec, what: str) -> Runner:
    onnx = (path / "model.onnx").is_file()
    try:
        if onnx:
            from serving.onnx_model import OnnxModel

            return OnnxModel(path, spec.inputs, spec.output, what)
        from serving.tensorflow_model import SavedModel

        return SavedModel(path, spec.inputs, spec.output, what)
    except ModuleNotFoundError as error:
        extra = "onnx" if onnx else "serve"
        raise ModelError(f"{what}: needs the package {error.name}; pip install 'tandem-features[{extra}]'") from None


def _rows(columns: Columns) -> int:
    return columns.num_rows if isinstance(columns, pa.Table) else len(next(iter(columns.values())))


def _slice(columns: Columns, name: str, start: int, most: int) -> Any:
    column = columns.column(columns.schema.get_field_index(name)) if isinstance(columns, pa.Table) else columns[name]
    return column.slice(start, most)


def load_model(path: Path, spec: ModelSpec) -> LoadedModel:
    """Load and warm up the model in ``path``; it is called with one and with two rows of nulls before it is returned.

    Raises ModelError, of one line, whatever is wrong with the files.
    """
    what = f"model {spec.name!r} version {spec.version}"
    check_model_files(path, spec.raw, what)
    if trust := unverified(spec.raw):
        log.warning("%s: %s", what, trust)
    model = LoadedModel(spec, path, _runner(path, spec, what))
    try:
        for n in (1, 2):
            model.predict(pa.table({name: pa.nulls(n) for name, _ in spec.inputs}))
    except ModelError:
        raise
    except Exception as e:
        raise ModelError(f"{what}: fails on its first call ({type(e).__name__}); push it again") from e
    return model
