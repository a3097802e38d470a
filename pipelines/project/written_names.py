"""Whether a module of a repository surely lacks a name, by its text: ``tandem check`` tells that before an import loads TensorFlow.

The text decides only where nothing that runs while the module is imported could give it a name that is not written down. What is not known
here to be harmless leaves it open, and then the module is imported and asked.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from sys import modules as loaded

from pipelines.lake.value_code import syntax_tree

__all__ = ["surely_lacks", "told_at_once"]

_LIBRARIES = frozenset({
    "__future__", "abc", "collections", "dataclasses", "datetime", "decimal", "feast", "fractions", "functools", "itertools", "json",
    "keras", "logging", "math", "numpy", "pandas", "pathlib", "pipelines", "pyarrow", "re", "serving", "string", "tandem", "tensorflow",
    "tensorflow_transform", "tf_keras", "transforms", "typing", "zoneinfo",
})  # fmt: skip
"""Their functions give no name to the module that calls them. Others might: by ``sys.modules``, by the frame of their caller."""
_BUILTINS = frozenset({
    "abs", "all", "any", "bool", "bytes", "classmethod", "complex", "dict", "divmod", "enumerate", "filter", "float", "frozenset", "int",
    "isinstance", "issubclass", "iter", "len", "list", "map", "max", "min", "next", "object", "pow", "print", "property", "range", "repr",
    "reversed", "round", "set", "slice", "sorted", "staticmethod", "str", "sum", "tuple", "zip",
} | {name for name, of in vars(builtins).items() if isinstance(of, type) and issubclass(of, Exception)})  # fmt: skip
_BEYOND_THE_TEXT = frozenset({
    "__builtins__", "__class__", "__dict__", "__getattr__", "__getattribute__", "__globals__", "__import__", "__path__", "_getframe",
    "builtins", "currentframe", "eval", "exec", "f_back", "f_globals", "f_locals", "gc", "getattr", "globals", "import_module",
    "importlib", "inspect", "locals", "modules", "setattr", "sys", "vars",
})  # fmt: skip
"""A module that has one of these may have names that its text does not show."""
_SPECIAL = frozenset({"__all__", "__doc__", "__file__", "__main__", "__name__"})
"""Of the names that Python gives a meaning, those that lead nowhere."""


def surely_lacks(repo: Path, module: str, name: str) -> bool:
    """Whether nothing could give a repository's module this name when it is imported.

    False where the text cannot tell: the module was imported before (others may have given it names), has no file, does not parse, has the
    name anywhere, even in a function, or runs code meanwhile that is not known to be harmless (the repository's functions, other packages).
    """
    names = _names_of(repo, module)
    return name not in names if names else False


def told_at_once(repo: Path, module: str) -> bool:
    """Whether asking the module loads nothing: it was imported before, has no file, or does not parse."""
    return module in loaded or _names_of(repo, module) is None


def _names_of(repo: Path, module: str, importers: frozenset[str] = frozenset()) -> frozenset[str] | None:
    """All names that the text has. None: there is no text that can be read. Empty: there may be any names."""
    parts = module.split(".")
    if parts[0] in loaded or module in importers:
        return frozenset()
    names = frozenset[str]()
    try:
        if (found := find_spec(parts[0])) is None:
            return None
        for n in range(1, len(parts) + 1):  # a package's own file runs first
            place = repo.joinpath(*parts[:n])
            file = next((f for f in (place / "__init__.py", place.with_name(f"{place.name}.py")) if f.is_file()), None)
            if file is None:
                return None if n == len(parts) else frozenset()
            if n == 1 and not (isinstance(found.loader, SourceFileLoader) and Path(found.origin or "") == file):
                return frozenset()  # a built-in module, an extension, another folder's
            tree = _tree(file.read_bytes())
            written = {"__name__", *_named(tree)}
            if written & _BEYOND_THE_TEXT or not _is_harmless(tree, repo, importers | {module}):
                return frozenset()
            names |= written
    except (OSError, SyntaxError, ValueError):
        return None
    except (RecursionError, MemoryError):  # too deep for the parser alone
        return frozenset()
    return names


_tree = lru_cache(maxsize=32)(syntax_tree)


def _named(tree: ast.Module) -> Iterator[str]:
    """Whatever is a name in a text, wherever it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            words = [word for alias in node.names for word in (alias.name, alias.asname or "")]
            words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []  # a package has its modules as attributes
            yield from (part for word in words for part in word.split("."))
        else:  # of functions and classes, names, attributes, handlers and patterns; global and nonlocal
            yield from (word for at in ("id", "attr", "name", "rest") if isinstance(word := getattr(node, at, None), str))
            yield from getattr(node, "names", ())


def _at_import(node: ast.AST, unread: frozenset[str]) -> Iterator[ast.AST]:
    """What an import runs: all but the bodies of functions, and annotations where a file says so (``unread``)."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in unread and (name != "body" or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _at_import(child, unread)


def _is_harmless(tree: ast.Module, repo: Path, importers: frozenset[str]) -> bool:
    """Whether what an import of this text runs gives no module a name that is not written.

    It imports known libraries and modules of the repository that do no harm either, and all that it uses are known builtins, what those
    libraries have, and values made of these: nothing of the repository is called, directly or by what it is handed to.
    """
    usable, own, imports = set(_BUILTINS | _SPECIAL), set[str](), list[tuple[str, str, str]]()
    later = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    nodes = list(_at_import(tree, frozenset({"annotation", "returns"} if later else ())))
    for node in nodes:
        match node:
            case ast.Import():
                imports += [(alias.name, "", alias.asname or alias.name.partition(".")[0]) for alias in node.names]
            case ast.ImportFrom():
                imports += [("." * node.level + (node.module or ""), alias.name, alias.asname or alias.name) for alias in node.names]
            case ast.Name(ctx=ast.Store()):
                usable.add(node.id)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                own.add(node.name)
    for module, what, given in imports:
        top = module.partition(".")[0]
        is_own = (repo / top).exists() or (repo / f"{top}.py").exists()
        if what == "*" or not (_is_read(repo, module, importers) if is_own else top in _LIBRARIES):
            return False
        (own if is_own else usable).add(given)
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used <= usable - own and not any(map(_is_special, nodes))


def _is_read(repo: Path, module: str, importers: frozenset[str]) -> bool:
    """Whether an import of another module of the repository runs nothing, or nothing that could give names."""
    return module in loaded or ("." not in module and not (repo / module).is_dir() and bool(_names_of(repo, module, importers)))


def _is_special(node: ast.AST) -> bool:
    """Whether it is an attribute, or the name of one in a string, by which Python's own parts are reached."""
    word = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
    return isinstance(word, str) and word.startswith("__") and word.endswith("__") and word not in _SPECIAL
