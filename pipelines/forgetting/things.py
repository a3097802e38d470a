"""What may go as a whole, in a data folder: runs with their rows, training sets, days of the request log, reports, segments of row logs,
and versions of models."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from pipelines.lake import layout, runs
from pipelines.project.repository import Repo
from pipelines.registry.alias_file import models_of, versions_on_disk
from transforms.errors import DataError

__all__ = ["REPORTS", "UNLISTED", "FolderThing", "Thing", "end_of", "folder_things", "left_attempts", "request_days", "run_made", "said"]

REPORTS = ("verify", "monitor")
UNLISTED = "unlisted"
"""What nobody can find: objects that no list names, and what attempts at runs left. How many of them stay is no question."""


@dataclass(frozen=True)
class Thing:
    """Something that may go as a whole: its ``kind``, its name, when it was made, and what it says it is made of."""

    kind: str
    name: str
    made: datetime
    text: str = ""

    @property
    def size(self) -> int:
        """Bytes that go with it."""
        raise NotImplementedError

    def opened(self) -> BinaryIO:
        """Of a segment of a stream's log: the file, open for reading. Raises OSError; reading raises DataError of an object store."""
        raise NotImplementedError

    def take(self) -> None:
        """Delete it; killed anywhere, what is left is found again, and is nothing that anybody reads."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FolderThing(Thing):
    """One of a data folder: its folders and files; rows come after the run that tells of them. Where one is a link, or holds some, the
    links go and what they lead to stays: it need not be Tandem's."""

    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        own = (f for p in self.paths if not p.is_symlink() for f in (p.rglob("*") if p.is_dir() else [p]))
        return sum(f.stat().st_size for f in own if f.is_file() and not f.is_symlink())

    def opened(self) -> BinaryIO:
        (path,) = self.paths
        return open(path, "rb")

    def take(self) -> None:
        for path in self.paths[::-1]:  # rows before the manifest that tells of them
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def folder_things(repo: Repo) -> Iterator[Thing]:
    """All of them. Raises DataError for a manifest that cannot be read."""
    data = repo.data
    yield from [*_runs(data), *_training_sets(data), *request_days(repo), *_reports(data), *_row_logs(data), *left_attempts(data)]
    for model in models_of(data):
        folder = layout.model(data, model)
        for version in versions_on_disk(folder):
            place = folder / str(version)
            yield FolderThing(f"models/{model}", f"{model}/{version}", _changed(place), said(place / layout.SPEC_FILE), paths=(place,))


def run_made(run: runs.Run) -> datetime:
    """When a run began."""
    made = datetime.fromisoformat(run.created)
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def said(path: Path) -> str:
    """What a small file says. Raises DataError, and nothing is taken."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"nothing is removed: {path} cannot be read ({error}); repair or delete it first") from None


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _runs(data: Path) -> Iterable[Thing]:
    for run in runs.list_runs(data):
        rows = tuple(p for p in layout.offline(data).glob(f"*/run={run.id}") if p.is_dir())
        text = said(Path(run.folder) / layout.MANIFEST)
        yield FolderThing(f"runs/{run.kind}", run.id, run_made(run), text, paths=(Path(run.folder), *rows))


def left_attempts(data: Path) -> Iterable[Thing]:
    """What attempts at runs left on this machine, of runs that nobody is at work on."""
    busy = {run.id for run in runs.list_runs(data) if run.status in runs.UNDER_WAY}
    for path in layout.attempts(data).glob("*"):
        if path.name not in busy:
            yield FolderThing(UNLISTED, path.relative_to(data).as_posix(), _changed(path), paths=(path,))


def _training_sets(data: Path) -> Iterable[Thing]:
    for path in layout.training(data).glob(f"*/{layout.MANIFEST}"):
        yield FolderThing("training", path.parent.name, _changed(path), said(path), paths=(path.parent,))


def request_days(repo: Repo) -> Iterable[Thing]:
    """Days of the request log."""
    folder = repo.settings.request_log(repo.path) or layout.requests(repo.data)
    for path in [*folder.glob("date=*"), *folder.glob("shadow/date=*")]:
        if day := re.fullmatch(r"date=(\d{4}-\d\d-\d\d)", path.name):
            name = path.relative_to(folder).as_posix()
            yield FolderThing("requests", f"requests/{name}", end_of(day[1]), paths=(path,))


def end_of(day: str) -> datetime:
    """When a day is over."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)


def _reports(data: Path) -> Iterable[Thing]:
    for kind in REPORTS:
        for path in (data / kind).glob("*"):
            if path.is_dir() and not path.name.startswith("."):
                yield FolderThing(kind, f"{kind}/{path.name}", _changed(path), paths=(path,))


def _row_logs(data: Path) -> Iterable[Thing]:
    """Sealed segments, as an open one is being written; and what an earlier beginning logged, which nobody reads."""
    streams = layout.streams(data)
    for path in [p for below in ("rows/*/*.parquet", "late/*/*.parquet", "before/*") for p in streams.glob(f"*/{below}")]:
        kind = "/".join(("stream", *path.relative_to(streams).parts[:2]))
        yield FolderThing(kind, path.relative_to(data).as_posix(), _changed(path), paths=(path,))
