"""Tandem under one name of its own: ``tandem.transforms``, ``tandem.pipelines`` and ``tandem.serving``.

They are the packages ``transforms``, ``pipelines`` and ``serving`` that lie beside this one: the same modules under two names, so a
class is one class however it was imported. Importing either name pins all three to this installation: a ``serving.py`` in somebody's
folder, wherever that stands on ``sys.path``, is not ours. Light: standard library only.

Whoever imports one of them never unpickles what a Parquet file calls a type: where pyarrow does that (before 14.0.1, CVE-2023-47248),
``pyarrow_hotfix`` is loaded with it, in this process and in every child that runs our code, whoever imports pyarrow first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

__all__ = ["__version__"]

__version__ = "0.2.0"

_HOME = str(Path(__file__).resolve().parents[1])
_PARTS = ("transforms", "pipelines", "serving")
OWN = ("tandem", *_PARTS)
"""Names that are never somebody else's module, whatever lies on ``sys.path`` before them."""

# Modules that repositories and extensions name, by where they stood before (feature_store.yaml, features.py, labels.py, model.py).
_MOVED = {
    "pipelines.offline_store": "serving.offline_store",
    "pipelines.config": "pipelines.project.config",
    "pipelines.event_files": "pipelines.sources.event_files",
    "pipelines.repo": "pipelines.project.repository",
    "pipelines.streaming.engines.base": "pipelines.streaming.engines.stream_engine",
    "pipelines.training.job": "pipelines.training.training_job",
    "transforms.functions.base": "transforms.functions.aggregate",
}


class _SameModule(Loader):
    """Loads a module under a second name: it is the very module of the first."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system gave it that of the second name

    def get_code(self, name: str) -> CodeType | None:
        """The code that ``python -m`` with the second name runs."""
        found = find_spec(self.name)
        loader = found.loader if found is not None else None
        return loader.get_code(self.name) if isinstance(loader, InspectLoader) else None


class _MovedModule(_SameModule):
    """One by the name that it had before: says so when it is imported, not when it is looked for."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        print(f"tandem: {spec.name} is {self.name} now; change it in your feature repository", file=sys.stderr)
        return super().create_module(spec)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in OWN:
            return PathFinder.find_spec(name, [_HOME])
        if name == "pyarrow":
            return _then(PathFinder.find_spec(name), _forbid_pickled_types)
        if name in _MOVED:
            return ModuleSpec(name, _MovedModule(_MOVED[name]))
        head, _, rest = name.partition(".")
        if head == "tandem" and rest.partition(".")[0] in _PARTS:
            found = find_spec(rest)
            if found is not None:
                return ModuleSpec(name, _SameModule(rest), origin=found.origin, is_package=found.submodule_search_locations is not None)
        return None


def _then(spec: ModuleSpec | None, done: Callable[[], None]) -> ModuleSpec | None:
    """The same spec; when its module has been executed, ``done`` is called before anybody has the module."""
    loader = spec.loader if spec is not None else None
    if loader is not None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            done()

        setattr(loader, "exec_module", exec_module)  # noqa: B010  # of this loader alone, which is made anew for each import
    return spec


def _forbid_pickled_types() -> None:
    pickled = getattr(sys.modules["pyarrow"], "PyExtensionType", None)  # gone in pyarrow 21
    if pickled is not None and not hasattr(pickled, "set_auto_load"):  # from 14.0.1 on such types are not loaded unless asked for
        import_module("pyarrow_hotfix")


if "pyarrow" in sys.modules:
    _forbid_pickled_types()
sys.meta_path.insert(0, _Finder())
