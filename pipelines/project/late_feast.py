"""Feast, imported when a repository's definitions use it, not when they name it: a mistake in a definition is told before.

``from feast import FeatureService`` stands at the top of ``features.py`` and costs more than all of our own start. Definitions need it in
their last lines, if they get there. So while they are loaded, the names that a module of the repository takes from Feast stand for what
they name and import it at their first use; then they are replaced. Anybody else who imports Feast meanwhile gets Feast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["feast_when_used"]


@contextmanager
def feast_when_used(repo: Path) -> Iterator[None]:
    """While it is entered, modules of the repository import Feast late; nothing happens where Feast is imported already."""
    if "feast" in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    sys.modules["feast"] = _Waiting(repo)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if isinstance(sys.modules.get("feast"), _Waiting):
            del sys.modules["feast"]
        else:
            _replace(repo)


def _replace(repo: Path) -> None:
    for module in sys.modules.copy().values():
        if _is_of(repo, getattr(module, "__dict__", {})):
            for name, value in list(vars(module).items()):
                if type(value) is _Later:
                    setattr(module, name, value._now())


def _is_of(repo: Path, names: dict[str, Any]) -> bool:
    file = names.get("__file__")
    return isinstance(file, str) and Path(file).is_relative_to(repo)


def _feast() -> ModuleType:
    if isinstance(sys.modules.get("feast"), _Waiting):
        del sys.modules["feast"]
    return import_module("feast")


class _Waiting(ModuleType):
    """Stands for the package; a package itself, so that the import system asks for its parts."""

    def __init__(self, repo: Path) -> None:
        super().__init__("feast")
        self.__path__: list[str] = []
        self._repo = repo

    def __getattr__(self, name: str) -> Any:
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib"):
            frame = frame.f_back
        if name.startswith("__") or frame is None or not _is_of(self._repo, frame.f_globals):
            return getattr(_feast(), name)
        return _Later(name)


class _Later:
    """A name of Feast, for whoever does not use it yet."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _now(self) -> Any:
        return getattr(_feast(), self._name)

    def __repr__(self) -> str:
        return f"feast.{self._name}"

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._now()(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._now(),)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, self._now())

    def __subclasscheck__(self, value: Any) -> bool:
        return issubclass(value, self._now())

    def __or__(self, other: Any) -> Any:
        return self._now() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._now()


class _Finder(MetaPathFinder):
    """Gives Feast's own modules by Feast, which is imported for them."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("feast.") or not isinstance(sys.modules.get("feast"), _Waiting):
            return None
        found = _feast()
        if (module := sys.modules.get(name)) is None:
            return PathFinder.find_spec(name, found.__path__)
        # Importlib takes the module's own spec where a finder imported it, and would execute it once more: another class of each name.
        module.__spec__ = ModuleSpec(name, _Loaded(module))
        return module.__spec__


class _Loaded(Loader):
    """A module that was imported together with the package."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
