"""All that an object store has, as copies in this machine's cache, for who must see all of it and changes some: then the store is changed
as the copies were, and what is no copy is searched by itself.

Nothing is believed that was known of copies before: what a machine that was killed here had changed and not sent is had anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from pipelines.forgetting.subject import Subject, holds
from pipelines.lake import layout, shared
from pipelines.project.repository import Repo
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.log_segments import LeftSegments, seal_leftovers, seal_parts
from serving.object_store import erasures, manifests, single_files, trees
from serving.object_store.cache import Cache, cache_of

__all__ = ["StoreCopies", "store_copies"]

_FILES = ("events", "labels", "requests", "archive", "tables")
"""Folders whose files are sent one by one, in this order: the request log alone says whose labels are a subject's."""
_LOG = ("rows", "late", "before")
_PASSING = ("work/", "clock/")
"""What serves a moment, and goes as a whole where it holds a subject; so does what no list names, and what was said of a stream."""


@contextmanager
def store_copies(repo: Repo, dry_run: bool) -> Iterator[StoreCopies | None]:
    """The copies, while no stream of any machine runs; None for a plain folder. Raises DataError while one does."""
    cache = cache_of(repo.data)
    if cache is None:
        yield None
        return
    copies = StoreCopies(repo, cache)
    with ExitStack() as held:
        for name in copies.streams if not dry_run else ():
            held.enter_context(shared.only_here(repo.data, f"stream/{name}", f"the stream {name!r}"))
        copies.have(dry_run)
        yield copies


class StoreCopies:
    """See the module; :meth:`have` them, change them, :meth:`send`, :meth:`search`."""

    def __init__(self, repo: Repo, cache: Cache) -> None:
        self.repo, self.cache = repo, cache
        self.streams = sorted({h.key.split("/")[1] for h in cache.store.list("stream/") if h.key.count("/") > 1})
        own = [s.files for s in repo.sources.values() if s.files and not Path(s.files).is_absolute() and ".." not in Path(s.files).parts]
        self.folders = [*_FILES, *sorted({f.strip("/") for f in own} - {*_FILES})]
        self._before: dict[str, tuple[int, int]] = {}

    def have(self, dry_run: bool) -> None:
        """Have copies of all, as the store has it now."""
        manifests.refresh(self.cache)
        for tree in sorted(trees.names(self.cache)):
            if tree.partition("/")[0] in trees.TOPS:
                trees.fetch(self.cache, tree, again=True)
        for folder in self.folders:
            single_files.pull(self.cache, folder, strict=False)
        for name in self.streams:
            self._have_stream(name, dry_run)
        self._before = self._stats()

    def _have_stream(self, name: str, dry_run: bool) -> None:
        folder = layout.stream(self.repo.data, name)
        state = JobState(folder)
        assert state.link is not None
        if dry_run:  # it may be at work
            state.link.have_whole_log()
            state.have_checkpoints()
            state.link.have_tiles()
            return
        state.link.fence(f"forgetting-{uuid4().hex}")  # a worker that was cut off brings nothing back
        seal_leftovers(folder)
        LeftSegments(folder, ".").settle(-1)
        state.link.sweep_tiles()
        state.link.have_anew(state.take_over)
        seal_parts(folder)

    def _stats(self) -> dict[str, tuple[int, int]]:
        """What is here of that which the store has, too: name -> size and time of change."""
        places = [*trees.TOPS, *self.folders, *(f"stream/{name}/{below}" for name in self.streams for below in _LOG)]
        found = (p for place in places for p in (self.cache.folder / place).rglob("*") if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(self.cache.folder).as_posix(): ((stat := p.stat()).st_size, stat.st_mtime_ns) for p in found}

    def send(self) -> None:
        """Change the store as the copies were changed, each tree, file and checkpoint in one step; other machines take theirs away. Saved
        tiles and the manifests of runs are there already. Killed anywhere, the same again does the rest."""
        now = self._stats()
        changed = {name for name in self._before.keys() | now.keys() if self._before.get(name) != now.get(name)}
        known = trees.names(self.cache)
        of_trees = {tree for name in changed for tree in _around(name) if tree in known}
        of_files = {name for name in changed if any(name.startswith(f"{folder}/") for folder in self.folders)}
        key = erasures.begin(self.cache, of_trees, of_files, self.streams)
        for tree in sorted(of_trees):
            trees.publish(self.cache, tree, again=True, without=frozenset({layout.MANIFEST} if tree.startswith("runs/") else ()))
            trees.sweep(self.cache, tree)
        for folder in self.folders:
            single_files.push(self.cache, folder, removals=True, new=False)
        for name in sorted(changed):
            if name.startswith("stream/"):
                path = self.cache.folder / name
                self.cache.store.upload(name, path) if path.exists() else self.cache.store.delete(name)
        erasures.finish(self.cache, key)

    def search(self, subject: Subject, dry_run: bool = False) -> tuple[list[str], list[str]]:
        """The objects of the store that hold the subject and are no copies of what is here: those that were deleted for it (of a dry run
        those that would be), and those that stay."""
        listed = {key for tree in trees.names(self.cache) for key in trees.keys(self.cache, tree)}
        index = self.cache.look("files")
        deleted, remain = [], []
        with tempfile.TemporaryDirectory(dir=self.cache.folder, prefix=".search-") as folder:
            for head in list(self.cache.store.list()):
                key, parts = head.key, head.key.split("/")
                at = Path(folder, parts[-1])
                here = parts[0] == "stream" and (self.cache.folder / key).is_file()
                copied = here or key in listed or index.get(key, [""])[0] == head.version
                copied = copied or (dry_run and parts[0] == "stream" and parts[2:3] not in (["status"], ["control.json"]))
                if copied or (self.cache.store.download(key, at) is not None and not _is_about(key, at, subject)):
                    continue
                if key.startswith(_PASSING) or parts[0] in trees.TOPS or (parts[0] == "stream" and parts[2] in ("status", "control.json")):
                    if not dry_run:
                        self.cache.store.delete(key)
                    deleted.append(key)
                else:
                    remain.append(f"{self.cache.url}/{key}")
        return deleted, remain


def _is_about(key: str, copy: Path, subject: Subject) -> bool:
    return not subject.within(Path(key)).keys or subject.stands_in(key.encode()) or holds(copy, subject)


def _around(name: str) -> Iterator[str]:
    """The folders that a file is in, below the data folder."""
    parts = name.split("/")
    yield from ("/".join(parts[:n]) for n in range(1, len(parts)))
