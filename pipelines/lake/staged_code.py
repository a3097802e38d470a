"""The code that travels with a job: Tandem's own packages and the repository, in one archive whose bytes follow from theirs.

A worker needs an interpreter with Tandem's dependencies; which Tandem, and which repository, the job decides.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.lake.provenance import engine_root
from transforms.errors import ConfigError

__all__ = ["EMBEDDED", "PACKAGES", "REPO", "STAGED", "staged_code", "unpack"]

PACKAGES = ("tandem", "transforms", "pipelines", "serving")
REPO = "repository"
"""The folder of the archive that holds the repository; it and the archive's root go on ``sys.path``."""
STAGED = "TANDEM_STAGED_REPOSITORY"
"""The environment variable of a worker that was sent the repository with its job: where that lies."""
EMBEDDED = "beam:artifact:type:embedded:v1"
"""Beam's URN of an artifact whose bytes stand in the job's description."""
MOST_BYTES = 2 << 20
"""The archive is sent to each worker in a message."""
_LEFT_OUT = ("__pycache__", "node_modules")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def staged_code(repo: Path, data: Path) -> bytes:
    """The archive (zip) of Tandem and the repository at ``repo``. What starts with a dot stays at home, and so does the data folder.

    Raises ConfigError where the repository holds more than code."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for path in _files(engine_root() / package, data):
                _add(archive, path, path.relative_to(engine_root()).as_posix())
        for path in _files(repo, data):
            _add(archive, path, f"{REPO}/{path.relative_to(repo).as_posix()}")
    made = out.getvalue()
    if len(made) > MOST_BYTES:
        largest = max(_files(repo, data), key=lambda p: p.stat().st_size, default=repo)
        raise ConfigError(
            f"the code for the workers is {len(made):,} bytes, of at most {MOST_BYTES:,}; the largest file of the repository is"
            f" {largest.relative_to(repo)}: keep data and models out of it (in data:, or in a folder whose name starts with a dot)"
        )
    return made


def _files(top: Path, data: Path) -> Iterator[Path]:
    data = data.resolve()
    for folder, inner, names in os.walk(top):
        inner[:] = sorted(n for n in inner if not n.startswith(".") and n not in _LEFT_OUT and (Path(folder) / n).resolve() != data)
        yield from (Path(folder) / n for n in sorted(names) if not n.startswith(".") and not n.endswith(".pyc"))


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, path.read_bytes())


def unpack(archive: bytes, below: Path) -> Path:
    """The folder with an archive's files, a folder of ``below`` by their hash: unpacked once for all workers of a machine."""
    target = below / hashlib.sha256(archive).hexdigest()[:32]
    if not target.is_dir():
        part = below / f".{target.name}-{os.getpid()}"
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            files.extractall(part)
        try:
            part.rename(target)
        except OSError:  # another worker was faster
            if not target.is_dir():
                raise
    return target
