"""Requests that share a call of their model: each gets its own rows' predictions or its own error, nobody waits for nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.models import LoadedModel, ModelSpec
from serving.shared_calls import LARGE_ROWS, MOST_ROWS, SharedCalls
from tests.examples import examples

INPUTS = (("x", "float32"),)


class Doubles:
    """Doubles its input; refuses a batch with a negative number in it. Counts its calls, and holds them up on demand."""

    lanes, most, platform = 16, 1024, "test"

    def __init__(self, merges: bool = True) -> None:
        self.merges = merges
        self.calls: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Event()

    def __call__(self, inputs: dict[str, Any]) -> Any:
        x = inputs["x"][:, 0]
        self.inside.set()
        assert self.go.wait(30)
        self.calls.append(len(x))
        if (x < 0).any():
            raise ValueError(f"negative: {x[x < 0][0]:g}")
        return x * 2


def loaded(runner: Doubles) -> LoadedModel:
    return LoadedModel(ModelSpec("doubles", 1, {}, "", (), (), (), INPUTS), Path("/"), runner)


def ask(calls: SharedCalls, values: list[float], tell: Any = lambda requests: None) -> Any:
    with calls.on_the_way(tell) as predict:
        return predict({"x": pa.array(values, pa.float64())}, len(values)).tolist()


def test_a_request_alone_is_called_for_at_once() -> None:
    runner = Doubles()
    told: list[int] = []
    calls = SharedCalls(loaded(runner), delay_seconds=30)  # it would be seen
    assert ask(calls, [1.0, 2.0], told.append) == [2.0, 4.0]
    assert runner.calls == [16] and told == [1]


def test_what_comes_during_a_call_shares_the_next() -> None:
    runner = Doubles()
    calls = SharedCalls(loaded(runner), delay_seconds=30)
    runner.go.clear()
    told: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, calls, [1.0], told.append)
        assert runner.inside.wait(30)
        entered = [calls.on_the_way(told.append) for _ in range(7)]  # seven requests have begun before any of them has its rows
        predicts = [e.__enter__() for e in entered]
        rest = [pool.submit(predict, {"x": pa.array([float(i)])}, 1) for i, predict in enumerate(predicts)]
        runner.go.set()
        assert first.result(30) == [2.0]
        assert [float(r.result(30)[0]) for r in rest] == [2.0 * i for i in range(7)]
        for e in entered:
            e.__exit__(None, None, None)
    assert runner.calls == [16, 16] and told == [1, 7]


def test_an_error_is_its_own_requests_alone() -> None:
    runner = Doubles()
    calls = SharedCalls(loaded(runner), delay_seconds=30)
    entered = [calls.on_the_way() for _ in range(3)]
    predicts = [e.__enter__() for e in entered]
    with ThreadPoolExecutor(3) as pool:
        good, bad, unfit = (
            pool.submit(predict, {"x": column}, 1)
            for predict, column in zip(predicts, (pa.array([1.0]), pa.array([-5.0]), pa.array(["text"])), strict=True)
        )
        assert good.result(30).tolist() == [2.0]
        with pytest.raises(ValueError, match="negative: -5"):
            bad.result(30)
        with pytest.raises(Exception, match="cannot be fed"):
            unfit.result(30)
    for e in entered:
        e.__exit__(None, None, None)
    assert ask(calls, [3.0]) == [6.0]


def test_who_gives_up_on_the_way_is_not_waited_for() -> None:
    calls = SharedCalls(loaded(Doubles()), delay_seconds=30)
    with pytest.raises(ZeroDivisionError), calls.on_the_way():
        raise ZeroDivisionError
    assert ask(calls, [1.0]) == [2.0]


@pytest.mark.parametrize(("merges", "rows"), [(False, 1), (True, LARGE_ROWS + 1)])
def test_what_may_not_be_put_together_is_called_for_alone(merges: bool, rows: int) -> None:
    runner = Doubles(merges)
    calls = SharedCalls(loaded(runner), delay_seconds=30)
    with calls.on_the_way():  # somebody is on the way: it is not waited for
        assert ask(calls, [1.0] * rows) == [2.0] * rows


@settings(max_examples=examples(25))
@given(st.lists(st.lists(st.integers(-3, 100), min_size=1, max_size=LARGE_ROWS), min_size=1, max_size=24))
def test_any_requests_at_once(requests: list[list[int]]) -> None:
    """Many threads: whatever is put together, each has its own, and no call is larger than allowed."""
    runner = Doubles()
    calls = SharedCalls(loaded(runner), delay_seconds=0.001)

    def one(values: list[int]) -> Any:
        try:
            return ask(calls, [float(v) for v in values])
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, requests))
    for values, result in zip(requests, found, strict=True):
        below = [v for v in values if v < 0]
        assert result == (f"negative: {below[0]}" if below else [2.0 * v for v in values])
    assert max(runner.calls) <= MOST_ROWS and np.all(np.array(runner.calls) % 16 == 0)
