"""What a module of a repository defines, as far as its text says: asked before it is imported, as that may load TensorFlow."""

from __future__ import annotations

import ast
import sys
from functools import lru_cache
from pathlib import Path

__all__ = ["surely_lacks", "told_at_once"]

_BEYOND_THE_TEXT = frozenset({
    "__dict__", "__getattr__", "__import__", "currentframe", "eval", "exec", "f_globals", "globals", "import_module", "locals", "modules",
    "setattr", "vars",
})  # fmt: skip
"""A module that has one of these may have names that its text does not show."""


def surely_lacks(repo: Path, module: str, name: str) -> bool:
    """Whether nothing in the text of a repository's module could give it this name.

    False where the text cannot tell: a module that was imported (others may have given it names), has no file or does not parse, takes all
    names of another, makes names while it runs, calls functions of the repository meanwhile, which may do so, or has the name within a
    function.
    """
    if module in sys.modules:
        return False
    names = _names_of(repo, module)
    return name not in names if names else False


def told_at_once(repo: Path, module: str, name: str) -> bool:
    """Whether asking the module for a name says at once that there is none, as it has no file, does not parse, or lacks it."""
    return module not in sys.modules and (surely_lacks(repo, module, name) or _names_of(repo, module) is None)


def _names_of(repo: Path, module: str) -> frozenset[str] | None:
    """None: no text of the module can be read. Empty: there may be any names."""
    place = repo.joinpath(*module.split("."))
    file = next((f for f in (place / "__init__.py", place.with_name(f"{place.name}.py")) if f.is_file()), None)
    try:
        return None if file is None else _bound(file.read_bytes(), repo)
    except (OSError, SyntaxError, ValueError):
        return None
    except (RecursionError, MemoryError):  # too deep for the parser alone
        return frozenset()


@lru_cache(maxsize=32)
def _bound(text: bytes, repo: Path) -> frozenset[str]:
    """All names in a file that could be bound, wherever they are; none where there may be any."""
    tree, names = ast.parse(text), {"__name__"}
    if _called(tree) & _own(tree, repo):
        return frozenset()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            if any(alias.name == "*" for alias in node.names):
                return frozenset()
            words = [alias.asname or alias.name for alias in node.names]
            words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []  # a package has its modules as attributes
            names.update(part for word in words for part in word.split("."))
            continue
        # of functions and classes, names, attributes, handlers and patterns
        names.update(w for w in (getattr(node, at, None) for at in ("id", "attr", "name", "rest")) if isinstance(w, str))
        names.update(getattr(node, "names", ()))  # global, nonlocal
    return frozenset() if names & _BEYOND_THE_TEXT else frozenset(names)


def _called(tree: ast.Module) -> set[str]:
    """The names that are called while a module is imported, of which that of ``helpers.register(...)`` is ``helpers``."""
    called: list[ast.expr] = []
    left: list[ast.AST] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            called += node.decorator_list
        if isinstance(node, ast.Call):
            called.append(node.func)
        left += node.decorator_list if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ast.iter_child_nodes(node)
    return {part.id for each in called for part in ast.walk(each) if isinstance(part, ast.Name)}


def _own(tree: ast.Module, repo: Path) -> set[str]:
    """The functions and classes of the file, and what it imports from modules of the repository."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                top = ((node.module or "") if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
                if getattr(node, "level", 0) or (repo / f"{top}.py").exists() or (repo / top).exists():
                    own.add(alias.asname or alias.name.partition(".")[0])
    return own
