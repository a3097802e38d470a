"""What libraries do while they are imported and none of our commands needs, left out. Standard library only.

Every command, and every process that one starts, pays for its imports first. Measured on Python 3.11 (CPU of ``import``, before and after):
Feast 3.7 and 0.6 s, Apache Beam 2.0 and 1.2 s. Five things make that up:

* Feast decorates its classes with ``typeguard.typechecked``, which parses and compiles their source anew at each import. The constructors
  keep it, for their arguments are what people write; the other methods go without.
* Feast imports its two servers, and with them FastAPI, OAuth and certificates, and its registry in an SQL database, and with it SQLAlchemy:
  half of what it costs. Its functions that need one of them import it when they are called (:class:`_Later`).
* Google's BigQuery client, which Beam and Feast import, imports ``tqdm.notebook`` and with it all of IPython, for bars in notebooks.
* ``google.api_core`` reads the metadata of all installed packages to word a warning about old Pythons.
* The garbage collector looks, again and again, through the millions of objects that are being made and all of which stay: a fifth of
  TensorFlow's import. It is off while one of the large packages is imported, and never looks at what came with it again, which is a fifth
  of an analysis.

Only the processes that Tandem starts call :func:`quicken_imports`: in a notebook or a program of your own nothing is changed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any

__all__ = ["quicken_imports"]

LARGE = frozenset({"apache_beam", "feast", "mlflow", "pandas", "tensorflow", "tensorflow_transform", "tf_keras", "tfx.components"})
"""Packages whose import makes so many objects that the collector is better off meanwhile."""

_STANDING_IN: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "feast": {
        "feast.feature_server": {},
        "feast.ui_server": {},
        "feast.infra.registry.sql": {"SqlRegistry": ""},
        "fastapi.concurrency": {"run_in_threadpool": "starlette.concurrency"},
    },
    "feast.errors": {"fastapi": {"status": "starlette.status"}},
}
"""While a module is executed: those that others stand in for, and where their names come from, which are asked for at once. A name's own
module; the module itself that is called so; or nowhere, for what is only called, and imports its own module then."""


def quicken_imports() -> None:
    """Call it before the first import of Feast, Beam or TensorFlow. What was imported before stays as it is; twice is as good as once."""
    if "typeguard" in sys.modules:
        _check_constructors_only(sys.modules["typeguard"])
    if not any(isinstance(finder, _LargePackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LargePackages())
    sys.modules.setdefault("tqdm.notebook", None)  # type: ignore[arg-type]  # an import of it fails, for which its users are prepared
    found = importlib.metadata.packages_distributions
    if getattr(found, "quick", None) is None:
        importlib.metadata.packages_distributions = _named_for(found)


def _check_constructors_only(typeguard: Any) -> None:
    checked: Callable[..., Any] = typeguard.typechecked
    if getattr(checked, "quick", None) is not None:
        return

    def typechecked(target: Any = None, **options: Any) -> Any:
        if not isinstance(target, type) or target.__module__.partition(".")[0] != "feast":
            return checked(target, **options)
        if "__init__" in vars(target):
            target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target

    typechecked.quick = True  # type: ignore[attr-defined]
    typeguard.typechecked = typechecked


def _named_for(found: Callable[[], Mapping[str, list[str]]]) -> Any:
    """``packages_distributions`` that answers nothing to Google's clients, who then name a module instead of its package."""

    def packages_distributions() -> Mapping[str, list[str]]:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return {} if asking.startswith("google.") else found()

    packages_distributions.quick = True  # type: ignore[attr-defined]
    return packages_distributions


class _LargePackages:
    """Finds :data:`LARGE` where the other finders do, and has them executed without the collector, and ``typeguard``; all else is left to
    those."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As ``importlib`` asks for it: the module's spec, None where another finder is to say."""
        if name not in LARGE and name not in _STANDING_IN and name != "typeguard":
            return None
        finders = [each for each in sys.meta_path if each is not self and hasattr(each, "find_spec")]
        spec = next((found for each in finders if (found := each.find_spec(name, path, target)) is not None), None)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return spec
        spec.loader = _Uncollected(spec.loader.name, spec.loader.path)
        return spec


class _Uncollected(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _collector_off(), _stood_in(_STANDING_IN.get(module.__name__, {})):
            super().exec_module(module)
        if module.__name__ == "typeguard":
            _check_constructors_only(module)


class _Later(ModuleType):
    """Stands in for a module that is not imported yet, while another one is executed that only keeps it: asked for a name, it imports the
    module, as anybody does who asks for it afterwards."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what the import system and inspect ask of all modules
            raise AttributeError(name)
        return getattr(self._module(), name)

    def _module(self) -> ModuleType:
        _put_away(self)
        return importlib.import_module(self.__name__)


def _put_away(later: _Later) -> None:
    if sys.modules.get(later.__name__) is later:
        sys.modules.pop(later.__name__, None)


def _later(name: str, known: Mapping[str, str]) -> _Later:
    later = _Later(name)
    for each, where in known.items():
        if not where:
            setattr(later, each, lambda *words, _each=each, **named: getattr(later._module(), _each)(*words, **named))
            continue
        module = importlib.import_module(where)
        setattr(later, each, module if where.endswith(f".{each}") else getattr(module, each))
    return later


@contextmanager
def _stood_in(names: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Nothing stands in for a module that was imported before; afterwards nothing does for any."""
    placed: list[_Later] = []
    try:
        for name, known in names.items():
            if name not in sys.modules:
                with suppress(ImportError, AttributeError):  # another release: it imports what it imports
                    placed.append(_later(name, known))
                    sys.modules.setdefault(name, placed[-1])
        yield
    finally:
        for later in placed:
            _put_away(later)


_lock = threading.Lock()
_importing = 0
_collects = True


@contextmanager
def _collector_off() -> Iterator[None]:
    """Off until the last of those that are within it has left, which several threads may be; then as it was before, for what is new."""
    global _importing, _collects
    with _lock:
        if not _importing:
            _collects = gc.isenabled()
            gc.disable()
        _importing += 1
    try:
        yield
    finally:
        with _lock:
            _importing -= 1
            if not _importing:
                gc.freeze()
                if _collects:
                    gc.enable()
