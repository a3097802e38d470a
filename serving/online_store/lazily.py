"""An attribute that is computed when it is asked for, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["lazily"]

T = TypeVar("T")
Own = TypeVar("Own")


class lazily(Generic[T]):  # a decorator, as property is
    """As ``functools.cached_property``, which before Python 3.12 takes a lock of its own that costs more than most of what is computed
    here. Threads that ask at once may each compute it: for values that come out the same."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, thing: None, owner: type) -> lazily[T]: ...

    @overload
    def __get__(self, thing: object, owner: type) -> T: ...

    def __get__(self, thing: object | None, owner: type) -> lazily[T] | T:
        if thing is None:
            return self
        made = thing.__dict__[self._name] = self._compute(thing)
        return made
