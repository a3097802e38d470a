"""What a manifest says about the world a run ran in: code, libraries, lock, settings, files. Nothing secret gets into it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.lake.data_files import FileState, file_state, json_digest, sha256
from pipelines.lake.run_parts import Code, Engine, Machine, OutputFile
from pipelines.lake.value_code import meanings, modules_of, value_files
from serving.masking import MASK, SECRET_NAME, masked
from serving.object_store.cache import given_place

__all__ = ["code_version", "engine_root", "engine_version", "facts", "hashed", "library_versions", "lock_hash", "masked"]

LIBRARIES = ("apache-beam", "tensorflow", "tensorflow-transform", "tfx-bsl", "pyarrow", "numpy", "feast", "duckdb", "tandem-features")
LOCK = "requirements.lock" if sys.version_info < (3, 12) else "requirements-modern.lock"


def engine_root() -> Path:
    """The folder that holds ``pipelines`` and ``transforms``."""
    return Path(__file__).resolve().parents[2]


def library_versions() -> dict[str, str]:
    """The versions that can change a value, Python's included: those that this process began with."""
    return dict(_library_versions())


@cache
def _library_versions() -> dict[str, str]:
    out = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def lock_hash() -> str | None:
    """The SHA-256 of the lock that this installation comes with; None where there is none (an installed wheel)."""
    try:
        return hashlib.sha256((engine_root() / LOCK).read_bytes()).hexdigest()
    except OSError:
        return None


def code_version(repo: Path, definitions: str = "features", modules: Iterable[str] = ()) -> Code:
    """The code that runs: two hashes, each file's own, the git commit of the repository where there is one, and which engine it was.

    ``sha256`` is of all Python files of engine and repository, and informs. ``values`` is of what can change a feature value, as far as
    it means something (see ``value_code``); ``value_files`` has it by file, and by those of its groups a batch run is stale or not.
    ``definitions`` is the repository's module of that, ``modules`` what its groups are made of beside (``value_code.modules_of``).
    """
    engine = engine_root()
    files = sorted(p for folder in ("transforms", "pipelines") for p in (engine / folder).rglob("*.py")) + sorted(repo.glob("*.py"))
    digest, each = hashlib.sha256(), {}
    for file in files:
        own = _own_digest(str(file), file_state(file))
        digest.update(file.name.encode() + b"\0" + own)
        inside = file.is_relative_to(engine) and file.relative_to(engine).parts[0] in ("transforms", "pipelines")
        each[file.relative_to(engine).as_posix() if inside else f"repo/{file.name}"] = own.hex()[:16]
    each_meaning = meanings(value_files(engine, repo, definitions, modules))
    out: Code = {"sha256": digest.hexdigest(), "values": json_digest(each_meaning)}
    if (found := _commit(repo)) is not None:
        out["commit"], out["dirty"] = found
    return {**out, "engine": engine_version(), "files": each, "value_files": each_meaning}


@lru_cache(4096)
def _own_digest(path: str, state: FileState) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


@cache
def engine_version() -> Engine:
    """The version of the package, and its commit where it runs from a checkout of its own (not where it is installed inside of another)."""
    out: Engine = {}
    with suppress(metadata.PackageNotFoundError):
        out["version"] = metadata.version("tandem-features")
    engine = engine_root()
    top = _git(engine, "rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == engine and (found := _commit(engine)) is not None:
        out["commit"], out["dirty"] = found
    return out


def _git(folder: Path, *words: str) -> str | None:
    # A hook of git's runs with GIT_DIR and the like: these would make it another repository's answer.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, env=env).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _commit(folder: Path) -> tuple[str, bool] | None:
    """The commit that ``folder`` is of, and whether something below it differs; None where it is in no git repository."""
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return None if commit is None else (commit, bool(changes))


@cache
def machine() -> Machine:
    """What of the machine can change the last digit of a float: processor, cores, system."""
    model = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": model or platform.processor(), "cores": os.cpu_count()}


def masked_command(words: Iterable[str]) -> list[str]:
    """A command line without secrets: ``--password x``, ``--password=x`` and addresses with a password in them."""
    out: list[str] = []
    hide = False
    for word in words:
        if hide:
            out.append(MASK)
            hide = False
            continue
        flag, equals, _ = word.partition("=")
        if flag.startswith("-") and SECRET_NAME.search(flag):
            out.append(f"{flag}={MASK}" if equals else flag)
            hide = not equals
        else:
            out.append(str(masked(word)))
    return out


def hashed(data: Path, files: Mapping[str, Path]) -> list[OutputFile]:
    """What a run made, folders file by file."""
    out: list[OutputFile] = []
    for name, path in files.items():
        inner = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inner:
            if not file.is_file():
                continue
            where = file.relative_to(data).as_posix() if file.is_relative_to(data) else str(file)
            called = f"{name}/{file.relative_to(path).as_posix()}" if path.is_dir() else name
            out.append({"name": called, "path": where, "bytes": file.stat().st_size, "sha256": sha256(file)})
    return out


def _settings(settings: Any) -> dict[str, Any]:
    """The settings as JSON has them; a data folder on an object store by its URL, not by this machine's copy."""
    said: dict[str, Any] = settings.model_dump(mode="json")
    return said | {"data": given_place(Path(said["data"]))} if said.get("data") else said


def facts(place: Any) -> dict[str, Any]:
    """Code, lock, versions, settings and definitions of a repository (``path``, ``settings``, perhaps ``groups``)."""
    groups = getattr(place, "groups", None) or {}
    definitions = {n: json.loads(json.dumps(g.canonical())) for n, g in groups.items()}
    modules = {m for g in groups.values() for m in modules_of(g)}
    return {
        "code": code_version(place.path, getattr(place.settings, "definitions", "features"), modules),
        "lock": lock_hash(),
        "versions": library_versions(),
        "machine": machine(),
        "settings": masked(_settings(place.settings)),
        **({"definitions": definitions} if definitions else {}),
    }
