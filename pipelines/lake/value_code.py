"""Which code can change a feature value, and a hash of what it means: comments, docstrings and layout change none. Standard library only.

A batch run is stale when that of its groups is another one. All other code (reports, charts, the command line, ..) is recorded and informs.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pipelines.lake.data_files import FileState, file_state
from pipelines.lake.kept_meanings import KeptMeanings

__all__ = [
    "ENGINE_PARTS",
    "engine_files",
    "imports_of",
    "meaning",
    "meaning_of",
    "meanings",
    "modules_of",
    "repo_files",
    "repo_files_of",
    "syntax_tree",
    "value_files",
]

ENGINE_PARTS = (
    "transforms",
    "pipelines/batch",
    "pipelines/sources/archived_files.py",
    "pipelines/sources/event_files.py",
    "pipelines/sources/log_names.py",
    "pipelines/sources/file_records.py",
    "pipelines/sources/file_formats",
    "pipelines/sources/formats/avro_times.py",  # what their dates and times are,
    "pipelines/sources/formats/avro_weight.py",  # which Avro files are read, and
    "pipelines/sources/kafka/compression.py",  # how their blocks in snappy are
    "pipelines/sources/null_fields.py",  # changes none, but a step of the batch hands it the events
    "pipelines/sources/recorded_files.py",
    "pipelines/sources/tables",
)
"""Of the engine: what a feature is, the steps of the batch graph, and how events are read from files."""
_REFERENCE = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")
"""``"module:name"``, as definitions name preprocessing functions."""
_DYNAMIC = {"importlib", "__import__", "exec", "eval", "runpy"}


def value_files(engine: Path, repo: Path, definitions: str = "features", modules: Iterable[str] = ()) -> dict[str, Path]:
    """The files whose code can change a value, by the name that provenance gives them: ``transforms/windows.py``, ``repo/features.py``.

    ``modules``: those of :func:`modules_of`, which a definition may name in ways that its text does not show.
    """
    ours = {*repo_files(repo, definitions), *repo_files_of(repo, definitions, modules)}
    return engine_files(engine) | {f"repo/{f.relative_to(repo).as_posix()}": f for f in sorted(ours)}


def engine_files(engine: Path) -> dict[str, Path]:
    """Those of the engine, by their names."""
    out = {}
    for part in ENGINE_PARTS:
        for file in [engine / part] if part.endswith(".py") else sorted((engine / part).rglob("*.py")):
            out[file.relative_to(engine).as_posix()] = file
    return out


def meanings(files: Mapping[str, Path]) -> dict[str, str]:
    """Name -> :func:`meaning` of each file, cut to 16 digits as manifests have it."""
    found = {name: meaning(file)[:16] for name, file in files.items()}
    _kept().save()
    return found


def modules_of(group: Any) -> set[str]:
    """The modules whose code makes the values of a feature group, beside what its definition says: its preprocessing function's, and
    those of its aggregates' and their states' classes."""
    out = {group.preprocessing_fn.partition(":")[0]} if group.preprocessing_fn else set()
    for aggregate in group.aggregates:
        for cls in (type(aggregate), *(spec.state for spec in aggregate.states())):
            out |= {base.__module__ for base in cls.__mro__}
    return {name for name in out if name.partition(".")[0] not in {"transforms", "tandem", *sys.stdlib_module_names}}


def repo_files_of(repo: Path, definitions: str, modules: Iterable[str]) -> list[Path]:
    """The repository's files that these modules are, and that they import or name.

    Those of :func:`repo_files` where a module is none of the repository's: nobody sees its package change, so the definitions stand for it.
    """
    roots = {name: _files_of(repo, name) for name in modules}
    if not all(roots.values()):
        return repo_files(repo, definitions)
    return _reached(repo, [file for files in roots.values() for file in files])


def repo_files(repo: Path, definitions: str) -> list[Path]:
    """The repository's files that its definitions are made of: their module, and what that imports or names as ``"module:function"``.

    All of its files where that cannot be told: there is no such module, or one of them imports by computed names.
    """
    waiting = _files_of(repo, definitions)
    return _reached(repo, waiting) if waiting else _all_files(repo)


def _all_files(repo: Path) -> list[Path]:
    return sorted(p for p in repo.rglob("*.py") if not _hidden(p, repo))


def _reached(repo: Path, waiting: list[Path]) -> list[Path]:
    found = dict[Path, None]()
    whole = False
    while waiting and not whole:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        try:
            tree = syntax_tree(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        names, dynamic = _named(tree, file, repo)
        whole = dynamic
        waiting += [inner for name in names for inner in _files_of(repo, name)]
    return _all_files(repo) if whole else sorted(found)


def _hidden(path: Path, repo: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.relative_to(repo).parts)


def _files_of(repo: Path, module: str) -> list[Path]:
    """The files of the repository that are run when ``module`` is imported: its packages' and its own."""
    parts, out = module.split("."), []
    for n in range(1, len(parts) + 1):
        place = repo.joinpath(*parts[:n])
        out += [p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()]
    return out


def _named(tree: ast.Module, file: Path, repo: Path) -> tuple[list[str], bool]:
    """The modules that a file may import or names as ``"module:function"``, and whether it imports others by computed names."""
    names, dynamic = imports_of(tree, file, repo)
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return names + [match[1] for text in texts if (match := _REFERENCE.fullmatch(text))], dynamic


def imports_of(tree: ast.Module, file: Path, repo: Path) -> tuple[list[str], bool]:
    """The modules that a file may import, and whether it imports others by computed names."""
    package = list(file.relative_to(repo).parent.parts)
    names: list[str] = []
    dynamic = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names += [".".join([*base, alias.name]) for alias in node.names] + ([".".join(base)] if base else [])
        elif isinstance(node, ast.Name):
            dynamic |= node.id in _DYNAMIC
    return names, dynamic or any(name.split(".")[0] in _DYNAMIC for name in names)


def syntax_tree(content: bytes) -> ast.Module:
    """What the bytes of a Python file say. Raises as :func:`ast.parse` does, and leaves warnings ("\\d" in a string) to the import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(content)


def meaning(path: Path) -> str:
    """The SHA-256 of what a Python file means: of its syntax tree without docstrings. Of its bytes, where it is no Python."""
    return _meaning(str(path), file_state(path))


@lru_cache(1024)
def _meaning(path: str, state: FileState) -> str:
    content = Path(path).read_bytes()
    own = hashlib.sha256(content).hexdigest()
    if (kept := _kept().find(own)) is not None:
        return kept
    try:
        tree = syntax_tree(content)
    except (SyntaxError, ValueError):
        return own
    found = meaning_of(tree)
    _kept().keep(own, found)
    return found


def meaning_of(tree: ast.Module) -> str:
    """The SHA-256 of a syntax tree without docstrings, which it loses."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _stands_alone(statement)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _kept() -> KeptMeanings:
    return KeptMeanings.of_this_machine(Path(__file__).read_bytes())


def _stands_alone(statement: ast.AST) -> bool:
    """Whether it is a string and nothing else: the docstring of a module, class, function or attribute."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
