"""An ONNX model (``model.onnx`` in the version's folder) as what runs a model, by ONNX Runtime on the CPU. No TensorFlow is loaded.

Its inputs are called as in ``tandem.json``, of type float, int64 or string and of shape [N, 1] or [N]; its output has N rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.model_samples import made_up, same_in_any_batch
from serving.request_errors import ModelError
from transforms.data_folder import SPEC_FILE

__all__ = ["OnnxModel"]

log = logging.getLogger("tandem.serving")
Array = npt.NDArray[Any]
_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(string)": "string"}


class OnnxModel:
    """An ONNX model in memory. Safe to call from many threads; each call computes in the thread that makes it."""

    lanes = 16
    most = 1024
    platform = "onnxruntime_onnx"

    def __init__(self, path: Path, inputs: Sequence[tuple[str, str]], output: str, what: str) -> None:
        """Load ``model.onnx`` in the folder ``path``. Raises ModelError, of one line that begins with ``what``, and ModuleNotFoundError."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # whatever ONNX Runtime raises over damaged files
            raise ModelError(f"{what}: cannot be loaded ({type(e).__name__}); push it again") from e
        found = {i.name: (_DTYPES.get(i.type, i.type), i.shape) for i in self._session.get_inputs()}
        declared = dict(inputs)
        if set(found) != set(declared):
            odd = ", ".join(sorted(set(found) ^ set(declared))[:8])
            raise ModelError(f"{what}: {SPEC_FILE} and model.onnx differ in the inputs {odd}; push it again")
        for name, (dtype, shape) in found.items():
            if dtype != declared[name]:
                raise ModelError(f"{what}: input {name!r} is {dtype} in model.onnx, {declared[name]} in {SPEC_FILE}")
            if len(shape) not in (1, 2) or isinstance(shape[0], int) or (len(shape) == 2 and shape[1] != 1):
                raise ModelError(f"{what}: input {name!r} has shape {shape} in model.onnx; it must be [N, 1] or [N], for any N")
        outputs = [o.name for o in self._session.get_outputs()]
        if output not in outputs:
            raise ModelError(f"{what}: model.onnx has no output {output!r}; it has {', '.join(sorted(outputs))}")
        self._flat = {name for name, (_, shape) in found.items() if len(shape) == 1}
        self._texts = {name for name, (dtype, _) in found.items() if dtype == "string"}
        self._output = [output]
        self.merges = same_in_any_batch(self, made_up(declared))
        if not self.merges:
            log.info("%s: a row's prediction depends on its batch in the last bits; requests are not put together", what)

    def __call__(self, inputs: dict[str, Array]) -> Array:
        """The output for N rows, a multiple of ``lanes``: an array of shape [N] or [N, k]. Raises what ONNX Runtime raises."""
        given = {}
        for name, values in inputs.items():
            if name in self._texts:
                values = _decoded(values)
            given[name] = values.reshape(-1) if name in self._flat else values
        return np.asarray(self._session.run(self._output, given)[0])


def _decoded(values: Array) -> Array:
    out = np.empty(values.shape, object)
    out.reshape(-1)[:] = [v.decode(errors="replace") for v in values.ravel().tolist()]
    return out
