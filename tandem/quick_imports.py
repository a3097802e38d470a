"""What libraries do while they are imported and none of our commands needs, left out. Standard library only.

Every command, and every process that one starts, pays for its imports first (docs/performance.md has what each costs). Six things make that
up:

* Feast decorates its classes with ``typeguard.typechecked``, which parses and compiles their source anew at each import. The constructors
  keep it, for their arguments are what people write, and are compiled when they are first called; the other methods go without.
* Feast imports its two servers, and with them FastAPI, OAuth and certificates, and its registry in an SQL database, and with it SQLAlchemy:
  half of what it costs. Its functions that need one of them import it when they are called (:class:`_Later`).
* TensorFlow, Beam and TFX import what few programs use: clients of Google's clouds and MongoDB, HDF5, SciPy, what tunes or serves in
  containers, and TensorFlow the names of its own API once more for each version within a version. These import
  themselves when they are asked for, too.
* Google's BigQuery client, which Feast may import, imports ``tqdm.notebook`` and with it all of IPython, for bars in notebooks.
* ``google.api_core`` reads the metadata of all installed packages to word a warning about old Pythons.
* The garbage collector looks, again and again, through the millions of objects that are being made and all of which stay: a fifth of
  TensorFlow's import. It is off while one of the large packages is imported, and never looks at what came with it again, which is a fifth
  of an analysis.

Only the processes that Tandem starts call :func:`quicken_imports`: in a notebook or a program of your own nothing is changed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

__all__ = ["quicken_imports"]

LARGE = frozenset({"apache_beam", "feast", "mlflow", "pandas", "tensorflow", "tensorflow_transform", "tf_keras", "tfx.components"})
"""Packages whose import makes so many objects that the collector is better off meanwhile."""

_STANDING_IN: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "feast": {
        "feast.feature_server": {},
        "feast.ui_server": {},
        "feast.infra.registry.sql": {"SqlRegistry": ""},
        "fastapi.concurrency": {"run_in_threadpool": "starlette.concurrency"},
    },
    "feast.errors": {"fastapi": {"status": "starlette.status"}},
    "tensorflow": {
        "distutils": {},
        "googleapiclient.discovery": {},
        "h5py": {},
        "oauth2client.client": {"GoogleCredentials": ""},
        "pydot": {},
        "requests": {},
        "scipy.linalg": {},
        "scipy.ndimage": {},
        "scipy.sparse": {"issparse": ""},
        "tensorflow._api.v2.__internal__.distribute.combinations": {},
        "tensorflow._api.v2.__internal__.distribute.multi_process_runner": {},
        "tensorflow._api.v2.__internal__.test": {},
        "tensorflow._api.v2.compat.v1.compat": {},
        "tensorflow._api.v2.compat.v1.test": {},
        "tensorflow._api.v2.compat.v2.__internal__.distribute.combinations": {},
        "tensorflow._api.v2.compat.v2.__internal__.distribute.multi_process_runner": {},
        "tensorflow._api.v2.compat.v2.__internal__.test": {},
        "tensorflow._api.v2.compat.v2.compat": {},
        "tensorflow._api.v2.compat.v2.test": {},
        "tensorflow._api.v2.test": {},
    },
    "tensorflow_transform": {"pydot": {"Dot": "", "Node": ""}},
    "apache_beam": {
        "apache_beam.io.gcp.bigquery": {"*": ""},
        "apache_beam.io.gcp.gcsfilesystem": {"GCSFileSystem": ""},
        "apache_beam.io.gcp.gcsio": {},
        "apache_beam.io.gcp": {"gcsio": "apache_beam.io.gcp.gcsio"},
        "apache_beam.io.gcp.pubsub": {"*": ""},
        "apache_beam.io.mongodbio": {"*": ""},
        "apache_beam.runners.dataflow": {},
        "apache_beam.runners.dataflow.dataflow_runner": {"DataflowRunner": ""},
        "apache_beam.runners.dataflow.test_dataflow_runner": {"TestDataflowRunner": ""},
        "apitools.base.py.exceptions": {"HttpError": ""},
        "httplib2": {},
    },
    "tfx.components": {
        "IPython.display": {"HTML": "", "display": ""},
        "nltk": {},
        "rouge_score.rouge_scorer": {},
        "rouge_score.scoring": {},
        "rouge_score.tokenizers": {"Tokenizer": ""},
        "scipy.stats": {},
        "tensorflow_model_analysis.notebook.jupyter.tfma_widget": {
            "*": "",
            "PlotViewer": "",
            "SlicingMetricsViewer": "",
            "TimeSeriesViewer": "",
        },
        "tfx.components.bulk_inferrer.component": {"BulkInferrer": ""},
        "tfx.components.infra_validator.component": {"InfraValidator": ""},
        "tfx.components.tuner.component": {"Tuner": ""},
    },
    "tfx.orchestration.portable.launcher": {
        "tfx.orchestration.portable.docker_executor_operator": {"DockerExecutorOperator": ""},
    },
}
"""While a module is executed: those that others stand in for, and where their names come from, which are asked for at once. A name's own
module; the module itself that is called so; or nowhere: a function or a class, which imports its own module when it is used
(:class:`_Name`). ``*``: whoever takes all names gets those beside it (:data:`_COMPLETED`)."""

_COMPLETED: Mapping[str, Sequence[str]] = {
    "apache_beam.io": ("apache_beam.io.mongodbio", "apache_beam.io.gcp.bigquery", "apache_beam.io.gcp.pubsub"),
}
"""Modules that take all names of others, which they get when somebody asks for a name that is not there."""


def quicken_imports() -> None:
    """Call it before the first import of Feast, Beam or TensorFlow. What was imported before stays as it is; twice is as good as once."""
    if "typeguard" in sys.modules:
        _check_constructors_only(sys.modules["typeguard"])
    if not any(isinstance(finder, _LargePackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LargePackages())
    sys.modules.setdefault("tqdm.notebook", None)  # type: ignore[arg-type]  # an import of it fails, for which its users are prepared
    found = importlib.metadata.packages_distributions
    if getattr(found, "quick", None) is None:
        importlib.metadata.packages_distributions = _named_for(found)


def _check_constructors_only(typeguard: Any) -> None:
    checked: Callable[..., Any] = typeguard.typechecked
    if getattr(checked, "quick", None) is not None:
        return

    def typechecked(target: Any = None, **options: Any) -> Any:
        if not isinstance(target, type) or target.__module__.partition(".")[0] != "feast":
            return checked(target, **options)
        if "__init__" in vars(target):
            target.__init__ = _CheckedWhenCalled(target, target.__init__, checked)  # type: ignore[misc]
        return target

    typechecked.quick = True  # type: ignore[attr-defined]
    typeguard.typechecked = typechecked


class _CheckedWhenCalled:
    """A method that is parsed and compiled when somebody first asks for it: a program makes few of Feast's kinds of objects. No function,
    which would be a frame of the call: Feast's warnings name the line of the frame above the method's."""

    def __init__(self, owner: type, method: Callable[..., None], checked: Callable[..., Any]) -> None:
        self.owner, self.method, self.checked = owner, method, checked

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        method = self.checked(self.method)
        if vars(self.owner).get("__init__") is self:
            self.owner.__init__ = method
        return method.__get__(instance, owner)


def _named_for(found: Callable[[], Mapping[str, list[str]]]) -> Any:
    """``packages_distributions`` that answers nothing to Google's clients, who then name a module instead of its package."""

    def packages_distributions() -> Mapping[str, list[str]]:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return {} if asking.startswith("google.") else found()

    packages_distributions.quick = True  # type: ignore[attr-defined]
    return packages_distributions


class _LargePackages:
    """Finds :data:`LARGE` where the other finders do, and has them executed without the collector, and ``typeguard``; all else is left to
    those."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As ``importlib`` asks for it: the module's spec, None where another finder is to say."""
        if isinstance(later := sys.modules.get(name.rpartition(".")[0]), _Later):
            return _within(later, name)
        if name not in LARGE and name not in _STANDING_IN and name not in _AFTERWARDS:
            return None
        finders = [each for each in sys.meta_path if each is not self and hasattr(each, "find_spec")]
        spec = next((found for each in finders if (found := each.find_spec(name, path, target)) is not None), None)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return spec
        spec.loader = _Uncollected(spec.loader.name, spec.loader.path)
        return spec


class _Uncollected(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _collector_off(), _stood_in(_STANDING_IN.get(module.__name__, {})):
            super().exec_module(module)
        if (work := _AFTERWARDS.get(module.__name__)) is not None:
            work(module)


class _Later(ModuleType):
    """Stands in for a module that is not imported yet, while another one is executed that only keeps it: asked for a name, or for a module
    within it, it imports the module, as anybody does who asks for it afterwards."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # a package, so that :class:`_LargePackages` is asked for modules within it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what the import system and inspect ask of all modules
            raise AttributeError(name)
        module = self._module()
        if not hasattr(module, name):
            with suppress(ImportError):  # a module within it, which came with it
                return importlib.import_module(f"{self.__name__}.{name}")
        return getattr(module, name)

    def _module(self) -> ModuleType:
        _put_away(self)
        return importlib.import_module(self.__name__)


def _put_away(later: _Later) -> None:
    if sys.modules.get(later.__name__) is later:
        sys.modules.pop(later.__name__, None)


class _Name:
    """A function or a class of a module that is not imported yet, for who calls it, asks it for a name of its own, or derives from it."""

    def __init__(self, module: _Later, name: str) -> None:
        self._of, self._called = module, name

    def _now(self) -> Any:
        return getattr(self._of._module(), self._called)

    def __call__(self, *words: Any, **named: Any) -> Any:
        return self._now()(*words, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._now(), name)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, self._now())

    def __subclasscheck__(self, value: Any) -> bool:
        return issubclass(value, self._now())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._now(),)


class _There(Loader):
    """Gives a module that was imported together with its package, and is not executed again."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    @staticmethod
    def of(name: str) -> ModuleSpec:
        """The spec of a module that is there: its own meanwhile, as importlib takes that one where a finder imported the module."""
        module = sys.modules[name]
        module.__spec__ = ModuleSpec(name, _There(module))
        return module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _within(later: _Later, name: str) -> ModuleSpec | None:
    """The spec of a module within a package that something stands in for; the package is imported."""
    package = later._module()
    return _There.of(name) if name in sys.modules else PathFinder.find_spec(name, getattr(package, "__path__", []))


def _later(name: str, known: Mapping[str, str]) -> _Later:
    later = _Later(name)
    for each, where in known.items():
        if not where:
            setattr(later, *(("__all__", [n for n in known if n != "*"]) if each == "*" else (each, _Name(later, each))))
            continue
        module = importlib.import_module(where)
        setattr(later, each, module if where.endswith(f".{each}") else getattr(module, each))
    return later


def _installed(name: str) -> bool:
    """Whether there is the package of a module: who imports one that is not there is prepared for that."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    with suppress(ImportError, ValueError):
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    return False


@contextmanager
def _stood_in(names: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Nothing stands in for a module that was imported before; afterwards nothing does for any, but as an attribute of its package."""
    placed: list[_Later] = []
    try:
        for name, known in names.items():
            if name not in sys.modules and _installed(name):
                with suppress(ImportError, AttributeError):  # another release: it imports what it imports
                    placed.append(_later(name, known))
                    sys.modules.setdefault(name, placed[-1])
        yield
    finally:
        for later in placed:
            _put_away(later)
            for each in names[later.__name__]:  # whoever asks for it from now on gets the module's own
                vars(later).pop("__all__" if each == "*" else each, None)
            package, _, name = later.__name__.rpartition(".")
            if package in sys.modules and later.__name__ not in sys.modules:
                vars(sys.modules[package]).setdefault(name, later)


def _complete_when_asked(module: ModuleType) -> None:
    """Give a module the names of :data:`_COMPLETED` when somebody asks for one that it does not have."""
    where = module.__name__

    def __getattr__(name: str) -> Any:
        part = "__path__" in vars(module) and not name.startswith("__") and importlib.util.find_spec(f"{where}.{name}")
        if not name.startswith("__") and not part:
            vars(module).pop("__getattr__", None)
            for each in _COMPLETED[where]:
                with suppress(ImportError):  # as the module itself: what its package was installed without
                    later = sys.modules.get(each)
                    found = later._module() if isinstance(later, _Later) else importlib.import_module(each)
                    for of_it in getattr(found, "__all__", None) or [n for n in vars(found) if not n.startswith("_")]:
                        vars(module).setdefault(of_it, getattr(found, of_it))
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(f"module {where!r} has no attribute {name!r}")

    vars(module)["__getattr__"] = __getattr__


_FILE_SYSTEMS = {"gs": "apache_beam.io.gcp.gcsfilesystem"}
"""Of :data:`_STANDING_IN`'s, by the scheme of their paths."""


def _find_buckets(module: ModuleType) -> None:
    """Beam looks among the classes that are imported for the one of a path's scheme."""
    systems = module.FileSystems
    scheme_of = systems.get_scheme

    def get_scheme(path: str) -> Any:
        found = scheme_of(path)
        if found in _FILE_SYSTEMS:
            with suppress(ImportError):
                importlib.import_module(_FILE_SYSTEMS[found])
        return found

    systems.get_scheme = staticmethod(get_scheme)


_AFTERWARDS: Mapping[str, Callable[[Any], None]] = {
    **dict.fromkeys(_COMPLETED, _complete_when_asked),
    "apache_beam.io.filesystems": _find_buckets,
    "typeguard": _check_constructors_only,
}
"""What is done with a module when it was executed."""

_lock = threading.Lock()
_importing = 0
_collects = True


@contextmanager
def _collector_off() -> Iterator[None]:
    """Off until the last of those that are within it has left, which several threads may be; then as it was before, for what is new."""
    global _importing, _collects
    with _lock:
        if not _importing:
            _collects = gc.isenabled()
            gc.disable()
        _importing += 1
    try:
        yield
    finally:
        with _lock:
            _importing -= 1
            if not _importing:
                gc.freeze()
                if _collects:
                    gc.enable()
