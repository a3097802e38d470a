"""The index of runs: the heads of all manifests in one file, so that a list of thousands opens one file and not thousands.

It is a cache and never believed alone: an entry holds for the very manifest file (inode, size, time of change) that it was made of, and
the manifests of the last moments are read themselves. Missing, damaged or of another version, it is made anew; several processes may
write it at once, and one that is killed leaves the one before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.lake.data_files import read_json, write_json
from pipelines.lake.run_records import HEAD

__all__ = ["heads"]

NAME = ".index.json"
_YOUNG_NS = 2_000_000_000
"""A file system's clock has ticks: what changes twice within one looks the same. A manifest so young is not kept in the index."""
_WORTH = 32
"""Entries that are missing or too many, from which it is worth to write the index anew."""


def heads(folder: Path, manifest_name: str, read: Callable[[Path], dict[str, Any] | None], keep: bool = True) -> dict[str, dict[str, Any]]:
    """Run id -> head of its manifest, for all runs below ``folder`` that have one that can be read.

    ``read`` gives the head of a run's folder by its manifest; None if that cannot be read. ``keep``: the index may be written.
    """
    kept = _kept(folder)
    found: dict[str, dict[str, Any]] = {}
    entries: dict[str, list[Any]] = {}
    fresh = 0
    now = time.time_ns()
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    where = f"{folder}/"
    for name in names:
        try:
            stat = os.stat(f"{where}{name}/{manifest_name}")
        except OSError:  # no run, or one that goes away just now
            continue
        mark = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        entry = kept.get(name)
        if entry is not None and entry[:3] == mark:
            head = entry[3]
        else:
            read_head = read(folder / name)
            if read_head is None:
                continue
            head = read_head
            if now - stat.st_mtime_ns < _YOUNG_NS:
                found[name] = head
                continue
            fresh += 1
        found[name] = head
        entries[name] = [*mark, head]
    if keep and fresh + len(kept.keys() - entries.keys()) >= _WORTH:
        with suppress(OSError):  # a folder that is not ours to write to is read as well, if more slowly
            write_json(folder / NAME, {"fields": HEAD, "runs": entries}, indent=None)
    return found


def _kept(folder: Path) -> dict[str, list[Any]]:
    said = read_json(folder / NAME)
    if said is None or said.get("fields") != list(HEAD) or not isinstance(said.get("runs"), dict):
        return {}
    runs: dict[str, list[Any]] = said["runs"]
    whole = all(isinstance(e, list) and len(e) == 4 and isinstance(e[3], dict) for e in runs.values())
    return runs if whole else {}
