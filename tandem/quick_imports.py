"""What libraries do while they are imported and none of our commands needs, left out. Standard library only.

Every command, and every process that one starts, pays for its imports first. Measured on Python 3.11 (CPU of ``import``, before and after):
Feast 3.7 and 1.4 s, Apache Beam 2.0 and 1.2 s. Four things make that up:

* Feast decorates its classes with ``typeguard.typechecked``, which parses and compiles their source anew at each import. The constructors
  keep it, for their arguments are what people write; the other methods go without.
* Google's BigQuery client, which Beam and Feast import, imports ``tqdm.notebook`` and with it all of IPython, for bars in notebooks.
* ``google.api_core`` reads the metadata of all installed packages to word a warning about old Pythons.
* The garbage collector looks, again and again, through the millions of objects that are being made and all of which stay: a fifth of
  TensorFlow's import. It is off while one of the large packages is imported, and never looks at what came with it again, which is a fifth
  of an analysis.

Only the processes that Tandem starts call :func:`quicken_imports`: in a notebook or a program of your own nothing is changed.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any

__all__ = ["quicken_imports"]

LARGE = frozenset({"apache_beam", "feast", "mlflow", "pandas", "tensorflow", "tensorflow_transform", "tf_keras", "tfx.components"})
"""Packages whose import makes so many objects that the collector is better off meanwhile."""


def quicken_imports() -> None:
    """Call it before the first import of Feast, Beam or TensorFlow. What was imported before stays as it is; twice is as good as once."""
    _check_constructors_only()
    if not any(isinstance(finder, _LargePackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LargePackages())
    sys.modules.setdefault("tqdm.notebook", None)  # type: ignore[arg-type]  # an import of it fails, for which its users are prepared
    found = importlib.metadata.packages_distributions
    if getattr(found, "quick", None) is None:
        importlib.metadata.packages_distributions = _named_for(found)


def _check_constructors_only() -> None:
    try:
        import typeguard
    except ImportError:  # an installation without Feast
        return
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
    """Finds :data:`LARGE` where the other finders do, and has them executed without the collector; all else is left to those."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As ``importlib`` asks for it: the module's spec, None where another finder is to say."""
        if name not in LARGE:
            return None
        finders = [each for each in sys.meta_path if each is not self and hasattr(each, "find_spec")]
        spec = next((found for each in finders if (found := each.find_spec(name, path, target)) is not None), None)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return spec
        spec.loader = _Uncollected(spec.loader.name, spec.loader.path)
        return spec


class _Uncollected(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _collector_off():
            super().exec_module(module)


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
