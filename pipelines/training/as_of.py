"""What a training set is made of, file by file, so that the same question can be asked again later.

A training set is addressed by its query: a spine over the event log for [start, end), joined with offline rows, as of one moment.
Event logs and offline rows are append-only, so "as of then" is the list of files that were there: :func:`listing` and :func:`pins`
make it, with hashes; :func:`past` shows a spine function a data folder that holds those events and no later ones, and
``offline_store.pinned`` makes the join read those rows and no newer run's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.data_files import name_below, sha256, sha256_of_start
from transforms.plain_paths import matching
from transforms.run_cover import COVER

__all__ = ["Changed", "Pin", "changes", "event_folders", "listing", "names", "past", "pins", "state"]

Files = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Pin:
    """The offline rows of a view that count: files, and the fingerprint of the graph that made them (None: whichever)."""

    files: tuple[str, ...]
    fingerprint: str | None = None


def event_folders(data: Path, manifests: Iterable[Mapping[str, Any]] = ()) -> list[Path]:
    """Where event logs lie below the data folder: ``events``, and wherever the given runs read theirs."""
    tops = {"events"} | {f["file"].split("/")[0] for m in manifests for files in m.get("inputs", {}).values() for f in files}
    return [data / top for top in sorted(tops) if top not in layout.NOT_EVENTS and (data / top).is_dir()]


def _files(folders: Sequence[Path]) -> list[Path]:
    found = []
    for top in folders:
        for folder, inner, names in os.walk(top):
            inner[:] = [f for f in inner if not f.startswith((".", "_"))]
            found += [Path(folder) / n for n in names if not n.startswith((".", "_"))]
    return sorted(found)


def state(folders: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of all event files: equal before and after means that nothing was appended in between."""
    return [(str(p), (s := p.stat()).st_size, s.st_mtime_ns) for p in _files(folders)]


def names(data: Path, folders: Sequence[Path]) -> list[str]:
    """The names of all event files, relative to the data folder."""
    return [p.relative_to(data).as_posix() for p in _files(folders)]


def listing(data: Path, folders: Sequence[Path]) -> Files:
    """Every event file with size and SHA-256, by log (``events/departures``): what a spine function may have read."""
    out: Files = {}
    for path in _files(folders):
        name = path.relative_to(data).as_posix()
        parts = [p for p in name.split("/")[:-1] if "=" not in p]
        out.setdefault("/".join(parts[:2]), []).append({"file": name, "size": path.stat().st_size, "sha256": sha256(path)})
    return out


def pins(store: Any, views: Iterable[str], data: Path) -> tuple[dict[str, Pin], Files]:
    """The offline files of each view as they are now, with hashes: to join with exactly those, and to tell the manifest."""
    from feast.infra.offline_stores.file_source import FileSource

    from serving.feast_objects import DEFINITION
    from serving.object_store.following import rows_here

    found: dict[str, Pin] = {}
    files: Files = {}
    for name in views:
        try:
            source = store.registry.get_any_feature_view(name, store.project).batch_source
        except Exception:  # the join says what is wrong with it
            continue
        if not isinstance(source, FileSource):
            continue
        where = FileSource.get_uri_for_file_path(store.config.repo_path, source.path)
        if "://" in where:
            continue
        path = Path(where := os.path.realpath(where))
        published = rows_here(where, (source.tags or {}).get("tandem_fingerprint"))
        inner = sorted(path.rglob("*.parquet")) if path.is_dir() else matching(where)
        if not inner and DEFINITION not in (source.tags or {}):
            continue  # the join says that the file is not there
        at = where.find("/run=*/")
        inner += sorted(Path(where[:at]).glob(f"run=*/{COVER}")) if at >= 0 else []  # which run decides which rows
        if published is not None:
            inner = [p for p in inner if any(str(folder) in published for folder in p.parents)]
        found[name] = Pin(tuple(str(p) for p in inner), (source.tags or {}).get("tandem_fingerprint"))
        files[f"offline/{name}"] = [{"file": name_below(data, p), "size": p.stat().st_size, "sha256": sha256(p)} for p in inner]
    return found, files


@dataclass(frozen=True)
class Changed:
    """An input that is not as it was: ``how`` is gone, altered or grown (the bytes of then are its beginning: no harm)."""

    file: str
    how: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file} is {self.how}{f' ({self.detail})' if self.detail else ''}"


def changes(data: Path, files: Iterable[Mapping[str, Any]]) -> list[Changed]:
    """Which of the recorded ``{file, size, sha256}`` are no longer there as they were."""
    out = []
    for f in files:
        path = data / f["file"]
        if not path.is_file():
            out.append(Changed(f["file"], "gone"))
            continue
        size = path.stat().st_size
        if size == f["size"] and sha256(path) == f["sha256"]:
            continue
        if size > f["size"] and sha256_of_start(path, f["size"]) == f["sha256"]:
            out.append(Changed(f["file"], "grown", f"{f['size']:,} to {size:,} bytes; those of then are read"))
        else:
            out.append(Changed(f["file"], "altered", f"sha256 {f['sha256'][:12]} then, {sha256(path)[:12]} now"))
    return out


def past(data: Path, events: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> Path:
    """A data folder in ``folder`` that holds the recorded event files and no others; whatever else ``data`` holds is there as it is now.

    A file that has grown since appears with the bytes of then; one that was altered as it is now, one that is gone not at all.
    """
    tops = {f["file"].split("/")[0] for files in events.values() for f in files}
    folder.mkdir(parents=True)
    for entry in data.iterdir():
        # What begins with a dot is not data: a copy of an object store's mark would make this folder, too, one that speaks for the store.
        others = entry.name.startswith(".") or entry.name in (*tops, "runs", "tfx", "models", "training")
        if not others and not folder.is_relative_to(entry):
            os.symlink(entry, folder / entry.name)
    for top in tops:
        (folder / top).mkdir()
    grown = {c.file for c in changes(data, (f for files in events.values() for f in files)) if c.how == "grown"}
    for f in (f for files in events.values() for f in files):
        source, target = data / f["file"], folder / f["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if f["file"] in grown:
            with open(source, "rb") as whole, open(target, "wb") as part:
                shutil.copyfileobj(whole, part)
                part.truncate(f["size"])
        elif source.is_file():
            os.symlink(source, target)
    return folder
