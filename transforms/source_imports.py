"""Modules of a user's repository are what their files say now, and those of the repository that was loaded last.

Python keeps the bytecode of a module in ``__pycache__`` and believes it while the file's size and its time of change in whole seconds are
the same (``py_compile.PycInvalidationMode.TIMESTAMP``). An edit of the same length within that second, or one that an archive or an image
layer unpacks with a fixed time, would run the old code under the new code's hash.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    NamespaceLoader,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

__all__ = ["LIBRARIES", "folder_of", "is_repository", "search_first"]

LIBRARIES = frozenset(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Where Python's own modules and installed packages lie."""
_SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES)
"""Of the files that are modules in a repository: bytecode alone is none."""
_folders: set[Path] = set()


class _FromSource(SourceFileLoader):
    """Compiles the file; reads and writes no bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _InRepository(FileFinder):
    """Finds modules in a folder of a repository's code.

    Of a package without an ``__init__.py`` Python takes a part from each folder of ``sys.path``, or another folder's module or whole
    package of that name. The folders of other repositories have no say in what this one has.
    """

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        found = super().find_spec(fullname, target)
        if found is None or found.loader is not None or Path(self.path) not in _folders:
            return found
        own = list(found.submodule_search_locations or ())
        if not self._others_have(fullname) or not any(map(_holds_code, own)):  # a folder of data is no package
            return found
        elsewhere = PathFinder.find_spec(fullname, [p for p in sys.path if not is_repository(p)])
        if elsewhere is not None and elsewhere.loader is not None:
            return elsewhere
        parts = [*own, *((elsewhere.submodule_search_locations or ()) if elsewhere is not None else ())]
        out = ModuleSpec(fullname, NamespaceLoader(fullname, parts, _no_other_parts), is_package=True)
        out.submodule_search_locations = parts
        return out

    def _others_have(self, name: str) -> bool:
        """Whether another repository has something of that name. Only then it matters what is in this one's folder, which may be large."""
        others = [p for p in sys.path if is_repository(p) and Path(p) != Path(self.path)]
        return any(os.path.exists(os.path.join(p, name + end)) for p in others for end in ("", *_SUFFIXES))


def _no_other_parts(fullname: str, path: object) -> None:
    """What ``NamespaceLoader`` asks where ``sys.path`` has changed."""


def _holds_code(folder: str) -> bool:
    """Whether modules lie in ``folder``, or in folders of it that may be packages, at any depth. Each folder is listed once, the upper ones
    first, until one has a module; none is that no import can name, as ``date=2024-05-01``."""
    left, seen = deque([folder]), set[str]()
    while left:
        at = os.path.realpath(left.popleft())
        if at in seen:  # links may go in circles
            continue
        seen.add(at)
        with suppress(OSError), os.scandir(at) as entries:
            for entry in entries:
                name, dot, _ = entry.name.partition(".")
                if not name.isidentifier() or name == "__pycache__":
                    continue
                if entry.name.endswith(_SUFFIXES):
                    return True
                if not dot and entry.is_dir():
                    left.append(entry.path)
    return False


def _is_code_of(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; an environment within a repository (``repo/.venv``) is none of its code."""
    return path.is_relative_to(folder) and not any(path.is_relative_to(p) and Path(p).is_relative_to(folder) for p in LIBRARIES)


def _finder(path: str) -> FileFinder:
    """A path hook of ``importlib``: a finder for a folder of a repository's code, ImportError for all others."""
    if not os.path.isdir(path) or not any(_is_code_of(Path(path), folder) for folder in _folders):
        raise ImportError(f"{path} is no folder of a repository")
    return _InRepository(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))


def folder_of(module: ModuleType | None) -> str | None:
    """The folder of ``sys.path`` that a module was imported from; None for Python's own, for an installed one, and for a package without an
    ``__init__.py`` that is made of several folders."""
    if module is None:
        return None
    if getattr(module, "__file__", None):
        file = Path(str(module.__file__)).resolve()
        up = module.__name__.count(".") + (file.stem == "__init__")
    else:
        parts = list(getattr(module, "__path__", ()))
        if len(parts) != 1:
            return None
        file, up = Path(parts[0]).resolve(), module.__name__.count(".")
    if any(file.is_relative_to(Path(p).resolve()) for p in LIBRARIES):
        return None
    return str(file.parents[up])


def is_repository(folder: str) -> bool:
    """Whether :func:`search_first` put ``folder`` on ``sys.path``."""
    return Path(folder) in _folders


def search_first(folder: str, instead_of: Collection[str] = ()) -> None:
    """Put ``folder`` first on ``sys.path``; the modules in it and in its packages are compiled from their files at each import.

    ``instead_of``: modules and packages of other places that are forgotten, with all that is in them, because this folder has its own. The
    folders that were put there before stay behind it: functions of theirs may be alive, and import what they need when they are called.
    """
    for module in [m for m in sys.modules.copy() if m.partition(".")[0] in instead_of]:
        del sys.modules[module]
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    if Path(folder) not in _folders:
        _folders.add(Path(folder))
        for known in [p for p in sys.path_importer_cache if Path(p).is_relative_to(folder)]:
            del sys.path_importer_cache[known]
    if _finder not in sys.path_hooks:
        sys.path_hooks.insert(0, _finder)
    importlib.invalidate_caches()
