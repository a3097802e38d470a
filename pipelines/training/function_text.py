"""What of a module's text one of its functions is made of: all but the other functions that it does not name.

``tandem check`` keeps an answer about a function by that (:mod:`pipelines.training.kept_checks`), so that a change of one of several
functions in a file is a change of that one, and of those that call it. It errs to one side: a word is a name wherever it stands, and where
others might run the module's functions while it is imported, the whole text counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.lake.value_code import imports_of, meaning_of, syntax_tree

__all__ = ["function_meaning"]

_WORD = re.compile(r"\w+")
_RUNNING = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


def function_meaning(repo: Path, reference: str, others: Iterable[Path]) -> tuple[Path, str] | None:
    """The file of the function ``"module:function"`` and the SHA-256 of what its text means for this function alone.

    ``others``: all files of the repository that its definitions are made of. None where one of them imports the module, or others by
    computed names: then it may call any function of it, or give it names. None as well where there is no such file, or it is no Python.
    """
    module, _, function = reference.partition(":")
    place = repo.joinpath(*module.split("."))
    file = next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)
    if file is None:
        return None
    try:
        for other in others:
            if other == file:
                continue
            names, computed = imports_of(syntax_tree(other.read_bytes()), other, repo)
            if computed or any(name == module or name.startswith(f"{module}.") for name in names):
                return None
        tree = syntax_tree(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return file, meaning_of(ast.Module(_made_of(tree, function), []))


def _made_of(tree: ast.Module, function: str) -> list[ast.stmt]:
    """The statements of a module without the functions that neither ``function`` nor an import of the module names."""
    waiting = [one for one in tree.body if isinstance(one, ast.FunctionDef) and _only_binds(one) and one.name != function]
    named = {word for one in tree.body if one not in waiting for word in _words(one)}
    while used := [one for one in waiting if one.name in named]:
        waiting = [one for one in waiting if one not in used]
        named.update(word for one in used for word in _words(one))
    return [one for one in tree.body if one not in waiting]


def _only_binds(one: ast.FunctionDef) -> bool:
    """Whether nothing but a name comes of the statement itself: no decorator is called, nor a default or an annotation."""
    if one.decorator_list or one.name.startswith("__"):
        return False
    heads = [one.args, *([one.returns] if one.returns is not None else [])]
    return not any(isinstance(node, _RUNNING) for head in heads for node in ast.walk(head))


def _words(statement: ast.stmt) -> Iterator[str]:
    """All words in what a statement says: names, attributes, arguments, and those in strings, but for strings that stand alone."""
    alone = {id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Expr)}
    for node in ast.walk(statement):
        if isinstance(node, ast.Constant) and id(node) in alone:
            continue
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield from _WORD.findall(text)
