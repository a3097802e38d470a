"""Models of ONNX: served by the same folder, specification and encoding, without TensorFlow in the process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.models import LoadedModel, ModelSpec, load_model
from serving.request_errors import ModelError
from tests.examples import examples

INPUTS = [["origin", "string"], ["a", "float32"], ["b", "float32"]]
WEIGHTS = np.random.default_rng(3).normal(0, 0.5, (2, 7)).astype(np.float32)
LAST = np.random.default_rng(4).normal(0, 0.5, (7, 1)).astype(np.float32)


def onnx_file(path: Path, *, inputs: tuple[str, ...] = ("origin", "a", "b"), rows: Any = "n", kind: int | None = None) -> None:
    """Two numbers through a layer of 7 and a sigmoid; a text input that is 0.5 where it says JFK."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Equal", ["origin", "jfk"], ["is_jfk"]),
        helper.make_node("Cast", ["is_jfk"], ["jfk_number"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["a", "b"], ["x"], axis=1),
        helper.make_node("Gemm", ["x", "w"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["relu"]),
        helper.make_node("MatMul", ["relu", "v"], ["value"]),
        helper.make_node("Mul", ["jfk_number", "half"], ["bonus"]),
        helper.make_node("Add", ["value", "bonus"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(["JFK"], object), "jfk"),
        numpy_helper.from_array(np.array([0.5], np.float32), "half"),
        numpy_helper.from_array(WEIGHTS, "w"),
        numpy_helper.from_array(LAST, "v"),
    ]
    kinds = {"origin": TensorProto.STRING, "a": TensorProto.FLOAT, "b": kind or TensorProto.FLOAT}
    taken = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), [rows, 1]) for name in inputs]
    given = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [rows, 1])
    graph = helper.make_graph(nodes, "net", taken, [given], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))


def version(folder: Path, **changes: Any) -> ModelSpec:
    """``tandem.json`` beside the model, with the hashes of a push."""
    files = {"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    spec = {
        "name": "delay",
        "version": 1,
        "fingerprints": {},
        "feature_service": "",
        "entity_keys": ["origin"],
        "request_fields": [["a", "float64"], ["b", "float64"]],
        "features": [],
        "inputs": INPUTS,
        "output": "probability",
        "files": files,
        **changes,
    }
    (folder / "tandem.json").write_text(json.dumps(spec))
    return ModelSpec.parse((folder / "tandem.json").read_bytes(), "tandem.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> LoadedModel:
    folder = tmp_path_factory.mktemp("net")
    onnx_file(folder / "model.onnx")
    return load_model(folder, version(folder))


def columns(a: list[float | None], b: list[float | None], origin: list[str | None]) -> dict[str, pa.Array]:
    return {"origin": pa.array(origin, pa.string()), "a": pa.array(a, pa.float64()), "b": pa.array(b, pa.float64())}


def test_predictions_are_the_networks(model: LoadedModel) -> None:
    assert model.runner.platform == "onnxruntime_onnx"
    found = model.predict(columns([1.0, -2.0, None], [0.5, 3.0, 1.0], ["JFK", "ä", None]))
    x = np.array([[1.0, 0.5], [-2.0, 3.0]], np.float64)
    logit = np.maximum(x @ WEIGHTS, 0) @ LAST + np.array([[0.5], [0.0]])
    np.testing.assert_allclose(found[:2], (1 / (1 + np.exp(-logit)))[:, 0], rtol=1e-5)
    assert found.shape == (3,)


@settings(max_examples=examples(40))
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=300), st.integers(0, 300))
def test_a_rows_prediction_does_not_depend_on_its_batch(model: LoadedModel, values: list[float], at: int) -> None:
    """Issue 10, 3."""
    assert model.merges
    rows = columns(list(values), list(values[::-1]), ["JFK"] * len(values))
    at = min(at, len(values))
    parts = [{n: c[s] for n, c in rows.items()} for s in (slice(0, at), slice(at, None))]
    found = np.concatenate([model.predict(p) for p in parts if len(p["a"])])
    assert found.tobytes() == model.predict(rows).tobytes()


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            load_model(tmp_path, version(tmp_path, **changes))
        assert "\n" not in str(caught.value)

    onnx_file(file)
    refused("differ in the inputs b", inputs=INPUTS[:2])
    refused("input 'a' is float32 in model.onnx, int64 in tandem.json", inputs=[INPUTS[0], ["a", "int64"], INPUTS[2]])
    refused("has no output 'score'; it has probability", output="score")
    refused("model.onnx is not the file that was pushed", files={"model.onnx": "0" * 64})
    onnx_file(file, rows=1)
    refused(r"has shape \[1, 1\] in model.onnx; it must be \[N, 1\] or \[N\], for any N")
    file.write_bytes(b"not a model")
    refused("cannot be loaded")


SERVED = """
import sys
from pathlib import Path
from serving.dataplane import Dataplane
from serving.settings import ServingSettings
root = Path(sys.argv[1])
plane = Dataplane(ServingSettings(feature_repo=root / "repo", models=root / "models", graphs=root / "graphs", poll_seconds=3600))
plane.poll()
model = plane.models.get("delay")
found = plane.predict(model, {"origin": ["JFK", "LGA"], "a": [1.0, None], "b": [0.5, 2.0]}, 2)
print(len(found.values), model.runner.platform, sorted({"tensorflow", "apache_beam"} & set(sys.modules)))
"""


def test_no_tensorflow_is_loaded_for_it(tmp_path: Path) -> None:
    """Issue 10, 3: [serve] stays light where the model is none of TensorFlow's."""
    from tests.integration.serving_world import make_repo

    make_repo(tmp_path)
    folder = tmp_path / "models" / "delay" / "1"
    folder.mkdir(parents=True)
    onnx_file(folder / "model.onnx")
    version(folder)
    done = subprocess.run([sys.executable, "-c", SERVED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-2] == "2 onnxruntime_onnx []"
