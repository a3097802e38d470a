"""Tandem under one name of its own: ``tandem.transforms``, ``tandem.pipelines`` and ``tandem.serving``.

They are the packages ``transforms``, ``pipelines`` and ``serving`` that lie beside this one: the same modules under two names, so a
class is one class however it was imported. Importing either name pins all three to this installation: a ``serving.py`` in somebody's
folder, wherever that stands on ``sys.path``, is not ours. Light: standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["__version__"]

__version__ = "0.2.0"

_HOME = str(Path(__file__).resolve().parents[1])
_PARTS = ("transforms", "pipelines", "serving")

# Modules that feature repositories name, by where they stood in 0.1 (feature_store.yaml, features.py, labels.py, model.py).
_MOVED = {
    "pipelines.offline_store": "serving.offline_store",
    "pipelines.config": "pipelines.project.config",
    "pipelines.event_files": "pipelines.sources.event_files",
    "pipelines.repo": "pipelines.project.repository",
    "pipelines.training.job": "pipelines.training.training_job",
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


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in _PARTS:
            return PathFinder.find_spec(name, [_HOME])
        if name in _MOVED:
            print(f"tandem: {name} is {_MOVED[name]} now; change it in your feature repository", file=sys.stderr)
            return ModuleSpec(name, _SameModule(_MOVED[name]))
        head, _, rest = name.partition(".")
        if head == "tandem" and rest.partition(".")[0] in _PARTS:
            return ModuleSpec(name, _SameModule(rest), is_package=True)
        return None


sys.meta_path.insert(0, _Finder())
