"""One prediction in process, in CPU time: a network of 54 inputs by TensorFlow and by its plan, and an ONNX model."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serving.model_inputs import encoded
from tests.bench.report import Part, cpu_of

NUMBERS = 49
WORDS = ["AA", "B6", "DL", "EV", "UA"]
NAMES = [f"n{i}" for i in range(NUMBERS)]
INPUTS = [*((name, "string") for name in ("carrier", "origin", "dest", "kind")), ("minute", "int64"), *((n, "float32") for n in NAMES)]


def _save(folder: Path) -> None:
    """Vocabularies, embeddings, numbers standardised with their nulls beside them, two layers of 96 and 48."""
    import tensorflow as tf

    random = np.random.default_rng(1)

    def weights(*shape: int) -> Any:
        return tf.Variable(random.normal(0, 0.1, shape).astype(np.float32))

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [
                tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(WORDS, list(range(5)), tf.string, tf.int64), 5)
                for _ in range(4)
            ]
            self.embedded = [weights(6, 3) for _ in range(4)]
            width = 4 * 3 + 2 + 2 * NUMBERS
            self.layers = [(weights(width, 96), weights(96)), (weights(96, 48), weights(48))]
            self.w, self.b = weights(48, 1), weights(1)

        @tf.function
        def serve(self, **x: Any) -> Any:
            day = tf.cast(x["minute"], tf.float32) * (2 * 3.14159265 / 1440)
            value = tf.concat([x[n] for n in NAMES], 1)
            missing = tf.math.is_nan(value)
            known = tf.where(missing, tf.zeros_like(value), tf.clip_by_value((value - 3.0) * 0.25, -8.0, 8.0))
            places = [table.lookup(x[name][:, 0]) for table, (name, _) in zip(self.tables, INPUTS, strict=False)]
            parts = [tf.gather(e, p) for e, p in zip(self.embedded, places, strict=True)]
            out = tf.concat([*parts, tf.sin(day), tf.cos(day), known, tf.cast(missing, tf.float32)], 1)
            for w, b in self.layers:
                out = tf.nn.relu(tf.nn.bias_add(tf.matmul(out, w), b))
            return {"probability": tf.sigmoid(tf.nn.bias_add(tf.matmul(out, self.w), self.b))}

    net = Net()
    signature = {n: tf.TensorSpec([None, 1], t, name=n) for n, t in INPUTS}
    tf.saved_model.save(net, str(folder), signatures=net.serve.get_concrete_function(**signature))


def _rows(count: int) -> dict[str, pa.Array]:
    random = np.random.default_rng(2)
    numbers = {n: pa.array(random.normal(3, 9, count), mask=random.random(count) < 0.2) for n in NAMES}
    texts = {name: pa.array([WORDS[i % 5] for i in range(count)]) for name, kind in INPUTS if kind == "string"}
    return {**texts, "minute": pa.array(random.integers(0, 1440, count)), **numbers}


def _alone(runner: Any, tensors: dict[str, Any]) -> Any:
    return runner._function(**tensors)["probability"].numpy()


def _encoded(runner: Any, rows: dict[str, pa.Array], n: int) -> Any:
    arrays = encoded([rows], INPUTS, n + -n % runner.lanes)
    return runner._called([arrays[name] for name in runner._names])


def run(quick: bool = False) -> list[Part]:
    """1 and 64 rows: columns of Arrow in, probabilities out."""
    from serving.models import LoadedModel, ModelSpec
    from serving.onnx_model import OnnxModel
    from serving.tensorflow_model import SavedModel
    from tests.unit.test_onnx_models import onnx_file
    from transforms.tensors import tensors_of

    parts, calls = [], 40 if quick else 200
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp:
        root = Path(temp)
        _save(root / "net")
        (root / "onnx").mkdir()
        onnx_file(root / "onnx" / "model.onnx")
        small = [("origin", "string"), ("a", "float32"), ("b", "float32")]
        runner = SavedModel(root / "net", INPUTS, "probability", "net")
        if runner.plan_problem:
            raise ValueError(f"the network has no plan: {runner.plan_problem}")
        model = LoadedModel(ModelSpec("net", 1, {}, "", (), (), (), tuple(INPUTS)), root, runner)
        onnx = LoadedModel(
            ModelSpec("o", 1, {}, "", (), (), (), tuple(small)), root, OnnxModel(root / "onnx", small, "probability", "onnx")
        )
        for n in (1, 64):
            rows = _rows(n)
            three = {"origin": rows["origin"], "a": rows["n0"], "b": rows["n1"]}
            arrays = encoded([rows], INPUTS, n + -n % runner.lanes)
            tensors = dict(zip(runner._names, tensors_of([arrays[name] for name in runner._names]), strict=True))
            if model.predict(rows).tobytes() != runner._function(**tensors)["probability"].numpy()[:n, 0].tobytes():
                raise ValueError("plan and TensorFlow differ")
            part = Part(
                f"predict of {n} row{'s' if n > 1 else ''} in process, 54 inputs, CPU",
                "calls",
                "warm; CPU of all threads, least of 5 rounds in turn",
            )
            for name, seconds in cpu_of(
                calls,
                {
                    "tandem: columns in, plan": partial(model.predict, rows),
                    "TensorFlow's call alone, tensors made before": partial(_alone, runner, tensors),
                    "encoding and tensors, then TensorFlow's call": partial(_encoded, runner, rows, n),
                    "tandem: an ONNX model of 3 inputs": partial(onnx.predict, three),
                },
            ).items():
                part.add(name, seconds, 1)
            parts.append(part)
    return parts
