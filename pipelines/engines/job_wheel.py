"""The code of a job as a wheel: Tandem and a repository, needing the versions of packages that this installation has."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from pipelines.lake.staged_code import REPO, staged_code

__all__ = ["needs", "write_wheel"]

DISTRIBUTION = "tandem-features"
EXTRAS = ("", "batch", "cloud")
"""What workers need of ours."""
_NAME = "tandem_job"


def needs() -> list[str]:
    """The packages that Tandem's workers need, as requirements of the versions that are installed here."""
    try:
        declared = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return []
    wanted = [r for r in declared if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in EXTRAS)]
    return sorted({pin for r in wanted if (pin := _pinned(r)) is not None})


def _pinned(requirement: Requirement) -> str | None:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    try:
        return f"{requirement.name}{extras}=={metadata.version(requirement.name).partition('+')[0]}"
    except metadata.PackageNotFoundError:  # of an extra that is not installed here
        return None


def write_wheel(folder: Path, repo: Path, data: Path) -> Path:
    """Write the wheel into ``folder``. Its bytes follow from the code's. It installs Tandem's packages, and the repository in a folder of
    its own that goes on ``sys.path``."""
    files = dict(_files(staged_code(repo, data)))
    version = f"0+{hashlib.sha256(b''.join(files.values())).hexdigest()[:16]}"
    info = f"{_NAME}-{version}.dist-info"
    files[f"{_NAME}.pth"] = f"{REPO}\n".encode()
    required = "".join(f"Requires-Dist: {line}\n" for line in needs())
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {version}\n{required}".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tandem\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return path


def _files(archive: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        for name in sorted(files.namelist()):
            if not name.endswith("/"):
                yield name, files.read(name)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
