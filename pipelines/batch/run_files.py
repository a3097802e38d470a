"""The event files of a batch run: listed, hashed, and what a manifest says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines.batch.continued import Continued, Reading, reading
from pipelines.lake.data_files import sha256
from pipelines.lake.run_parts import InputFile
from pipelines.sources.event_files import EventFile, Inventory, PassedOver, inventory, passed_over_line
from transforms.definitions import EventSource

__all__ = ["RunFiles", "run_files"]


@dataclass(frozen=True)
class RunFiles:
    """The event files of a run by source: those that it reads, from where on (by file), and what a manifest says of them and of others."""

    files: dict[str, list[EventFile]]
    inputs: dict[str, list[InputFile]]
    passed: dict[str, list[PassedOver]]
    begins: dict[str, dict[str, int]]
    past: dict[str, list[InputFile]]
    spans: dict[str, dict[str, list[int]]]


def run_files(
    data: Path,
    sources: Mapping[str, EventSource],
    begin: Mapping[str, int],
    end: int,
    before: Continued | None,
    progress: Callable[[str], None],
    far: Mapping[str, Inventory] | None = None,
) -> RunFiles:
    """List and hash what is to be read; ``far``: where somebody did, by source."""
    parts = dict[str, Reading]()
    for name, source in sources.items():
        if before is None:
            found = far[name] if far is not None else inventory(data, source, begin[name], end)
            parts[name] = Reading(found, found.files, {}, [], [])
        else:
            parts[name] = reading(data, source, before, begin[name], end, far[name] if far is not None else None)
    if line := passed_over_line({n: r.found.passed_over for n, r in parts.items()}):
        progress(line)
    if before is not None:
        held = sum(len(r.past) for r in parts.values())
        progress(f"continuing run {before.record.id}: its tiles hold the events of {held:,} files before {before.end:%Y-%m-%dT%H:%M}")
    for name, r in parts.items():
        if r.late:
            more = f" and {len(r.late) - 1:,} more" if len(r.late) > 1 else ""
            progress(
                f"{name}: {r.late[0]}{more} arrived after the run that is continued, and is read too; rows before"
                f" {before.end if before else end:%Y-%m-%dT%H:%M} were computed without it: run 'tandem batch' over them to recompute them"
            )
    return RunFiles(
        {n: r.files for n, r in parts.items()},
        {n: _inputs(r.files) for n, r in parts.items()},
        {n: r.found.passed_over for n, r in parts.items()},
        {n: r.begins for n, r in parts.items()},
        {n: r.past for n, r in parts.items()},
        {n: r.spans for n, r in parts.items()},
    )


def _inputs(files: Sequence[EventFile]) -> list[InputFile]:
    """The files as a manifest names them; those that nobody hashed yet are hashed, a thread per core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda f: f.sha256 or sha256(f.path), files)
        return [{"file": f.name, "size": f.size, "sha256": digest} for f, digest in zip(files, digests, strict=True)]
