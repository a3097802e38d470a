"""A SavedModel as what runs a model: a plan of numpy calls and a few kernels for small batches, the signature's function for others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt

from serving.model_samples import SAMPLE_ROWS, made_up, padded, same_in_any_batch
from serving.request_errors import ModelError
from transforms.data_folder import SPEC_FILE
from transforms.plain_paths import plain_path
from transforms.plan import Plan, checked
from transforms.tensorflow_reach import reaching
from transforms.tensorflow_settings import settle_tensorflow
from transforms.tensors import tensors_of

__all__ = ["SavedModel"]

log = logging.getLogger("tandem.serving")
Array = npt.NDArray[Any]
_PLANNED = 256
"""Batches of up to so many rows go through the plan."""


class SavedModel:
    """The function ``serving_default`` of a SavedModel, called with tensors of whole packets of rows. Safe to call from many threads.

    The sum in a matrix product is added up in another order for one row than for many, and for thousands. So batches are padded to a
    multiple of ``lanes`` rows and cut at ``most``: in between, a row's prediction does not depend on its batch. That is tried at load
    (``merges``).
    """

    lanes = 16
    most = 1024
    platform = "tensorflow_savedmodel"

    def __init__(self, path: Path, inputs: Sequence[tuple[str, str]], output: str, what: str) -> None:
        """Load what is in the folder ``path``. Raises ModelError, of one line that begins with ``what``."""
        settle_tensorflow()
        import tensorflow as tf

        if not (path / "saved_model.pb").is_file():
            raise ModelError(f"{what}: it has no saved_model.pb (a saved_model.pbtxt is not read); export it with one and push it again")
        try:
            outside = _outside(path)
        except Exception as e:  # damaged, or not there
            raise ModelError(f"{what}: cannot be loaded ({type(e).__name__}); push it again") from e
        if outside:
            raise ModelError(
                f"{what}: its graph has the operations {', '.join(outside)}: a served model runs no Python and touches no files;"
                " take them out of the model and push it again"
            )
        try:
            # Kept, as the signature holds only weak references to the model's variables and tables.
            self._saved = tf.saved_model.load(str(plain_path(path)))
            self._function = self._saved.signatures["serving_default"]
            tensors = dict(self._function.structured_input_signature[1])
            outputs = sorted(self._function.structured_outputs)
        except Exception as e:  # whatever TensorFlow raises over damaged files
            raise ModelError(f"{what}: cannot be loaded ({type(e).__name__}); push it again") from e
        declared = dict(inputs)
        if set(tensors) != set(declared):
            odd = ", ".join(sorted(set(tensors) ^ set(declared))[:8])
            raise ModelError(f"{what}: {SPEC_FILE} and the signature differ in the inputs {odd}; push it again")
        for name, tensor in tensors.items():
            if tensor.dtype.name != declared[name]:
                raise ModelError(f"{what}: input {name!r} is {tensor.dtype.name} in the signature, {declared[name]} in {SPEC_FILE}")
        if output not in outputs:
            raise ModelError(f"{what}: the signature has no output {output!r}; it has {', '.join(outputs)}")
        self._ranks = {name: tensor.shape.rank for name, tensor in tensors.items()}
        self._output = outputs.index(output)
        placed = [t.name.partition(":")[0] for t in self._function.inputs][: len(tensors)]
        self._names = placed if set(placed) == set(tensors) else list(tensors)
        self._plan: Plan | None = None
        self.plan_problem = "its arguments have other names than its inputs"
        """Why all goes through TensorFlow; empty where small batches go through a plan."""
        if self._names == placed:
            self._plan, self.plan_problem = checked(self._function, self._sample, self._flat, self._called, SAMPLE_ROWS)
        self.merges = same_in_any_batch(self, self._sample(self._plan))
        if self._plan is None:
            log.info("%s: every call goes through TensorFlow: %s", what, self.plan_problem)
        if not self.merges:
            log.info("%s: a row's prediction depends on its batch in the last bits; requests are not put together", what)

    def __call__(self, inputs: dict[str, Array]) -> Array:
        """The output for N rows, a multiple of ``lanes``: an array of shape [N] or [N, k]. Raises what TensorFlow raises."""
        arrays = [inputs[name].reshape(-1) if self._ranks[name] == 1 else inputs[name] for name in self._names]
        if self._plan is not None and len(arrays[0]) <= _PLANNED:
            with suppress(Exception):  # TensorFlow is asked, and says what is wrong
                return self._plan.run(arrays)[self._output]
        return self._called(arrays)[self._output]

    def _called(self, arrays: list[Array]) -> list[Array]:
        found = self._function(**dict(zip(self._names, tensors_of(arrays), strict=True)))
        return [found[name].numpy() for name in sorted(found)]

    def _sample(self, plan: Plan | None) -> dict[str, Array]:
        kinds = {name: tensor.dtype.name for name, tensor in self._function.structured_input_signature[1].items()}
        return made_up(kinds, plan.known_words if plan else [], plan.known_fractions if plan else [])

    def _flat(self, columns: dict[str, Array], start: int, rows: int) -> list[Array]:
        flat = padded(columns, start, rows, self.lanes)
        return [flat[name].reshape(-1) if self._ranks[name] == 1 else flat[name] for name in self._names]


def _outside(path: Path) -> list[str]:
    """The operations of a SavedModel that reach beyond it, by name."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    return reaching(proto)
