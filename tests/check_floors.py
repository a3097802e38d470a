"""The import floors: which room may import what. ``python tests/check_floors.py [root]`` prints each breach and exits 1.

An allow-list: a module of ours, or a library, that a room is not allowed by name is a breach. Imports inside functions count
too, so a room cannot reach upstairs by importing late; imports for type checkers alone (``if TYPE_CHECKING:``) count as well, and
so do ``import_module`` and its like. ``tandem.pipelines.x`` is ``pipelines.x``, as the import system has it.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OURS = ("tandem", "transforms", "pipelines", "serving", "feature_repo", "tests", "docker")
SHIPPED = ("transforms", "serving", "pipelines", "tandem")
ANY = "*"
IMPORTERS = ("import_module", "__import__", "run_module", "resolve_name", "find_spec")
"""Calls that import, or run, the module that their first argument names."""
NAMED_LATER = {
    "pipelines.cli.extras": "whether an extra's libraries are installed",
    "pipelines.cli.root": "the commands, by a table of names",
    "pipelines.project.repository": "the modules of a user's repository",
    "pipelines.project.written_names": "where a module of a user's repository would be found, without an import",
    "pipelines.services.redis_server": "whether a wheel with the server is installed",
    "pipelines.sources.tables.duckdb_attach": "whether a package with DuckDB's extension is installed",
    "pipelines.sources.tables.query_table": "the database's driver that the table names",
    "pipelines.streaming.engines.worker": "what its parent tells it to load before the fork",
    "pipelines.tracking.stores": "whether the database's driver of a URL is installed",
    "tandem": "a module of ours under its second name",
    "tandem.__main__": "the module that ``-m`` names",
    "tandem.quick_imports": "what Feast, TensorFlow, Beam and TFX import and seldom use, by a table of names, and only in its turn",
    "transforms.functions.travel": "the user's module that defines a function",
}
"""The modules that import what only a running program names, and what that is: nobody can check those."""
LATE = {
    "pipelines.cli": "a command loads what it needs, and no other's",
    "pipelines.demo.demo_commands": "the same",
    "pipelines.workflow": "the same: commands are made of it",
    "pipelines.lake.shared": "a plain folder loads nothing for object stores",
    "pipelines.services.daemon": "one service of two",
    "pipelines.streaming.engines.worker": "its child, which is this module too, starts no process",
    "serving.object_store.connecting": "one store of several",
    "tandem.__main__": "first of all the imports are quickened",
}
"""The rooms that import modules of ours in functions though no library comes with them, and why."""
PUT_OFF = ("feast",)
"""Libraries that come at their first use, wherever they are imported: see ``pipelines.project.late_feast``."""

FLOOR0 = tuple(
    f"transforms.{m}"
    for m in (
        "errors",
        "files",
        "acceptance",
        "instants",
        "locks",
        "run_cover",
        "data_folder",
        "own_program",
        "plain_paths",
        "tensorflow_settings",
        "source_imports",
        "durations",
        "places",
        "origin",
        "parsing",
        "expressions",
        "fields",
        "event_source",
        "file_formats",
        "tables",
        "definitions",
        "windows",
        "exact",
        "exact_lists",
        "exact_windows",
        "functions",
        "hashing",
        "json_columns",
        "json_flat",
        "json_forms",
        "json_payload",
        "json_shapes",
        "reasons",
        "columns",
        "zones",
        "time_texts",
        "clock_times",
        "quick_conversions",
        "moments",
        "conversions",
        "nested",
        "origin_fields",
        "mapping",
        "computed",
        "json_schemas",
        "rules",
        "event_verdicts",
    )
)
FLOOR1 = tuple(
    f"transforms.{m}"
    for m in (
        "contract",
        "made_rows",
        "aggregates",
        "lateness",
        "tile_tiers",
        "fold",
        "tensors",
        "schemas",
        "tensorflow_reach",
        "fingerprint",
        "graph",
        "preprocessing",
        "graph_columns",
        "graph_plan",
        "graph_row",
        "plan",
    )
)
FLOOR2 = ("serving.online_store", "serving.feast_objects", "serving.feast_types")

ARROW = ("numpy", "pyarrow", "pyarrow_hotfix")
STORES = (*ARROW, "redis", "hiredis", "psycopg", "boto3", "botocore", "feast", "google.protobuf", "mmh3", "pydantic")
TENSORFLOW = ("tensorflow", "tensorflow_transform", "tensorflow_metadata", "tfx_bsl", "tf_keras", "google.protobuf")
WEB = (
    "fastapi", "uvicorn", "starlette", "orjson", "prometheus_client", "pydantic", "pydantic_settings", "yaml", "pandas", "jinja2",
    "jwt", "cryptography", "requests", "urllib3", "httptools", "onnxruntime", "structlog", "opentelemetry",
)  # fmt: skip

# The rooms of pipelines, from the ground up: each may import those before it, so there are no circles.
PIPELINES = (
    "lake", "services", "reports", "project", "sources", "inference", "feature_store", "batch", "streaming", "engines", "replay",
    "registry", "training", "promotion", "tracking", "verify", "lineage", "planning", "monitoring", "alerting", "watch", "forgetting",
    "workflow", "cli", "demo",
)  # fmt: skip
NEVER = ("serving.app", "feature_repo", "tests")


@dataclass(frozen=True)
class Room:
    """What a room (a module or package and all below it) may import, beside itself and the standard library."""

    name: str
    ours: tuple[str, ...]
    libraries: tuple[str, ...]
    never: tuple[str, ...] = ()


# The first room whose name covers a module holds.
ROOMS = (
    *(Room(name, FLOOR0, ARROW) for name in FLOOR0),
    Room("transforms.tensorflow_reach", (), ("tensorflow",)),
    Room("transforms.fingerprint", (*FLOOR0, "transforms.tensorflow_reach"), (*ARROW, *TENSORFLOW)),
    Room("transforms.graph", (*FLOOR0, *FLOOR1), (*ARROW, *TENSORFLOW)),
    Room("transforms.graph_columns", ("transforms.errors", "transforms.tensors"), ARROW),
    Room("transforms.graph_plan", ("transforms.graph_columns", "transforms.graph_row", "transforms.plan"), ARROW),
    Room("transforms.graph_row", ("transforms.graph_columns",), ARROW),
    Room("transforms.plan", ("transforms.tensors",), (*ARROW, "tensorflow")),
    Room("transforms.tensors", (), (*ARROW, "tensorflow")),
    Room("transforms.preprocessing", FLOOR0, ("tensorflow",)),
    Room("transforms.schemas", (*FLOOR0, *FLOOR1), (*ARROW, "tensorflow_metadata", "google.protobuf")),
    *(Room(name, (*FLOOR0, *FLOOR1), ARROW) for name in FLOOR1[:6]),
    *(Room(name, (*FLOOR0, *FLOOR1, *FLOOR2, "serving.request_errors"), STORES) for name in FLOOR2),
    Room(
        "serving.object_store",
        ("transforms", "serving.aliases", "serving.request_errors"),
        ("obstore", "google", "requests", "orjson"),
        never=(),
    ),
    Room("serving.offline_store", ("transforms", "serving"), (*STORES, "duckdb", "pandas")),
    Room("serving.offline_job", ("transforms", "serving"), (*STORES, "pandas")),
    Room("serving.offline_spine", ("transforms", "serving"), (*STORES, "duckdb", "pandas")),
    Room("serving.offline_rows", ("transforms", "serving"), (*STORES, "duckdb")),
    Room("serving", ("transforms", "serving"), (*STORES, *TENSORFLOW, *WEB), never=("apache_beam",)),
    *(
        Room(f"pipelines.{name}", ("transforms", "serving", *(f"pipelines.{lower}" for lower in PIPELINES[:k])), (ANY,), NEVER)
        for k, name in enumerate(PIPELINES)
    ),
    Room("pipelines", (), ()),
    Room("transforms", FLOOR0, ()),
    Room("tandem.quick_imports", (), ("typeguard",)),
    Room("tandem.testing", ("transforms", "serving", "pipelines"), (ANY,), (*NEVER, "pipelines.cli", "pipelines.demo")),
    Room(
        "tandem.__main__", ("tandem.quick_imports", "transforms.errors", "transforms.own_program", "serving.json_logs", "pipelines.cli"), ()
    ),
    Room("tandem", (), ("pyarrow_hotfix",)),
)
# What a room may import of ``tandem`` itself, beside its names.
OF_TANDEM = {"pipelines.cli": ("tandem.quick_imports",)}


def covers(name: str, module: str) -> bool:
    """Whether ``module`` is ``name`` or lies below it."""
    return module == name or module.startswith(name + ".")


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file below ``root``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def one_name(dotted: str) -> str:
    """The first name of a module that has two: ``tandem.pipelines.x`` is ``pipelines.x``."""
    head, _, rest = dotted.partition(".")
    return rest if head == "tandem" and rest.partition(".")[0] in SHIPPED[:3] else dotted


def imports(path: Path, root: Path) -> list[tuple[int, str]]:
    """All (line, dotted name) that a file imports, anywhere in it; ``from a import b`` gives ``a.b`` where that is a module of ours.

    A name that is no literal, of a call that imports, is ``?``.
    """
    return [(node.lineno, name) for node, name in imported_by(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)), path, root)]


def imported_by(tree: ast.AST, path: Path, root: Path) -> list[tuple[ast.stmt | ast.expr, str]]:
    """All (statement or call, dotted name) that a part of a file imports, as :func:`imports` says."""
    found: list[tuple[ast.stmt | ast.expr, str]] = []
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]

    def absolute(level: int, name: str | None) -> str:
        base = package[: len(package) - level + 1] if level else []
        return one_name(".".join([*base, *([name] if name else [])]))

    calls = set(IMPORTERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("importlib", "importlib.util", "runpy", "pkgutil", "builtins"):
            calls |= {alias.asname for alias in node.names if alias.name in IMPORTERS and alias.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, one_name(alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.level, node.module)
            for alias in node.names:
                whole = one_name(f"{base}.{alias.name}")
                inner = root.joinpath(*whole.split("."))
                is_module = whole != f"{base}.{alias.name}" or inner.is_dir() or inner.with_suffix(".py").is_file()
                library = base.split(".")[0] not in OURS
                found.append((node, whole if is_module or library else base))
        elif isinstance(node, ast.Call) and (node.args or node.keywords) and _called(node.func) in calls:
            if isinstance(node.func, ast.Attribute) and not _of_import_system(node.func.value):
                continue  # a finder's own find_spec
            given = node.args[0] if node.args else node.keywords[0].value
            name = given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else "?"
            name = name.partition(":")[0]
            level = len(name) - len(name.lstrip("."))
            found.append((node, absolute(level, name.lstrip(".")) if name != "?" else name))
    return found


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _of_import_system(of: ast.expr) -> bool:
    return ast.unparse(of) in ("importlib", "importlib.util", "runpy", "pkgutil", "builtins")


def allowed(room: Room, imported: str) -> bool:
    """Whether a room may import this dotted name."""
    if any(covers(name, imported) for name in room.never):
        return False
    if imported == "tandem":
        return True
    if imported.split(".")[0] in OURS:
        package_itself = imported in ("transforms", "pipelines") and any(name.startswith(imported + ".") for name in room.ours)
        return package_itself or any(covers(name, imported) for name in (room.name, *room.ours, *OF_TANDEM.get(room.name, ())))
    if imported.split(".")[0] in sys.stdlib_module_names:
        return True
    return ANY in room.libraries or any(covers(name, imported) for name in room.libraries)


def breaches(root: Path) -> list[str]:
    """One line per import that its floor does not allow, in order of file and line; rooms that no rule covers are breaches too."""
    found = []
    for top in SHIPPED:
        for path in sorted((root / top).rglob("*.py")):
            module = module_name(path, root)
            room = next((r for r in ROOMS if covers(r.name, module)), None)
            if room is None or (room.name == "transforms" and module != "transforms"):
                found.append(f"{path.relative_to(root)}: {module} stands on no floor; add it to ROOMS in tests/check_floors.py")
                continue
            for line, imported in sorted(set(imports(path, root))):
                if imported == "?":
                    if module not in NAMED_LATER:
                        found.append(f"{path.relative_to(root)}:{line}: {module} imports what no literal names; see NAMED_LATER")
                elif not allowed(room, imported):
                    found.append(f"{path.relative_to(root)}:{line}: {room.name} may not import {imported}")
    return found


def circles(root: Path) -> list[str]:
    """One line per group of modules that import each other in a circle, imports inside functions included (Tarjan's components)."""
    paths = {module_name(p, root): p for top in SHIPPED for p in sorted((root / top).rglob("*.py"))}
    graph = {module: {i for _, i in imports(path, root) if i in paths and i != module} for module, path in paths.items()}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            part = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(part) > 1:
                found.append(sorted(part))

    for module in graph:
        if module not in order:
            visit(module)
    return [f"circle of imports: {', '.join(part)}" for part in found]


def twice(root: Path) -> list[str]:
    """One line per file name that stands more than once in the three packages (``__init__`` and ``__main__`` apart)."""
    places: dict[str, list[str]] = {}
    for top in ("transforms", "pipelines", "serving"):
        for path in sorted((root / top).rglob("*.py")):
            if not path.stem.startswith("__"):
                places.setdefault(path.name, []).append(path.relative_to(root).as_posix())
    return [f"{name} stands {len(where)} times: {', '.join(where)}; a name stands once" for name, where in places.items() if len(where) > 1]


def late(root: Path) -> list[str]:
    """One line per import in a function that buys nothing: what the file's own imports have loaded, or a module of ours without a library.

    An import in a function is for a library that only this function needs, so that whoever needs another does not wait for it.
    """
    paths = {module_name(p, root): p for top in SHIPPED for p in sorted((root / top).rglob("*.py"))}
    at_once: dict[str, set[str]] = {}
    in_functions: dict[str, list[tuple[int, str]]] = {}
    for module, path in paths.items():
        heads, inner = _by_place(ast.parse(path.read_text(encoding="utf-8")))
        at_once[module] = {name for node in heads for _, name in imported_by(node, path, root)}
        in_functions[module] = [(node.lineno, name) for node in inner for _, name in imported_by(node, path, root)]

    @cache
    def loaded(module: str) -> frozenset[str]:
        found, waiting = set(), [module]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += [*at_once.get(name, ()), *([name.rpartition(".")[0]] if name in paths and "." in name else [])]
        return frozenset(found)

    @cache
    def libraries(module: str) -> frozenset[str]:
        return frozenset(distribution(n) for n in loaded(module) if n.split(".")[0] not in {*OURS, *sys.stdlib_module_names})

    found = []
    for module, path in paths.items():
        for line, name in in_functions[module]:
            place = f"{path.relative_to(root)}:{line}"
            if name in loaded(module) and distribution(name) not in PUT_OFF:
                found.append(f"{place}: {name} is loaded with {module}; import it at the head of the file")
            elif name in paths and libraries(name) <= libraries(module) and not any(covers(room, module) for room in LATE):
                found.append(f"{place}: {name} brings no library with it; import it at the head of the file, or name the reason in LATE")
    return found


def distribution(name: str) -> str:
    """What is installed for a module: its first name, of Google's the first two."""
    return ".".join(name.split(".")[: 2 if name.startswith("google.") else 1])


def _by_place(tree: ast.AST, inside: bool = False) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The import statements that run when the file is imported, and those in functions; what is tried, or for type checkers, is neither."""
    heads: list[ast.stmt] = []
    inner: list[ast.stmt] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            (inner if inside else heads).append(node)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING") and not (inside and isinstance(node, ast.Try)):
            more = _by_place(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
            heads, inner = heads + more[0], inner + more[1]
    return heads, inner


def main(argv: list[str]) -> int:
    """Checks the checkout that holds this script, or the folder given."""
    root = Path(argv[0]) if argv else Path(__file__).resolve().parents[1]
    found = [*breaches(root), *circles(root), *twice(root), *late(root)]
    print("\n".join(found) if found else "import floors: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
