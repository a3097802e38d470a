"""A model's predictions: the same bits alone and among others, through the plan and through TensorFlow, whatever the inputs hold."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.model_inputs import encoded
from serving.models import LoadedModel, ModelSpec
from serving.request_errors import ModelError
from tests.examples import examples
from transforms.plan.flush import can_flush

INPUTS = (("word", "string"), ("minute", "int64"), ("a", "float32"), ("b", "float32"), ("c", "float32"))
WORDS = ["AA", "B6", "UA", "", "ä"]


def spec() -> ModelSpec:
    return ModelSpec("net", 1, {}, "", (), (), (), INPUTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A network as training exports one: a table of words, embeddings, standardised numbers with their nulls, two layers."""
    import tensorflow as tf

    random = np.random.default_rng(5)

    def weights(*shape: int) -> Any:
        return tf.Variable(random.normal(0, 0.4, shape).astype(np.float32))

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            keys = tf.lookup.KeyValueTensorInitializer(WORDS[:3], [0, 1, 2], tf.string, tf.int64)
            self.words, self.places = tf.lookup.StaticHashTable(keys, -1), weights(19, 5)
            self.w, self.b, self.v, self.c = weights(12, 48), weights(48), weights(48, 1), weights(1)

        @tf.function
        def serve(self, **x: Any) -> Any:
            found = self.words.lookup(x["word"])
            place = tf.where(tf.not_equal(found, -1), found, tf.strings.to_hash_bucket_fast(x["word"], 16) + self.words.size())
            day = tf.cast(x["minute"], tf.float32) * (2 * 3.14159265 / 1440)
            value = tf.concat([x[n] for n in "abc"], 1)
            missing = tf.math.is_nan(value)
            known = tf.where(missing, tf.zeros_like(value), tf.clip_by_value((value - [1.0, 2.0, 3.0]) * [0.1, 0.3, 0.7], -8.0, 8.0))
            parts = [tf.gather(self.places, place[:, 0]), tf.sin(day), known, tf.cast(missing, tf.float32)]
            hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(tf.concat(parts, 1), self.w), self.b))
            return {"probability": tf.sigmoid(tf.nn.bias_add(tf.matmul(hidden, self.v), self.c))}

    net, out = Net(), tmp_path_factory.mktemp("net")
    signature = {n: tf.TensorSpec([None, 1], t, name=n) for n, t in INPUTS}
    tf.saved_model.save(net, str(out), signatures=net.serve.get_concrete_function(**signature))
    return out


@pytest.fixture(scope="module")
def runner(folder: Path) -> Any:
    from serving.tensorflow_model import SavedModel

    return SavedModel(folder, INPUTS, "probability", "model 'net'")


@pytest.fixture(scope="module")
def model(folder: Path, runner: Any) -> LoadedModel:
    return LoadedModel(spec(), folder, runner)


def rows(count: int, seed: int = 0) -> dict[str, pa.Array]:
    random = np.random.default_rng(seed)

    def numbers() -> pa.Array:
        return pa.array(random.normal(1, 30, count), mask=random.random(count) < 0.3)

    columns = {"a": numbers(), "b": numbers(), "c": numbers().cast(pa.float32())}
    return {
        "word": pa.array([WORDS[i] for i in random.integers(0, len(WORDS), count)], mask=random.random(count) < 0.1),
        "minute": pa.array(random.integers(0, 1440, count), mask=random.random(count) < 0.1),
        **columns,
    }


def cut(columns: dict[str, pa.Array], start: int, count: int) -> dict[str, pa.Array]:
    return {name: column.slice(start, count) for name, column in columns.items()}


@pytest.mark.skipif(not can_flush(), reason="plans are not for this machine")
def test_the_plan_is_used_and_requests_may_be_put_together(runner: Any) -> None:
    assert runner.plan_problem == "" and runner.merges


@settings(max_examples=examples(40))
@given(st.integers(1, 300), st.lists(st.integers(0, 300), max_size=6), st.integers(0, 1000))
def test_any_split_gives_the_same_bits(model: LoadedModel, n: int, cuts: list[int], seed: int) -> None:
    """Issue 10, 3: what of a batch is predicted together changes nothing."""
    columns = rows(n, seed)
    whole = model.predict(columns)
    borders = [0, *sorted(min(c, n) for c in cuts), n]
    parts = [model.predict(cut(columns, a, b - a)) for a, b in itertools.pairwise(borders) if b > a]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("n", [1, 16, 17, 255, 1024, 1025, 3000])
def test_plan_and_function_agree(model: LoadedModel, n: int) -> None:
    columns = rows(n, n)
    found = model.predict(columns)
    plan, model.runner._plan = model.runner._plan, None  # type: ignore[attr-defined]
    try:
        assert model.predict(columns).tobytes() == found.tobytes()
        assert model.predict(pa.table(columns)).tobytes() == found.tobytes()
    finally:
        model.runner._plan = plan  # type: ignore[attr-defined]
    assert found.shape == (n,) and found.dtype == np.float32


def test_a_plan_with_other_bits_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against TensorFlow at load: an operation that is wrong in one value is found, and the model answers nevertheless."""
    from serving.tensorflow_model import SavedModel
    from transforms.plan.lookup_operations import OPERATIONS

    monkeypatch.setitem(OPERATIONS, "IsNan", lambda node, constants: lambda a: np.isnan(a) | (a == np.float32(np.inf)))
    other = SavedModel(folder, INPUTS, "probability", "model 'net'")
    assert "output 0 is" in other.plan_problem and other._plan is None
    assert LoadedModel(spec(), folder, other).predict(rows(3)).shape == (3,)


def test_an_output_of_another_length_is_refused(folder: Path) -> None:
    class Odd:
        lanes, most, merges, platform = 1, 10, True, "test"

        def __call__(self, inputs: dict[str, Any]) -> Any:
            return np.zeros(2)

    with pytest.raises(ModelError, match=r"output has shape \(2,\) for 3 rows"):
        LoadedModel(spec(), folder, Odd()).predict(rows(3))


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(0, 20))
def test_numbers_are_encoded_by_way_of_float64(values: list[int | None], more: int) -> None:
    found = encoded([{"x": pa.array(values, pa.int64())}], [("x", "float32")], len(values) + more)["x"][:, 0]
    expected = [np.nan if v is None else np.float32(np.float64(v)) for v in values]
    np.testing.assert_array_equal(found, np.array([*expected, *expected[-1:] * more], np.float32))
