"""Every file in which a subject may stand: those of the data folder, those that symbolic links in it lead to, and event logs and a request
log that the repository keeps elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.forgetting.dry_run_folder import DRY_RUN
from pipelines.project.repository import Repo
from transforms.event_source import EventSource

__all__ = ["Found", "found_files"]

_OF_OTHERS = ("services", "audit", ".objects")
"""Folders that hold no subject: others' own data, who did what, and what is known of the copies in a cache."""
_BY_FOLDER = ("offline", "events", "training", "stream")
"""Folders of the data folder of whose folders each is a place of its own."""


@dataclass(frozen=True)
class Found:
    """A file: the ``path`` to open it by, whose suffix says what it is, wherever a link leads; its ``name`` relative to the data folder
    (absolute where it is outside); its ``place`` for people, as ``events/orders``; and the ``source`` of whose log it is."""

    path: Path
    name: str
    place: str
    source: EventSource | None

    @property
    def top(self) -> str:
        """The folder of the data folder that it is in, or stands for."""
        return self.place.partition("/")[0]

    def unlink(self) -> None:
        """Delete it, and the link to it, if it was found by one; its folder, too, where that is empty then."""
        self.path.resolve().unlink()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # one that is not empty yet
            self.path.parent.rmdir()


def found_files(repo: Repo) -> Iterator[Found]:
    """All of them, each once however many links lead to it: first what lies in the data folder itself, then what links and settings lead
    to. Names of event logs are looked for by the path they are read by."""
    data = repo.data
    logs = {data / source.files: source for source in repo.sources.values() if source.files}
    requests = repo.settings.request_log(repo.path)
    roots = [data, *sorted(logs), *([requests] if requests else [])]
    seen: set[str] = set()
    while roots:
        root = roots.pop(0)
        for path in _files(root, seen, roots):
            parts = _below(path, data)
            source = next((each for folder, each in logs.items() if path.is_relative_to(folder)), None)
            yield Found(path, "/".join(parts) if parts else path.as_posix(), _place(path, parts, source, requests), source)


def _files(root: Path, seen: set[str], later: list[Path]) -> Iterator[Path]:
    """The files of a folder (or the one file that a link is) that were not seen before; links in it are put behind ``later``."""
    if root.is_file():
        if (real := os.path.realpath(root)) not in seen:
            seen.add(real)
            yield root
        return
    for at, folders, names in os.walk(root):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        links = [each for each in [*folders, *names] if os.path.islink(os.path.join(at, each))]
        later += [Path(at, each) for each in sorted(links)]
        folders[:] = sorted(each for each in folders if each not in links and not (at == str(root) and _is_of_others(each)))
        for name in sorted(set(names) - set(links)):
            path = Path(at, name)
            if path.is_file():
                seen.add(os.path.realpath(path))
                yield path


def _is_of_others(folder: str) -> bool:
    return folder in _OF_OTHERS or folder.startswith(DRY_RUN)


def _below(path: Path, data: Path) -> tuple[str, ...]:
    """Its folders and name below the data folder; () for one that is not there, but beside it: ``files="../logs"``."""
    parts = path.relative_to(data).parts if path.is_relative_to(data) else ()
    return () if ".." in parts else parts


def _place(path: Path, parts: tuple[str, ...], source: EventSource | None, requests: Path | None) -> str:
    if parts:
        return "/".join(parts[:2]) if parts[0] in _BY_FOLDER and len(parts) > 2 else parts[0]
    if source is not None:
        return f"events/{source.name}"
    return "requests" if requests is not None and path.is_relative_to(requests) else path.parent.as_posix()
