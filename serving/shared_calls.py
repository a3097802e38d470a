"""Requests that come together share one call of their model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.model_inputs import Columns

__all__ = ["SharedCalls"]

Array = npt.NDArray[Any]
MOST_ROWS = 256
"""Rows of one shared call."""
LARGE_ROWS = 64
"""A request of more rows is called for alone: it would hold up the small ones, and gains nothing."""
DELAY_SECONDS = 0.001
"""How long a request waits for those that are on their way to the model."""


class Predicts(Protocol):
    """What is called: a loaded model."""

    @property
    def merges(self) -> bool:
        """Whether a row's prediction has the same bits in any batch."""
        ...

    def predict(self, columns: Columns) -> Array:
        """For one request."""
        ...

    def predict_together(self, batches: Sequence[Columns]) -> Array:
        """For several, in one call."""
        ...


@dataclass(eq=False)
class _Waiting:
    columns: Columns
    rows: int
    done: bool = False
    result: Array | None = None
    error: Exception | None = None


class SharedCalls:
    """The calls of one loaded model by the threads that answer requests.

    The first thread that has its rows waits for those that read theirs (:meth:`on_the_way`), a millisecond at most and not at all where
    nobody does, and calls the model for all. What comes meanwhile is the next call. A row's prediction does not depend on its batch; a
    model for which that does not hold (``merges``) is called for each request. If a shared call fails, each request is called for alone, so
    that none fails over another's rows.
    """

    def __init__(self, model: Predicts, delay_seconds: float = DELAY_SECONDS) -> None:
        self._model = model
        self._delay = delay_seconds
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._on_the_way = 0
        self._calling = False

    @contextmanager
    def on_the_way(self, tell: Callable[[int], Any] = lambda requests: None) -> Iterator[Callable[[Columns, int], Array]]:
        """For the time from the beginning of a request's work to its predictions; gives the function that makes them, of columns and rows.

        ``tell`` is told how many requests a call was for that this one made.
        """
        came = False

        def arrived() -> None:
            nonlocal came
            if not came:
                came = True
                with self._changed:
                    self._on_the_way -= 1
                    self._changed.notify_all()

        def predict(columns: Columns, rows: int) -> Array:
            if not self._model.merges or rows > LARGE_ROWS:
                arrived()
                tell(1)
                return self._model.predict(columns)
            return self._shared(_Waiting(columns, rows), arrived, tell)

        with self._changed:
            self._on_the_way += 1
        try:
            yield predict
        finally:
            arrived()

    def _shared(self, mine: _Waiting, arrived: Callable[[], None], tell: Callable[[int], Any]) -> Array:
        with self._changed:
            self._waiting.append(mine)
            arrived()  # the condition's lock is one that a thread may take again
            while self._calling and not mine.done:
                self._changed.wait()
            some = [] if mine.done else self._gathered(mine)
        if some:
            try:
                tell(len(some))
                self._call(some)
            finally:
                with self._changed:
                    for waiting in some:
                        waiting.done = True
                    self._calling = False
                    self._changed.notify_all()
        if mine.error is not None:
            raise mine.error
        assert mine.result is not None
        return mine.result

    def _gathered(self, mine: _Waiting) -> list[_Waiting]:
        """Those to call for, ``mine`` among them; the lock is held."""
        self._calling = True
        until = time.monotonic() + self._delay
        while self._on_the_way and (left := until - time.monotonic()) > 0 and sum(w.rows for w in self._waiting) < MOST_ROWS:
            self._changed.wait(left)
        self._waiting.remove(mine)
        some, rows = [mine], mine.rows
        while self._waiting and rows + self._waiting[0].rows <= MOST_ROWS:
            some.append(self._waiting.pop(0))
            rows += some[-1].rows
        return some

    def _call(self, some: list[_Waiting]) -> None:
        try:
            out = self._model.predict_together([w.columns for w in some])
        except Exception as error:
            if len(some) == 1:
                some[0].error = error
                return
            for waiting in some:
                self._call([waiting])
            return
        for waiting, part in zip(some, np.split(out, np.cumsum([w.rows for w in some])[:-1]), strict=True):
            waiting.result = part
