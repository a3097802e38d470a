"""What of a module's text one of its functions is made of: all but the other functions that it does not name.

``tandem check`` keeps an answer about a function by that (:mod:`pipelines.training.kept_checks`), so that a change of one of several
functions in a file is a change of that one, and of those that call it. It errs to one side: a word is a name wherever it stands; where
others might run the module's functions while it is imported, or a function might be reached by none of its words, the whole text counts;
and so does any function of which more comes than its name when it is defined, or that might change what others see when it is called.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.lake.value_code import imports_of, meaning_of, syntax_tree

__all__ = ["function_meaning"]

_WORD = re.compile(r"\w+")
_REFLECTION = {"__globals__", "__dict__", "__doc__", "__builtins__", "__closure__", "__code__", "attrgetter", "methodcaller"}
"""What may reach a function, or a text that is no part of its meaning, by none of its words."""


def function_meaning(repo: Path, reference: str, others: Iterable[Path]) -> tuple[Path, str] | None:
    """The file of the function ``"module:function"`` and the SHA-256 of what its text means for this function alone.

    ``others``: all files of the repository that its definitions are made of. None where one of them imports the module, or others by
    computed names: then it may call any function of it, or give it names. None as well where there is no such file, it is no Python, or it
    looks at its own insides.
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
        content = file.read_bytes()
        tree = syntax_tree(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(content, str(file), "exec", dont_inherit=True)  # finds more than the parser: an argument that is there twice, say
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    if _REFLECTION & {word for one in tree.body for word in _words(one)}:
        return None
    return file, meaning_of(ast.Module(_made_of(tree, function, repo), []))


def _made_of(tree: ast.Module, function: str, repo: Path) -> list[ast.stmt]:
    """The statements of a module without the functions that neither ``function`` nor an import of the module names."""
    lazy = any(isinstance(one, ast.ImportFrom) and one.module == "__future__" and _has(one, "annotations") for one in tree.body)
    shared = {name for one in tree.body for name in _shared_by(one, repo)}
    waiting = [
        one
        for one in tree.body
        if isinstance(one, ast.FunctionDef) and one.name != function and _only_binds(one, lazy) and not _may_change(one, shared)
    ]
    named = {word for one in tree.body if one not in waiting for word in _words(one)}
    while used := [one for one in waiting if one.name in named]:
        waiting = [one for one in waiting if one not in used]
        named.update(word for one in used for word in _words(one))
    return [one for one in tree.body if one not in waiting]


def _has(one: ast.ImportFrom, name: str) -> bool:
    return any(alias.name == name for alias in one.names)


def _only_binds(one: ast.FunctionDef, lazy: bool) -> bool:
    """Whether nothing but a name comes of the statement itself: nothing is called, and nothing looked up that might not be there.
    ``lazy``: annotations are not evaluated."""
    given = [*one.args.defaults, *(each for each in one.args.kw_defaults if each is not None)]
    own = [arg for arg in ast.walk(one.args) if isinstance(arg, ast.arg)]
    annotated = one.returns is not None or any(arg.annotation is not None for arg in own)
    plain = not one.decorator_list and not one.name.startswith("__") and all(isinstance(each, ast.Constant) for each in given)
    return plain and (lazy or not annotated)


def _shared_by(one: ast.stmt, repo: Path) -> set[str]:
    """The names that a statement of a module gives to what may change: not to numbers and texts, functions, and modules that are not the
    repository's."""
    if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return set()
    if isinstance(one, (ast.Assign, ast.AnnAssign)) and isinstance(one.value, ast.Constant):
        return set()
    if isinstance(one, (ast.Import, ast.ImportFrom)):
        own = isinstance(one, ast.ImportFrom) and one.level > 0
        module = one.module if isinstance(one, ast.ImportFrom) else None
        bound = {alias.asname or alias.name.split(".")[0]: (module or alias.name).split(".")[0] for alias in one.names}
        return {name for name, top in bound.items() if own or (repo / top).is_dir() or (repo / f"{top}.py").is_file()}
    names = {node.id for node in ast.walk(one) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | ({one.name} if isinstance(one, ast.ClassDef) else set())


def _may_change(one: ast.FunctionDef, shared: set[str]) -> bool:
    """Whether a call of a function may change what others see: it names what is ``shared``, or gives a global name, or a part of something
    that is not its own, another value."""
    nodes = list(ast.walk(one))
    if any(isinstance(node, ast.Global) for node in nodes) or shared & set(_words(one)):
        return True
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            root: ast.expr = node
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            if not isinstance(root, ast.Name) or root.id not in own:
                return True
    return False


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
