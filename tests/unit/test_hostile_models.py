"""SECURITY M1: models that reach beyond themselves: files of the server, Python, others' operations. Each is refused in a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serving.models import ModelSpec, load_model
from serving.request_errors import ModelError
from tests.unit.test_onnx_models import WEIGHTS, onnx_file, version
from transforms.tensorflow_settings import settle_tensorflow


def refused(folder: Path, spec: ModelSpec, match: str) -> None:
    with pytest.raises(ModelError, match=match) as error:
        load_model(folder, spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["../secret.bin", "{secret}", "../../../../../../etc/passwd", "/dev/zero", "link.bin", "beside.bin"])
def test_weights_of_onnx_from_elsewhere(tmp_path: Path, place: str) -> None:
    import onnx

    folder, secret = tmp_path / "1", tmp_path / "secret.bin"
    folder.mkdir()
    secret.write_bytes(WEIGHTS.tobytes())
    onnx_file(folder / "model.onnx")
    made = onnx.load(str(folder / "model.onnx"))
    (weights,) = (each for each in made.graph.initializer if each.name == "w")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place.format(secret=secret)), ("length", str(WEIGHTS.nbytes))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    if place == "link.bin":
        (folder / place).symlink_to(secret)
    if place == "beside.bin":
        (folder / place).write_bytes(secret.read_bytes())
    refused(folder, version(folder), "cannot be loaded" if "/" in place.format(secret=secret) else f"{place} was not pushed with it")


def test_operations_of_others_in_onnx(tmp_path: Path) -> None:
    import onnx

    onnx_file(tmp_path / "model.onnx")
    made = onnx.load(str(tmp_path / "model.onnx"))
    made.graph.node[0].domain = "somebody.else"
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    refused(tmp_path, version(tmp_path), "cannot be loaded")


def _written(path: str) -> Callable[[Any], Any]:
    import tensorflow as tf

    def write(a: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(path, "x")]):
            return a * 2

    return write


def _printed(path: str) -> Callable[[Any], Any]:
    import tensorflow as tf

    def write(a: Any) -> Any:
        with tf.control_dependencies([tf.print("x", output_stream=f"file://{path}")]):
            return a * 2

    return write


def _python(name: str) -> Callable[[str], Callable[[Any], Any]]:
    def made(path: str) -> Callable[[Any], Any]:
        import tensorflow as tf

        def run(a: Any) -> Any:
            Path(path).write_text("x")
            return a

        return lambda a: tf.reshape(getattr(tf, name)(run, [a], tf.float32), [-1, 1])

    return made


def _read(path: str) -> Callable[[Any], Any]:
    import tensorflow as tf

    return lambda a: a * 0 + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)


REACHING: dict[str, Callable[[str], Callable[[Any], Any]]] = {
    "PyFunc": _python("numpy_function"), "EagerPyFunc": _python("py_function"), "WriteFile": _written, "ReadFile": _read,
    "PrintV2": _printed,
}  # fmt: skip


def pushed(folder: Path, function: Callable[[Any], Any]) -> ModelSpec:
    """A SavedModel of one number, pushed."""
    settle_tensorflow()
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(lambda a: {"probability": function(a)}, input_signature=[tf.TensorSpec([None, 1], tf.float32, name="a")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    files = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}
    spec = {
        "name": "delay", "version": 1, "fingerprints": {}, "feature_service": "", "entity_keys": [], "features": [],
        "request_fields": [["a", "float64"]], "inputs": [["a", "float32"]], "output": "probability", "files": files,
    }  # fmt: skip
    (folder / "tandem.json").write_text(json.dumps(spec))
    return ModelSpec.parse((folder / "tandem.json").read_bytes(), "tandem.json")


@pytest.mark.parametrize("operation", REACHING)
def test_a_saved_model_that_runs_python_or_touches_files(tmp_path: Path, operation: str) -> None:
    """It did, in the server, at load already: a sample is computed."""
    traces = tmp_path / "traces"
    spec = pushed(tmp_path / "1", REACHING[operation](str(traces)))
    traces.unlink(missing_ok=True)
    refused(tmp_path / "1", spec, rf"its graph has the operations {operation}: a served model runs no Python and touches no files")
    assert not traces.exists()


def test_one_that_prints_and_computes_is_served(tmp_path: Path) -> None:
    import tensorflow as tf

    def doubled(a: Any) -> Any:
        with tf.control_dependencies([tf.print("to the log")]):
            return a * 2

    spec = pushed(tmp_path / "1", doubled)
    assert load_model(tmp_path / "1", spec).predict({"a": pa.array([1.0, 2.0])}).tolist() == [2.0, 4.0]


def test_the_text_form_of_a_saved_model_is_told_apart(tmp_path: Path) -> None:
    """TensorFlow loads it; it was said to be damaged."""
    spec = pushed(tmp_path / "1", lambda a: a * 2)
    binary = tmp_path / "1" / "saved_model.pb"
    binary.rename(binary.with_suffix(".pbtxt"))
    spec.raw["files"]["saved_model.pbtxt"] = spec.raw["files"].pop("saved_model.pb")
    refused(tmp_path / "1", spec, r"it has no saved_model\.pb \(a saved_model\.pbtxt is not read\); export it with one")
