"""What ``tandem check`` found right stays right while nothing that it looked at is another: answers kept by a hash of all of that.

As a compiler keeps what it compiled. Tracing a preprocessing function means to import TensorFlow first, seconds for an answer that is known
as long as the function's code, its group's columns, the rows it is run on, Tandem and the installed packages are what they were. Only what
was right is kept; and nothing of code whose text shows that it reads files, the clock or the environment (:mod:`.self_contained`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.lake import caches
from pipelines.lake.data_files import json_digest, write_json
from pipelines.lake.provenance import engine_root
from pipelines.lake.value_code import repo_files, repo_files_of
from pipelines.training.function_text import function_meaning
from pipelines.training.self_contained import why_not
from transforms.instants import now_us
from transforms.source_imports import LIBRARIES

__all__ = ["KeptChecks", "cache_folder"]

FORMAT = 1
MOST = 500
"""Answers that are kept; the oldest go."""


def cache_folder() -> Path | None:
    """``TANDEM_CHECK_CACHE``, or else ``$XDG_CACHE_HOME/tandem/checks``, by default below ``~/.cache``. None, where nothing is kept: the
    variable is there and empty, or nobody has a home."""
    if (named := os.environ.get("TANDEM_CHECK_CACHE")) is not None:
        return Path(named).absolute() if named else None
    return caches.cache_folder("checks")


class KeptChecks:
    """Answers about one repository. ``folder``: None keeps and knows nothing. ``no_cache``: keeps, but takes none.

    A folder that cannot be read or written is one that holds nothing: then everything is asked anew.
    """

    def __init__(self, repo: Path, definitions: str, folder: Path | None, no_cache: bool = False) -> None:
        self.repo, self.definitions, self.folder, self.no_cache = repo, definitions, folder, no_cache
        self.used = 0
        self.refused: dict[str, str] = {}
        """What is asked anew each time -> why."""

    def key(self, what: str, modules: Iterable[str], facts: Any, importing: bool = False, function: str | None = None) -> str | None:
        """The hash of all that an answer about ``what`` follows from: ``facts`` (as JSON), and the code of the repository's ``modules`` and
        of what they import; of the module of ``function`` (``"module:function"``) what that function is made of. None where it follows from
        more than that."""
        if self.folder is None:
            return None
        wanted = sorted(set(modules))
        files = repo_files_of(self.repo, self.definitions, wanted)
        if elsewhere := [name for name in wanted if not self._has(name)]:
            self.refused[what] = f"{', '.join(elsewhere)} lies outside of the repository"
            return None
        if (why := why_not(files, self.repo, importing)) is not None:
            self.refused[what] = why
            return None
        code = {f.relative_to(self.repo).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        if function is not None and (part := function_meaning(self.repo, function, {*self._defining, *files})) is not None:
            file, meaning = part
            code[file.relative_to(self.repo).as_posix()] = meaning
        return json_digest([FORMAT, what, wanted, function, code, facts, self._world])

    @cached_property
    def _defining(self) -> list[Path]:
        """The files that the repository's definitions are made of."""
        return repo_files(self.repo, self.definitions)

    def _has(self, module: str) -> bool:
        place = self.repo.joinpath(*module.split("."))
        return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()

    @cached_property
    def _world(self) -> list[Any]:
        """Tandem, Python, the packages that are installed, and TensorFlow's switches."""
        engine, digest = engine_root(), hashlib.sha256()
        for folder in ("tandem", "transforms", "pipelines", "serving"):
            for file in sorted((engine / folder).rglob("*.py")):
                digest.update(file.relative_to(engine).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
        packages: set[str] = set()
        for library in LIBRARIES:
            with suppress(OSError):
                packages |= {n for n in os.listdir(library) if n.endswith((".dist-info", ".egg-info"))}
        switches = sorted((k, v) for k, v in os.environ.items() if k.startswith("TF_"))
        return [digest.hexdigest(), sys.version, sorted(packages), switches]

    def find(self, key: str | None) -> dict[str, Any] | None:
        """What was kept under a key."""
        if key is None or self.folder is None or self.no_cache:
            return None
        try:
            found = json.loads((self.folder / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or not isinstance(found.get("said"), str):
            return None
        self.used += 1
        return found

    def keep(self, key: str | None, said: str, **facts: Any) -> None:
        """Keep an answer that was right."""
        if key is None or self.folder is None:
            return
        with suppress(OSError):
            write_json(self.folder / f"{key}.json", {"said": said, "at_us": now_us(), **facts}, indent=None)
            kept = sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
            for old in kept[:-MOST]:
                old.unlink(missing_ok=True)
