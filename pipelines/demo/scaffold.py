"""``tandem init``: a small feature repository to start from, that stands alone with its data folder inside."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from transforms.errors import ConfigError

__all__ = ["scaffold"]

# Sources end in .txt within the package: they are text to copy, not modules of it.
_FILES = {
    "README.md": "README.md",
    "tandem.yaml": "tandem.yaml",
    "feature_store.yaml": "feature_store.yaml",
    ".feastignore": "feastignore.txt",
    ".gitattributes": "gitattributes.txt",
    ".gitignore": "gitignore.txt",
    "features.py": "features.py.txt",
    "preprocessing.py": "preprocessing.py.txt",
    "labels.py": "labels.py.txt",
    "model.py": "model.py.txt",
    "make_events.py": "make_events.py.txt",
}


def scaffold(folder: Path) -> list[Path]:
    """Write the repository into ``folder``, which is made if need be; returns the files written, in order.

    Raises ConfigError, and writes nothing, if ``folder`` is a file or holds anything.
    """
    templates = files("pipelines.demo") / "templates" / "repo"
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty; choose a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, template in _FILES.items():
            path = folder / name
            path.write_text((templates / template).read_text("utf-8"), "utf-8")
            written.append(path)
    except FileExistsError:
        raise ConfigError(f"{folder} is a file; choose a new or empty folder") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}; name another folder") from None
    return written
