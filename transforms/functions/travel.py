"""How an aggregate whose class, and a function that, is a repository's crosses from one process to another."""

from __future__ import annotations

import copyreg
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from transforms.errors import DefinitionError, first_line
from transforms.source_imports import folder_of, search_first

__all__ = ["Travelling", "code_travels", "reduced"]

_OURS = Path(__file__).resolve().parents[1]
_travelling = False


@contextmanager
def code_travels() -> Iterator[None]:
    """What is pickled in the body is for workers that are sent the repository's code, and know no folder of this machine."""
    global _travelling
    before, _travelling = _travelling, True
    try:
        yield
    finally:
        _travelling = before


def reduced(made: Any, values: dict[str, Any]) -> tuple[Any, ...]:
    """How ``__reduce__`` gives an aggregate with these attributes: by the name of its class, with the folder that it is found in.

    A class of a feature repository crosses to workers that never loaded the repository.
    """
    cls = type(made)
    if not _is_named(cls, cls.__module__, cls.__qualname__):  # picklers that can, send the class itself
        return copyreg.__newobj__, (cls,), values  # type: ignore[attr-defined]
    folder = None if _travelling else _folder(sys.modules.get(cls.__module__))
    return _restore, (folder, cls.__module__, cls.__qualname__, values)


class Travelling:
    """A function, or whatever else can be called, which may be a feature repository's; it crosses as aggregates do. ``reference`` is how
    a definition names it ("module:name"; "": none does): what a decorator, ``functools.partial`` or a lambda made has no name of its own.
    """

    def __init__(self, function: Callable[..., Any], reference: str = "") -> None:
        self.function, self.reference = function, reference
        self.__wrapped__ = function

    def __call__(self, *given: Any) -> Any:
        """Call it."""
        return self.function(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        """By the first name that it is found by, with the folder of that module; what has none as it is, for picklers that can."""
        given, _, attribute = self.reference.partition(":")
        own: tuple[Any, Any] = getattr(self.function, "__module__", None), getattr(self.function, "__qualname__", None)
        for module, name in ((given, attribute), own):
            if _is_named(self.function, module, name):
                return _travelled, (None if _travelling else _folder(sys.modules.get(module)), module, name, self.reference)
        return Travelling, (self.function, self.reference)


def _is_named(value: Any, module: Any, name: Any) -> bool:
    """Whether this name, in a module that is loaded, is that of this very object. What an object says of its name may be that of another:
    ``functools.wraps`` copies it, and a method has its function's."""
    found: Any = sys.modules.get(module) if isinstance(module, str) and module != "__main__" else None
    for part in name.split(".") if isinstance(name, str) else ():
        found = getattr(found, part, None)
    return found is value


def _travelled(folder: str | None, module: str, name: str, reference: str) -> Travelling:
    """Raises DefinitionError where the function cannot be had."""
    return Travelling(_found("function", folder, module, name), reference)


def _folder(module: ModuleType | None) -> str | None:
    """The folder of a module that a worker may not find by its name alone; None for an installed one, and for ours."""
    file = getattr(module, "__file__", None)
    return None if file is None or Path(file).resolve().is_relative_to(_OURS) else folder_of(module)


def _restore(folder: str | None, module: str, name: str, values: dict[str, Any]) -> Any:
    """An aggregate as it was pickled. Raises DefinitionError where its class cannot be had."""
    found = _found("aggregate", folder, module, name)
    made: Any = found.__new__(found)
    for key, value in values.items():
        object.__setattr__(made, key, value)
    return made


def _found(what: str, folder: str | None, module: str, name: str) -> Any:
    loaded = sys.modules.get(module)
    if folder is not None and Path(folder).is_dir() and (loaded is None or _folder(loaded) != folder):
        search_first(folder, () if loaded is None else [module.partition(".")[0]])  # that of another repository gives way
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        where = f"module {module!r}" + (f" of {folder}" if folder else "")
        raise DefinitionError(
            f"{what} {name} of {where} cannot be loaded here: {first_line(error)}; install its package, or make the folder reachable"
        ) from error
    return found
