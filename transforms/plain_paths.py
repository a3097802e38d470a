"""Folders under a name that TensorFlow does not take for a pattern.

TensorFlow, TFX and TFMA put folder names into patterns (``<folder>/*.gz``) and take ``[``, ``]``, ``*``, ``?`` and the
backslash in them for signs. So they are given :func:`plain_path`: another name of the same folder, where its own has such
a sign. What users give as a pattern goes through :func:`matching`.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from pathlib import Path

from transforms.errors import GraphError

__all__ = ["matching", "plain_path"]

_SIGNS = frozenset("*?[]\\")


def plain_path(path: str | os.PathLike[str]) -> Path:
    """``path`` itself where nothing in it is a sign; else the same place through a link.

    The link, ``$XDG_CACHE_HOME/tandem/folders/<hash>`` (by default below ``~/.cache``), is named by what it leads to, so it is the same
    one at each call: what ML Metadata holds of earlier trainings goes on to be true. Raises GraphError if it cannot be made.
    """
    given = Path(path)
    if not _SIGNS & set(str(given)):
        return given
    given = given.absolute()
    odd = max(i for i, part in enumerate(given.parts) if _SIGNS & set(part))
    target = Path(*given.parts[: odd + 1])
    configured = os.environ.get("XDG_CACHE_HOME")
    links = (Path(configured).absolute() if configured else Path.home() / ".cache") / "tandem" / "folders"
    link = links / hashlib.sha256(os.fsencode(target)).hexdigest()[:24]
    if _SIGNS & set(str(link)):
        raise GraphError(f"{target} and {links} both have one of * ? [ ] \\ in them; set XDG_CACHE_HOME to a folder without")
    try:
        links.mkdir(parents=True, exist_ok=True)
        if not (link.is_symlink() and os.readlink(link) == str(target)):
            work = link.with_name(f".{link.name}.{os.getpid()}.{os.urandom(4).hex()}")
            work.symlink_to(target)
            try:
                work.replace(link)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    work.unlink()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GraphError(
            f"{target} needs a second name for TensorFlow, in {links}: {reason}; set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return link.joinpath(*given.parts[odd + 1 :])


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files that a path with patterns means, in order. Folders, or a file, that are there as they stand are meant as they stand: of
    ``data[1]/offline/*.parquet`` in a folder ``data[1]`` only the end is a pattern."""
    path = Path(pattern)
    if path.exists():
        return [path]
    here = next((parent for parent in path.parents if parent.is_dir()), Path("."))
    rest = path.relative_to(here) if here != Path(".") else path
    return sorted(here / found for found in glob.glob(str(rest), root_dir=here, recursive=True))
