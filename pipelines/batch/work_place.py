"""Where the steps of a batch run find their files and leave them: in a folder, or in an object store that workers of other machines reach,
until the driver has it all.

Each attempt at a run has a place of its own (``runs/.work/<run>/<attempt>/``, in a store ``work/<run>/<attempt>/``), which is never used
again: what workers of an attempt that failed still write, threads of this process or tasks that a cluster has lost sight of, meets nothing
of a later one. The run's own folder gets what an attempt made by renaming it, when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipelines.lake import layout, runs
from pipelines.lake.file_addresses import clear, fetch_below, put_file, reading, url_of
from pipelines.lake.shared import kept
from pipelines.sources.event_files import EventFile
from serving.object_store.connecting import is_url
from transforms.errors import TandemError

__all__ = ["WorkPlace", "clear_run_folder"]

_OF_ATTEMPTS = ("rows", "learn", "analyze-*", "stats.json", "spans.json", "nonfinite.json")
"""What an attempt makes and no run keeps: below the run's own folder where a version before :func:`.layout.attempts` made it."""


def clear_run_folder(run: runs.Run) -> None:
    """Take from the run's folder what no run keeps, which an attempt by an earlier version has left there: rows of people, among others.
    For who holds the run."""
    for path in (p for name in _OF_ATTEMPTS for p in run.folder.glob(name)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


class WorkPlace:
    """Of one attempt at a run. ``elsewhere``: workers are on other machines (of a plain data folder they mount it)."""

    def __init__(self, data: Path, run: runs.Run, elsewhere: bool) -> None:
        self.data, self.run, attempt = data, run, uuid4().hex[:16]
        self.url = url_of(data) if elsewhere else None
        self.folder = layout.attempts(data) / run.id / attempt
        """Where the driver has what was made."""
        self.top = str(self.folder) if self.url is None else f"{self.url}/work/{run.id}/{attempt}"
        """The address where steps make it, by the same names."""

    def events(self, files: Sequence[EventFile]) -> list[EventFile]:
        """Event files as workers find them: objects, of the versions that this machine has copies of, or that were listed."""
        if self.url is None:
            return list(files)
        copies: dict[str, list[Any]] = kept(self.data, "files") or {}
        return [f if is_url(f.path) else replace(f, path=f"{self.url}/{f.name}", version=copies.get(f.name, [""])[0]) for f in files]

    def files(self, paths: Sequence[str]) -> list[str]:
        """Local files of the data folder as workers find them: those that are not there yet are put there. What lies in the attempt's
        folder was made by workers."""
        if self.url is None:
            return list(paths)
        out = []
        for path in map(Path, paths):
            if path.is_relative_to(self.folder):
                out.append(f"{self.top}/{path.relative_to(self.folder).as_posix()}")
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

    @contextmanager
    def attempt(self) -> Iterator[WorkPlace]:
        """The place, for the body; before it, what attempts before left goes, and after it, whatever is left. For who holds the run."""
        self._clear()
        self.folder.mkdir(parents=True)
        try:
            yield self
        except BaseException:
            with suppress(OSError, TandemError):  # the next attempt takes it away, or vacuum: what went wrong first is to be told
                self._clear()
            raise
        self._clear()

    def bring(self, folders: Sequence[str], files: Sequence[str]) -> None:
        """Have in :attr:`folder` what workers made: all below these folders, and these files."""
        if self.url is not None:
            for name in folders:
                fetch_below(f"{self.top}/{name}", self.folder / name)
            for name in files:
                with reading(f"{self.top}/{name}") as made:
                    shutil.copyfile(made, self.folder / name)

    def hand_over(self, *names: str) -> None:
        """Put these folders into the run's, each as a whole, in the place of what an attempt before had put there."""
        for name in names:
            shutil.rmtree(self.run.folder / name, ignore_errors=True)
            if (self.folder / name).is_dir():
                (self.folder / name).rename(self.run.folder / name)

    def _clear(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        if self.url is not None:
            clear(f"{self.url}/work/{self.run.id}")
