"""A feature repository, loaded by its path: the engine never imports one by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.lake.user_output import stdout_to_stderr
from pipelines.project.config import Settings, load_settings
from pipelines.project.late_feast import feast_when_used
from pipelines.project.mistakes import one_line, place_of
from tandem import OWN
from transforms.definitions import EventSource, FeatureGroup
from transforms.errors import ConfigError, DefinitionError
from transforms.source_imports import LIBRARIES, folder_of, is_repository, search_first
from transforms.tensorflow_settings import settle_tensorflow

__all__ = ["Repo", "load_module", "load_repo", "no_such_name"]


@dataclass(frozen=True)
class Repo:
    """A repository's folder, settings, sources and feature groups (both by name)."""

    path: Path
    settings: Settings
    sources: dict[str, EventSource]
    groups: dict[str, FeatureGroup]

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.settings.data

    def attribute(self, reference: str) -> Any:
        """The object that ``"module:name"`` refers to; raises DefinitionError if there is none."""
        module, _, name = reference.partition(":")
        found = getattr(load_module(self.path, module), name, None)
        if found is None:
            raise no_such_name(self.path, reference)
        return found

    def only(self, names: Iterable[str]) -> Repo:
        """The repository with these groups, and the sources that they read, alone; all of it for no names. Raises ConfigError."""
        wanted = list(names)
        if unknown := [n for n in wanted if n not in self.groups]:
            raise ConfigError(f"there is no group {unknown[0]!r} in {self.path.name}; it has {', '.join(self.groups)}")
        groups = {n: g for n, g in self.groups.items() if n in wanted or not wanted}
        read = {g.source.name for g in groups.values()}
        return replace(self, groups=groups, sources={n: s for n, s in self.sources.items() if n in read or not wanted})

    def preprocessing_fn(self, group: FeatureGroup) -> Callable[..., Any] | None:
        """The group's function, or None."""
        return None if group.preprocessing_fn is None else self.attribute(group.preprocessing_fn)


def no_such_name(repo: Path, reference: str) -> DefinitionError:
    """The error for ``"module:name"`` where the module has no such name."""
    module, _, name = reference.partition(":")
    return DefinitionError(f"{reference!r}: module {module!r} of {repo.name} has no {name!r}; correct the name")


def load_module(repo: Path, name: str) -> ModuleType:
    """Import module ``name`` of the repository under its bare name, as Feast does; modules of another repository give way.

    Raises DefinitionError, one line with file and line, when the module is missing or fails.
    """
    search_first(str(repo), _of_others(repo, {p.stem for p in repo.glob("*.py")} | {name.partition(".")[0]}))
    settle_tensorflow()  # preprocessing and models import it
    try:
        with stdout_to_stderr():  # what a module prints is no part of a command's result
            return importlib.import_module(name)
    except DefinitionError:
        raise
    except ModuleNotFoundError as error:
        if error.name == name:
            fix = f"write {name.removesuffix('.py')!r}" if name.endswith(".py") else f"write {name}.py or correct the name"
            raise DefinitionError(f"{repo.name} has no module {name!r}; {fix}") from None
        raise DefinitionError(f"{repo.name}/{name}.py needs the module {error.name!r}, which is not installed") from None
    except SystemExit as stop:
        raise DefinitionError(
            f"{repo.name}/{place_of(stop, repo) or f'{name}.py'}: it ends Python while it is imported (exit code {stop.code});"
            " keep that below if __name__ == '__main__':"
        ) from None
    except Exception as error:
        if isinstance(error, SyntaxError) and not error.filename and (odd := _not_utf8(repo)):
            raise DefinitionError(f"{repo.name}/{odd}: it is not UTF-8; save it as UTF-8") from None
        told = one_line(error, repo) if place_of(error, repo) else f"{name}.py: {one_line(error)}"
        raise DefinitionError(f"{repo.name}/{told}") from None


def _not_utf8(repo: Path) -> str:
    """The name of the first module that is in another encoding; "" if none is."""
    for file in sorted(repo.glob("*.py")):
        try:
            file.read_text("utf-8")
        except UnicodeDecodeError:
            return file.name
    return ""


def _of_others(repo: Path, modules: set[str]) -> set[str]:
    """What is loaded under a name that the repository has a module or a package for, and is not its own: also that of a repository which
    is gone by now, but never a library's, and a package only if it is another repository's. A package is any folder, with an
    ``__init__.py`` or without: then what was loaded from it says whose it is."""
    packages = {p.name for p in repo.iterdir() if p.is_dir() and p.name.isidentifier()}
    own = (modules | packages) - set(OWN)
    now = sys.modules.copy()  # in one step: others import meanwhile, also what the collector ends while a list of pairs is made
    loaded = [(top, folder_of(m)) for name, m in now.items() if (top := name.partition(".")[0]) in own]
    return {top for top, f in loaded if f is not None and f != str(repo) and (top in modules or is_repository(f))}


@cache
def _tell_hidden(repo: Path) -> None:
    """Say on stderr which files of the repository have the name of a module of Python, or of a package, that they may stand before: a
    library that imports it gets the repository's."""
    elsewhere = [p for p in sys.path if Path(p or ".").resolve() != repo]
    for file in sorted(repo.glob("*.py")):
        found = None if file.stem in OWN else PathFinder.find_spec(file.stem, elsewhere)
        if found is not None and found.origin is not None and any(Path(found.origin).is_relative_to(p) for p in LIBRARIES):
            print(
                f"tandem: {repo.name}/{file.name} has the name of a module that is installed ({found.origin}); a library that"
                " imports that one may get yours: rename it",
                file=sys.stderr,
            )


def load_repo(path: Path, **flags: Any) -> Repo:
    """Load settings and definitions of the repository at ``path``. Raises ConfigError or DefinitionError."""
    path = path.resolve()
    settings = load_settings(path, **flags)
    _tell_hidden(path)
    with feast_when_used(path):
        module = load_module(path, settings.definitions)
    sources: dict[str, EventSource] = {}
    groups: dict[str, FeatureGroup] = {}
    for value in vars(module).values():
        kept: dict[str, Any] | None = sources if isinstance(value, EventSource) else groups if isinstance(value, FeatureGroup) else None
        if kept is None:
            continue
        if value.name in kept and kept[value.name] is not value:
            raise DefinitionError(f"{settings.definitions}.py: two definitions are called {value.name!r}; rename one")
        kept[value.name] = value
    if not groups:
        raise DefinitionError(f"{path.name}/{settings.definitions}.py defines no FeatureGroup; see 'tandem init' for an example")
    for group in groups.values():
        sources.setdefault(group.source.name, group.source)
    return Repo(path, settings, sources, groups)
