"""Where the steps of a batch run find their files and leave them: in the run's folder, or in an object store that workers of other machines
reach, where what they made lies below ``work/<run>/`` until the driver has it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.lake import layout, runs
from pipelines.lake.file_addresses import clear, fetch_below, put_file, reading, url_of
from pipelines.lake.shared import kept
from pipelines.sources.event_files import EventFile
from serving.object_store.connecting import is_url

__all__ = ["WorkPlace"]


class WorkPlace:
    """Of one run. ``elsewhere``: workers are on other machines (of a plain data folder they mount it)."""

    def __init__(self, data: Path, run: runs.Run, elsewhere: bool) -> None:
        self.data, self.run = data, run
        self.url = url_of(data) if elsewhere else None
        self.top = str(run.folder) if self.url is None else f"{self.url}/work/{run.id}"
        """The address of what the run's steps make; what lies there has the same names as in the run's folder."""

    def events(self, files: Sequence[EventFile]) -> list[EventFile]:
        """Event files as workers find them: objects, of the versions that this machine has copies of, or that were listed."""
        if self.url is None:
            return list(files)
        copies: dict[str, list[Any]] = kept(self.data, "files") or {}
        return [f if is_url(f.path) else replace(f, path=f"{self.url}/{f.name}", version=copies.get(f.name, [""])[0]) for f in files]

    def files(self, paths: Sequence[str]) -> list[str]:
        """Local files of the data folder as workers find them: those that are not there yet are put there. What lies in the run's folder
        was made by workers."""
        if self.url is None:
            return list(paths)
        out = []
        for path in map(Path, paths):
            if path.is_relative_to(self.run.folder):
                out.append(f"{self.top}/{path.relative_to(self.run.folder).as_posix()}")
            else:
                out.append(f"{self.top}/given/{path.relative_to(self.data).as_posix()}")
                put_file(out[-1], path)
        return out

    def graph(self, group: str, fingerprint: str) -> str:
        """A graph's folder as workers find it."""
        folder = layout.graph(self.data, group, fingerprint)
        if self.url is None:
            return str(folder)
        self.files([str(p) for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")])
        return f"{self.top}/given/{folder.relative_to(self.data).as_posix()}"

    def begin(self) -> None:
        """Of a run that is made anew: forget what an attempt before left."""
        if self.url is not None:
            clear(self.top)

    def bring(self, folders: Sequence[str], files: Sequence[str]) -> None:
        """Have in the run's folder what workers made: all below these folders, and these files."""
        if self.url is not None:
            for name in folders:
                fetch_below(f"{self.top}/{name}", self.run.folder / name)
            for name in files:
                with reading(f"{self.top}/{name}") as made:
                    shutil.copyfile(made, self.run.folder / name)

    def end(self) -> None:
        """The driver has it all."""
        self.begin()
