"""Whether what a repository's code does depends on that code alone, as far as its text shows: no files, clock, chance or environment.

Asked before an answer about it is kept (:mod:`pipelines.training.kept_checks`). It errs to one side: what it does not know is refused, and
then asked anew each time.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from pipelines.lake.value_code import syntax_tree
from transforms.source_imports import LIBRARIES

__all__ = ["why_not"]

PLAIN = frozenset({
    "__future__", "abc", "collections", "dataclasses", "decimal", "enum", "feast", "fractions", "functools", "itertools", "math",
    "numpy", "operator", "re", "string", "tensorflow", "tensorflow_transform", "transforms", "typing",
})  # fmt: skip
"""What a function may import: nothing of it answers differently tomorrow, except for what :data:`OUTSIDE` names."""
OURS = ("tandem.transforms", "tandem.pipelines.feature_store.views", "tandem.pipelines.training")
ENGINE = ("tandem", "transforms", "pipelines", "serving")
OUTSIDE = frozenset({
    "argv", "asset", "assets", "compat", "config", "connect", "data", "dataset", "env", "environ", "experimental", "fetch", "file",
    "files", "fromfile", "fromregex", "genfromtxt", "getenv", "gfile", "glob", "hub", "io", "listdir", "load", "loadtxt", "memmap",
    "open", "path", "popen", "python", "raw", "read", "request", "requests", "run", "save", "saved", "socket", "store",
    "subprocess", "summary", "system", "train", "url", "walk", "write",
})  # fmt: skip
"""Words in names of libraries' parts by which they reach beyond the program: ``tf.io``, ``np.load``, ``TextFileInitializer``."""
CHANGING = frozenset({"now", "random", "time", "timestamp", "today", "uuid"})
"""Likewise, of clocks and chance; whether a module can be imported does not hang on them."""
BUILTINS = frozenset({
    "__import__", "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "globals", "hash", "id", "input", "locals", "open",
    "setattr", "vars",
})  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def why_not(files: Iterable[Path], repo: Path, importing: bool = False) -> str | None:
    """Why what these files do may be another thing the next time, in a few words; None where nothing shows it.

    ``importing``: only what an import of them does is of interest; they may then import any package that is installed.
    """
    for file in files:
        try:
            tree = syntax_tree(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return f"{file.name} cannot be read"
        if (found := _reason(tree, repo, importing)) is not None:
            line, why = found
            return f"{file.name}, line {line}: {why}"
    return None


def _reason(tree: ast.Module, repo: Path, importing: bool) -> tuple[int, str] | None:
    nodes = list(_at_import(tree) if importing else ast.walk(tree))
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    reaching = _reaching(tree) if importing else {}
    for node in nodes:
        why = None
        if isinstance(node, ast.Import):
            why = next((w for alias in node.names if (w := _imported(alias.name, repo, importing))), None)
        elif isinstance(node, ast.ImportFrom):
            why = _imported_from(node, repo, importing)
        elif isinstance(node, ast.Attribute) and (word := _outside(node.attr, importing)):
            why = f"{ast.unparse(node)[:60]} ({word})"
        elif isinstance(node, ast.Name) and (node.id in BUILTINS - bound or node.id in reaching):
            why = reaching.get(node.id, node.id)
        elif importing and isinstance(node, ast.Call) and _calls_own(node, tree):
            why = f"{ast.unparse(node.func)[:60]}() is called when it is imported"
        if why is not None:
            return node.lineno, why  # type: ignore[attr-defined]
    return None


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What an import runs: neither the bodies of functions nor, as good as ever, annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _at_import(child)


def _reaching(tree: ast.Module) -> dict[str, str]:
    """Names that are imported and by which a package reaches beyond the program -> what they are."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(OURS)]
    return {a.asname or a.name: f"{node.module}.{a.name}" for node in imports for a in node.names if _outside(a.name, importing=True)}


def _calls_own(call: ast.Call, tree: ast.Module) -> bool:
    """Whether it is code of the repository that is called: neither a builtin's nor an installed package's."""
    root: ast.expr = call.func
    while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name):
        return not isinstance(root, ast.Constant)
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return root.id in defined


def _outside(name: str, importing: bool = False) -> str | None:
    if name == "apply_vocabulary":  # of a file that its argument names
        return name
    return next((w for word in _WORD.findall(name) if (w := word.lower()) in OUTSIDE or (w in CHANGING and not importing)), None)


def _imported_from(node: ast.ImportFrom, repo: Path, importing: bool) -> str | None:
    if node.level:
        return None  # the repository's own, which is looked at as well
    module = node.module or ""
    if any(alias.name == "*" for alias in node.names) and not _is_own(module, repo):
        return f"from {module} import *"
    if (why := _imported(module, repo, importing)) is not None or importing or _is_own(module, repo) or module.startswith(OURS):
        return why
    return next((f"{module}.{a.name} ({w})" for a in node.names if (w := _outside(a.name))), None)


def _is_own(module: str, repo: Path) -> bool:
    place = repo / module.partition(".")[0]
    return place.with_suffix(".py").is_file() or place.is_dir()


def _imported(module: str, repo: Path, importing: bool) -> str | None:
    """Why an import makes it depend on more than the code and the packages that are installed."""
    root, _, rest = module.partition(".")
    if _is_own(module, repo) or module.startswith(OURS):
        return None
    if root in PLAIN:
        word = next((w for part in rest.split(".") if (w := _outside(part))), None)
        return f"{module} ({word})" if word else None
    if not importing:
        return f"it imports {module}"
    if root in sys.stdlib_module_names or root in ENGINE:
        return None
    found = PathFinder.find_spec(root)
    where = None if found is None else found.origin
    return (
        None if where and any(Path(where).is_relative_to(p) for p in LIBRARIES) else f"it imports {module}, which is no installed package"
    )
