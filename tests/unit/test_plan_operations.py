"""The plan of numpy calls gives TensorFlow's bits, operation by operation, for any values; what it does not know it refuses."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from transforms.graph_columns import to_arrow
from transforms.plan import REWRITES, UnsupportedError, compiled, settled
from transforms.plan.flush import Flushed, can_flush
from transforms.plan.samples import fractions, wholes, words

pytestmark = pytest.mark.skipif(not can_flush(), reason="this machine's float arithmetic cannot be set as TensorFlow's is")
LANES = 16
VOCABULARY = [b"a", b"b", "ä".encode(), b""]


@functools.cache
def tf() -> Any:
    import tensorflow

    return tensorflow


@pytest.fixture(autouse=True, scope="module")
def functions_end_before_tensorflow() -> Iterator[None]:
    yield
    made.cache_clear()


def _sparse(t: Any, x: Any) -> Any:
    """A column in which what is not positive is absent, as Tandem's graphs see one."""
    there = t.where(x > 0)
    return t.SparseTensor(t.concat([there, t.zeros_like(there)], 1), t.boolean_mask(x, x > 0), t.stack([t.shape(x, t.int64)[0], 1]))


def _table(t: Any) -> Any:
    keys = t.lookup.KeyValueTensorInitializer(VOCABULARY, list(range(len(VOCABULARY))), t.string, t.int64)
    return t.lookup.StaticHashTable(keys, -1)


FLOATS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda t, x, y: x + y,
    "sub": lambda t, x, y: x - y,
    "mul": lambda t, x, y: x * y,
    "div": lambda t, x, y: x / y,
    "div by a literal": lambda t, x, y: x / 60.0,
    "div no nan": lambda t, x, y: t.math.divide_no_nan(x, y),
    "mul no nan": lambda t, x, y: t.math.multiply_no_nan(x, y),
    "floor div": lambda t, x, y: x // y,
    "floor mod": lambda t, x, y: x % y,
    "maximum": lambda t, x, y: t.maximum(x, y),
    "extremes of literals": lambda t, x, y: [t.maximum(x, 1.0), t.maximum(x, 0.0), t.maximum(-0.0, x), t.minimum(x, 0.0)],
    "minimum": lambda t, x, y: t.minimum(x, y),
    "clip": lambda t, x, y: t.clip_by_value(x, -8.0, 8.0),
    "compare": lambda t, x, y: [x < y, x <= y, x > y, x >= y, t.equal(x, y), t.not_equal(x, y)],
    "where": lambda t, x, y: t.where(t.math.is_nan(x), y, x),
    "is": lambda t, x, y: [t.math.is_nan(x), t.math.is_inf(x), t.math.is_finite(x)],
    "logic": lambda t, x, y: [t.logical_and(x > 0, y > 0), t.logical_or(x > 0, y > 0), t.logical_not(x > 0)],
    "one place": lambda t, x, y: [-x, t.abs(x), t.square(x), t.sqrt(x), t.floor(x), t.math.ceil(x), t.round(x), t.sign(x)],
    "curves": lambda t, x, y: [t.math.log1p(x), t.exp(x), t.math.log(x), t.tanh(x), t.sigmoid(x), t.math.erf(x), t.math.expm1(x)],
    "circles": lambda t, x, y: [t.sin(x), t.cos(x), t.math.rsqrt(x), t.math.reciprocal(x), t.nn.softplus(x)],
    "power": lambda t, x, y: t.pow(t.abs(x), 0.3),
    "difference": lambda t, x, y: t.math.squared_difference(x, y),
    "cast": lambda t, x, y: [t.cast(x, t.int64), t.cast(x, t.int32), t.cast(x > 0, t.float32), t.cast(x, t.bool), t.cast(x, t.float64)],
    "z-score": lambda t, x, y: t.where(t.abs(y) > 0, (x - 3.25) / t.sqrt(t.abs(y)), t.zeros_like(x)),
    "ratio": lambda t, x, y: t.cast(x, t.float32) / t.maximum(y, 1.0),
    "shapes": lambda t, x, y: t.reshape(t.concat([t.expand_dims(x, 1), t.stack([y, x], 1)], 1), [-1]),
    "rows": lambda t, x, y: [
        t.fill([t.shape(x)[0], 2], 7.0),
        t.zeros_like(x),
        t.ones_like(x),
        t.tile(x, [2]),
        t.transpose(t.stack([x, y])),
    ],
    "buckets": lambda t, x, y: t.searchsorted(t.constant([[-1.5, 0.0, 1.0, 1e30]]), t.reshape(x, [1, -1]), side="right"),
    "lower buckets": lambda t, x, y: t.searchsorted(t.constant([[-1.5, 0.0, 1.0, 1e30]]), t.reshape(x, [1, -1]), side="left"),
    "bucketize": lambda t, x, y: t.raw_ops.Bucketize(input=x, boundaries=[-1.5, 0.0, 1.0, 1e30]),
    "sparse": lambda t, x, y: t.sparse.to_dense(_sparse(t, x), default_value=-1.0),
    "scatter": lambda t, x, y: t.scatter_nd(t.where(x > 0), t.boolean_mask(y, x > 0), t.shape(x, t.int64)),
    "sums": lambda t, x, y: [
        t.reduce_sum(t.stack([x, y], 1), 1),
        t.reduce_mean(t.stack([x, y, x], 1), 1),
        t.reduce_max(t.stack([x, y], 1), 1),
    ],
    "product": lambda t, x, y: t.nn.relu(t.add(t.matmul(t.stack([x, y], 1), [[0.25, -3.0, 1.1], [7.0, 0.1, -0.3]]), [0.5, 0.25, 0.125])),
}
INTEGERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "arithmetic": lambda t, x, y: [x + y, x - y, x * y, -x, t.abs(x), t.square(x)],
    "division": lambda t, x, y: [x // 60, x % 7, x // -3, x % -3],
    "extremes": lambda t, x, y: [t.maximum(x, y), t.minimum(x, y), t.clip_by_value(x, 0, 23)],
    "compare": lambda t, x, y: [x < y, x >= y, t.equal(x, y), t.not_equal(x, y)],
    "where": lambda t, x, y: t.where(x > y, x, y),
    "cast": lambda t, x, y: [t.cast(x, t.float32), t.cast(x, t.float64), t.cast(x, t.int32), t.cast(x, t.bool), t.cast(x > 0, t.int64)],
    "division of two": lambda t, x, y: x / y,
    "one-hot": lambda t, x, y: t.one_hot(x % 4, 4),
    "gather": lambda t, x, y: t.gather(t.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), x % 3),
    "reductions": lambda t, x, y: [
        t.reduce_sum(t.stack([x, y], 1), 1),
        t.reduce_max(t.stack([x, y], 1), 1),
        t.reduce_any(t.stack([x, y], 1) > 0, 1),
    ],
    "range": lambda t, x, y: t.range(t.shape(x)[0]),
    "sparse": lambda t, x, y: t.sparse.to_dense(_sparse(t, x), default_value=-1),
}
WORDS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "compare": lambda t, x, y: [t.equal(x, y), t.not_equal(x, y), t.equal(x, "")],
    "where": lambda t, x, y: t.where(t.equal(x, ""), y, x),
    "letters": lambda t, x, y: [t.strings.lower(x), t.strings.upper(x), t.strings.lower(x, "utf-8")],
    "strip": lambda t, x, y: t.strings.strip(x),
    "length": lambda t, x, y: [t.strings.length(x), t.strings.length(x, "UTF8_CHAR")],
    "hash": lambda t, x, y: [
        t.strings.to_hash_bucket_fast(x, 1),
        t.strings.to_hash_bucket_fast(x, 1024),
        t.strings.to_hash_bucket_strong(x, 9, [1, 2]),
    ],
    "replace": lambda t, x, y: t.strings.regex_replace(x, "[0-9]+", "#"),
    "stack": lambda t, x, y: t.reshape(t.stack([x, y], 1), [-1, 1]),
    "zeros": lambda t, x, y: t.zeros_like(x),
}


@functools.cache
def made(kind: str, name: str, rewrites: frozenset[str]) -> tuple[Any, Any]:
    """A concrete function of two columns and its plan."""
    t = tf()
    body = {"float32": FLOATS, "int64": INTEGERS, "string": WORDS}[kind][name]
    spec = t.TensorSpec([None], t.as_dtype(kind))

    def run(x: Any, y: Any) -> list[Any]:
        out = body(t, x, y)
        return list(out) if isinstance(out, list) else [out]

    function = t.function(run, input_signature=[spec, spec], autograph=False).get_concrete_function()
    return function, compiled(function, rewrites)


def held(kind: str, name: str, x: Any, y: Any) -> None:
    why = []
    for rewrites in REWRITES:
        function, plan = made(kind, name, rewrites)
        expected = [out.numpy() for out in function(tf().constant(x), tf().constant(y))]
        why.append(plan.first_difference([x, y], expected))
        if not why[-1]:  # so do the programs for inputs of this shape, made of other values before, and for this very y
            very = tuple(y.tolist()) if y.dtype == object else y.tobytes()
            for alike, fixed in ((len(x), ()), (very, (1,)), (very, (1,))):
                assert plan.first_difference([x, y], expected, alike, fixed) == ""
    assert "" in why, why


def padded(values: list[Any], dtype: Any) -> Any:
    out = np.empty(-(-len(values) // LANES) * LANES, dtype)
    out[:] = np.resize(np.array(values, dtype), len(out))
    return out


SETTINGS = settings(max_examples=examples(30))
ANY_FLOAT = st.lists(st.floats(width=32), min_size=1, max_size=40)
ANY_INTEGER = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40)
ANY_WORD = st.lists(st.binary(max_size=12) | st.text(max_size=8).map(str.encode) | st.sampled_from(VOCABULARY), min_size=1, max_size=40)


@pytest.mark.parametrize("name", FLOATS)
def test_fractions(name: str) -> None:
    random = np.random.default_rng(1)
    held("float32", name, fractions(512, random, (0.25, 3.25)), fractions(512, random))

    @SETTINGS
    @given(ANY_FLOAT, st.randoms(use_true_random=False))
    def any_values(values: list[float], random: Any) -> None:
        held("float32", name, padded(values, np.float32), padded(random.sample(values, len(values)), np.float32))

    any_values()


@pytest.mark.parametrize("size", [16, 32, 48, 64])
@pytest.mark.parametrize("name", ["add", "mul"])
def test_what_is_not_a_number_leaves_a_graph_in_one_form(name: str, size: int) -> None:
    """Of two of other bits numpy gives the one's or the other's by how many values there are, TensorFlow the first's."""
    x, y = (np.full(size, bits, np.uint32).view(np.float32) for bits in (0x7FC00001, 0xFFC00002))
    held("float32", name, x, y)
    function, plan = made("float32", name, REWRITES[0])
    theirs = [out.numpy() for out in function(tf().constant(x), tf().constant(y))]
    for out in (*plan.run([x, y]), *theirs):
        column = to_arrow("x", [out], size, pa.float32())
        assert set(column.to_numpy().view(np.uint32).tolist()) == {0x7FC00000}


@pytest.mark.parametrize("name", INTEGERS)
def test_whole_numbers(name: str) -> None:
    random = np.random.default_rng(2)
    held("int64", name, wholes(512, random), wholes(512, random))

    @SETTINGS
    @given(ANY_INTEGER, st.randoms(use_true_random=False))
    def any_values(values: list[int], random: Any) -> None:
        held("int64", name, padded(values, np.int64), padded(random.sample(values, len(values)), np.int64))

    any_values()


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str) -> None:
    random = np.random.default_rng(3)
    texts = "UTF8" in name or name == "letters" or name == "length" or name == "replace"

    def column(values: list[bytes]) -> Any:
        return padded([v.decode(errors="replace").encode() for v in values] if texts else values, object)

    held("string", name, column(words(256, random, VOCABULARY)), column(words(256, random, VOCABULARY)))

    @SETTINGS
    @given(ANY_WORD)
    def any_values(values: list[bytes]) -> None:
        held("string", name, column(values), column(values[::-1]))

    any_values()


def test_a_vocabulary_with_unknown_words() -> None:
    t = tf()
    table = _table(t)

    def run(x: Any) -> Any:
        found = table.lookup(x)
        return t.where(t.not_equal(found, -1), found, t.strings.to_hash_bucket_fast(x, 3) + table.size())

    function = t.function(run, input_signature=[t.TensorSpec([None], t.string)]).get_concrete_function()
    plan = compiled(function)
    assert set(plan.known_words) == set(VOCABULARY)

    @SETTINGS
    @given(ANY_WORD)
    def any_values(values: list[bytes]) -> None:
        x = padded(values, object)
        assert plan.first_difference([x], [function(t.constant(x)).numpy()]) == ""

    any_values()


def test_what_follows_from_shapes_is_computed_once_and_kernels_are_remembered() -> None:
    t = tf()

    def run(x: Any, y: Any) -> list[Any]:
        scaled = t.where(t.cast(t.zeros_like(x) + 2.0, t.bool), (x - 3.0) / 2.0, x)
        return [t.tanh(t.math.log1p(scaled)), t.reshape(scaled, t.shape(y)), t.boolean_mask(x, x > 0), t.zeros_like(y), t.pow(x, y)]

    spec = t.TensorSpec([None], t.float32)
    function = t.function(run, input_signature=[spec, spec], autograph=False).get_concrete_function()
    plan = compiled(function)
    random = np.random.default_rng(4)
    for _ in range(20):
        x, y = fractions(16, random), fractions(16, random)
        expected = [out.numpy() for out in function(t.constant(x), t.constant(y))]
        for _ in range(2):
            assert plan.first_difference([x, y], expected, alike=16) == plan.first_difference([x, y], expected) == ""
    few, many = ([step[0] for step in program.steps] for program in (plan._settled[16], plan._whole))
    assert len(few) < 0.7 * len(many)


def test_what_is_remembered_is_of_8_megabytes_at_most() -> None:
    """Of all kernels of a plan, whatever they are asked; few bytes each."""
    t = tf()

    def run(x: Any) -> list[Any]:
        return [t.tanh(x), t.math.log1p(x), t.math.expm1(x), t.sin(x), t.pow(t.reshape(x, [-1, 1]), t.reshape(x, [1, -1]))]

    function = t.function(run, input_signature=[t.TensorSpec([None], t.float32)], autograph=False).get_concrete_function()
    plan = compiled(function)
    with mock.patch.object(settled, "_REMEMBERED", 100):
        for n in range(200):
            plan.run([np.full(32, n, np.float32)], alike=32)
        assert 0 < len(plan._memory) <= 100
    pairs = list(plan._memory.items())

    def size(value: Any) -> int:
        return sys.getsizeof(value) + (sum(map(size, value)) if isinstance(value, tuple) else 0)

    assert all(result.nbytes <= 256 for _, result in pairs)
    table = sys.getsizeof(dict.fromkeys(range(settled._REMEMBERED)))
    # A result's bytes are its own, or those of a tensor that it shows: counted in either case, with what that takes.
    assert table + settled._REMEMBERED * max(size(key) + sys.getsizeof(result) + result.nbytes for key, result in pairs) <= 8 << 20


def test_a_plan_that_has_seen_many_kinds_of_inputs_keeps_no_more() -> None:
    t = tf()
    plan = compiled(t.function(lambda x: x + 1.0, input_signature=[t.TensorSpec([None], t.float32)]).get_concrete_function())
    for n in range(300):
        x = np.full(1 + n, n, np.float32)
        assert plan.first_difference([x], [x + 1], alike=n) == ""
    assert len(plan._settled) == 256


def test_variables_are_read_and_calls_are_looked_into() -> None:
    t = tf()
    weights = t.Variable(np.arange(6, dtype=np.float32).reshape(3, 2))
    inner = t.function(lambda x: t.gather(weights, x % 3), input_signature=[t.TensorSpec([None], t.int64)])
    function = t.function(lambda x: inner(x) + 1.0, input_signature=[t.TensorSpec([None], t.int64)]).get_concrete_function()
    x = np.arange(32)
    assert compiled(function).first_difference([x], [function(t.constant(x)).numpy()]) == ""


@pytest.mark.parametrize(
    ("what", "body"),
    {
        "an effect": lambda t, x: t.debugging.assert_all_finite(x, "no"),
        "a loop": lambda t, x: t.map_fn(lambda v: v + 1, x),
        "chance": lambda t, x: x + t.random.uniform([]),
        "unknown": lambda t, x: t.math.bessel_i0(x),
    }.items(),
)
def test_what_a_plan_does_not_know_it_refuses(what: str, body: Callable[[Any, Any], Any]) -> None:
    t = tf()
    function = t.function(lambda x: body(t, x), input_signature=[t.TensorSpec([None], t.float32)]).get_concrete_function()
    with pytest.raises(UnsupportedError):
        compiled(function)


@pytest.mark.parametrize(
    ("body", "bad"),
    [(lambda t, x: 7 // x, [5, 0]), (lambda t, x: 7 % x, [5, 0]), (lambda t, x: t.gather(t.constant([1.0, 2.0]), x), [0, 2])],
)
def test_what_tensorflow_fails_on_fails(body: Callable[[Any, Any], Any], bad: list[int]) -> None:
    t = tf()
    plan = compiled(t.function(lambda x: body(t, x), input_signature=[t.TensorSpec([None], t.int64)]).get_concrete_function())
    with pytest.raises((IndexError, ZeroDivisionError)):
        plan.run([np.array(bad)])


def test_denormals_count_as_zero_only_inside() -> None:
    tiny = np.array([1e-40] * 8, np.float32)
    with Flushed():
        assert not (tiny * np.float32(1)).any()
    assert (tiny * np.float32(1)).all()


def test_a_difference_is_told() -> None:
    t = tf()
    function = t.function(lambda x: x * 2.0, input_signature=[t.TensorSpec([None], t.float32)]).get_concrete_function()
    plan = compiled(function)
    x = np.array([1.0, -0.0], np.float32)
    assert plan.first_difference([x], [np.array([2.0, -0.0], np.float32)]) == ""
    assert "output 0 is -0.0, not 0.0" in plan.first_difference([x], [np.array([2.0, 0.0], np.float32)])
    assert "float32" in plan.first_difference([x], [np.array([2.0, -0.0])])
    assert "it fails" in plan.first_difference([np.array([b"x"], object)], [x])
