"""Which extra of the package each command needs, and the one line that says so where it is missing. Light: standard library only."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from transforms.errors import ConfigError

__all__ = ["EXTRAS", "NEEDED", "lacking", "missing", "require"]

_STORE = ("feast", "redis", "orjson", "prometheus_client", "requests")
_WEB = ("fastapi", "uvicorn", "httptools", "jwt")
_BATCH = (*_STORE, "duckdb", "fastavro", "apache_beam", "tensorflow", "tensorflow_transform", "tfx_bsl")
_TRAIN = (*_BATCH, "tfx", "ml_metadata", "tensorflow_model_analysis")

EXTRAS: dict[str, tuple[str, ...]] = {
    "batch": _BATCH,
    "stream": (*_BATCH, "kafka", "crc32c"),
    "train": _TRAIN,
    "serve": (*_STORE, "tensorflow", *_WEB),
    "onnx": (*_STORE, "onnxruntime", *_WEB),
    "all": _TRAIN,  # without the stream's packages the demo does its batch half, and says so
}
"""The modules by which an extra is known to be there. Java and the jars' fetcher are not among them: a machine may have its own."""

NEEDED = {
    "check": "batch",
    "plan": "batch",
    "events": "batch",
    "batch": "batch",
    "apply": "batch",
    "erase": "stream",
    "vacuum": "batch",
    "materialize": "batch",
    "serve": "serve",
    "demo": "all",
    "up": "stream",
    "keys": "serve",
    "models": "serve",
    "evaluate": "train",
    "promote": "serve",
    "rollback": "serve",
    "compare": "batch",
    "train": "train",
    "export": "batch",
    "pipeline": "train",
    "topics": "stream",
    "archive": "stream",
    "replay": "stream",
    "verify": "stream",
    "labels": "batch",
    "monitor": "batch",
    "stream": "stream",
    "dlq": "stream",
    "reproduce": "train",
    "lineage": "batch",
    "watch": "train",
    "metrics": "batch",
}
"""Command: the extra without which it cannot work. The commands that are not here need none (``track``: that of one of its trackers;
``infer``: none for most files)."""


WITHOUT = {"export": ("alerts", "conda", "dashboard")}
"""Command: those below it that need no extra all the same."""


def require(command: str, below: str = "") -> None:
    """Raises ConfigError, one line with the command to install it, where the extra that ``command`` (here: the one ``below`` it) needs is
    not installed."""
    if below in WITHOUT.get(command, ()):
        return
    extra = NEEDED.get(command)
    if extra is not None and not _installed(extra) and not (extra == "serve" and _installed("onnx")):
        raise missing(command, extra)


def lacking(command: str, error: BaseException) -> ConfigError | None:
    """What to say where ``command`` came to a part of it that needs more than :data:`NEEDED` says of the whole (a kind of file, a topic),
    or to an import in the user's files; None if ``error`` does not come from a module that is missing and that an extra would bring."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    module = (cause.name or "").partition(".")[0] if cause is not None else ""
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return None if extra is None or _is_there(module) else missing(command, extra)


def missing(command: str, extra: str) -> ConfigError:
    """What to say where ``command`` does not find what ``extra`` installs."""
    # TFX 1.16 says that Python 3.11 is too new for it, and runs; pip refuses such a package, uv takes no notice of upper ends.
    pip = "uv pip" if extra in ("train", "all") and sys.version_info < (3, 12) and sys.platform == "linux" else "pip"
    return ConfigError(f"tandem {command} needs the extra {extra!r}: {pip} install 'tandem-features[{extra}]'")


def _installed(extra: str) -> bool:
    return all(_is_there(module) for module in EXTRAS[extra])


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
