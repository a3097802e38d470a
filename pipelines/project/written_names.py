"""What a module of a repository defines, as far as its text says: asked before it is imported, as that may load TensorFlow."""

from __future__ import annotations

import ast
import sys
from functools import lru_cache
from pathlib import Path

__all__ = ["surely_lacks", "told_at_once"]

_BEYOND_THE_TEXT = frozenset({
    "__dict__", "__getattr__", "__import__", "eval", "exec", "globals", "import_module", "locals", "modules", "setattr", "vars",
})  # fmt: skip
"""A module that has one of these may have names that its text does not show."""


def surely_lacks(repo: Path, module: str, name: str) -> bool:
    """Whether nothing in the text of a repository's module could give it this name.

    False where the text cannot tell: a module that was imported (others may have given it names), has no file or does not parse, takes all
    names of another, makes names while it runs, or has the name within a function.
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
        return None if file is None else _bound(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    except (RecursionError, MemoryError):  # too deep for the parser alone
        return frozenset()


@lru_cache(maxsize=32)
def _bound(text: bytes) -> frozenset[str]:
    """All names in a file that could be bound, wherever they are; none where there may be any."""
    names = {"__name__"}
    for node in ast.walk(ast.parse(text)):
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
